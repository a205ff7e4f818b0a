"""Whether a run of characters was drawn by a machine."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
_HEX = re.compile(r"(?:0x)?[0-9a-f]+", re.I)
# Bits a character; words have less, and so have runs of laughter.
_MIN_BITS = 3.0
_MIN_HEX_LETTERS = 8


def is_random(text: str, least: int) -> bool:
    """Whether at least ``least`` letters and digits change their kind as often as chance would have it.

    Hexadecimal digits need many different ones. A UUID is no secret: it names things.
    """
    if len(text) < least or _UUID.fullmatch(text):
        return False
    drawn = [c for c in text if c.isascii() and c.isalnum()]
    digits = sum(c.isdigit() for c in drawn)
    if len(drawn) < least or digits < 2 or digits == len(drawn) or _bits(drawn) < _MIN_BITS:
        return False
    if _HEX.fullmatch(text):
        return len(set(text.lower())) >= _MIN_HEX_LETTERS and _changes(drawn) >= 0.15
    changes, groups = _changes(drawn), len(re.findall(r"\d+", "".join(drawn)))
    return changes >= 0.55 or (changes >= 0.25 and groups >= 2)


def _bits(drawn: list[str]) -> float:
    n = len(drawn)
    return -sum(k / n * math.log2(k / n) for k in Counter(drawn).values())


def _changes(drawn: list[str]) -> float:
    """How often a digit, a small and a capital letter follow each other, from 0 to 1."""
    kinds = [(c.isdigit(), c.isupper()) for c in drawn]
    return sum(a != b for a, b in pairwise(kinds)) / (len(kinds) - 1)
