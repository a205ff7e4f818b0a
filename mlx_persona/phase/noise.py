"""How far an evaluation loss may be off because the held-out examples are so few."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 1000


def bootstrap_error(sums: ArrayLike, weights: ArrayLike, seed: int = 0) -> float:
    """Standard error of a weighted mean loss, by the bootstrap over examples (Efron, 1979).

    Args:
        sums: (n,), each example's summed loss.
        weights: (n,), its tokens.
        seed: of the draws.

    Returns:
        The standard deviation of the mean over resamples, in the unit of the loss; 0 of one example.
    """
    total, weight = np.asarray(sums, np.float64), np.asarray(weights, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(total), (RESAMPLES, len(total)))
    return float(np.std(total[drawn].sum(axis=1) / weight[drawn].sum(axis=1)))
