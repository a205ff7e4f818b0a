"""ChatML, ShareGPT, pairs and chitchat are read back as they were written, however the JSON is laid out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import (
    Head,
    RawConversation,
    ReadOptions,
    Source,
    chitchat,
    completion,
    detect,
    messages,
    sharegpt,
)
from data_prep.sources.base import ASSISTANT, USER

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TALKS = st.lists(st.lists(TEXTS, min_size=2, max_size=6), min_size=1, max_size=4)
ROLES = (USER, ASSISTANT)
Talk = list[str]


def as_messages(talk: Talk) -> dict[str, Any]:
    return {"messages": [{"role": ROLES[i % 2], "content": text} for i, text in enumerate(talk)]}


def as_parts(talk: Talk) -> dict[str, Any]:
    turns = [(ROLES[i % 2], [{"type": "text", "text": text}]) for i, text in enumerate(talk)]
    return {"messages": [{"role": role, "content": parts} for role, parts in turns], "created_at": 1.7e9}


def as_sharegpt(talk: Talk) -> dict[str, Any]:
    return {"conversations": [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(talk)]}


def as_pair(talk: Talk) -> dict[str, Any]:
    return {"prompt": talk[0], "completion": talk[1]}


def as_instruction(talk: Talk) -> dict[str, Any]:
    return {"instruction": talk[0], "input": "", "output": talk[1]}


def lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def array(records: list[dict[str, Any]]) -> str:
    return json.dumps(records)


def pretty(records: list[dict[str, Any]]) -> str:
    return "\ufeff" + json.dumps(records, indent=2, ensure_ascii=False)


def read(source: Source, text: str, name: str) -> list[RawConversation]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8", newline="")
        assert detect(Head.of(path)) is source
        found = list(source.read(path, ReadOptions()))
    assert all(isinstance(item, RawConversation) for item in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(("layout", "name"), [(lines, "x.jsonl"), (array, "x.json"), (pretty, "x.json")])
@pytest.mark.parametrize(
    ("source", "write", "turns"),
    [
        (messages, as_messages, 6),
        (messages, as_parts, 6),
        (sharegpt, as_sharegpt, 6),
        (completion, as_pair, 2),
        (completion, as_instruction, 2),
    ],
)
@given(talks=TALKS)
def test_what_is_written_is_read(
    talks: list[Talk],
    source: Source,
    write: Callable[[Talk], dict[str, Any]],
    turns: int,
    layout: Callable[[list[dict[str, Any]]], str],
    name: str,
) -> None:
    found = read(source, layout([write(talk) for talk in talks]), name)
    said = [[(m.role, m.text) for m in conversation.messages] for conversation in found]
    assert said == [[(ROLES[i % 2], text) for i, text in enumerate(talk[:turns])] for talk in talks]


@pytest.mark.parametrize("indent", [None, 1])
@given(
    talks=st.lists(st.lists(st.tuples(st.sampled_from("ab"), TEXTS), min_size=1, max_size=6), min_size=1, max_size=4)
)
def test_a_chitchat_export_is_read_as_it_was_written(talks: list[list[tuple[str, str]]], indent: int | None) -> None:
    export = {}
    for number, talk in enumerate(talks):
        bursts: list[list[dict[str, str]]] = []
        for sender, text in talk:
            message = {"text": text, "timestamp": "2018-05-01T10:00:00Z", "sender": sender}
            if bursts and bursts[-1][0]["sender"] == sender:
                bursts[-1].append(message)
            else:
                bursts.append([message])
        export[f"talk {number}"] = {"start": "2018-05-01T10:00:00Z", "messages": bursts}
    found = read(chitchat, json.dumps(export, indent=indent), "dataset.json")
    assert [c.id for c in found] == list(export)
    assert [[(m.sender, m.text) for m in c.messages] for c in found] == talks
