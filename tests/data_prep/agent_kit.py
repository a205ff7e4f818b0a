"""Short ways to write the lines of an agent's log and to read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_prep.sources import agent
from data_prep.sources.base import Bad, RawChat, RawMessage, ReadOptions

FIXTURES = Path(__file__).parent / "fixtures" / "agent"
LOGS = sorted(path.name for path in FIXTURES.iterdir())


def everything(path: Path) -> list[RawMessage | Bad]:
    (chat,) = agent.read(path, ReadOptions())
    assert isinstance(chat, RawChat)
    assert chat.id == path.stem
    return list(chat.messages)


def messages(path: Path) -> list[RawMessage]:
    found = everything(path)
    assert [m for m in found if isinstance(m, Bad)] == []
    return [m for m in found if isinstance(m, RawMessage)]


def said(path: Path) -> list[tuple[str | None, str]]:
    """What stays when tool traffic and what nobody wrote are gone."""
    return [(m.role, m.text) for m in messages(path) if m.role != "tool" and m.kind is None]


def log(folder: Path, *lines: Any) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return path


def user(content: Any, **more: Any) -> dict[str, Any]:
    """A user's line of Claude Code."""
    return {"type": "user", "message": {"role": "user", "content": content}, "uuid": "u", "sessionId": "s", **more}


def assistant(*parts: Any, **more: Any) -> dict[str, Any]:
    """An assistant's line of Claude Code."""
    message = {"id": "msg", "role": "assistant", "content": list(parts)}
    return {"type": "assistant", "message": message, "uuid": "a", "sessionId": "s", **more}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def use(tool: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "t", "name": tool, "input": {}}
