"""The whole command on a toy model: asked once, scored, resumed, and the same again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import pytest

from mlx_persona import cli
from mlx_persona.config import ProbeConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.evals.intervals import Tally
from mlx_persona.evals.judge import Judge
from mlx_persona.generation.engine import Reply
from mlx_persona.models import adapters
from mlx_persona.models.load import load_model
from mlx_persona.stages import probe as stage
from mlx_persona.stages.probe import probe
from tests.judge_kit import playing, text
from tests.toy import SAYS, save_adapter, write_data


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes what the toy model says."""
    loaded = load_model(str(model))
    spec = adapters.AdapterSpec(rank=2, scale=2.0, dora=True, base=loaded.identity, system="You are Ann.")
    spec = adapters.attach(loaded.model, spec)
    weights = {
        name: mx.random.normal(value.shape, key=mx.random.key(i)) * 0.3
        for i, (name, value) in enumerate(sorted(adapters.trainable(loaded.model).items()))
    }
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(folder, weights, spec)
    return folder


@pytest.fixture
def config(adapter: Path, model: Path, tmp_path: Path) -> Callable[..., ProbeConfig]:
    """A quick run with short replies, beside the person's conversations."""
    write_data(tmp_path / "data")

    def make(**options: Any) -> ProbeConfig:
        given = {"quick": True, "max_tokens": 6, "data": str(tmp_path / "data"), "model": str(model)}
        return ProbeConfig(**{**given, "adapter": str(adapter), **options})

    return make


def replies_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "replies.jsonl").read_text(encoding="utf-8").splitlines()]


def test_everything_is_asked_scored_and_written(config: Callable[..., ProbeConfig], tmp_path: Path) -> None:
    card, folder = probe(config(), tmp_path / "runs")
    assert folder == tmp_path / "runs" / "probe-1"
    assert sorted(path.name for path in folder.iterdir()) == ["replies.jsonl", "scores.json"]
    scores, lines = json.loads((folder / "scores.json").read_text()), replies_of(folder)
    assert {key: scores[key] for key in card.to_json()} == json.loads(json.dumps(card.to_json()))
    assert (scores["n_probes"], scores["n_items"], scores["quick"]) == (20, 46, True)
    assert len(lines) == 66
    assert scores["system"] == "You are Ann."
    assert set(scores["models"]) == {"base", "adapted"}
    assert scores["neutral_text"]["kl"] > 0
    for label in ("base", "adapted"):
        gate = scores["models"][label]["gate"]
        failed = [line["id"] for line in lines if line["group"] == "corruption" and not line[label]["score"]]
        assert gate == {"passed": False if failed else None, "failed": failed, "n": 2}
        right = [line[label]["score"] for line in lines if line["set"] == "ability"]
        assert scores["models"][label]["ability"]["all"]["hits"] == sum(right)
        surprises = [line[label]["surprise"] for line in lines if line["set"] == "probes"]
        assert scores["models"][label]["surprises"]["hits"] == sum(surprises)
    assert sum(line["base"]["surprise"] for line in lines[:20]) == 1  # a twentieth, by definition
    assert [line["base"]["why"] for line in lines[:6]] == ["for people"] * 6
    assert scores["for_people"]["probes"] == 6
    assert set(scores["training_replies"]) == {"base", "adapted", "held_out"}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    config: Callable[..., ProbeConfig], tmp_path: Path
) -> None:
    def texts(folder: Path) -> tuple[bytes, bytes]:
        return (folder / "scores.json").read_bytes(), (folder / "replies.jsonl").read_bytes()

    first, again = (texts(probe(config(), tmp_path / name)[1]) for name in ("a", "b"))
    assert first == again
    assert texts(probe(config(seed=1), tmp_path / "c")[1])[1] != first[1]


