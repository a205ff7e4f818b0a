"""Prompts and replies: ``{"prompt", "completion"}``, or ``{"instruction", "input", "output"}``, input optional."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.base import (
    ASSISTANT,
    USER,
    Item,
    RawConversation,
    RawMessage,
    ReadOptions,
    UnusableError,
    plain_text,
)
from data_prep.sources.head import Head
from data_prep.sources.jsonfile import Record, conversations

name = "completion"
by_sender = False
private = False

_KEYS = (("prompt", "completion"), ("instruction", "output"))


def matches(head: Head) -> bool:
    """A record with a prompt and its reply, both text."""
    return any(any(isinstance(r.get(a), str) and isinstance(r.get(b), str) for a, b in _KEYS) for r in head.records)


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Every pair of a JSON Lines file or a JSON array, as a conversation of two messages."""
    return conversations(path, lambda record: _parse(path, record))


def _parse(path: Path, record: Record) -> RawConversation:
    value = record.value
    keys = next((k for k in _KEYS if isinstance(value, dict) and set(k) <= value.keys()), None)
    if not isinstance(value, dict) or keys is None:
        raise UnusableError('a record must be an object with "prompt" and "completion"')
    prompt, reply = (plain_text(value[key], key) for key in keys)
    if value.get("input") and keys[0] == "instruction":
        prompt = f"{prompt}\n\n{plain_text(value['input'], 'input')}"
    return RawConversation(f"{path.name}:{record.line}", (RawMessage(prompt, USER), RawMessage(reply, ASSISTANT)))
