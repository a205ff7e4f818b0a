"""Short ways to read and write WhatsApp's exports."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from data_prep.sources import Bad, RawChat, RawMessage, ReadOptions, whatsapp

FIXTURES = Path(__file__).parent / "fixtures" / "whatsapp"
MARK = "\u200e"

Row = tuple[str, str | None, str, str | None]


def chats(path: Path) -> dict[str, list[RawMessage | Bad]]:
    """Every chat with all that is in it."""
    found = {}
    for item in whatsapp.read(path, ReadOptions()):
        assert isinstance(item, RawChat)
        assert item.id not in found
        found[item.id] = list(item.messages)
    return found


def only(path: Path) -> list[RawMessage | Bad]:
    (messages,) = chats(path).values()
    return messages


def rows(messages: list[RawMessage | Bad]) -> list[Row]:
    """Time, sender, text and kind of every message; none may be bad."""
    found = []
    for m in messages:
        assert isinstance(m, RawMessage), m
        assert m.time is not None
        assert (m.role, m.id, m.answers, m.train, m.parts) == (None, None, None, True, 1)
        found.append((f"{datetime.fromtimestamp(m.time, UTC):%Y-%m-%d %H:%M:%S}", m.sender, m.text, m.kind))
    return found
