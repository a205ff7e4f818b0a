"""Strip the system prompt, or replace it: a persona trained under a long prompt is lost without it."""

from __future__ import annotations

from data_prep.sessions import Turn
from data_prep.sources.base import SYSTEM

STRIP = "none"


def strip_reason(turn: Turn) -> str | None:
    """Every system message that was read goes, whether it is replaced or not."""
    return "system_prompt" if turn.role == SYSTEM else None


def replacement(system_prompt: str) -> list[Turn]:
    """The turn that opens every conversation: none, or the given text. It was made of no message."""
    text = system_prompt.strip()
    return [] if text in ("", STRIP) else [Turn(SYSTEM, text, parts=0)]
