"""How far two sets of texts are apart in what they are made of: words and letters. NumPy only, no model.

Five kinds of things are counted (:data:`MEASURES`), each gives a frequency table per set, and two tables are compared
by their Jensen-Shannon divergence (Lin, 1991, "Divergence measures based on the Shannon entropy"): 0 bits for the
same shares, 1 bit where nothing is shared. Rates of the most frequent words are the ground of Burrows's Delta (2002,
"Delta: a measure of stylistic difference"), profiles of character trigrams that of Kešelj et al. (2003, "N-gram-based
author profiles for authorship attribution"); the divergence takes the place of their distances because it is bounded,
needs no third corpus to scale by, and what chance adds to it is added, not mixed in.

Chance adds much, and the less text the more. So the two sides are always drawn to the same size, counted in the
things that are counted, and the floor is the divergence of two parts of that size of the person's own texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_persona.evals.style import above_floor
from mlx_persona.evals.words import closing, opening, trigrams, words
from mlx_persona.tokens.batches import evenly

Floats = NDArray[np.float64]

MEASURES = ("function words", "vocabulary", "openings", "closings", "letters")
# The person's most frequent things have a place of their own in a table, all others share one.
PLACES = {"vocabulary": 300, "openings": 50, "closings": 50, "letters": 500}
# More of the person's texts than this tell no more about them.
MAX_TEXTS = 2000
DRAWS = 50
TELLING = 3

Items = Callable[[str, bool], list[str]]


@dataclass(frozen=True)
class Telling:
    """A thing that one side uses more than the other: its share of all that is counted, on each side, 0 to 1."""

    item: str
    person: float
    other: float


@dataclass(frozen=True)
class Difference:
    """How far a set is from the person's in one measure, in bits.

    Attributes:
        distance: Jensen-Shannon divergence, mean over draws of ``size`` things from each side.
        floor: the same between two disjoint parts of the person's own texts, of the same size.
        above: distance minus floor, at least 0: this compares sets of different sizes.
        interval: 95 % bootstrap interval of ``distance`` if the other side had written other texts; None for the
            person's own column.
        size: how many things (words, texts or trigrams) were compared on each side.
        telling: what the difference comes from most.
    """

    distance: float
    floor: float
    above: float
    interval: tuple[float, float] | None
    size: int
    telling: tuple[Telling, ...]


def divergence(a: Floats, b: Floats) -> Floats:
    """Jensen-Shannon divergence of frequency tables along the last axis, in bits: 0 to 1 (Lin, 1991).

    Args:
        a: (..., V) counts or shares, not all 0.
        b: the same, of a shape that broadcasts with ``a``'s.
    """
    p = a / a.sum(axis=-1, keepdims=True)
    q = b / b.sum(axis=-1, keepdims=True)
    return _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2


def _entropy(p: Floats) -> Floats:
    """Shannon entropy in bits along the last axis."""
    bits: Floats = -(p * np.log2(np.where(p > 0, p, 1.0))).sum(axis=-1)
    return bits


class Wording:
    """The person's texts as frequency tables, which other sets are compared with.

    Args:
        person: their texts.
        functions: the function words of their language; None: they are not measured, and "vocabulary" is all words.
        seed: fixes every draw.
    """

    def __init__(self, person: Sequence[str], functions: frozenset[str] | None, seed: int = 0) -> None:
        self._seed = seed
        self._items = _items(functions or frozenset())
        self._places: dict[str, dict[str, int]] = {}
        self._tables: dict[str, Floats] = {}
        texts = [person[i] for i in evenly(len(person), MAX_TEXTS)]
        for name in MEASURES:
            if name == "function words" and not functions:
                continue
            counted = [self._items[name](text, False) for text in texts]
            if name == "function words":
                listed = sorted(functions or ())
            else:
                most = Counter(item for items in counted for item in items)
                listed = [item for item, _ in sorted(most.items(), key=lambda pair: (-pair[1], pair[0]))]
            self._places[name] = {item: i for i, item in enumerate(listed[: PLACES.get(name)])}
            self._tables[name] = _table(counted, self._places[name])

    def own(self) -> dict[str, Difference]:
        """What chance puts between two halves of the person's texts; a measure that they say too little for is out."""
        found = {}
        for name, table in self._tables.items():
            if len(table) > 1:
                size = table.sum() / 2
                first, second = _halves(table, size, np.random.default_rng(self._seed))
                floor = float(divergence(first, second).mean())
                found[name] = Difference(floor, floor, 0.0, None, round(size), ())
        return found

    def compare(self, other: Sequence[str], cut: Sequence[bool] = ()) -> dict[str, Difference]:
        """How far another set of texts is from the person's; a measure that either says too little for is left out.

        Args:
            other: the texts.
            cut: for each, whether it was broken off, so that its end is none; () for none.
        """
        found = {}
        for name, table in self._tables.items():
            count = self._items[name]
            broken = cut or [False] * len(other)
            theirs = _table([count(t, c) for t, c in zip(other, broken, strict=True)], self._places[name])
            if len(table) > 1 and len(theirs):
                found[name] = _difference(table, theirs, tuple(self._places[name]), self._seed)
        return found


