"""Does a loss curve have phases, or is it a smooth decay? Fits of both, judged on evaluations that they did not see.

Any smooth decay passes S0 -> S1 -> S2 under fixed thresholds on its slope, so thresholds prove nothing. What the claim
of phases says beyond them: the loss has three regimes with a rate each, and changes from one to the next at a point.

- Phase model, 6 parameters: three straight lines that meet at t1 and t2. The middle one (S1) falls; the first (S0) and
  the last (S2) are at most half as steep. Level, slope of S1, t1, t2, and the two other slopes in units of S1's.
- Smooth rivals: ``exponential``, a + b exp(-x / tau) with b >= 0 (3 parameters), and ``two exponentials``, a sum of two
  with b, c >= 0 (5): decays without an onset. Each in tokens, and again in ``schedule time``, the summed learning rate:
  a warm-up alone begins slowly and a cosine alone ends flat, and neither is a regime of the model.

Fits are least squares, over a grid of the parameters that are not linear (so no fit starts at the wrong place).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_persona.experiments.statistics import counts

Floats = NDArray[np.float64]
PHASES = "phases"
EXPONENTIAL, TWO, SCHEDULE = "exponential", "two exponentials", ", in schedule time"
RIVALS = (EXPONENTIAL, TWO, EXPONENTIAL + SCHEDULE, TWO + SCHEDULE)
PARAMETERS = {PHASES: 6, **{name: 5 if name.startswith(TWO) else 3 for name in RIVALS}}
# Fewer evaluations cannot tell six parameters from three.
MIN_EVALS = 15
FOLDS = 5
# S0 and S2 are at most so steep, in units of S1.
FLAT = 0.5
_SLOPES = np.linspace(-FLAT, FLAT, 5)
_TAUS = np.geomspace(0.01, 20, 60)
_COARSE = np.geomspace(0.01, 20, 24)
_RATIO = float(_COARSE[1] / _COARSE[0])
_PAIRS = np.array(list(itertools.combinations(_COARSE, 2)))
_ZOOMS = 4
_BLOCK = 3
# What rounding alone leaves of a perfect fit, in nats.
_LEAST = 1e-6


@dataclass(frozen=True)
class Series:
    """The evaluations of one run.

    Attributes:
        tokens: trained on before each, as a share of all: (N,), 0 to 1.
        schedule: the summed learning rate before each, as a share of all: (N,).
        loss: in nats per token: (N,).
    """

    tokens: Floats
    schedule: Floats
    loss: Floats


def series(record: Mapping[str, Any]) -> Series:
    """The evaluations in a run's record (``evals``: [update, tokens, loss]; ``rates``: of every update)."""
    update, tokens, loss = np.asarray(record["evals"], np.float64).T
    summed = np.concatenate([[0.0], np.cumsum(np.asarray(record["rates"], np.float64))])[update.astype(int)]
    return Series(tokens / max(tokens[-1], 1.0), summed / max(summed[-1], 1e-30), loss)


def held_back(run: Series) -> dict[str, Floats]:
    """Model -> its error at every evaluation when that one, and every fifth beside it, was held back: (N,)."""
    n = len(run.loss)
    found = {name: np.zeros(n) for name in (PHASES, *RIVALS)}
    for fold in range(FOLDS):
        out = np.arange(n) % FOLDS == fold
        for name in found:
            x = run.schedule if name.endswith(SCHEDULE) else run.tokens
            found[name][out] = fit(name, x[~out], run.loss[~out], x[out]) - run.loss[out]
    return found


def bic(run: Series) -> dict[str, float]:
    """Model -> Schwarz's criterion (1978) with all evaluations: n log(mean square error) + k log n; lower is better."""
    n = len(run.loss)
    found = {}
    for name, k in PARAMETERS.items():
        x = run.schedule if name.endswith(SCHEDULE) else run.tokens
        error = fit(name, x, run.loss, x) - run.loss
        found[name] = n * math.log(float((error**2).mean()) + _LEAST**2) + k * math.log(n)
    return found


def fit(name: str, x: Floats, y: Floats, at: Floats) -> Floats:
    """Fit a model to (x, y) by least squares, and predict at other places: (M,).

    Args:
        name: ``phases`` or one of ``RIVALS``.
        x, y: (N,); x from 0 to 1.
        at: (M,).
    """
    if name == PHASES:
        shapes = _phase_shapes(tuple(x), np.concatenate([x, at]))
        return _one(shapes, y, len(x))[0]
    single = _exponential(x, y, at)
    return single if not name.startswith(TWO) else _two(x, y, at, single)


