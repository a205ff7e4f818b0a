"""Cached rows are the rows: whatever is mapped equals what was made afresh, and nothing stale is ever used."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_persona import ui
from mlx_persona.errors import PersonaError
from mlx_persona.runs import file_hash
from mlx_persona.schema import Conversation, Message, read_conversations, write_jsonl
from mlx_persona.tokens import cache, store
from mlx_persona.tokens.batches import Row, make_row
from mlx_persona.tokens.cache import load_rows, survey
from mlx_persona.tokens.dataset import Rows, common_system, conversation_rows
from mlx_persona.tokens.render import Renderer
from mlx_persona.tokens.store import Joined, Stored, write_rows
from tests.tokens.kit import tokenizer_of

MAX = 60


def said(number: int) -> Conversation:
    """A conversation of its own length, with a weight, sometimes with a system message or nothing to learn."""
    turns: list[Message] = [Message("system", "Be kind.")] if number % 3 == 0 else []
    for turn in range(1 + number % 9):
        turns.append(Message("user", f"Fine thanks {number} {'so ' * (number % 7)}"))
        turns.append(Message("assistant", f"hello there again {turn}", train=number % 11 != 10))
    return Conversation(tuple(turns), {"weight": 0.5 * (number % 4)})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that takes files of any size."""
    monkeypatch.setenv("MLX_PERSONA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALL", 0)
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", [said(i) for i in range(60)])
    return tmp_path / "train.jsonl"


def renderer(**options: Any) -> Renderer:
    return Renderer(tokenizer_of("smollm2"), **options)


def same(one: Rows, other: Rows) -> None:
    """Row by row the same, and the same account."""
    assert one.account == other.account
    assert one.describe() == other.describe()
    assert len(one.rows) == len(other.rows) > 0
    for ours, theirs in zip(one.rows, other.rows, strict=True):
        assert (ours.ids.dtype, ours.mask.dtype, ours.weight) == (np.int32, np.bool_, theirs.weight)
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.mask, theirs.mask)


def entries(home: Path) -> list[Path]:
    return sorted(e for e in home.iterdir() if e.is_dir())


def never(*_: Any, **__: Any) -> Iterator[Any]:
    raise AssertionError("the file was read again")


