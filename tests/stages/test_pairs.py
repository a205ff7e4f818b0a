"""Preference pairs: which prompts, what is dropped, and that a stop loses nothing."""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import pytest

from mlx_persona.config import PairsConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.generation.engine import Reply
from mlx_persona.models import adapters
from mlx_persona.models.load import load_model, load_tokenizer
from mlx_persona.schema import Conversation, Message, read_pairs, write_jsonl
from mlx_persona.stages import pairs
from mlx_persona.stages.pairs import PairsResult, choose, make_pairs, similarity
from tests.toy import save_adapter

_tokenizer = functools.cache(load_tokenizer)


def talk(name: str, exchanges: int) -> Conversation:
    """A conversation of so many exchanges; the second reply is not trained on."""
    messages = []
    for i in range(exchanges):
        messages += [Message("user", f"{name} asks {i}"), Message("assistant", f"{name} answers {i}", train=i != 1)]
    return Conversation(tuple(messages), {"id": name})


@pytest.fixture(autouse=True)
def _one_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the tokenizer takes longer than everything else that these tests do."""
    monkeypatch.setattr(pairs, "load_tokenizer", _tokenizer)


@pytest.fixture
def config(tmp_path: Path, tiny_model_dir: Path) -> PairsConfig:
    """Twelve pairs from six conversations, written by the tiny model."""
    write_jsonl(tmp_path / "clean/train.jsonl", [talk(f"t{i}", 4) for i in range(6)])
    write_jsonl(tmp_path / "clean/valid.jsonl", [talk(f"v{i}", 3) for i in range(3)])
    out = PairsConfig(model=str(tiny_model_dir), data=str(tmp_path / "clean"), out=str(tmp_path / "pairs"))
    return replace(out, n=12, max_tokens=6, batch_size=4)


@pytest.fixture(scope="session")
def sft_run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished SFT run of the tiny model, with a system message."""
    loaded = load_model(str(tiny_model_dir))
    spec = adapters.AdapterSpec(4, 2.0, dora=False, base=loaded.identity, system="You are Ann.")
    spec = adapters.attach(loaded.model, spec)
    weights = adapters.trainable(loaded.model)
    for name, value in weights.items():
        if name.endswith("lora_b"):
            weights[name] = 0.3 * mx.random.normal(value.shape, key=mx.random.key(len(name)))
    run = tmp_path_factory.mktemp("sft") / "sft-1"
    save_adapter(run / "adapter", weights, spec)
    (run / "run.json").write_text(json.dumps({"status": "done", "finished": 1.0, "model": str(tiny_model_dir)}))
    return run


def files(config: PairsConfig) -> dict[str, str]:
    """What the stage wrote, but for the report."""
    return {p.name: p.read_text() for p in sorted(Path(config.out).iterdir()) if p.name != "report.json"}


def written_by(monkeypatch: pytest.MonkeyPatch, write: Callable[[int], str]) -> None:
    """Let ``write(row)`` write the replies in the model's stead."""

    def fake(loaded: Any, prompts: Sequence[Any], *args: Any, rows: Sequence[int], on_reply: Any, **rest: Any) -> None:
        for i, row in enumerate(rows):
            on_reply(i, Reply(write(row), cut=row % 2 == 1))

    monkeypatch.setattr(pairs, "replies", fake)
    monkeypatch.setattr(pairs, "load_model", lambda name: None)


def test_pairs_hold_the_real_reply_and_the_models(config: PairsConfig) -> None:
    result = make_pairs(config)
    train, valid = (read_pairs(Path(config.out) / f"{split}.jsonl") for split in ("train", "valid"))
    assert (result.train, result.valid) == (len(train), len(valid)) == (12, 2)
    assert (result.dropped_similar, result.dropped_empty, result.skipped, result.reused) == (0, 0, 0, False)
    assert sorted(files(config)) == ["train.jsonl", "valid.jsonl"]
    for pair in (*train, *valid):
        name = pair.meta["conversation"]
        assert pair.meta["from"] == "base"
        last = pair.messages[-1]
        assert last.role == "user"
        assert pair.chosen == last.content.replace("asks", "answers")
        assert pair.messages[0] == Message("user", f"{name} asks 0")
        assert all(m.train for m in pair.messages)
        assert pair.rejected.strip() == pair.rejected != ""
    assert {p.meta["conversation"][0] for p in train} == {"t"}
    assert {p.meta["conversation"][0] for p in valid} == {"v"}
    shown = result.to_json()
    assert json.loads(json.dumps(shown)) == shown
    assert shown["path"] == config.out