def _exponential(x: Floats, y: Floats, at: Floats) -> Floats:
    """The best ``a + b exp(-x / tau)`` with b >= 0: the grid of tau is made finer around the best, again and again."""
    places, taus = np.concatenate([x, at]), _TAUS
    for _ in range(_ZOOMS):
        found, best = _one(np.exp(-places / taus[:, None]), y, len(x))
        ratio = taus[1] / taus[0]
        taus = np.geomspace(taus[best] / ratio, taus[best] * ratio, 9)
    return found


@cache
def _corners(x: tuple[float, ...]) -> Floats:
    """Where phases may begin and end, with two evaluations at least in each: (C, 2)."""
    middles = [(a + b) / 2 for a, b in itertools.pairwise(x)]
    inner = middles[1:-1]  # two evaluations before the first corner, two behind the last
    return np.array([(a, b) for i, a in enumerate(inner) for b in inner[i + 2 :]])


def _phase_shapes(x: tuple[float, ...], places: Floats) -> Floats:
    """What the phase model may look like, but for its level and the slope of S1: (K, N), falling in S1."""
    corners = _corners(x)
    begin, end = corners[:, 0, None], corners[:, 1, None]
    before = np.minimum(places, begin)  # (C, N)
    within = np.clip(places, begin, end) - begin
    behind = np.maximum(places, end) - end
    a, b = (axis.reshape(-1, 1, 1) for axis in np.meshgrid(_SLOPES, _SLOPES))
    return -np.asarray(a * before + within + b * behind).reshape(-1, len(places))


def _one(shapes: Floats, y: Floats, n: int) -> tuple[Floats, int]:
    """The best ``level + factor * shape`` on the first n places, ``factor >= 0``: its values at the others; which."""
    known = shapes[:, :n]
    centred = known - known.mean(axis=1, keepdims=True)
    factor = centred @ (y - y.mean()) / np.maximum((centred**2).sum(axis=1), 1e-30)
    factor = np.maximum(factor, 0.0)
    level = y.mean() - factor * known.mean(axis=1)
    error = ((level[:, None] + factor[:, None] * known - y) ** 2).sum(axis=1)
    best = int(error.argmin())
    return np.asarray(level[best] + factor[best] * shapes[best, n:]), best


def _two(x: Floats, y: Floats, at: Floats, single: Floats) -> Floats:
    """The best sum of two exponentials, both falling; where one of them would have to rise, a single one."""
    found, pairs, ratio = single, _PAIRS, _RATIO
    for _ in range(_ZOOMS):
        first, second = (np.exp(-x / taus[:, None]) for taus in pairs.T)
        design = np.stack([np.ones_like(first), first, second], axis=2)  # (K, N, 3)
        normal = design.transpose(0, 2, 1) @ design + 1e-10 * np.eye(3)
        weights = np.linalg.solve(normal, (design.transpose(0, 2, 1) @ y)[..., None])[..., 0]  # (K, 3)
        error = ((np.einsum("knp,kp->kn", design, weights) - y) ** 2).sum(axis=1)
        error[(weights[:, 1:] < 0).any(axis=1)] = math.inf
        best = int(error.argmin())
        if math.isinf(error[best]):
            break
        level, b, c = weights[best]
        found = level + b * np.exp(-at / pairs[best, 0]) + c * np.exp(-at / pairs[best, 1])
        near = np.geomspace(1 / ratio, ratio, 5)
        pairs, ratio = pairs[best] * np.array(list(itertools.product(near, near))), math.sqrt(ratio)
    return np.asarray(found)


def advantage(errors: Mapping[str, Floats], rival: str) -> float:
    """log of (error of the phase model / error of the rival) on evaluations held back, in root mean squares."""
    ours, theirs = (math.sqrt(float((errors[name] ** 2).mean())) + _LEAST for name in (PHASES, rival))
    return math.log(ours / theirs)


def advantage_draws(errors: Mapping[str, Floats], rival: str, seed: int) -> Floats:
    """The same with the evaluations of one run resampled, three neighbours at a time (Kuensch, 1989): (K,)."""
    ours, theirs = errors[PHASES] ** 2, errors[rival] ** 2
    blocks = [np.arange(i, min(i + _BLOCK, len(ours))) for i in range(0, len(ours), _BLOCK)]
    drawn = counts(len(blocks), np.random.default_rng(seed))
    sums = np.array([[ours[b].sum(), theirs[b].sum()] for b in blocks])
    a, b = (np.sqrt(drawn @ sums[:, i] / len(ours)) + _LEAST for i in (0, 1))
    return np.asarray(np.log(a / b))


def strongest(errors: Sequence[Mapping[str, Floats]]) -> str:
    """The rival with the lowest error over all runs: the one that the phase model must beat."""
    return max(RIVALS, key=lambda rival: sum(advantage(one, rival) for one in errors))
