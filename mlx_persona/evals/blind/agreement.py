"""How far two raters agree who gave the same things 1 to 5. NumPy only; no I/O.

Things come in groups that belong together (both replies to one prompt), so the intervals draw whole groups again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOWEST, HIGHEST = 1, 5
# Scores that differ by less do so through rounding: 2.5 may come as 2.4999999999999996.
DECIMALS = 9
_RESAMPLES = 2000


@dataclass(frozen=True)
class Agreement:
    """What two raters' scores of the same things have in common.

    Attributes:
        n: things that both rated.
        groups: groups that these belong to.
        kappa: quadratic weighted kappa of the scores, the second's rounded; None where all scores are the same one.
        interval: its 95 % bootstrap interval over groups; None for fewer than two. Draws without a kappa are left out.
        spearman: rank correlation of the scores, the second's as they are; None where a rater gave one score only.
        difference: mean of second minus first, as they are.
        difference_interval: its 95 % bootstrap interval over groups; None for fewer than two.
    """

    n: int
    groups: int
    kappa: float | None
    interval: tuple[float, float] | None
    spearman: float | None
    difference: float
    difference_interval: tuple[float, float] | None


def agreement(groups: Sequence[int], first: Sequence[int], second: Sequence[float]) -> Agreement | None:
    """Compare two raters; the same numbers give the same intervals.

    Args:
        groups: for each of n things, which group it belongs to.
        first: one rater's scores, whole numbers from 1 to 5.
        second: the other's, 1 to 5, not necessarily whole.

    Returns:
        What they have in common; None where nothing was rated by both.
    """
    if not len(groups) == len(first) == len(second):
        raise ValueError(
            f"there must be one group and two scores per thing, got {len(groups)}, {len(first)}, {len(second)}"
        )
    if not groups:
        return None
    ours, theirs = np.array(first, np.float64), np.array(second, np.float64)
    whole = np.array([rounded(score) for score in second], np.float64)
    numbers, group = np.unique(np.array(groups), return_inverse=True)
    kappa = quadratic_kappa(ours, whole)
    interval = difference_interval = None
    if len(numbers) > 1:
        draws = np.full(len(numbers), 1 / len(numbers))
        counts = np.random.default_rng(0).multinomial(len(numbers), draws, size=_RESAMPLES)  # (K, groups)
        weights = counts[:, group].astype(np.float64)  # (K, n)
        interval = None if kappa is None else _percentiles(_kappas(ours, whole, weights))
        difference_interval = _percentiles(weights @ (theirs - ours) / weights.sum(axis=1))
    return Agreement(
        n=len(ours),
        groups=len(numbers),
        kappa=kappa,
        interval=interval,
        spearman=spearman(ours, theirs),
        difference=float((theirs - ours).mean()),
        difference_interval=difference_interval,
    )


def rounded(score: float) -> int:
    """The nearest whole number from 1 to 5; halves go up."""
    return min(HIGHEST, max(LOWEST, math.floor(round(score, DECIMALS) + 0.5)))


def quadratic_kappa(first: Floats, second: Floats) -> float | None:
    """Weighted kappa with squared differences as weights (Cohen, 1968, Psychological Bulletin 70:213).

    One minus the mean squared difference of the pairs over that of all ways to pair the two raters' scores: 1 is the
    same scores, 0 what chance would do with scores so often given, and below that less.

    Args:
        first: (n,) whole scores, at least one.
        second: (n,) the other rater's.

    Returns:
        At most 1; None where both gave one and the same score only, so that nothing could differ.
    """
    found = float(_kappas(first, second, np.ones((1, len(first))))[0])
    return None if math.isnan(found) else found


def _kappas(first: Floats, second: Floats, weights: Floats) -> Floats:
    """Weighted kappas of whole scores (n,), each pair counted as often as a row of ``weights`` (K, n) says: (K,).

    In sums of whole numbers, which are exact. NaN where it has no meaning.
    """
    n, a, b = weights.sum(axis=1), weights @ first, weights @ second
    squares = weights @ (first**2 + second**2)
    seen = n * (squares - 2 * (weights @ (first * second)))  # n^2 times the mean squared difference
    by_chance = n * squares - 2 * a * b
    kappas: Floats = 1 - np.divide(seen, by_chance, out=np.full(len(n), np.nan), where=by_chance > 0)
    return kappas


def spearman(first: Floats, second: Floats) -> float | None:
    """Correlation of ranks, equal scores sharing their mean rank (Spearman, 1904, Am. J. Psychology 15:72).

    Args:
        first: (n,) scores.
        second: (n,) the other rater's.

    Returns:
        -1 to 1; None where a side has one score only.
    """
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 0 else None


def _ranks(values: Floats) -> Floats:
    """Ranks from 1, the mean of them for equal values: (n,)."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: Floats = np.cumsum(counts).astype(np.float64)
    ranks: Floats = (last - (counts - 1) / 2)[place]
    return ranks


def _percentiles(drawn: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of what was drawn (K,), NaN left out."""
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return float(low), float(high)
