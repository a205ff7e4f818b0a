"""What a detector finds, and how finds are kept apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Stands where something was found already, so that no later detector sees it: no letter, no digit, no space.
BLANK = "\x00"


@dataclass(frozen=True, slots=True)
class Span:
    """Personal data at ``text[start:end]``; ``value`` is the same however it is written."""

    start: int
    end: int
    type: str
    value: str


def blanked(text: str, places: Iterable[tuple[int, int]]) -> str:
    """The text, as long as before, with these places blank."""
    parts, at = [], 0
    for start, end in sorted(places):
        if end > at:
            parts += [text[at : max(start, at)], BLANK * (end - max(start, at))]
            at = end
    return "".join([*parts, text[at:]])


def compact(text: str) -> str:
    """Letters and digits only, in upper case."""
    return re.sub(r"[\W_]+", "", text).upper()
