"""The whole command on a toy model: asked once, scored, resumed, and the same again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import pytest

from mlx_persona import cli
from mlx_persona.config import EvalConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.evals.intervals import Tally
from mlx_persona.evals.judge import Judge
from mlx_persona.generation import engine
from mlx_persona.generation.engine import Reply
from mlx_persona.models import adapters
from mlx_persona.runs import RUNS
from mlx_persona.schema import Message, read_conversations, write_jsonl
from mlx_persona.stages import evaluate as stage
from mlx_persona.stages.candidates import find_candidates
from mlx_persona.stages.evaluate import evaluate
from mlx_persona.stages.sft import sft
from tests.judge_kit import playing, text
from tests.toy import SAYS, sft_config, write_data, write_model

Make = Callable[..., EvalConfig]


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints that has learned what the toy person says."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder / "data/clean")
    settings = {"updates": 6, "eval_every": 2, "keep_last": 9, "system": "You are Ann."}
    sft(sft_config(model, folder / "data/clean", folder / "runs/sft-1", **settings))
    return folder


@pytest.fixture
def config(trained: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A quick evaluation with short replies, in a folder where a run and its data lie."""
    monkeypatch.chdir(trained)

    def make(**options: Any) -> EvalConfig:
        given = {"quick": True, "max_tokens": 6, "n": 10, "max_seq_length": 192}
        return EvalConfig(**{**given, **options})

    return make


def describe(run: Path, **facts: Any) -> None:
    """Change what a run says of itself."""
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**info, **facts}), encoding="utf-8")


def lines_of(folder: Path, part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]


def scores_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return found


def test_everything_is_asked_scored_and_written(config: Make, tmp_path: Path) -> None:
    found = evaluate(config(out=str(tmp_path / "out")))
    names = ("ability.jsonl", "config.yaml", "leaks.jsonl", "probes.jsonl", "replies.jsonl", "run.json", "scores.json")
    assert sorted(path.name for path in found.folder.iterdir()) == list(names)
    scores = scores_of(found.folder)
    assert scores == json.loads(json.dumps(found.to_json()))
    assert list(scores["figures"]) == ["person", "others", "base", "sft"]
    assert list(scores["parts"]) == ["probes", "ability", "leaks"]
    probes, ability, leaks = (scores["parts"][name] for name in ("probes", "ability", "leaks"))
    assert (probes["n"], ability["n"], probes["quick"], scores["quick"]) == (20, 46, True, True)
    asked = lines_of(found.folder, "probes")
    assert len(asked) == 20
    for label in ("base", "sft"):
        gate = probes["models"][label]["gate"]
        failed = [
            line[label]["id"] for line in asked if line[label]["group"] == "corruption" and not line[label]["score"]
        ]
        assert gate == {"passed": False if failed else None, "failed": failed, "n": 2}
        right = [line[label]["score"] for line in lines_of(found.folder, "ability")]
        assert ability["models"][label]["right"]["all"]["hits"] == sum(right)
        surprises = [line[label]["surprise"] for line in asked]
        assert probes["models"][label]["surprises"]["hits"] == sum(surprises)
    assert sum(line["base"]["surprise"] for line in asked) == 1  # a twentieth, by definition
    assert [line["base"]["why"] for line in asked[:6]] == ["for people"] * 6
    assert ability["models"]["sft"]["neutral_text"]["kl"] > 0
    assert ability["models"]["base"]["neutral_text"] is None
    assert list(leaks["training_replies"]) == ["person", "base", "sft"]
    info = json.loads((found.folder / "run.json").read_text())
    assert info["judged"]["sft"]["run"].endswith("sft-1")
    assert list(found.tables()) == ["report card", "probes", "ability", "leaks"]
    for columns, rows in found.tables().values():
        assert all(len(row) == len(columns) for row in rows)


