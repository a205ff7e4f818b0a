"""The schedule, AdamW and gradient arithmetic, against NumPy."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import math
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as mlx_optimizers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_persona.training import optim


def test_the_schedule_has_its_values_at_the_ends_and_at_the_peak() -> None:
    rates = [optim.learning_rate(u, total=100, peak=2e-4, warmup=0.1, final=0.05) for u in range(1, 101)]
    assert rates[0] == pytest.approx(2e-5)
    assert rates[4] == pytest.approx(1e-4)
    assert rates[9] == pytest.approx(2e-4)
    assert rates[54] == pytest.approx(2e-4 * (0.05 + 0.95 * 0.5))  # half of the cosine
    assert rates[99] == pytest.approx(1e-5)
    assert max(rates) == rates[9]


@given(
    total=st.integers(1, 400),
    warmup=st.floats(0, 1),
    final=st.floats(0, 1),
)
def test_the_schedule_rises_then_falls_and_never_jumps(total: int, warmup: float, final: float) -> None:
    rates = [optim.learning_rate(u, total, 1.0, warmup, final) for u in range(1, total + 1)]
    rising = round(warmup * total)
    assert all(0 <= r <= 1 + 1e-12 for r in rates)
    assert all(0 < a < b for a, b in pairwise(rates[:rising]))
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[rising:]))
    falling = max(1, total - rising)
    step = max(1 / max(1, rising), math.pi / 2 / falling)  # the steepest that a line or a cosine can be
    assert all(abs(a - b) <= step + 1e-9 for a, b in pairwise(rates))
    if rising < total:
        assert rates[-1] == pytest.approx(final, abs=1e-9)


def test_adamw_equals_its_definition_for_five_updates_of_changing_rate() -> None:
    """Loshchilov and Hutter (2019), algorithm 2: decoupled decay, both moments corrected for their bias."""
    rng = np.random.default_rng(0)
    layer = nn.Linear(3, 2, bias=False)
    w = np.asarray(layer.weight, np.float64)
    optimizer = optim.make_optimizer("adamw", weight_decay=0.1)
    optimizer.init(layer.trainable_parameters())
    m, v = np.zeros_like(w), np.zeros_like(w)
    for step, rate in enumerate((1e-2, 2e-2, 3e-2, 2e-2, 1e-2), 1):
        grad = rng.normal(size=w.shape)
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        update = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        w = w - rate * 0.1 * w - rate * update
        optimizer.learning_rate = mx.array(rate, mx.float32)
        optimizer.update(layer, {"weight": mx.array(grad.astype(np.float32))})
        np.testing.assert_allclose(np.asarray(layer.weight), w, rtol=1e-4, atol=1e-6)


def _tree(seed: int) -> tuple[dict[str, object], np.ndarray]:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 4), (5,), (2, 2))]
    tree = {"a": {"x": mx.array(parts[0])}, "b": [mx.array(parts[1]), mx.array(parts[2])]}
    return tree, np.concatenate([p.ravel() for p in parts]).astype(np.float64)


def _flat(tree: object) -> np.ndarray:
    assert isinstance(tree, dict)
    return np.concatenate([np.asarray(v).ravel() for v in (tree["a"]["x"], *tree["b"])])


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e6])
def test_summed_gradients_become_a_mean_clipped_to_one_global_norm(clip: float) -> None:
    tree, flat = _tree(0)
    mean = flat / 4.0
    norm = np.linalg.norm(mean)
    factor, got_norm = optim.factor_and_norm(tree, mx.array(4.0), clip)
    got = optim.scaled(tree, factor)
    expected = mean * min(1.0, clip / norm) if clip else mean
    assert got_norm.item() == pytest.approx(norm, rel=1e-5)  # before clipping
    np.testing.assert_allclose(_flat(got), expected, rtol=1e-5)
    if clip == 0.5:
        assert optim.global_norm(got).item() == pytest.approx(0.5, rel=1e-5)


def test_gradients_of_zero_stay_zero() -> None:
    factor, norm = optim.factor_and_norm({"w": mx.zeros((3,))}, mx.array(2.0), 1.0)
    assert norm.item() == 0
    assert math.isfinite(factor.item())


@pytest.mark.parametrize(("name", "theirs"), [("adamw", mlx_optimizers.AdamW), ("lion", mlx_optimizers.Lion)])
def test_optimizers_are_mlx_own(name: str, theirs: Any) -> None:
    layers = [nn.Linear(3, 2, bias=False) for _ in range(2)]
    layers[1].weight = mx.array(layers[0].weight)
    extra = {"bias_correction": True} if name == "adamw" else {}
    optimizers = [
        optim.make_optimizer(name, weight_decay=0.1),
        theirs(0.0, betas=[0.9, 0.999 if name == "adamw" else 0.99], weight_decay=0.1, **extra),
    ]
    for step in range(4):
        grad = mx.random.normal((2, 3), key=mx.random.key(step))
        for layer, optimizer in zip(layers, optimizers, strict=True):
            optimizer.learning_rate = mx.array(1e-2 * (step + 1))
            optimizer.update(layer, {"weight": grad})
    np.testing.assert_allclose(np.asarray(layers[0].weight), np.asarray(layers[1].weight), rtol=1e-5)


@pytest.mark.parametrize(("name", "share"), [("adamw", 2.0), ("lion", 1.0), ("adafactor", 0.1)])
def test_what_an_optimizer_keeps(name: str, share: float) -> None:
    layer = nn.Linear(64, 64, bias=False)
    optimizer = optim.make_optimizer(name, 0.0)
    optimizer.init(layer.trainable_parameters())
    kept = sum(v.size for _, v in tree_flatten(optimizer.state) if v.ndim)
    assert kept <= share * layer.weight.size
    before = mx.array(layer.weight)
    optimizer.learning_rate = mx.array(1e-2)
    optimizer.update(layer, {"weight": layer.weight})
    assert float((layer.weight * layer.weight).sum()) < float((before * before).sum())


def test_the_norm_is_taken_in_float32() -> None:
    """The square of 300 overflows float16."""
    assert optim.global_norm({"w": mx.full((4,), 300.0, mx.float16)}).item() == pytest.approx(600.0)


def test_trees_add_up() -> None:
    (one, flat_one), (two, flat_two) = _tree(0), _tree(1)
    assert optim.add(None, one) is one
    np.testing.assert_allclose(_flat(optim.add(one, two)), flat_one + flat_two, rtol=1e-5)
