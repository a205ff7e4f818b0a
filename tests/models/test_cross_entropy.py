"""Losses in slabs of the vocabulary against MLX's cross-entropy and against NumPy."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_persona.models import cross_entropy
from mlx_persona.models.cross_entropy import head_losses
from mlx_persona.models.exponential import exp_below

ROWS, WIDTH, WORDS = 11, 64, 700


def head_of(kind: str) -> Any:
    mx.random.seed(3)
    if kind == "embedding":
        return nn.Embedding(WORDS, WIDTH)
    linear = nn.Linear(WIDTH, WORDS, bias=kind.endswith("bias"))
    if kind.startswith("4 bits"):
        return nn.QuantizedLinear.from_linear(linear, group_size=32, bits=4)
    if kind == "quantized embedding":
        return nn.QuantizedEmbedding.from_embedding(nn.Embedding(WORDS, WIDTH), group_size=32, bits=4)
    if kind == "mxfp4":
        return nn.QuantizedLinear.from_linear(linear, group_size=32, bits=4, mode="mxfp4")
    return linear


def plain(hidden: mx.array, head: Any, targets: mx.array) -> mx.array:
    logits = head.as_linear(hidden) if hasattr(head, "as_linear") else head(hidden)
    return nn.losses.cross_entropy(logits.astype(mx.float32), targets)


@pytest.mark.parametrize(
    "kind", ["linear", "linear with bias", "embedding", "4 bits", "4 bits with bias", "quantized embedding", "mxfp4"]
)
@pytest.mark.parametrize("slab_bytes", [1, 4 * ROWS * 600, None])
@pytest.mark.parametrize("training", [True, False])
def test_losses_and_gradients_are_those_of_all_logits(
    kind: str, slab_bytes: int | None, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "_LEAST_ROWS", 64)
    head = head_of(kind)
    hidden = 3 * mx.random.normal((ROWS, WIDTH), key=mx.random.key(1))
    targets = mx.array([0, 63, 64, 127, 128, 300, 511, 512, 640, 698, 699])
    weights = mx.random.normal((ROWS,), key=mx.random.key(2))

    ours = head_losses(hidden, head, targets, training, slab_bytes)
    np.testing.assert_allclose(np.array(ours), np.array(plain(hidden, head, targets)), rtol=2e-5, atol=2e-5)
    by_ours = mx.grad(lambda h: (head_losses(h, head, targets, training, slab_bytes) * weights).sum())(hidden)
    by_plain = mx.grad(lambda h: (plain(h, head, targets) * weights).sum())(hidden)
    np.testing.assert_allclose(np.array(by_ours), np.array(by_plain), rtol=1e-4, atol=1e-5)


def test_it_needs_a_fraction_of_the_memory() -> None:
    head, hidden = nn.Linear(64, 20_000, bias=False), mx.random.normal((512, 64))
    targets = mx.arange(512)
    mx.eval(head.parameters(), hidden)
    peaks = {}
    for name, loss in (("plain", plain), ("slabs", lambda h, w, t: head_losses(h, w, t, True))):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(mx.grad(lambda h, loss=loss: loss(h, head, targets).sum())(hidden))
        peaks[name] = mx.get_peak_memory() - before
    assert peaks["slabs"] < peaks["plain"] / 3


def test_huge_and_tiny_logits_stay_finite() -> None:
    head = nn.Linear(2, 3, bias=False)
    head.weight = mx.array([[1e4, 0.0], [0.0, 1.0], [-1e4, 0.0]])
    hidden, targets = mx.array([[1.0, 1.0], [1.0, 1.0]]), mx.array([0, 2])
    assert head_losses(hidden, head, targets, True).tolist() == pytest.approx([0.0, 2e4])
    assert bool(mx.isfinite(mx.grad(lambda h: head_losses(h, head, targets, True).sum())(hidden)).all())


def test_exp_below_is_the_exponential() -> None:
    x = mx.concatenate([mx.linspace(-79.9, 0, 20_001), mx.array([-1e30, -float("inf")])])
    ours = np.array(exp_below(x + 3.0, mx.array(3.0)), np.float64)
    exact = np.exp(np.array((x + 3.0) - 3.0, np.float64))
    large = exact > np.exp(-18)
    np.testing.assert_allclose(ours[large], exact[large], rtol=7e-6)
    np.testing.assert_allclose(ours[~large], exact[~large], atol=1e-12)
    assert (ours[-2:] <= 3e-35).all()
    assert ours[-3] == 1.0
