"""The Chit Chat Challenge export (the `chitchat-dataset` package): real conversations between people.

One JSON object: id -> ``{"start": ..., "messages": [[{"text", "timestamp", "sender"}, ...], ...]}``,
where an inner list is one sender's burst. ``start`` is in another time zone than the messages, so
the first message says when a conversation began.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.base import Item, RawConversation, RawMessage, ReadOptions, UnusableError, plain_text
from data_prep.sources.head import Head
from data_prep.sources.jsonfile import Record, conversations

name = "chitchat"
by_sender = True
private = False


def matches(head: Head) -> bool:
    """An object whose first value has bursts of messages with senders."""
    member = head.first_member
    bursts = member.get("messages") if isinstance(member, dict) else None
    if not isinstance(bursts, list) or not bursts or not isinstance(bursts[0], list):
        return False
    return all(isinstance(m, dict) and "sender" in m and "text" in m for m in bursts[0])


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Every conversation of the export."""
    return conversations(path, _parse, members=True)


def _parse(record: Record) -> RawConversation:
    value = record.value
    bursts = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(bursts, list) or not all(isinstance(b, list) for b in bursts):
        raise UnusableError('a conversation must be an object with "messages", a list of lists')
    said = [m for burst in bursts for m in burst]
    if not said:
        raise UnusableError("a conversation must have at least one message")
    messages = tuple(_message(m) for m in said)
    start = said[0].get("timestamp")
    return RawConversation(
        plain_text(record.key, "id"), messages, plain_text(start, "timestamp") if start is not None else None
    )


def _message(value: object) -> RawMessage:
    if not isinstance(value, dict):
        raise UnusableError(f"a message must be an object, got {type(value).__name__}")
    return RawMessage(plain_text(value.get("text"), "text"), sender=plain_text(value.get("sender"), "sender"))