def test_the_batch_size_changes_no_pair(config: PairsConfig, tmp_path: Path) -> None:
    make_pairs(config)
    other = replace(config, out=str(tmp_path / "other"), batch_size=32)
    make_pairs(other)
    assert files(other) == files(config)


@pytest.mark.parametrize("torn", ["", '{"reply": 3, "te'])
def test_an_interrupted_run_continues_to_the_same_files(
    config: PairsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    whole = replace(config, out=str(tmp_path / "whole"))
    make_pairs(whole)
    write, asked = pairs.replies, []

    def stopping(loaded: Any, prompts: Any, *args: Any, rows: Any, on_reply: Any, **rest: Any) -> None:
        asked.append(len(rows))

        def once(index: int, reply: Reply) -> None:
            on_reply(index, reply)
            if index in (2, 7) and len(asked) == 1:
                once.count += 1  # type: ignore[attr-defined]
                if once.count == 2:  # type: ignore[attr-defined]
                    raise KeyboardInterrupt

        once.count = 0  # type: ignore[attr-defined]
        write(loaded, prompts, *args, rows=rows, on_reply=once, **rest)

    monkeypatch.setattr(pairs, "replies", stopping)
    with pytest.raises(Interrupted, match=r"stopped: \d+ of 14 replies are kept") as caught:
        make_pairs(config)
    assert caught.value.hint == "the same command continues from there"
    assert list(files(config)) == ["partial.jsonl"]
    partial = Path(config.out) / "partial.jsonl"
    kept = len(partial.read_text().splitlines()) - 1
    assert 2 <= kept < 14
    with partial.open("a") as file:
        file.write(torn)
    result = make_pairs(config)
    assert asked == [14, 14 - kept]
    assert files(config) == files(whole)
    assert not result.reused


def test_another_key_starts_afresh(config: PairsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    written_by(monkeypatch, lambda row: asked.append(row) or f"reply {row}")  # type: ignore[func-returns-value]
    make_pairs(config)
    assert len(asked) == 14
    for changed in (
        {"seed": 1},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"max_tokens": 7},
        {"system": "Be brief."},
        {"n": 11},
        {"max_similarity": 0.5},
    ):
        before = len(asked)
        assert not make_pairs(replace(config, **changed)).reused  # type: ignore[arg-type]
        assert len(asked) > before
    before = len(asked)
    assert not make_pairs(config).reused
    again = make_pairs(replace(config, batch_size=1))
    assert again.reused
    assert len(asked) == before + 14
    assert again == replace(make_pairs(config), reused=True)


def test_a_missing_file_is_written_again(config: PairsConfig) -> None:
    make_pairs(config)
    before = files(config)
    (Path(config.out) / "valid.jsonl").unlink()
    assert not make_pairs(config).reused
    assert files(config) == before


def test_similar_and_empty_sides_are_dropped_and_counted(config: PairsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = pairs._plan(config).candidates
    same, empty = {0, 3, 12}, {1, 2}

    def write(row: int) -> str:
        if row in same:
            return f"  {candidates[row].chosen.upper()}\n"
        return " \n" if row in empty else f"something else {row}"

    written_by(monkeypatch, write)
    result = make_pairs(config)
    assert (result.train, result.valid, result.dropped_similar, result.dropped_empty) == (8, 1, 3, 2)


def test_a_reply_that_was_cut_says_so(config: PairsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    written_by(monkeypatch, lambda row: f"something else {row}")  # every second one cut
    make_pairs(config)
    written = [p for split in ("train", "valid") for p in read_pairs(Path(config.out) / f"{split}.jsonl")]
    assert [p.meta.get("cut", False) for p in written] == [row % 2 == 1 for row in range(14)]


def test_no_pair_left_is_an_error(config: PairsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    written_by(monkeypatch, lambda row: "")
    with pytest.raises(PersonaError, match="no pair is left: 0 are too alike and 14 empty"):
        make_pairs(config)


def test_prompts_that_do_not_fit_are_skipped_and_long_ones_cut(config: PairsConfig) -> None:
    long = Conversation((Message("user", "word " * 300), Message("assistant", "a real reply")), {"id": "long"})
    data = Path(config.data)
    write_jsonl(data / "train.jsonl", [talk("t0", 4), long])
    system = Message("system", "word " * 300)
    write_jsonl(data / "valid.jsonl", [talk("v0", 1), Conversation((system, *long.messages))])
    plan = pairs._plan(replace(config, max_seq_length=120, max_tokens=20))
    assert plan.skipped == 1
    assert sorted(c.conversation for c in plan.candidates) == ["long", "t0", "t0", "t0", "v0"]
    assert max(len(c.prompt) for c in plan.candidates) <= 100
    with pytest.raises(PersonaError, match="no prompt fits in 30 tokens with a reply of 20"):
        pairs._plan(replace(config, max_seq_length=30, max_tokens=20, system="word " * 30))


def test_candidates_are_trained_replies_to_a_user_turn() -> None:
    system = Message("system", "Be Ann.")
    messages = (
        system,
        Message("assistant", "hello?"),
        Message("user", "hi"),
        Message("assistant", "hm", train=False),
        Message("user", "so"),
        Message("assistant", "well"),
        Message("assistant", "and more"),
    )
    found = choose([Conversation(messages)], "train", 9, 0)
    assert [(c.chosen, c.conversation) for c in found] == [("well", "train:1")]
    expected = (system, Message("user", "hi"), Message("assistant", "hm"), Message("user", "so"))
    assert found[0].messages == expected


def test_candidates_are_spread_over_conversations_and_follow_the_seed() -> None:
    conversations = [talk("long", 200), *(talk(f"c{i}", 3) for i in range(9))]
    found = choose(conversations, "train", 20, 0)
    assert Counter(Counter(c.conversation for c in found).values()) == {2: 10}
    assert choose(conversations, "train", 20, 0) == found
    assert choose(conversations, "train", 20, 1) != found
    # Nine conversations have two each; the long one gives no more than its share.
    assert Counter(c.conversation for c in choose(conversations, "train", 1000, 0))["long"] == 100
    assert Counter(c.conversation for c in choose(conversations, "train", 40, 0))["long"] == 4


def test_both_gives_two_pairs_with_the_same_chosen_side(config: PairsConfig, sft_run: Path) -> None:
    result = make_pairs(replace(config, rejected_from="both", adapter=str(sft_run)))
    found = read_pairs(Path(config.out) / "train.jsonl")
    assert result.train == len(found) == 24
    for base, sft in zip(found[::2], found[1::2], strict=True):
        assert (base.meta["from"], sft.meta["from"]) == ("base", "sft")
        assert (base.messages, base.chosen) == (sft.messages, sft.chosen)
        assert base.rejected != sft.rejected


def test_the_sft_run_gives_the_model_and_the_system_message(
    config: PairsConfig, sft_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copytree(sft_run, tmp_path / "runs/sft-1")
    monkeypatch.chdir(tmp_path)
    plain = pairs._plan(config)
    assert plain.adapter is None
    plan = pairs._plan(replace(config, model=""))
    assert (plan.model, plan.adapter) == (config.model, Path("runs/sft-1/adapter"))
    assert plan.candidates[0].prompt != plain.candidates[0].prompt
    same = pairs._plan(replace(config, system="You are Ann."))
    assert same.key == plan.key  # the base model writes: the adapter's weights do not matter
    assert pairs._plan(replace(config, rejected_from="sft")).key != plan.key


@pytest.mark.parametrize("source", ["base", "sft", "both"])
def test_no_model_and_no_run_is_an_error(
    config: PairsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PersonaError, match=r"no finished SFT run|there is no run") as caught:
        make_pairs(replace(config, model="", rejected_from=source))
    assert "mlx-persona sft" in str(caught.value.hint)


def test_similarity_ignores_case_and_blanks() -> None:
    assert similarity("Hello  There\n", "hello there") == 1.0
    assert similarity("abcd", "abxd") == 0.75
    assert similarity("abc", "xyz") == 0.0


def test_a_result_is_a_plain_object() -> None:
    result = PairsResult(1, 2, 3, 4, 5, Path("data/pairs"), 6.5)
    assert result.to_json() == {
        "train": 1,
        "valid": 2,
        "dropped_similar": 3,
        "dropped_empty": 4,
        "skipped": 5,
        "path": "data/pairs",
        "seconds": 6.5,
        "reused": False,
    }
