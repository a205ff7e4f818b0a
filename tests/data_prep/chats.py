"""Conversations to write into exports, and what a cleaning wrote."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.report import CleanReport
from data_prep.sources import Bad, Head, RawMessage, ReadOptions, Source
from mlx_persona.errors import PersonaError
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


def read_all(source: Source, path: Path) -> tuple[dict[str, list[RawMessage]], list[Bad]]:
    """Every chat of an export by its id, in order, and all bad lines."""
    chats: dict[str, list[RawMessage]] = {}
    bad: list[Bad] = []
    for item in source.read(path, ReadOptions()):
        if isinstance(item, Bad):
            bad.append(item)
            continue
        found = list(item.messages)
        bad += [m for m in found if isinstance(m, Bad)]
        chats.setdefault(item.id, []).extend(m for m in found if isinstance(m, RawMessage))
    return chats, bad


def zipped(path: Path, files: Mapping[str, str | bytes]) -> Path:
    """A zip with these files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def survives(source: Source, path: Path) -> None:
    """Whatever the bytes: nothing but text that can be written, bad lines, or an error for the user comes out."""
    source.matches(Head.of(path))
    try:
        chats, bad = read_all(source, path)
    except PersonaError:
        return
    for found in chats.values():
        assert all(isinstance(m.time, float | None) for m in found)
        "".join(m.text + (m.sender or "") + (m.id or "") + (m.answers or "") for m in found).encode()
    "".join([*chats, *(b.reason + b.text for b in bad)]).encode()
