"""δL and the statistics beside it against NumPy and SciPy."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from scipy import stats

from mlx_persona.phase.signal import (
    BINS,
    Signal,
    init_ema,
    init_histogram,
    init_norms,
    init_signal,
    norm_entropy,
    update_ema,
    update_histogram,
    update_norms,
    update_signal,
)

LOSSES = 3.0 + np.cumsum(np.random.default_rng(1).normal(-0.05, 0.1, 25))


def signals(losses: list[float], smoothing: str = "ema", alpha: float = 0.3) -> list[Signal]:
    state, told = init_signal(window=3, variance_window=5), []
    for loss in losses:
        state, signal = update_signal(state, mx.array(loss), smoothing, alpha)
        told.append(signal)
    return told


def weighted(changes: np.ndarray, alpha: float) -> float:
    """The bias-corrected EMA as the weighted mean that it is: α(1-α)^i, divided by the sum of these."""
    weights = alpha * (1 - alpha) ** np.arange(len(changes))[::-1]
    return float((weights * changes).sum() / weights.sum())


def test_delta_is_the_weighted_mean_of_the_changes() -> None:
    changes = np.diff(LOSSES)
    told = signals(LOSSES.tolist())
    assert math.isnan(float(told[0].delta))
    wanted = [weighted(changes[: n + 1], 0.3) for n in range(len(changes))]
    assert np.allclose([float(s.delta) for s in told[1:]], wanted, atol=1e-6)
    assert np.allclose([float(s.change) for s in told[1:]], changes, atol=1e-6)


def test_moving_average() -> None:
    changes = np.diff(LOSSES)
    wanted = [changes[max(0, n - 2) : n + 1].mean() for n in range(len(changes))]
    assert np.allclose([float(s.delta) for s in signals(LOSSES.tolist(), "mean")[1:]], wanted, atol=1e-6)


def test_deviation_is_of_the_newest_five() -> None:
    told = signals(LOSSES.tolist())
    deltas = [float(s.delta) for s in told[1:]]
    assert math.isnan(float(told[1].deviation))  # of one value
    wanted = [np.std(deltas[max(0, n - 4) : n + 1]) for n in range(1, len(deltas))]
    assert np.allclose([float(s.deviation) for s in told[2:]], wanted, atol=1e-6)
    assert np.allclose([float(s.variance) for s in told[2:]], np.square(wanted), atol=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_passed_over(bad: float) -> None:
    losses = LOSSES.tolist()
    with_gap = signals([*losses[:10], bad, *losses[10:]])
    assert math.isnan(float(with_gap[10].delta))
    without = signals(losses)
    assert [float(s.delta) for s in with_gap[11:]] == [float(s.delta) for s in without[10:]]


def test_the_same_inside_of_a_compiled_step() -> None:
    step = mx.compile(lambda state, loss: update_signal(state, loss, "ema", 0.3))
    state, told = init_signal(3, 5), []
    for loss in LOSSES.tolist():
        (last, ema, changes, deltas), signal = step(state, mx.array(loss))
        state = type(state)(last, type(state.ema)(*ema), type(state.changes)(*changes), type(state.deltas)(*deltas))
        told.append(float(signal[1]))
    assert np.allclose(told[1:], [float(s.delta) for s in signals(LOSSES.tolist())[1:]], atol=1e-6)


def test_ema_of_one_value_is_that_value() -> None:
    assert float(update_ema(init_ema(), mx.array(0.7), 0.3)[1]) == pytest.approx(0.7)


def test_norms_by_row() -> None:
    values = np.random.default_rng(2).lognormal(0, 1, 40)
    state = init_norms(2)
    for i, value in enumerate(values):
        state = update_norms(state, mx.array(float(value)), i % 2)
    for row in (0, 1):
        mine = values[row::2]
        assert float(state.n[row]) == 20
        assert float(state.mean[row]) == pytest.approx(mine.mean(), rel=1e-5)
        assert float(state.squares[row]) / 20 == pytest.approx(mine.var(), rel=1e-4)
        assert float(state.peak[row]) == pytest.approx(mine.max(), rel=1e-6)


def test_entropy_is_scipys_over_the_same_bins() -> None:
    values = np.random.default_rng(3).lognormal(0, 3, 200)
    counts = init_histogram()
    for value in values:
        counts = update_histogram(counts, mx.array(float(value)))
    edges = np.logspace(-3, 3, BINS + 1)
    edges[0], edges[-1] = 0, np.inf  # the ends are open
    wanted = np.histogram(values, edges)[0]
    assert np.array_equal(np.array(counts), wanted)
    assert float(norm_entropy(counts)) == pytest.approx(stats.entropy(wanted) / math.log(BINS), rel=1e-5)


def test_entropy_of_one_bin_and_of_all() -> None:
    assert float(norm_entropy(mx.zeros(BINS) + mx.where(mx.arange(BINS) == 3, 5.0, 0.0))) == 0
    assert float(norm_entropy(mx.ones(BINS))) == pytest.approx(1.0)
