"""Conversations to write into exports, and what a cleaning wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.report import CleanReport
from mlx_persona.schema import Conversation, read_conversations

ANNA = "aaaaaaaa-0000-4000-8000-000000000001"
BOB = "bbbbbbbb-0000-4000-8000-000000000002"
CLEO = "bbbbcccc-0000-4000-8000-000000000003"


@dataclass
class Cleaned:
    """A cleaning's report and everything that it wrote, in time order."""

    report: CleanReport
    out: Path

    @property
    def conversations(self) -> list[Conversation]:
        """What was written."""
        return [c for name in ("train", "valid", "test") for c in read_conversations(self.out / f"{name}.jsonl")]

    @property
    def turns(self) -> list[list[tuple[str, str, bool]]]:
        """Role, text and train of every message."""
        return [[(m.role, m.content, m.train) for m in c.messages] for c in self.conversations]


def chat(*said: tuple[str, str], **more: Any) -> dict[str, Any]:
    """A record of the `messages` format."""
    return {"messages": [{"role": role, "content": text} for role, text in said], **more}


def good(i: int) -> dict[str, Any]:
    """A conversation that every rule keeps, unlike all others."""
    return chat(("user", f"question {i}"), ("assistant", f"a long enough reply {i}"))


def bursts(start: str, *said: tuple[str, str]) -> dict[str, Any]:
    """A conversation of the chitchat export: consecutive messages of one sender are a burst."""
    out: list[list[dict[str, str]]] = []
    for second, (sender, text) in enumerate(said):
        message = {"text": text, "timestamp": f"{start}:{second:02}Z", "sender": sender}
        if out and out[-1][0]["sender"] == sender:
            out[-1].append(message)
        else:
            out.append([message])
    return {"prompt": "Speak about food.", "ratings": {}, "start": "2018-05-09T00:00:00Z", "messages": out}
