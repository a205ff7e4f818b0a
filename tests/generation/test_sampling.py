"""Tokens are drawn by the model's own probabilities, and repeatably."""

from __future__ import annotations

import math

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.sample_utils import apply_top_p

from mlx_persona.generation import sampling
from mlx_persona.generation.sampling import draws, sample


def test_draws_depend_on_seed_row_and_step_only() -> None:
    many = draws(3, [0, 5, 9], [2, 0, 4])
    assert many[1].item() == draws(3, [5], [0])[0].item()
    values = [draws(s, [r], [t])[0].item() for s in (0, 1) for r in (0, 1) for t in (0, 1)]
    assert len(set(values)) == 8
    assert all(0 <= v < 1 for v in values)


def test_draws_are_uniform() -> None:
    values = np.sort(np.array(draws(0, list(range(4000)), [0] * 4000)))
    # Kolmogorov-Smirnov: above 1.95 / sqrt(n) happens once in a thousand; the seed is fixed.
    assert np.abs(values - np.arange(4000) / 4000).max() < 1.95 / math.sqrt(4000)


def test_sampling_inverts_the_distribution() -> None:
    """Probabilities .5 .3 .2 for tokens 2, 0, 1: the draw falls into the likeliest first."""
    logits = mx.log(mx.array([[0.3, 0.2, 0.5]]))
    tokens = [sample(logits, mx.array([u]), 1.0, 0.999).item() for u in (0.0, 0.49, 0.51, 0.79, 0.81, 0.9999999)]
    assert tokens == [2, 2, 0, 0, 1, 1]
    whole = [sample(logits, mx.array([u]), 1.0, 1.0).item() for u in (0.0, 0.29, 0.31, 0.49, 0.51, 0.9999999)]
    assert whole == [0, 0, 1, 1, 2, 2]


def test_the_nucleus_is_that_of_mlx_lm() -> None:
    logits = 3 * mx.random.normal((4, 5000), key=mx.random.key(1))
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    kept = mx.isfinite(apply_top_p(logprobs, 0.8))
    assert int(kept.sum(axis=-1).max().item()) < sampling.CANDIDATES
    expected = [set(np.flatnonzero(row).tolist()) for row in np.array(kept)]
    seen: list[set[int]] = [set() for _ in range(4)]
    for u in np.linspace(0, 1, 4000, endpoint=False):
        for row, token in enumerate(sample(logits, mx.full((4,), float(u)), 1.0, 0.8).tolist()):
            seen[row].add(token)
    assert all(s <= e for s, e in zip(seen, expected, strict=True))
    assert all(len(s) > 0.8 * len(e) for s, e in zip(seen, expected, strict=True))


def test_the_temperature_acts_within_the_nucleus() -> None:
    """exp(log p / 0.5) of (.6, .3) is (.36, .09): the first has .8 of it. The third, at .1, is outside."""
    logits = mx.log(mx.array([[0.6, 0.3, 0.1]]))
    grid = mx.array(np.linspace(0, 1, 1000, endpoint=False).astype(np.float32))
    tokens = np.array(sample(mx.broadcast_to(logits, (1000, 3)), grid, 0.5, 0.85))
    assert np.bincount(tokens, minlength=3).tolist() == pytest.approx([800, 200, 0], abs=1)


def test_a_draw_of_nearly_one_stays_inside_the_nucleus() -> None:
    logits = mx.log(mx.array([[0.7, 0.3, 1e-6]]))
    assert sample(logits, mx.array([1.0]), 1.0, 0.9).item() == 1
    assert sample(logits, mx.array([1.0]), 1.0, 0.5).item() == 0


def test_the_largest_are_those_of_a_whole_sort() -> None:
    """With and without groups: 49,152 = 3,072 groups of 16; 5,003 and 512 cannot be cut so."""
    for size, count in ((49152, 1024), (5003, 1024), (512, 64), (320, 5)):
        x = mx.random.normal((3, size), key=mx.random.key(size))
        values, places = (np.array(y) for y in sampling._largest(x, count))
        assert values.shape == places.shape == (3, count)
        assert (np.take_along_axis(np.array(x), places, axis=1) == values).all()
        assert (np.sort(values, axis=1) == np.sort(np.array(x), axis=1)[:, size - count :]).all()


def test_tokens_are_those_of_plain_sampling_in_float64() -> None:
    """Sorted, cut where the likelier ones have the mass, tempered, inverted: NumPy, over a real vocabulary's size.

    A nucleus of hundreds may end a token earlier or later by rounding: the share drawn at is right to 2e-4.
    """
    logits = np.random.default_rng(0).normal(0, 4, (64, 49152)).astype(np.float32)
    uniform = np.array(draws(0, list(range(64)), [0] * 64))
    found = sample(mx.array(logits), mx.array(uniform), 0.8, 0.9).tolist()
    assert len(set(found)) > 50
    for row, u, token in zip(logits.astype(np.float64), uniform, found, strict=True):
        order = np.argsort(-row)
        probs = np.exp(row[order] - row.max())
        above = np.concatenate([[0], np.cumsum(probs)[:-1]])
        weights = np.where(above < 0.9 * probs.sum(), probs ** (1 / 0.8), 0)
        share = np.concatenate([[0], np.cumsum(weights) / weights.sum()])
        place = int(np.flatnonzero(order == token)[0])
        assert share[place] - 2e-4 <= u <= share[place + 1] + 2e-4
