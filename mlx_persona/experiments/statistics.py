"""How sure a sweep can be: paired resampling, rank correlation, and what a sample of its size could have seen.

NumPy only. Sources: Efron & Tibshirani, 1993, "An Introduction to the Bootstrap"; Owen, 2007, "The pigeonhole
bootstrap", Annals of Applied Statistics 1(2), for figures that share both seeds and conversations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
N_DRAWS = 2000
LEVEL = 0.95
# The normal distribution's quantiles for a two-sided test at 5 % and for 80 % power.
Z_TEST, Z_POWER = 1.959963984540054, 0.8416212335729143
# All orders are tried up to so many, else as many are drawn.
ALL_ORDERS = 5040


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval, and of how many it is; without an interval where one has no meaning."""

    value: float
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """``value``, ``interval`` (or null) and ``n``."""
        return {"value": self.value, "interval": None if self.low is None else [self.low, self.high], "n": self.n}


def percentiles(draws: Floats) -> tuple[float, float]:
    """95 % percentile interval of resampled figures; draws without a value (NaN) are left out."""
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def counts(n: int, rng: np.random.Generator, draws: int = N_DRAWS) -> Floats:
    """How often each of n things is drawn in each resampling: (K, n), rows summing to n."""
    return rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def mean_interval(values: Sequence[float], seed: int = 0) -> Estimate:
    """Mean of n values with its bootstrap interval; a single one has none."""
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return Estimate(float(array.mean()), None, None, len(array))
    low, high = percentiles(counts(len(array), np.random.default_rng(seed)) @ array / len(array))
    return Estimate(float(array.mean()), low, high, len(array))


def paired_loss(ours: Floats, theirs: Floats, seed: int = 0, crossed: bool = True) -> Estimate:
    """Difference of two arms' losses per token, both measured on the same conversations, with the same seeds.

    Args:
        ours, theirs: (S, C, 2): of S seeds and C conversations the summed loss in nats, and the tokens.
        seed: fixes the draws.
        crossed: resample seeds and conversations (Owen's pigeonhole bootstrap); else conversations alone, which says
            what these very runs would do on other conversations.

    Returns:
        Mean over seeds of (our nats - their nats) / tokens; its interval; n is the number of conversations.
    """
    rng = np.random.default_rng(seed)
    lost, tokens = ours[..., 0] - theirs[..., 0], ours[..., 1]  # (S, C)
    drawn = counts(lost.shape[1], rng)  # (K, C)
    seeds = counts(lost.shape[0], rng) if crossed else np.ones((N_DRAWS, lost.shape[0]))  # (K, S)
    totals = np.einsum("ks,sc,kc->k", seeds, lost, drawn) / np.einsum("ks,sc,kc->k", seeds, tokens, drawn)
    low, high = percentiles(totals)
    return Estimate(float(lost.sum() / tokens.sum()), low, high, lost.shape[1])


def ranks(values: Floats) -> Floats:
    """Ranks from 1, those of equal values averaged: (n,)."""
    order = np.argsort(values, kind="stable")
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    assert len(order) == int(last[-1])
    return np.asarray((last - (sizes - 1) / 2)[inverse], np.float64)


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's rank correlation (1904), ties averaged; NaN where one side does not vary."""
    a, b = ranks(x) - (len(x) + 1) / 2, ranks(y) - (len(y) + 1) / 2
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else math.nan


def spearman_by_group(x: Floats, y: Floats, groups: Sequence[str], seed: int = 0) -> tuple[Estimate, float]:
    """Spearman's correlation over runs that come in groups: seeds of an arm are no independent runs.

    Groups are resampled whole for the interval, and for the p-value their mean places are exchanged whole: under the
    null hypothesis it does not matter which group's x stands beside which group's y.

    Returns:
        The correlation of all runs with its interval (n: groups), and the two-sided permutation p of the correlation
        between the groups' mean ranks.
    """
    names = list(dict.fromkeys(groups))
    members = [np.flatnonzero([group == name for group in groups]) for name in names]
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(N_DRAWS // 2):
        chosen = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        draws.append(spearman(x[chosen], y[chosen]))
    low, high = percentiles(np.asarray(draws)) if not np.all(np.isnan(draws)) else (math.nan, math.nan)
    first, second = (np.array([ranks(side)[m].mean() for m in members]) for side in (x, y))
    return Estimate(spearman(x, y), low, high, len(members)), permutation_p(first, second, rng)


def permutation_p(x: Floats, y: Floats, rng: np.random.Generator) -> float:
    """Two-sided p-value of Spearman's correlation when y may stand in any order: exact where there are few orders.

    Drawn orders count the one at hand too (Phipson & Smyth, 2010), so that p is never 0.
    """
    a, b = ranks(x) - (len(x) + 1) / 2, ranks(y) - (len(y) + 1) / 2
    exact = math.factorial(len(y)) <= ALL_ORDERS
    orders = itertools.permutations(range(len(y))) if exact else (rng.permutation(len(y)) for _ in range(N_DRAWS))
    found = np.abs(b[np.array(list(orders))] @ a)
    hits = int((found >= abs(float(a @ b)) - 1e-9).sum())
    return hits / len(found) if exact else (hits + 1) / (len(found) + 1)


def smallest_correlation(n: int) -> float | None:
    """The correlation that n pairs would have found with 80 % power at 5 %; None for fewer than 4.

    By Fisher's transformation with the variance 1.06 / (n - 3) of Spearman's (Fieller, Hartley & Pearson, 1957).
    """
    if n < 4:
        return None
    return math.tanh((Z_TEST + Z_POWER) * math.sqrt(1.06 / (n - 3)))


def smallest_difference(spread: float, n: int) -> float | None:
    """The mean difference that n pairs would have found with 80 % power at 5 %, by the normal approximation.

    Args:
        spread: standard deviation of the paired differences.
        n: pairs; fewer than 2 have no spread, and None is returned.
    """
    return (Z_TEST + Z_POWER) * spread / math.sqrt(n) if n > 1 else None