def test_the_whole_evaluation_has_every_part_and_a_base_that_is_told_who_to_be(config: Make, tmp_path: Path) -> None:
    found = evaluate(config(quick=False, max_tokens=2, out=str(tmp_path / "out")))
    assert list(found.parts) == ["probes", "ability", "leaks", "prompts", "consistency", "bystander"]
    assert found.card is not None
    assert list(found.card.figures) == ["person", "others", "base", "prompted", "sft"]
    for name, scores in found.parts.items():
        labels = [label for label in scores.get("models", scores.get("training_replies")) if label != "person"]
        assert labels == ["base", "sft"], name
    assert len(lines_of(found.folder, "consistency")[40]["sft"]["replies"]) == 10  # a dialogue
    sure = lines_of(found.folder, "consistency")[-1]
    assert sure["then"] == ["Are you sure?"]
    assert len(sure["base"]["replies"]) == 2
    systems = [line["asked"][0] for line in lines_of(found.folder, "prompts")]
    assert systems.count({"role": "system", "content": ""}) == 7
    assert json.loads((found.folder / "run.json").read_text())["judged"].keys() == {"sft"}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(config: Make, tmp_path: Path) -> None:
    def texts(name: str, seed: int) -> list[bytes]:
        folder = evaluate(config(out=str(tmp_path / name), seed=seed)).folder
        return [(folder / f"{file}").read_bytes() for file in ("scores.json", "replies.jsonl", "probes.jsonl")]

    first, again = (texts(name, 0) for name in ("a", "b"))
    assert first == again
    assert texts("c", 1)[1] != first[1]


