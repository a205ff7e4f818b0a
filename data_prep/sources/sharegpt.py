"""ShareGPT: ``{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.sources.base import (
    ASSISTANT,
    SYSTEM,
    TOOL,
    USER,
    Item,
    RawConversation,
    RawMessage,
    ReadOptions,
    UnusableError,
    plain_text,
)
from data_prep.sources.head import Head
from data_prep.sources.jsonfile import Record, conversation_id, conversations, turns_of

name = "sharegpt"
by_sender = False
private = False

_ROLES = {
    "system": SYSTEM,
    "human": USER,
    "user": USER,
    "gpt": ASSISTANT,
    "assistant": ASSISTANT,
    "tool": TOOL,
    "function_call": TOOL,
    "function_response": TOOL,
    "observation": TOOL,
}


def matches(head: Head) -> bool:
    """A record with a list of conversations whose turns say whom they are from."""
    return any(_fits(record) for record in head.records)


def _fits(record: dict[str, Any]) -> bool:
    turns = record.get("conversations")
    return isinstance(turns, list) and any(isinstance(t, dict) and "from" in t for t in turns)


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Every conversation of a JSON Lines file or a JSON array."""
    return conversations(path, lambda record: _parse(path, record))


def _parse(path: Path, record: Record) -> RawConversation:
    value, turns = turns_of(record, "conversations")
    # Many of these files open with a system text beside the turns.
    opening = (
        (RawMessage(plain_text(value["system"], "system"), SYSTEM),) if isinstance(value.get("system"), str) else ()
    )
    said = opening + tuple(_message(t) for t in turns)
    return RawConversation(conversation_id(value.get("id"), path, record), said)


def _message(turn: object) -> RawMessage:
    if not isinstance(turn, dict):
        raise UnusableError(f"a turn must be an object, got {type(turn).__name__}")
    said = turn.get("from")
    role = _ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise UnusableError(f"from must be one of {', '.join(_ROLES)}, got {said!r}")
    return RawMessage(plain_text(turn.get("value"), "value"), role)
