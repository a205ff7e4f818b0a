"""What is left out, and why: each function returns the reason, or None to keep."""

from __future__ import annotations

from dataclasses import replace

from data_prep.sessions import Turn
from data_prep.sources.base import ASSISTANT, FORWARDED, TOOL


def message_reason(turn: Turn) -> str | None:
    """Why a single message has no place in a conversation: tool traffic, no words of anybody's, or nothing in it."""
    if turn.role == TOOL:
        return "tool_call"
    if turn.kind is not None and turn.kind != FORWARDED:
        return turn.kind
    return None if turn.text else "empty"


def reply_reason(turn: Turn, min_chars: int, meta_patterns: tuple[str, ...]) -> str | None:
    """Why a reply (a whole joined turn) is not trained on: marked so in the export, meta, or short."""
    if turn.aside:
        return turn.aside
    text = turn.text.casefold()
    if any(p and p.casefold() in text for p in meta_patterns):
        return "meta"
    return "short" if is_short(turn, min_chars) else None


def is_short(turn: Turn, min_chars: int) -> bool:
    """Whether a turn has fewer characters than that."""
    return len(turn.text) < min_chars


def judge(turn: Turn, min_chars: int, meta_patterns: tuple[str, ...]) -> Turn:
    """The turn, with the reason why it is set aside if it is a reply and there is one."""
    if turn.role != ASSISTANT:
        return turn
    return replace(turn, aside=reply_reason(turn, min_chars, meta_patterns))


def untrained_reason(turn: Turn) -> str:
    """Why a turn goes, when no reply of its conversation is trained on."""
    return turn.aside or "no_trained_reply"


def tail_reason(turn: Turn) -> str:
    """Why a turn after the last trained reply goes."""
    return turn.aside or "unanswered"


def content_key(turns: list[Turn]) -> tuple[tuple[str, str], ...]:
    """What two conversations share when one is an exact duplicate of the other."""
    return tuple((t.role, t.text) for t in turns)