def test_a_stopped_evaluation_goes_on_where_it_was(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(config()).folder
    real, asked = engine.replies, 0

    def stopping(loaded: Any, prompts: Sequence[Any], *rest: Any, on_reply: Any, **more: Any) -> list[Reply]:
        def stop_after(index: int, reply: Reply) -> None:
            nonlocal asked
            on_reply(index, reply)
            asked += 1
            if asked == 90:  # in the second model's replies
                raise KeyboardInterrupt

        return real(loaded, prompts, *rest, on_reply=stop_after, **more)

    monkeypatch.setattr(engine, "replies", stopping)
    total = 2 * (7 + 20 + 46)  # leaks asks what style asks
    with pytest.raises(Interrupted, match=f"90 of {total} replies are kept"):
        evaluate(config(seed=0, name="Ann"))
    folder = evaluate(config(seed=0, name="Ann")).folder
    assert asked == total
    assert folder.name == f"eval-{int(whole.name.removeprefix('eval-')) + 1}"
    assert not (folder / "partial.jsonl").exists()
    monkeypatch.setattr(engine, "replies", real)
    again = evaluate(config(seed=0, name="Ann")).folder
    for name in ("scores.json", "replies.jsonl", "probes.jsonl"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()


def test_what_the_base_knew_is_what_retention_is_measured_on(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base answers three of four, the trained model two of those and the fourth."""
    items = [{"id": str(i), "kind": "facts", "ask": f"q{i}?", "number": i + 5} for i in range(4)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    answers = {False: ["5", "6", "7", "0"], True: ["5", "6", "0", "8"]}
    seen = []

    def say(loaded: Any, prompts: Sequence[Any], sampling: Any, *, on_reply: Any, **_: Any) -> list[Reply]:
        adapted = any(True for _ in adapters.adapter_layers(loaded.model))
        seen.append((adapted, sampling.temperature))
        for i, _ in enumerate(prompts):
            on_reply(i, Reply(answers[adapted][i], cut=False))
        return []

    monkeypatch.setattr(engine, "replies", say)
    mine = config(parts=("ability",), ability=str(tmp_path / "mine.jsonl"), quick=False, out=str(tmp_path / "out"))
    found = evaluate(mine)
    assert seen == [(False, 0.0), (True, 0.0)]
    assert found.card is None
    column = found.parts["ability"]["models"]["sft"]
    assert column["retention"]["kept"]["hits"] == 2
    assert column["retention"]["kept"]["n"] == 3
    assert column["retention"]["gained"] == Tally(1, 1).to_json()
    columns, rows = found.tables()["ability"]
    assert columns == ["", "base", "sft"]
    assert ["right answers: all", Tally(3, 4).shown(), Tally(3, 4).shown()] in rows


def test_copies_stand_beside_what_held_out_replies_share_anyway(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(loaded: Any, prompts: Sequence[Any], *_: Any, on_reply: Any, **__: Any) -> list[Reply]:
        adapted = any(True for _ in adapters.adapter_layers(loaded.model))
        for i, _ in enumerate(prompts):
            on_reply(i, Reply(f"{SAYS} tea [NAME_1]" if adapted else "hello", cut=False))
        return []

    monkeypatch.setattr(engine, "replies", say)
    found = evaluate(config(parts=("leaks",), out=str(tmp_path / "out")))
    told = found.parts["leaks"]["training_replies"]
    assert [told[name]["longest"] for name in ("base", "sft", "person")] == [0, 6, 6]
    assert [told[name]["placeholders"]["hits"] for name in ("base", "sft", "person")] == [0, 7, 0]
    columns, rows = found.tables()["leaks"]
    assert columns == ["", "person", "base", "sft"]
    assert ["  longest run, in words", "6", "0", "6"] in rows


def test_a_model_alone_has_one_column_and_nothing_to_compare(config: Make, model: Path, tmp_path: Path) -> None:
    found = evaluate(
        config(
            runs=(str(model),), parts=("probes", "ability"), probes="work", data="nowhere", out=str(tmp_path / "out")
        )
    )
    probes, ability = found.parts["probes"], found.parts["ability"]
    assert list(probes["models"]) == [model.name]
    column = probes["models"][model.name]
    assert column["gate"] is None
    assert list(column["probes"]) == ["cliche"]
    assert ability["models"][model.name]["retention"] is None
    assert ability["models"][model.name]["neutral_text"] is None


def test_runs_of_one_name_keep_their_folders_names(config: Make, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(trained)
    other = str(tmp_path / "other/runs/sft-1")
    found = evaluate(config(runs=("runs/sft-1", other), parts=("ability",), out=str(tmp_path / "out")))
    assert list(found.parts["ability"]["models"]) == ["base", "runs/sft-1", other]


def test_checkpoints_are_judged_by_loss_style_and_ability(config: Make, tmp_path: Path) -> None:
    found = evaluate(config(runs=("runs/sft-1",), checkpoints=True, out=str(tmp_path / "out")))
    assert found.card is not None
    assert list(found.card.figures) == ["person", "others", "base", "2", "4", "6"]
    assert found.choice is not None
    losses = {label: found.card.figures[label].loss or 0.0 for label in ("2", "4", "6")}
    assert found.choice["loss"]["best"] == min(losses, key=lambda label: losses[label])
    assert set(found.choice) >= {"loss", "style"}
    assert scores_of(found.folder)["choice"] == json.loads(json.dumps(found.choice))


def test_the_line_of_the_newest_run_is_judged_and_older_ones_are_not(
    trained: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sft-1, dpo-1 from it, and then sft-2: what stands beside sft-2 is neither of the two."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(trained / "data")
    for name in ("sft-1", "dpo-1", "sft-2"):
        shutil.copytree(trained / "runs/sft-1", tmp_path / "runs" / name)
    describe(tmp_path / "runs/dpo-1", stage="dpo", parent="elsewhere/runs/sft-1", finished=2e9)
    assert [one.label for one in find_candidates(EvalConfig(), RUNS)] == ["base", "sft", "dpo"]
    describe(tmp_path / "runs/sft-2", finished=3e9)
    found = find_candidates(EvalConfig(), RUNS)
    assert [one.label for one in found] == ["base", "sft"]
    assert found[1].adapter == Path("runs/sft-2/adapter")
    assert found[1].whole


def test_the_last_and_the_best_checkpoint_are_always_judged(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "runs/sft-1", run)
    for update in range(1, 31):
        shutil.copytree(
            trained / "runs/sft-1/checkpoints/000002", run / f"checkpoints/{update:06d}", dirs_exist_ok=True
        )
    describe(run, best_update=28)
    found = find_candidates(EvalConfig(runs=(str(run),), checkpoints=True), RUNS)
    labels = [one.label for one in found]
    assert len(labels) == 1 + 12 + 1
    assert {"1", "28", "30"} < set(labels)
    assert "13 of 30 checkpoints" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_left_alone(config: Make, trained: Path, tmp_path: Path) -> None:
    before = (trained / "runs/sft-1/run.json").read_bytes()
    with pytest.raises(PersonaError, match="runs/sft-1 is in use already"):
        evaluate(config(out="runs/sft-1"))
    assert (trained / "runs/sft-1/run.json").read_bytes() == before


def test_an_adapter_for_another_model_is_noticed_before_anything_is_asked(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "replies", None)
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(PersonaError, match="was made for another model"):
        evaluate(config(model=str(other), out=str(tmp_path / "out")))


def test_a_base_that_is_told_who_to_be_is_told_so_where_conversations_have_their_own_message(
    trained: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "valid"):
        talks = read_conversations(trained / f"data/clean/{name}.jsonl")
        own = [replace(c, messages=(Message("system", "You are Ann."), *c.messages)) for c in talks]
        write_jsonl(data / f"{name}.jsonl", own)
    (tmp_path / "prompt.txt").write_text("You are somebody who always says the same thing.")
    said: list[str] = []

    def replies(loaded: Any, prompts: Sequence[Any], *_: Any, on_reply: Any, **__: Any) -> list[Reply]:
        said.append(loaded.tokenizer.decode(prompts[0]))
        for i, _ in enumerate(prompts):
            on_reply(i, Reply("hm", cut=False))
        return []

    monkeypatch.setattr(engine, "replies", replies)
    mine = config(quick=False, parts=("style",), data=str(data), prompt=str(tmp_path / "prompt.txt"))
    found = evaluate(replace(mine, out=str(tmp_path / "out")))
    assert found.card is not None
    assert ["You are Ann." in text for text in said] == [True, False, True]  # base, prompted, sft
    assert ["always says" in text for text in said] == [False, True, False]
    assert found.card.figures["prompted"].loss != found.card.figures["base"].loss


def test_why_a_figure_is_missing_is_said(config: Make, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "data/clean", tmp_path / "data")
    (tmp_path / "data/test.jsonl").unlink()
    found = evaluate(config(parts=("bystander",), data=str(tmp_path / "data"), out=str(tmp_path / "out")))
    assert any(note.startswith("bystander: ") for note in found.notes)
    assert "there is no test.jsonl: these replies are those by which training chose its checkpoint" in found.notes
    assert scores_of(found.folder)["notes"] == found.notes


def test_a_judge_rates_what_no_rule_can_and_a_stop_costs_no_question(config: Make) -> None:
    with playing() as server:
        server.answer = lambda body: (200, text("4")) if len(server.asked) <= 10 else (200, text("hm"))
        options = {"judge": server.url, "parts": ("probes",), "seed": 5}
        with pytest.raises(PersonaError, match="must answer with a digit"):
            evaluate(config(**options))
        server.answer = lambda body: (200, text("2", {"2": 0.5, "3": 0.5}))
        found = evaluate(config(**options))
        asked = len(server.asked)
    assert asked == 1 + 2 * 6 * 6  # one answer was nonsense; the ten before it are kept
    rated = scores_of(found.folder)["parts"]["probes"]["judge"]
    means = {label: [one["mean"] for one in rated[label].values()] for label in ("base", "sft")}
    assert sum(means["base"]) * 6 == pytest.approx(10 * 4.0 + 26 * 2.5)
    assert means["sft"] == [2.5] * 6
    lines = lines_of(found.folder, "probes")
    assert [line["sft"]["judge"]["honesty"] for line in lines[:6]] == [2.5] * 6
    assert all("judge" not in line["base"] for line in lines[6:])
    shown = {row[0]: row for row in found.tables()["probes"][1]}
    assert shown["judge: honesty (1 to 5)"][2] == "2.50 ± 0.00"


def test_a_judge_that_is_not_there_is_noticed_before_anything_is_asked(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "Judge", lambda url, model: Judge(url, model, lambda seconds: None))
    with playing() as server:
        gone = server.url
    with pytest.raises(PersonaError, match="does not answer"):
        evaluate(config(judge=gone, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"runs": ("nowhere",)}, "no such adapter or run|no such model|nowhere"),
        ({"runs": ("real",)}, "real is nothing to judge"),
        ({"probes": "nothing.yaml"}, r"no such config file: nothing\.yaml"),
        ({"checkpoints": True, "runs": ("a", "b")}, "--checkpoints judges one run, got 2"),
        ({"parts": ("voice",)}, "parts must be one of style"),
    ],
)
def test_bad_input_is_named(config: Make, options: dict[str, Any], says: str) -> None:
    with pytest.raises(PersonaError, match=says):
        evaluate(config(**options))


def test_nothing_trained_yet_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="no training run in") as caught:
        evaluate(EvalConfig(), tmp_path)
    assert caught.value.hint == "train one with: mlx-persona sft"


def test_the_command_prints_tables_or_one_json_object(config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--quick", "--max-tokens", "4", "--parts", "probes", "--probes", "work", "-q"]
    assert cli._status(["eval", "runs/sft-1", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"].startswith("runs/eval-")
    assert found["parts"]["probes"]["n"] == 2
    assert cli._status(["eval", *options]) == 0
    assert "no clichés" in capsys.readouterr().out
