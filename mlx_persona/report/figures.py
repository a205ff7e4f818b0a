"""Figures that know where they come from, and how they are shown.

Every figure of a page is a value of some file; nothing is computed but sums and products. So each carries its place,
which the page keeps (``<data value data-from>``): what is shown can be held against what was measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import yaml

Key = str | int


@dataclass(frozen=True)
class Figure:
    """A number and its place: ``sft-1/run.json#/eval_loss``, or several, joined by `` + `` or `` * ``."""

    value: float
    place: str


@dataclass(frozen=True)
class Document:
    """A JSON or YAML file that may be damaged: what is not there, or not what it should be, reads as None or ``""``.

    Attributes:
        name: the file's name with its folder's, as figures cite it.
        value: the mapping in it; empty where there is none.
        problem: what is wrong with the file, in words; empty where nothing is.
    """

    name: str
    value: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    def get(self, *keys: Key) -> Any:
        """Whatever stands at this path, or None."""
        found: Any = self.value
        for key in keys:
            try:
                found = found[key]
            except (KeyError, IndexError, TypeError):
                return None
        return found

    def text(self, *keys: Key) -> str:
        """The text at this path, or ``""``."""
        found = self.get(*keys)
        return found if isinstance(found, str) else ""

    def number(self, *keys: Key) -> Figure | None:
        """The finite number at this path, or None."""
        found = self.get(*keys)
        return Figure(found, self.place(*keys)) if is_number(found) else None

    def mapping(self, *keys: Key) -> Mapping[str, Any]:
        """The mapping at this path, or an empty one; only text is a key."""
        found = self.get(*keys)
        return {k: v for k, v in found.items() if isinstance(k, str)} if isinstance(found, Mapping) else {}

    def items(self, *keys: Key) -> Sequence[Any]:
        """The list at this path, or an empty one."""
        found = self.get(*keys)
        return found if isinstance(found, list) else []

    def place(self, *keys: Key) -> str:
        """A path as figures cite it: a JSON pointer behind the file's name."""
        return self.name + "#" + "".join(f"/{str(key).replace('~', '~0').replace('/', '~1')}" for key in keys)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number, and no truth value."""
    # A whole number of 400 digits is none that a chart or a form can take.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def read_document(path: Path) -> Document:
    """A ``.json`` or ``.yaml`` file; one that is missing or damaged is empty, and says so."""
    name = f"{path.parent.name}/{path.name}"
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except FileNotFoundError:
        return Document(name, problem=f"{path.name} is missing")
    except OSError as error:
        return Document(name, problem=f"{path.name} cannot be read: {error.strerror}")
    except (ValueError, RecursionError, yaml.YAMLError):
        return Document(name, problem=f"{path.name} is damaged")
    return Document(name, value) if isinstance(value, Mapping) else Document(name, problem=f"{path.name} is damaged")


def total(figures: Sequence[Figure | None], place: str = "") -> Figure | None:
    """The sum of the figures that are there; None where there is none.

    Args:
        figures: what to add.
        place: how the sum is cited, where naming all its parts would be too long.
    """
    found = [figure for figure in figures if figure is not None]
    if not found:
        return None
    return Figure(sum(f.value for f in found), place or " + ".join(f.place for f in found))


def product(figures: Sequence[Figure | None]) -> Figure | None:
    """The product of the figures; None where one is missing."""
    found = [figure for figure in figures if figure is not None]
    if len(found) < len(figures):
        return None
    return Figure(math.prod(f.value for f in found), " * ".join(f.place for f in found))


def duration(seconds: float) -> str:
    """``42.5 s``, ``3 min 30 s`` or ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


FORMS: dict[str, Callable[[float], str]] = {
    "count": lambda value: f"{value:,.0f}",
    "loss": lambda value: f"{value:.3f}",
    "one": lambda value: f"{value:,.1f}",
    "plain": lambda value: f"{value:,}" if isinstance(value, int) else f"{value:.4g}",
    "share": _percent,
    "time": duration,
    "bytes": _bytes,
}


def shown(figure: Figure, form: str) -> str:
    """A figure as people read it.

    Args:
        figure: what to show.
        form: ``count``, ``loss`` (3 decimals), ``one`` (1 decimal), ``plain`` (4 digits), ``share`` (per cent),
            ``time`` or ``bytes``.
    """
    return FORMS[form](figure.value)