def test_a_stopped_run_goes_on_where_it_was(
    config: Callable[..., ProbeConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = probe(config(), tmp_path / "whole")[1]
    real, asked = stage.replies, 0

    def stopping(loaded: Any, prompts: Sequence[Any], *rest: Any, on_reply: Any, **more: Any) -> list[Reply]:
        def stop_after(index: int, reply: Reply) -> None:
            nonlocal asked
            on_reply(index, reply)
            asked += 1
            if asked == 70:  # in the second model's probes
                raise KeyboardInterrupt

        return real(loaded, prompts, *rest, on_reply=stop_after, **more)

    monkeypatch.setattr(stage, "replies", stopping)
    with pytest.raises(Interrupted, match="70 of 132 replies are kept"):
        probe(config(), tmp_path / "runs")
    folder = probe(config(), tmp_path / "runs")[1]
    assert asked == 132
    assert folder == tmp_path / "runs" / "probe-1"
    for name in ("scores.json", "replies.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert probe(config(seed=2), tmp_path / "runs")[1] == tmp_path / "runs" / "probe-2"


def test_what_the_base_knew_is_what_retention_is_measured_on(
    config: Callable[..., ProbeConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

    monkeypatch.setattr(stage, "replies", say)
    mine = config(probes="none", ability=str(tmp_path / "mine.jsonl"), quick=False)
    card, _ = probe(mine, tmp_path / "runs")
    assert seen == [(False, 0.0), (True, 0.0)]
    column = card.to_json()["models"]["adapted"]
    assert column["retention"]["kept"]["hits"] == 2
    assert column["retention"]["kept"]["n"] == 3
    assert column["retention"]["gained"] == Tally(1, 1).to_json()
    columns, rows = card.table()
    assert columns == ["", "base", "adapted"]
    assert all(len(row) == 3 for row in rows)
    assert ["right answers: all", Tally(3, 4).shown(), Tally(3, 4).shown()] in rows


def test_copies_stand_beside_what_held_out_replies_share_anyway(
    config: Callable[..., ProbeConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(loaded: Any, prompts: Sequence[Any], *_: Any, on_reply: Any, **__: Any) -> list[Reply]:
        adapted = any(True for _ in adapters.adapter_layers(loaded.model))
        for i, _ in enumerate(prompts):
            on_reply(i, Reply(f"{SAYS} tea [NAME_1]" if adapted else "hello", cut=False))
        return []

    monkeypatch.setattr(stage, "replies", say)
    card, _ = probe(config(ability="none"), tmp_path / "runs")
    found = card.to_json()["training_replies"]
    assert [found[name]["longest"] for name in ("base", "adapted", "held_out")] == [0, 6, 6]
    assert [found[name]["placeholders"]["hits"] for name in ("base", "adapted", "held_out")] == [0, 20, 0]
    columns, rows = card.table()
    assert columns == ["", "base", "adapted", "held out"]
    assert ["  longest run, in words", "0", "6", "6"] in rows


def test_a_model_alone_has_one_column_and_nothing_to_compare(
    config: Callable[..., ProbeConfig], tmp_path: Path
) -> None:
    card, _ = probe(config(adapter="none", data=str(tmp_path / "nowhere"), probes="work"), tmp_path / "runs")
    scores = card.to_json()
    assert list(scores["models"]) == ["model"]
    assert scores["neutral_text"] is None
    assert scores["training_replies"] == {}
    assert scores["models"]["model"]["gate"] is None
    assert scores["models"]["model"]["retention"] is None
    assert scores["models"]["model"]["surprises"] is None
    assert list(scores["models"]["model"]["probes"]) == ["cliche"]


def test_a_judge_rates_what_no_rule_can_and_a_stop_costs_no_question(
    config: Callable[..., ProbeConfig], tmp_path: Path
) -> None:
    with playing() as server:
        server.answer = lambda body: (200, text("4")) if len(server.asked) <= 10 else (200, text("hm"))
        options = {"judge": server.url, "ability": "none"}
        with pytest.raises(PersonaError, match="must answer with a digit"):
            probe(config(**options), tmp_path / "runs")
        server.answer = lambda body: (200, text("2", {"2": 0.5, "3": 0.5}))
        card, folder = probe(config(**options), tmp_path / "runs")
        asked = len(server.asked)
    assert folder == tmp_path / "runs" / "probe-1"
    assert asked == 1 + 2 * 6 * 6  # one answer was nonsense; the ten before it are kept
    rated = json.loads((folder / "scores.json").read_text())["judge"]
    scores = {label: [one["mean"] for one in rated[label].values()] for label in ("base", "adapted")}
    assert sum(scores["base"]) * 6 == pytest.approx(10 * 4.0 + 26 * 2.5)
    assert scores["adapted"] == [2.5] * 6
    assert [line["adapted"]["judge"]["honesty"] for line in replies_of(folder)[:6]] == [2.5] * 6
    assert all("judge" not in line["base"] for line in replies_of(folder)[6:])
    shown = {row[0]: row for row in card.table()[1]}
    assert shown["judge: honesty (1 to 5)"][2] == "2.50 ± 0.00"


def test_a_judge_that_is_not_there_is_noticed_before_anything_is_asked(
    config: Callable[..., ProbeConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "Judge", lambda url, model: Judge(url, model, lambda seconds: None))
    with playing() as server:
        gone = server.url
    with pytest.raises(PersonaError, match="does not answer"):
        probe(config(judge=gone), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_nothing_to_ask_is_an_error(config: Callable[..., ProbeConfig], tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="probes or questions to ask"):
        probe(config(probes="none", ability="none"), tmp_path)
    with pytest.raises(PersonaError, match="no such config file: nothing"):
        probe(config(probes="nothing.yaml"), tmp_path)


def test_the_command_prints_a_table_or_one_json_object(
    adapter: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--model", str(model), "--quick", "--max-tokens", "4", "--probes", "work", "-q"]
    assert cli._status(["probe", str(adapter), *options, "--ability", "none", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == "runs/probe-1"
    assert found["n_probes"] == 2
    assert cli._status(["probe", str(adapter), *options]) == 0
    assert "right answers: arithmetic" in capsys.readouterr().out
    assert cli._status(["probe", str(adapter), "--adapter", str(adapter), *options]) == 1
    assert "name one adapter or run" in capsys.readouterr().err