def _items(functions: frozenset[str]) -> dict[str, Items]:
    """What each measure counts in a text, given whether it was broken off."""

    def one(item: str | None) -> list[str]:
        return [] if item is None else [item]

    return {
        "function words": lambda text, _: words(text),
        "vocabulary": lambda text, _: [word for word in words(text) if word not in functions],
        "openings": lambda text, _: one(opening(text)),
        "closings": lambda text, cut: [] if cut else one(closing(text)),
        "letters": lambda text, _: trigrams(text),
    }


def _table(counted: Sequence[Sequence[str]], places: dict[str, int]) -> Floats:
    """Counts per text, the last column for what has no place: (N, V + 1). Texts without anything to count are out."""
    rows = [items for items in counted if items]
    table = np.zeros((len(rows), len(places) + 1))
    for row, items in zip(table, rows, strict=True):
        for item in items:
            row[places.get(item, -1)] += 1
    return table


def _taken(sizes: Floats, size: float) -> NDArray[np.bool_]:
    """Which texts of each row come to ``size``, from the left: those whose middle lies in it, and always the first.

    So a row holds ``size`` on average, however long its texts are.

    Args:
        sizes: (K, N) the texts' sizes, in the order of drawing.
        size: what is wanted.
    """
    before = np.cumsum(sizes, axis=1) - sizes
    taken: NDArray[np.bool_] = (before + sizes / 2 <= size) | (before == 0)
    return taken


def _halves(table: Floats, size: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Tables of two disjoint parts of about ``size`` each, drawn ``DRAWS`` times: (K, V) each.

    Args:
        table: (N, V), N >= 2.
        size: at most half of all that is counted.
        rng: draws.
    """
    order = rng.permuted(np.tile(np.arange(len(table)), (DRAWS, 1)), axis=1)  # (K, N)
    sizes = table.sum(axis=1)[order]
    first = _taken(sizes, size)
    second = _taken(np.where(first, 0.0, sizes), size) & ~first
    return _summed(table, order, first), _summed(table, order, second)


def _summed(table: Floats, order: NDArray[np.intp], taken: NDArray[np.bool_]) -> Floats:
    """Tables of the texts that were taken, repeated ones as often as they were: (K, V)."""
    weights = np.zeros((len(order), len(table)))
    rows, places = np.nonzero(taken)
    np.add.at(weights, (rows, order[rows, places]), 1.0)
    summed: Floats = weights @ table
    return summed


def _difference(person: Floats, other: Floats, names: Sequence[str], seed: int, n_samples: int = 300) -> Difference:
    """Compare two tables, (N, V) and (M, V), whose columns but the last are called ``names``.

    The interval is an m-out-of-n bootstrap (Bickel, Götze & van Zwet, 1997): the other side's texts are drawn again
    with replacement up to ``size``, and the deviations are scaled to all that there is of them. Redrawn texts repeat,
    which only lengthens a divergence, so the percentiles are shifted by the mean excess.
    """
    rng = np.random.default_rng(seed)
    total = float(other.sum())
    size = min(float(person.sum()) / 2, total)
    first, second = _halves(person, size, rng)
    sizes = other.sum(axis=1)
    order = rng.permuted(np.tile(np.arange(len(other)), (DRAWS, 1)), axis=1)
    distance = float(divergence(first, _summed(other, order, _taken(sizes[order], size))).mean())
    floor = float(divergence(first, second).mean())
    again = rng.integers(len(other), size=(n_samples, len(other)))
    tables = _summed(other, again, _taken(sizes[again], size))  # (n_samples, V)
    few = first[: DRAWS // 5]
    redrawn = np.array([divergence(few, table).mean() for table in tables])
    moved = distance + (redrawn - redrawn.mean()) * np.sqrt(size / total)
    low, high = np.quantile(moved, [0.025, 0.975])
    interval = (max(0.0, float(low)), float(high))
    telling = _telling(person.sum(axis=0), other.sum(axis=0), names)
    return Difference(distance, floor, above_floor(distance, floor), interval, round(size), telling)


def _telling(person: Floats, other: Floats, names: Sequence[str]) -> tuple[Telling, ...]:
    """The named columns that add most to the divergence of two tables (V,)."""
    p, q = person / person.sum(), other / other.sum()
    middle = (p + q) / 2
    adds = sum(x * np.log2(np.where(x > 0, x, 1.0) / np.where(x > 0, middle, 1.0)) for x in (p, q))[:-1]
    most = np.argsort(-adds, kind="stable")[:TELLING]
    return tuple(Telling(names[i], float(p[i]), float(q[i])) for i in most if adds[i] > 0)
