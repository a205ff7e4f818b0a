"""What all our HTML pages share: their style, what a browser may do with them, and which text they may hold.

A page needs nothing but itself: no script, no font, no picture from elsewhere, and its own policy forbids the
browser to load any.
"""

from __future__ import annotations

import re
from pathlib import Path

STYLE = (Path(__file__).parent / "pages.css").read_text(encoding="utf-8")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# What no page may hold, and half surrogate pairs, which no file can.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """The text with what no page may hold replaced; it still has to be escaped."""
    return _UNPRINTABLE.sub("\ufffd", text)
