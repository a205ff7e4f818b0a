"""Messages, conversations and pairs: what is accepted, what is refused, and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_persona.errors import PersonaError
from mlx_persona.schema import (
    ROLES,
    Conversation,
    Message,
    Pair,
    dump_line,
    read_conversations,
    read_jsonl,
    read_pairs,
    write_jsonl,
)

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
MESSAGES = st.builds(Message, role=st.sampled_from(ROLES), content=TEXT, train=st.booleans())
SOME = st.lists(MESSAGES, min_size=1, max_size=4).map(tuple)
META = st.dictionaries(TEXT, st.integers() | TEXT, max_size=3)
FULL = TEXT.filter(lambda text: bool(text.strip()))


@settings(deadline=None)
@given(st.builds(Conversation, messages=SOME, meta=META))
def test_a_conversation_survives_json(conversation: Conversation) -> None:
    assert Conversation.from_json(json.loads(dump_line(conversation.to_json()))) == conversation


@settings(deadline=None)
@given(st.builds(Pair, messages=SOME, chosen=FULL, rejected=FULL, meta=META))
def test_a_pair_survives_json(pair: Pair) -> None:
    assert Pair.from_json(json.loads(dump_line(pair.to_json()))) == pair


def test_files_hold_one_record_a_line_as_it_was_typed(tmp_path: Path) -> None:
    said = [Conversation((Message("user", "é\u2028\x85 \n?"), Message("assistant", "日本 🙂", train=False)), {"id": 1})]
    assert write_jsonl(tmp_path / "a.jsonl", said) == 1
    text = (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert text.count("\n") == 1
    assert "日本 🙂" in text
    assert read_conversations(tmp_path / "a.jsonl") == said


def test_blank_lines_and_a_byte_order_mark_are_no_records(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"b": 2}')
    assert list(read_jsonl(file)) == [(1, {"a": 1}), (4, {"b": 2})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json", "not JSON"),
        (b'{"messages": "\xff"}', r"not UTF-8 \(byte 15\)"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", 'a conversation must be an object with a non-empty "messages" list'),
        (b'{"messages": []}', "non-empty"),
        (b'{"messages": [1]}', "a message must be an object, got int"),
        (b'{"messages": [{"role": "bot", "content": "x"}]}', "role must be one of system, user, assistant, got 'bot'"),
        (b'{"messages": [{"role": "user"}]}', "content must be text, got NoneType"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "content is not valid Unicode"),
        (b'{"messages": [{"role": "user", "content": "x", "train": 1}]}', "train must be true or false, got 1"),
        (b'{"messages": [{"role": "user", "content": "x"}], "meta": 3}', "meta must be an object, got int"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    file = tmp_path / "train.jsonl"
    file.write_bytes(b'{"messages": [{"role": "user", "content": "x"}]}\n\n' + line + b"\n")
    with pytest.raises(PersonaError, match=message) as caught:
        read_conversations(file)
    assert caught.value.message.startswith(f"{file}:3: ")


@pytest.mark.parametrize("key", ["chosen", "rejected"])
@pytest.mark.parametrize("value", [None, "", "  \n", 7, "\ud800"])
def test_a_pair_needs_both_sides(key: str, value: Any) -> None:
    raw = {"messages": [{"role": "user", "content": "x"}], "chosen": "a", "rejected": "b", key: value}
    with pytest.raises(PersonaError, match=f"^{key} "):
        Pair.from_json(raw)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="no such file"):
        read_pairs(tmp_path / "none.jsonl")


def test_only_assistant_turns_that_are_not_marked_are_trained_on() -> None:
    turns = (Message("user", "a"), Message("assistant", "b"), Message("assistant", "c", train=False))
    assert Conversation(turns).trained_replies == 1


def test_an_unwritten_file_leaves_the_old_one(tmp_path: Path) -> None:
    """A record that cannot be written (half of a surrogate pair) fails before the file is touched."""
    file = tmp_path / "a.jsonl"
    write_jsonl(file, [Conversation((Message("user", "old"),))])
    with pytest.raises(UnicodeEncodeError):
        write_jsonl(file, [Conversation((Message("user", "\ud800"),))])
    assert read_conversations(file)[0].messages[0].content == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
