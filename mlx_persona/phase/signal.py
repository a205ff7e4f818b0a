"""The smoothed loss derivative δL, and how steady it and the gradient norms are.

Pure functions on small MLX arrays: ``init_*`` makes a state, ``update_*`` takes a state and a value and returns the
next one. Any training loop in MLX can call them, inside or outside of ``mx.compile``.

Source: "Phase-Aware Persona Fine-Tuning" (Dixon, 2026), sections 2.1 and 2.3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx
from mlx.utils import tree_map

# Gradient-norm entropy: so many bins, equally wide in the logarithm, over these bounds; both ends are open.
BINS = 16
_LOW, _HIGH = 1e-3, 1e3


class Ema(NamedTuple):
    """An exponential moving average that starts from nothing: ``level`` / ``weight`` is its value."""

    level: mx.array
    weight: mx.array


def init_ema() -> Ema:
    """An average of no values."""
    return Ema(mx.array(0.0), mx.array(0.0))


def update_ema(state: Ema, value: mx.array, alpha: float) -> tuple[Ema, mx.array]:
    """One more value.

    Bias-corrected as Adam's moments are (Kingma and Ba, 2015, section 3): after n values the weights are
    α(1-α)^i / (1 - (1-α)^n), so that the first value counts whole.

    Args:
        state: of the values before.
        value: ().
        alpha: weight of the newest, 0 < alpha <= 1.

    Returns:
        The next state, and the average.
    """
    level = (1 - alpha) * state.level + alpha * value
    weight = (1 - alpha) * state.weight + alpha
    return Ema(level, weight), level / weight


class Window(NamedTuple):
    """The newest values, oldest first: ``values`` (size,) of which the last ``n`` are there."""

    values: mx.array
    n: mx.array


def init_window(size: int) -> Window:
    """A window for ``size`` values."""
    return Window(mx.zeros(size), mx.array(0, mx.int32))


def update_window(state: Window, value: mx.array) -> Window:
    """One more value; the oldest of a full window goes."""
    size = state.values.shape[0]
    return Window(
        mx.concatenate([state.values[1:], mx.reshape(value, (1,)).astype(mx.float32)]),
        mx.minimum(state.n + 1, size),
    )


def _there(state: Window) -> mx.array:
    size = state.values.shape[0]
    return (mx.arange(size) >= size - state.n).astype(mx.float32)


def window_mean(state: Window) -> mx.array:
    """Mean of what is there; NaN of nothing."""
    return (state.values * _there(state)).sum() / state.n


def window_variance(state: Window) -> mx.array:
    """Population variance of what is there; NaN of fewer than two values, which tell nothing about it."""
    spread = mx.square(state.values - window_mean(state)) * _there(state)
    return mx.where(state.n < 2, math.nan, spread.sum() / mx.maximum(state.n, 1))


class Signal(NamedTuple):
    """What an evaluation says. All (), in nats; ``change`` and what follows from it are NaN before the second one.

    Attributes:
        change: ΔL, this loss minus the one before.
        delta: δL, the smoothed change.
        variance, deviation: of δL over the newest evaluations.
    """

    change: mx.array
    delta: mx.array
    variance: mx.array
    deviation: mx.array


class SignalState(NamedTuple):
    """What δL depends on: the last loss (NaN: none yet), its average, and the windows of ΔL and of δL."""

    last: mx.array
    ema: Ema
    changes: Window
    deltas: Window


def init_signal(window: int, variance_window: int) -> SignalState:
    """Before the first loss.

    Args:
        window: changes in the moving average, where that is the smoothing.
        variance_window: values of δL in its variance.
    """
    return SignalState(mx.array(math.nan), init_ema(), init_window(window), init_window(variance_window))


def update_signal(state: SignalState, loss: mx.array, smoothing: str, alpha: float) -> tuple[SignalState, Signal]:
    """One more loss: δL(t) = α ΔL(t) + (1-α) δL(t-1), section 2.1, with bias correction.

    A loss that is not finite leaves the state as it was, and its signal is NaN.

    Args:
        state: of the losses before.
        loss: ().
        smoothing: ``ema``, or ``mean`` for the moving average of the newest changes.
        alpha: of the EMA.
    """
    counts = mx.isfinite(loss)
    first = mx.logical_not(mx.isfinite(state.last))
    change = mx.where(first, 0.0, loss - state.last)
    ema, smooth = update_ema(state.ema, change, alpha)
    changes = update_window(state.changes, change)
    delta = smooth if smoothing == "ema" else window_mean(changes)
    deltas = update_window(state.deltas, delta)
    variance = window_variance(deltas)
    # The first loss has no change: all but ``last`` stays.
    begun = SignalState(loss, state.ema, state.changes, state.deltas)
    after = _choose(counts, _choose(first, begun, SignalState(loss, ema, changes, deltas)), state)
    told = mx.logical_and(counts, mx.logical_not(first))
    signal = Signal(change, delta, variance, mx.sqrt(variance))
    return after, Signal(*(mx.where(told, value, math.nan) for value in signal))


def _choose(condition: mx.array, one: SignalState, other: SignalState) -> SignalState:
    """One of two states, without asking what the condition is: a compiled step may hold it."""
    chosen: SignalState = tree_map(lambda a, b: mx.where(condition, a, b), one, other)
    return chosen


class Norms(NamedTuple):
    """Statistics of gradient norms, row by row (one row per phase): count, mean, sum of squared deviations, peak."""

    n: mx.array
    mean: mx.array
    squares: mx.array
    peak: mx.array


def init_norms(rows: int) -> Norms:
    """No norms yet, in ``rows`` rows."""
    return Norms(mx.zeros(rows), mx.zeros(rows), mx.zeros(rows), mx.zeros(rows))


def update_norms(state: Norms, norm: mx.array, row: int) -> Norms:
    """One more norm () in one row (Welford, 1962)."""
    here = (mx.arange(state.n.shape[0]) == row).astype(mx.float32)
    count = state.n + here
    off = norm - state.mean
    mean = state.mean + here * off / mx.maximum(count, 1)
    squares = state.squares + here * off * (norm - mean)
    return Norms(count, mean, squares, mx.maximum(state.peak, here * norm))


def init_histogram() -> mx.array:
    """No norms in any bin: (BINS,)."""
    return mx.zeros(BINS)


def update_histogram(counts: mx.array, norm: mx.array) -> mx.array:
    """One more norm () counted in its bin."""
    place = mx.log(mx.maximum(norm, 1e-30) / _LOW) / math.log(_HIGH / _LOW) * BINS
    return counts + (mx.arange(BINS) == mx.clip(mx.floor(place), 0, BINS - 1)).astype(mx.float32)


def norm_entropy(counts: mx.array) -> mx.array:
    """Shannon entropy of a histogram of gradient norms (section 2.3), as a share of log(BINS): 0 to 1; NaN of none."""
    share = counts / counts.sum()
    return mx.abs((share * mx.log(mx.maximum(share, 1e-30))).sum()) / math.log(BINS)
