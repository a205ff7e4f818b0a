"""Chats with roles: ``{"messages": [{"role", "content"}, ...]}`` (ChatML, OpenAI, and what ``clean`` writes)."""

from __future__ import annotations

import json
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

name = "messages"
by_sender = False
private = False

_ROLES = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "user": USER,
    "assistant": ASSISTANT,
    "tool": TOOL,
    "function": TOOL,
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_TOOL_PARTS = ("tool_use", "tool_result")


def matches(head: Head) -> bool:
    """A record with a list of messages that have roles."""
    return any(_fits(record) for record in head.records)


def _fits(record: dict[str, Any]) -> bool:
    messages = record.get("messages")
    return isinstance(messages, list) and any(isinstance(m, dict) and "role" in m for m in messages)


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Every conversation of a JSON Lines file or a JSON array."""
    return conversations(path, lambda record: _parse(path, record))


def _parse(path: Path, record: Record) -> RawConversation:
    value, messages = turns_of(record, "messages")
    meta = _meta(value.get("meta", {}))
    return RawConversation(
        conversation_id(meta.get("id", value.get("id")), path, record),
        tuple(_message(m) for m in messages),
        _start(meta, value, messages[0]),
        meta,
    )


def _meta(meta: object) -> dict[str, Any]:
    if not isinstance(meta, dict):
        raise UnusableError(f"meta must be an object, got {type(meta).__name__}")
    plain_text(json.dumps(meta, ensure_ascii=False), "meta")
    return meta


def _start(meta: dict[str, Any], value: dict[str, Any], first: dict[str, Any]) -> str | float | None:
    """When the conversation began: cleaned files say it in meta, exports on the record or the first message."""
    for place, key in (
        (meta, "start"),
        (value, "timestamp"),
        (value, "created_at"),
        (value, "create_time"),
        (first, "timestamp"),
    ):
        found = place.get(key)
        if isinstance(found, str):
            return plain_text(found, key)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return found
    return None


def _message(value: object) -> RawMessage:
    if not isinstance(value, dict):
        raise UnusableError(f"a message must be an object, got {type(value).__name__}")
    said = value.get("role")
    role = _ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise UnusableError(f"role must be one of {', '.join(_ROLES)}, got {said!r}")
    if len(value) == 2 and role != TOOL and isinstance(value.get("content"), str):  # most are just this
        return RawMessage(plain_text(value["content"], "content"), role)
    calls = bool(value.get("tool_calls") or value.get("function_call"))
    text, tool_parts = _content(value, optional=calls or role == TOOL)
    if (calls or tool_parts) and not text.strip():
        role = TOOL
    train = value.get("train", True)
    if not isinstance(train, bool):
        raise UnusableError(f"train must be true or false, got {train!r}")
    sender = value.get("name")
    # "weight": 0 is how OpenAI's fine-tuning files say train=false.
    return RawMessage(
        text,
        role,
        plain_text(sender, "name") if sender is not None and role in (USER, ASSISTANT) else None,
        train and value.get("weight") != 0,
    )


def _content(message: dict[str, Any], *, optional: bool) -> tuple[str, bool]:
    """The text of a message, and whether it has parts that are tool traffic. Images and the like carry no text."""
    content = message.get("content")
    if isinstance(content, list):
        texts: list[str] = []
        for part in content:
            if isinstance(part, str):
                texts.append(plain_text(part, "content"))
            elif not isinstance(part, dict):
                raise UnusableError(f"a part of the content must be an object, got {type(part).__name__}")
            elif part.get("type") in _TEXT_PARTS:
                texts.append(plain_text(part.get("text"), "text"))
        return "\n".join(texts), any(isinstance(p, dict) and p.get("type") in _TOOL_PARTS for p in content)
    if content is None and (optional or "content" in message):
        return "", False
    return plain_text(content, "content"), False
