"""Whole conversations into train, valid and test, by time: what is tested was said after what is learned."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from mlx_persona.schema import Conversation

# Unix times above this are in milliseconds: as seconds they would lie after the year 5000.
_MILLISECONDS = 1e11
_ENDLESS = 1e18


def timestamp(start: object) -> float | None:
    """Unix seconds of an ISO date (without a zone: UTC) or of a Unix time; None for anything else."""
    if isinstance(start, str):
        try:
            date = datetime.fromisoformat(start)
        except ValueError:
            return None
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    if isinstance(start, bool) or not isinstance(start, int | float) or not abs(start) < _ENDLESS:
        return None
    return start / 1000 if abs(start) > _MILLISECONDS else float(start)


def chronological(conversations: list[Conversation]) -> list[Conversation]:
    """By ``meta["start"]``; those without a date first, in their order, so that they are trained on."""

    def when(conversation: Conversation) -> float:
        time = timestamp(conversation.meta.get("start"))
        return -math.inf if time is None else time

    return sorted(conversations, key=when)


def sizes(n: int, valid_fraction: float, test_fraction: float) -> tuple[int, int, int]:
    """How many of ``n`` conversations are for train, valid and test.

    Shares are rounded. From three conversations on, a share above zero gets at least one; train always does.
    """
    valid, test = (max(int(n * share + 0.5), int(n >= 3 and share > 0)) for share in (valid_fraction, test_fraction))
    while valid + test >= n > 0:
        valid, test = (valid - 1, test) if valid >= test else (valid, test - 1)
    return n - valid - test, valid, test


def split(
    conversations: list[Conversation], valid_fraction: float, test_fraction: float
) -> dict[str, list[Conversation]]:
    """The earliest conversations are for train, the next for valid, the latest for test."""
    ordered = chronological(conversations)
    train, valid, _ = sizes(len(ordered), valid_fraction, test_fraction)
    return {"train": ordered[:train], "valid": ordered[train : train + valid], "test": ordered[train + valid :]}
