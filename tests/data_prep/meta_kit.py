"""Short ways to write Meta's exports and to read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from data_prep.sources import RawMessage, meta
from tests.data_prep.chats import read_all

FIXTURES = Path(__file__).parent / "fixtures" / "meta"
S = 1700000000.0
ANNA, RENE, ZOE = "Anna Holm", "René Møller", "Zoë Ray"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def broken(value: Any) -> Any:
    """Every string as Meta writes it: UTF-8 that was read as Latin-1."""
    if isinstance(value, dict):
        return {key: broken(v) for key, v in value.items()}
    if isinstance(value, list):
        return [broken(v) for v in value]
    return value.encode().decode("latin-1") if isinstance(value, str) else value


def a_message(**more: Any) -> dict[str, Any]:
    return {"sender_name": ANNA, "timestamp_ms": 1700000000000, "content": "hi"} | more


def a_thread(*messages: Any, people: tuple[str, ...] = (ANNA, RENE), **more: Any) -> dict[str, Any]:
    participants = [{"name": name.encode().decode("latin-1")} for name in people]
    return {"participants": participants, "messages": list(messages), "title": "x", "thread_path": "inbox/x"} | more


def write(folder: Path, value: Any, name: str = "message_1.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def only(path: Path) -> RawMessage:
    """The one message of an export without bad lines."""
    chats, bad = read_all(meta, path)
    assert bad == []
    [[message]] = chats.values()
    return message