def test_cached_rows_are_fresh_rows_and_a_second_start_reads_no_conversation(
    home: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = conversation_rows(read_conversations(data), renderer(system="You are Ann."), MAX)
    monkeypatch.setattr(store, "_CHUNK_ROWS", 11)  # so that rows and bytes of mask bits end within chunks
    known = survey(data)
    first = load_rows(data, known, renderer(system="You are Ann."), MAX)
    same(first, fresh)
    monkeypatch.setattr(cache, "iter_conversations", never)
    assert survey(data) == known
    again = load_rows(data, known, renderer(system="You are Ann."), MAX)
    same(again, fresh)
    assert isinstance(again.rows, Stored)
    assert isinstance(again.rows.ids.base, np.memmap)
    assert again.rows.ids.dtype == np.uint16
    assert home.stat().st_mode & 0o077 == 0  # it is what people wrote


def test_a_small_file_is_not_copied_and_gives_the_same(home: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = load_rows(data, survey(data), renderer(), MAX)
    shutil.rmtree(home)
    monkeypatch.setattr(cache, "SMALL", 1 << 30)
    same(load_rows(data, survey(data), renderer(), MAX), cached)
    assert not home.exists()


def test_a_survey_is_what_reading_tells(home: Path, data: Path) -> None:
    known = survey(data)
    conversations = read_conversations(data)
    assert known.sha256 == file_hash(data)
    assert (known.conversations, known.system) == (len(conversations), common_system(conversations))


@pytest.mark.parametrize("change", ["data", "system", "mask", "length", "tokenizer", "code"])
def test_whatever_decides_the_rows_makes_them_anew(
    home: Path, data: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_rows(data, survey(data), renderer(), MAX)
    before = entries(home)
    if change == "data":
        write_jsonl(data, [said(i) for i in range(59)])
    if change == "code":
        monkeypatch.setattr(cache.schema, "__file__", __file__)
    tokenizer = tokenizer_of("qwen2.5" if change == "tokenizer" else "smollm2")
    system, mask = ("Be brief." if change == "system" else ""), change != "mask"
    length = 50 if change == "length" else MAX
    other = Renderer(tokenizer, system=system, mask_prompt=mask)
    rows = load_rows(data, survey(data), other, length)
    same(rows, conversation_rows(read_conversations(data), other, length))
    assert len(entries(home)) == len(before) + (2 if change in ("data", "code") else 1)


@pytest.mark.parametrize("damage", ["cut", "missing", "account"])
def test_a_damaged_entry_is_made_again(home: Path, data: Path, damage: str) -> None:
    known = survey(data)
    fresh = load_rows(data, known, renderer(), MAX)
    expected = [row.ids.tolist() for row in fresh.rows]
    (folder,) = (e for e in entries(home) if (e / "ids.npy").exists())
    if damage == "cut":
        os.truncate(folder / "ids.npy", 200)
    elif damage == "missing":
        (folder / "bits.npy").unlink()
    else:
        (folder / "account.json").write_text("{")
    assert [row.ids.tolist() for row in load_rows(data, known, renderer(), MAX).rows] == expected


@pytest.mark.parametrize("stop", [KeyboardInterrupt, PersonaError("the template refuses")])
def test_what_is_interrupted_leaves_nothing_half_made(
    home: Path, data: Path, stop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = survey(data)
    before = entries(home)
    render = Renderer.render

    def refuse(self: Renderer, messages: Any, max_tokens: int | None = None) -> Any:
        if "Fine thanks 40 " in messages[-2].content:
            raise stop
        return render(self, messages, max_tokens)

    monkeypatch.setattr(Renderer, "render", refuse)
    with pytest.raises(type(stop) if isinstance(stop, Exception) else stop):
        load_rows(data, known, renderer(), MAX)
    assert entries(home) == before
    monkeypatch.setattr(Renderer, "render", render)
    same(load_rows(data, known, renderer(), MAX), conversation_rows(read_conversations(data), renderer(), MAX))


def test_without_a_place_to_write_it_trains_all_the_same(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ui.set_quiet(False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLX_PERSONA_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "SMALL", 0)
    same(load_rows(data, survey(data), renderer(), MAX), conversation_rows(read_conversations(data), renderer(), MAX))
    assert "tokens are not kept for the next run" in capsys.readouterr().err


def test_what_is_old_or_too_much_goes_and_what_is_used_stays(
    home: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = survey(data)
    for length in (50, 60, 70):
        load_rows(data, known, renderer(), length)
    found = [e for e in entries(home) if (e / "ids.npy").exists()]
    aged = {length: 1000.0 * length for length in (50, 60, 70)}
    folders = {length: home / cache._key(known.sha256, renderer().fingerprint(), length) for length in aged}
    assert set(folders.values()) == set(found)
    now = time.time()
    for length, seconds in aged.items():
        os.utime(folders[length], (now - seconds, now - seconds))
    load_rows(data, known, renderer(), 70)  # used again: the newest
    load_rows(data, known, renderer(), 80)
    monkeypatch.setattr(cache, "KEEP_BYTES", sum(cache._size(entry) for entry in entries(home)) - 1)
    shutil.rmtree(home / cache._key(known.sha256, renderer().fingerprint(), 80))
    load_rows(data, known, renderer(), 80)
    assert {length: folder.exists() for length, folder in folders.items()} == {50: True, 60: False, 70: True}
    monkeypatch.setattr(cache, "KEEP_SECONDS", 10_000)
    load_rows(data, known, renderer(), 90)
    assert {length: folder.exists() for length, folder in folders.items()} == {50: False, 60: False, 70: True}


@pytest.mark.parametrize(("text", "problem"), [(None, "is missing"), ('{"messages": []}\n', r"train\.jsonl:1: ")])
def test_a_wrong_file_is_named(home: Path, tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "train.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PersonaError, match=problem):
        survey(path)


def test_a_file_without_a_reply_to_learn_is_an_error_every_time(home: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [said(10)])
    for _ in range(2):
        with pytest.raises(PersonaError, match="holds no reply to train on"):
            survey(tmp_path / "a.jsonl")


# --- the arrays --------------------------------------------------------------------------------


@st.composite
def some_rows(draw: st.DrawFn) -> list[Row]:
    lengths = draw(st.lists(st.integers(1, 30), max_size=12))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return [make_row(rng.integers(0, 70000, n).tolist(), (rng.random(n) < 0.5).tolist(), rng.random()) for n in lengths]


@given(rows=some_rows(), vocabulary=st.sampled_from([70000]), cut=st.integers(0, 12))
def test_rows_come_back_from_memory_from_disk_and_joined(
    rows: list[Row], vocabulary: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder, iter(rows), vocabulary)
    parts = Joined([Stored.of(rows[:cut]), Stored.of(rows[cut:])])
    for stored in (Stored.of(rows), Stored.open(folder), parts):
        assert len(stored) == len(rows)
        assert stored.lengths.tolist() == [len(row.ids) for row in rows]
        assert stored.weights.tolist() == [row.weight for row in rows]
        assert stored.tokens == sum(len(row.ids) for row in rows)
        for got, row in zip(stored, rows, strict=True):
            np.testing.assert_array_equal(got.ids, row.ids)
            np.testing.assert_array_equal(got.mask, row.mask)
        assert [r.ids.tolist() for r in stored[1:3]] == [r.ids.tolist() for r in rows[1:3]]
        with pytest.raises(IndexError):
            stored[len(rows)]
    if rows:
        assert parts[-1].ids.tolist() == rows[-1].ids.tolist()
