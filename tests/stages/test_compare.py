"""A blind comparison on disk: whose replies it shows, and that it goes on where it was left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_persona.config import CompareConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.evals.blind.session import Item
from mlx_persona.generation import engine
from mlx_persona.models.adapters import load_adapter
from mlx_persona.models.load import load_model
from mlx_persona.runs import ADAPTER, read_info
from mlx_persona.schema import Conversation, Message, write_jsonl
from mlx_persona.stages import sides
from mlx_persona.stages.compare import ANSWERS, ITEMS, RESULT, opened
from mlx_persona.stages.sft import sft
from mlx_persona.tokens.render import Renderer
from tests.toy import SAYS, WORDS, sft_config, write_data, write_model

Config = Callable[..., CompareConfig]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model, a person's conversations and a run of two updates with a system message."""
    folder = tmp_path_factory.mktemp("workspace")
    model, data = write_model(folder / "toy"), write_data(folder / "data/clean")
    sft(sft_config(model, data, folder / "runs/sft-1", updates=2, eval_every=2, system="be short"))
    return folder


@pytest.fixture
def config(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """``config(a, b, ...)`` in a workspace of its own with that run."""
    for name in ("toy", "data", "runs"):
        (tmp_path / name).symlink_to(workspace / name)
    (tmp_path / "runs").unlink()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/sft-1").symlink_to(workspace / "runs/sft-1")
    monkeypatch.chdir(tmp_path)
    return lambda *names, **more: CompareConfig(
        **dict(zip(("a", "b"), names, strict=False)), **{"n": 6, "max_tokens": 8, "max_seq_length": 128, **more}
    )


def items(folder: Path) -> list[Item]:
    return [Item.from_json(json.loads(line)) for line in (folder / ITEMS).read_text().splitlines()]


def no_more_replies(*args: Any, **more: Any) -> None:
    raise AssertionError("a model was asked")


def test_both_sides_answer_the_same_held_out_prompts(config: Config) -> None:
    with opened(config("base", "runs/sft-1", n=3)) as comparison:
        assert comparison.path == Path("runs/compare-1")
        assert comparison.labels == {"a": "base", "b": "sft-1"}
        shown = comparison.session.items
    assert items(Path("runs/compare-1")) == list(shown)
    loaded = load_model("toy")
    prompts = [Renderer(loaded.tokenizer, system="be short").prompt(item.before) for item in shown]
    sampling = engine.Sampling(8, 0.8, 0.95, 0)
    for side in ("a", "b"):
        if side == "b":
            load_adapter(loaded.model, Path("runs/sft-1") / ADAPTER, loaded.identity)
        alone = engine.replies(loaded, prompts, sampling, batch_size=1)
        assert [item.replies[side] for item in shown] == [reply.text.strip() for reply in alone]
        assert [item.cut[side] for item in shown] == [reply.cut for reply in alone]
    held_out = {f"what about {word}?" for word in WORDS[4:8]}
    assert {item.before[-1].content for item in shown} <= held_out
    assert {item.first for item in shown} == {"a", "b"}


def test_real_is_what_the_person_said(config: Config) -> None:
    with opened(config("real", "base")) as comparison:
        for item in comparison.session.items:
            asked = item.before[-1].content
            assert item.replies["a"] == f"{SAYS} {asked.removeprefix('what about ').removesuffix('?')}"
            assert not item.cut["a"]
        assert comparison.labels == {"a": "real", "b": "base"}


def test_real_and_the_base_model_need_no_run(config: Config, tmp_path: Path) -> None:
    (tmp_path / "runs/sft-1").unlink()
    with opened(config("base", "real", model="toy")) as comparison:
        assert len(comparison.session.items) == 6
    with pytest.raises(PersonaError, match="no finished DPO or SFT run"), opened(config("base", "real")):
        pass


def test_what_the_names_of_sides_mean(config: Config, tmp_path: Path) -> None:
    trained = Path("runs/sft-1") / ADAPTER
    run = sides.Side("sft-1", str(Path(read_info(Path("runs/sft-1"))["model"])), trained, "be short", "")
    found = sides.find_sides(config("runs/sft-1", "toy"))
    assert found["a"] == sides.Side("sft-1", run.model, trained, "be short", run.model)
    assert found["b"] == sides.Side("toy", "toy")
    (tmp_path / "fused").mkdir()
    (tmp_path / "fused/config.json").write_text("{}")
    (tmp_path / "fused/run.json").write_text(json.dumps({"system": "be kind", "model": "org/big"}))
    found = sides.find_sides(config("fused", "base"))
    assert found["a"] == sides.Side("fused", "fused", None, "be kind", "org/big")
    assert found["b"] == sides.Side("base", "org/big", None, "be kind")
    (tmp_path / "real").mkdir()
    (tmp_path / "real/config.json").write_text("{}")
    assert sides.find_sides(config("./real", "toy"))["a"].label == "./real"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/sft-1").symlink_to(tmp_path / "runs/sft-1")
    found = sides.find_sides(config("runs/sft-1", "other/sft-1"))
    assert (found["a"].label, found["b"].label) == ("runs/sft-1", "other/sft-1")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ((), "needs two sides, got 0"),
        (("base",), "needs two sides, got 1"),
        (("real", "real"), "must differ"),
        (("runs/sft-1", "runs/sft-1/adapter"), "must differ"),
        (("toy", "base"), "must differ"),
        (("runs/sft-2", "no/such/thing"), "no such model: no/such/thing"),
        (("data", "real"), "no adapter in data"),
    ],
)
def test_sides_that_make_no_comparison_are_refused_before_a_folder_is_made(
    config: Config, names: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = {"model": "toy"} if "toy" in names else {}
    with pytest.raises(PersonaError, match=problem), opened(config(*names, **given)):
        pass
    assert not Path("runs/compare-1").exists()


def test_held_out_data_without_an_exchange_is_refused(config: Config, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "alone/test.jsonl", [Conversation((Message("assistant", "hello?"),))])
    with pytest.raises(PersonaError, match="answers anybody"), opened(config("base", "real", data="alone")):
        pass
    with pytest.raises(PersonaError, match="must hold held-out replies"), opened(config("base", "real", data="none")):
        pass


def test_fewer_prompts_than_asked_for_are_all_taken(config: Config) -> None:
    with opened(config("base", "real", n=500, max_tokens=2)) as comparison:
        assert len(comparison.session.items) == 7


def test_answers_are_on_disk_at_once_and_a_new_sitting_goes_on_without_a_model(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(config("base", "real", rubric=("warm",))) as comparison:
        for key in "15s2":
            comparison.press(key)
        comparison.undo()
        saved = json.loads(Path("runs/compare-1", ANSWERS).read_text())["answers"]
        assert [answer["ask"] for answer in saved] == ["choice", "warm", "warm"]
        first = comparison.session
    monkeypatch.setattr(sides, "load_model", no_more_replies)
    monkeypatch.setattr(sides, "plan", no_more_replies)
    with opened(config(resume="runs/compare-1", port=9000, open=False)) as comparison:
        assert comparison.session == first
        while not comparison.session.done:
            comparison.press("2")
        result = comparison.result
        assert json.loads(Path("runs/compare-1", RESULT).read_text()) == json.loads(json.dumps(result.to_json()))
        assert read_info(comparison.path)["status"] == "done"
        comparison.undo()
        assert not Path("runs/compare-1", RESULT).exists()
        assert read_info(comparison.path)["status"] == "running"


def test_a_resumed_comparison_keeps_its_options(config: Config) -> None:
    with opened(config("base", "real")):
        pass
    with pytest.raises(PersonaError, match="n is 6 in runs/compare-1"), opened(config(resume="runs/compare-1", n=7)):
        pass
    with pytest.raises(PersonaError, match="is a run of sft"), opened(config(resume="runs/sft-1")):
        pass
    with pytest.raises(PersonaError, match="nothing to resume"), opened(config(resume="runs/none")):
        pass


def test_a_folder_is_held_by_one_process(config: Config) -> None:
    with (
        opened(config("base", "real")),
        pytest.raises(PersonaError, match="another process"),
        opened(config(resume="runs/compare-1")),
    ):
        pass


def test_replies_that_were_written_before_a_stop_are_not_written_again(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(config("base", "runs/sft-1", out="whole")) as comparison:
        whole = comparison.session.items
    asked: list[int] = []
    real = engine.replies

    def stopping(*args: Any, on_reply: engine.OnReply, rows: list[int], **more: Any) -> list[engine.Reply]:
        asked.extend(rows)

        def keep(index: int, reply: engine.Reply) -> None:
            on_reply(index, reply)
            if len(asked) > 6 and index == 1:
                raise KeyboardInterrupt

        return real(*args, on_reply=keep, rows=rows, **more)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "replies", stopping)
        with pytest.raises(Interrupted) as stop, opened(config("base", "runs/sft-1")):
            pass
    assert stop.value.hint == "go on with: mlx-persona compare --resume runs/compare-1"
    assert read_info(Path("runs/compare-1"))["status"] == "stopped"
    kept = int(stop.value.message.split()[1])
    assert 6 < kept < 12
    written: list[int] = []

    def counting(*args: Any, rows: list[int], **more: Any) -> list[engine.Reply]:
        written.extend(rows)
        return real(*args, rows=rows, **more)

    monkeypatch.setattr(engine, "replies", counting)
    with opened(config(resume="runs/compare-1")) as comparison:
        assert comparison.session.items == whole
    assert len(written) == 12 - kept
    assert sorted(path.name for path in Path("runs/compare-1").iterdir()) == ["config.yaml", "items.jsonl", "run.json"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (ANSWERS, "{", "answers.json is damaged"),
        (ANSWERS, "[]", "answers.json is damaged"),
        (ANSWERS, '{"answers": [1]}', "answer 1 does not belong"),
        (ITEMS, '{"before": []}\n', "items.jsonl:1: an item must hold"),
        (ITEMS, "nonsense\n", "items.jsonl:1: not JSON"),
    ],
)
def test_a_damaged_file_is_named(config: Config, name: str, text: str, problem: str) -> None:
    with opened(config("base", "real")):
        pass
    Path("runs/compare-1", name).write_text(text)
    with pytest.raises(PersonaError, match=problem), opened(config(resume="runs/compare-1")):
        pass


def test_an_answer_that_cannot_be_saved_does_not_count(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with opened(config("base", "real", n=2, max_tokens=2)) as comparison:
        with monkeypatch.context() as patch:
            patch.setattr("mlx_persona.stages.compare.write_text", full)
            with pytest.raises(OSError, match="No space"):
                comparison.press("1")
        assert comparison.session.answers == ()
        comparison.press("1")
    stop = comparison.stopped()
    assert (stop.message, stop.hint) == (
        "stopped: 1 of 2 items are answered and kept",
        "go on with: mlx-persona compare --resume runs/compare-1",
    )
