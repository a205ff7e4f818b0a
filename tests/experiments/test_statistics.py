"""Resampling and correlation against other code, and against figures by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mlx_persona.experiments.statistics import (
    mean_interval,
    paired_loss,
    permutation_p,
    ranks,
    smallest_correlation,
    smallest_difference,
    spearman,
    spearman_by_group,
)

RNG = np.random.default_rng(3)


def test_ranks_and_spearman_are_scipys() -> None:
    for _ in range(20):
        x, y = RNG.integers(0, 6, 12).astype(float), RNG.normal(size=12)
        np.testing.assert_array_equal(ranks(x), stats.rankdata(x))
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert math.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_the_exact_permutation_p_of_a_perfect_order_counts_both_ends() -> None:
    """Of the 120 orders of five values two have |rho| = 1: the order itself and its reverse."""
    x = np.arange(5.0)
    assert permutation_p(x, x**3, RNG) == pytest.approx(2 / 120)
    assert permutation_p(x, np.ones(5), RNG) == 1.0


def test_a_drawn_permutation_p_is_about_scipys() -> None:
    x = np.arange(12.0)
    y = x + 6 * np.random.default_rng(1).normal(size=12)
    assert permutation_p(x, y, np.random.default_rng(0)) == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.02)


def test_seeds_of_one_arm_are_no_independent_runs() -> None:
    """Six arms of four equal runs each: as sure as six runs, and not as 24."""
    arms = np.random.default_rng(2).normal(size=(6, 2))
    x, y = np.repeat(arms, 4, axis=0).T
    groups = [str(i) for i in range(6) for _ in range(4)]
    grouped, p = spearman_by_group(x, y, groups)
    single, p_single = spearman_by_group(arms[:, 0], arms[:, 1], list("abcdef"))
    assert grouped.n == single.n == 6
    assert p == pytest.approx(p_single)
    assert grouped.value == pytest.approx(single.value)
    assert grouped.high is not None and grouped.low is not None  # noqa: PT018
    assert grouped.high - grouped.low > 0.5


def test_a_paired_difference_is_the_mean_per_token() -> None:
    """Ours is 0.1 nats per token better on every conversation: the interval is that figure, whatever is drawn."""
    tokens = RNG.integers(5, 50, (3, 8)).astype(float)
    tokens[:] = tokens[0]
    theirs = np.stack([RNG.uniform(1, 4, (3, 8)) * tokens, tokens], axis=2)
    ours = theirs.copy()
    ours[..., 0] -= 0.1 * tokens
    for crossed in (True, False):
        found = paired_loss(ours, theirs, crossed=crossed)
        assert (found.value, found.low, found.high) == pytest.approx((-0.1, -0.1, -0.1))
        assert found.n == 8


def test_a_paired_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """300 sets of 25 conversations: the 95 % interval holds the true difference of 0.05 in 88 to 98 % of them."""
    hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(20, 80, 25).astype(float)
        gain = tokens * (0.05 + 0.1 * rng.normal(size=25))
        theirs = np.stack([3 * tokens, tokens], axis=1)[None]
        ours = np.stack([3 * tokens + gain, tokens], axis=1)[None]
        found = paired_loss(ours, theirs, seed, crossed=False)
        assert found.low is not None and found.high is not None  # noqa: PT018
        hits += found.low <= 0.05 <= found.high
    assert 0.88 <= hits / 300 <= 0.98


def test_a_mean_of_one_value_has_no_interval() -> None:
    assert mean_interval([2.0]).to_json() == {"value": 2.0, "interval": None, "n": 1}
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.value, found.n) == (2.0, 3)
    assert found.low == 1.0
    assert found.high == 3.0  # of three values a fortieth of the draws take one value three times (1/27 each)


def test_power_is_that_of_the_formulas() -> None:
    """Spearman, n = 12: tanh(2.8016 sqrt(1.06 / 9)) = tanh(0.9615); a difference: 2.8016 * 2 / sqrt(4)."""
    assert smallest_correlation(12) == pytest.approx(math.tanh(0.96148), abs=1e-4)
    assert smallest_correlation(3) is None
    assert smallest_difference(2.0, 4) == pytest.approx(2.80158, abs=1e-4)
    assert smallest_difference(2.0, 1) is None
