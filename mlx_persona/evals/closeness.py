"""Style distances that are compared with each other: under two prompts, of two models, early and late.

Differences are resampled together (the paired bootstrap; Efron & Tibshirani, 1993, "An Introduction to the Bootstrap",
chapter 8): what two replies to the same prompt have in common does not blur them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_persona.evals import style
from mlx_persona.evals.attribution import Attribution
from mlx_persona.evals.style import Floats

# A distance or a floor of fewer replies says nothing.
MIN_REPLIES = 10
# A resampling of fewer conversations knows next to nothing of others.
MIN_CLUSTERS = 3
N_DRAWS = 500
LEVEL = 0.95
NONE = "-"


@dataclass(frozen=True)
class Resampled:
    """A figure, and what it comes to in each of K resamplings: ``draws`` (K,)."""

    value: float
    draws: Floats

    def minus(self, other: Resampled) -> Resampled:
        """The difference, draw by draw."""
        return Resampled(self.value - other.value, self.draws - other.draws)

    def times(self, factor: float) -> Resampled:
        """The figure in another unit."""
        return Resampled(self.value * factor, self.draws * factor)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval: percentiles of the draws."""
        low, high = np.quantile(self.draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def to_json(self, n: int) -> dict[str, Any]:
        """The figure, its interval, and of how many."""
        return {"value": self.value, "interval": list(self.interval), "n": n}


def redraws(n: int, seed: int) -> Floats:
    """``N_DRAWS`` resamplings of n things: how often each is drawn, (K, n), rows summing to n."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_DRAWS)
    return counts.astype(np.float64)


class Closeness:
    """Style distances of sets of n replies to one person's.

    Args:
        person: the person's own replies.
        n: how many replies each set has.
        seed: fixes the floor.
    """

    def __init__(self, person: Sequence[str], n: int, seed: int) -> None:
        self.why_not = ""
        if min(len(person), n) < MIN_REPLIES:
            self.why_not = (
                f"a style distance needs {MIN_REPLIES} replies on both sides; "
                f"there are {len(person)} of the person and {n} of a model"
            )
            return
        self.n = n
        self.floor = style.split_half_floor(person, n, seed=seed)
        self._person = style.profile(person)

    def resampled(self, texts: Sequence[str], counts: Floats) -> Resampled:
        """The distance of n texts, its floor still in it, when texts are drawn ``counts`` (K, n) times."""
        weights = counts / counts.sum(axis=1, keepdims=True)
        return Resampled(*style.redrawn(self._person, style.profile(texts), (None, weights)))

    def above(self, distance: Resampled) -> dict[str, Any]:
        """A distance without what chance alone makes of it; the interval is cut at 0 as it is."""
        low, high = (style.above_floor(bound, self.floor) for bound in distance.interval)
        value = style.above_floor(distance.value, self.floor)
        return {"value": value, "interval": [low, high], "floor": self.floor, "n": self.n}


def attributed(attribution: Attribution | None, texts: Sequence[str]) -> dict[str, Any] | None:
    """How many texts are taken for the person's, as JSON; None without a classifier or without texts."""
    if attribution is None or not texts:
        return None
    found = attribution.share(texts)
    return {"share": found.share, "interval": list(found.interval), "n": found.n}


def shown(figure: Mapping[str, Any] | None, form: str = ".3f") -> str:
    """``0.123 (0.101–0.150)`` for a table.

    ``-`` stands where there is no figure and ``?`` where its interval is unknown. With a sign in its form it is a
    difference: ``+0.020 (-0.004 to +0.041), may be 0``.
    """
    if figure is None:
        return NONE
    value, interval = f"{figure['value']:{form}}", figure["interval"]
    if interval is None:
        return f"{value} (?)"
    low, high = interval
    if not form.startswith("+"):
        return f"{value} ({low:{form}}–{high:{form}})"
    return f"{value} ({low:{form}} to {high:{form}})" + (", may be 0" if low <= 0 <= high else "")


def shown_share(figure: Mapping[str, Any] | None) -> str:
    """``62 % (47–75 %)`` for a table; ``-`` where there is no figure."""
    if figure is None:
        return NONE
    low, high = figure["interval"]
    return f"{100 * figure['share']:.0f} % ({100 * low:.0f}–{100 * high:.0f} %)"
