"""A page as one file: its HTML with style and script inside, and the policy that allows nothing else.

A page NAME is ``pages/NAME.html`` with the places ``{{style}}`` and ``{{script}}``. Its style is that of all our pages
(``pages.css``), that of all pages here (``pages/shared.css``) and its own ``NAME.css``; its script is ``NAME.js``.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from mlx_persona.pages import STYLE


class Page(NamedTuple):
    """The whole HTML, and the Content-Security-Policy to send with it."""

    html: str
    policy: str


@cache
def page(name: str, style: str = STYLE) -> Page:
    """The page ``name``; it may run its own script, use its own style and talk to where it came from, no more.

    Args:
        name: of its files.
        style: what it has in common with pages that are no part of this package.
    """
    folder = files("mlx_persona.web") / "pages"
    html, script, shared, own = (
        (folder / file).read_text(encoding="utf-8")
        for file in (f"{name}.html", f"{name}.js", "shared.css", f"{name}.css")
    )
    style += shared + own
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "connect-src 'self'",
            "img-src data:",  # an empty icon, so that the browser asks for none
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return Page(html.replace("{{style}}", style).replace("{{script}}", script), policy)


def _hash(text: str) -> str:
    """How a policy names an inline text: the hash of exactly what stands between the tags."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
