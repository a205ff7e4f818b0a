"""KL to a base in slabs of the vocabulary: against NumPy, against plain automatic differentiation, and in memory."""

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
from mlx_persona.models.divergence import head_divergences, kl, log_softmax

ROWS, WIDTH, WORDS = 11, 64, 700
TARGETS = mx.array([0, 63, 64, 127, 128, 300, 511, 512, 640, 698, 699])


def head_of(kind: str) -> Any:
    mx.random.seed(3)
    linear = nn.Linear(WIDTH, WORDS, bias="bias" in kind)
    if kind == "4 bits with bias":
        return nn.QuantizedLinear.from_linear(linear, group_size=32, bits=4)
    if kind == "quantized embedding":
        return nn.QuantizedEmbedding.from_embedding(nn.Embedding(WORDS, WIDTH), group_size=32, bits=4)
    return nn.Embedding(WORDS, WIDTH) if kind == "embedding" else linear


def logits_of(hidden: mx.array, head: Any) -> mx.array:
    logits: mx.array = head.as_linear(hidden) if hasattr(head, "as_linear") else head(hidden)
    return logits.astype(mx.float32)


def plain(hidden: mx.array, base: mx.array, head: Any) -> tuple[mx.array, mx.array]:
    """The same from all logits at once, by plain automatic differentiation."""
    log_p, log_q = log_softmax(logits_of(hidden, head)), log_softmax(logits_of(base, head))
    return -mx.take_along_axis(log_p, TARGETS[:, None], axis=1)[:, 0], kl(log_p, log_q)


def states() -> tuple[mx.array, mx.array]:
    """Hidden states of a model, and of a base that is near in some rows and far in others."""
    hidden = 3 * mx.random.normal((ROWS, WIDTH), key=mx.random.key(1))
    apart = mx.linspace(0, 6, ROWS)[:, None] * mx.random.normal((ROWS, WIDTH), key=mx.random.key(2))
    return hidden, hidden + apart


@pytest.mark.parametrize("kind", ["linear", "linear with bias", "embedding", "4 bits with bias", "quantized embedding"])
@pytest.mark.parametrize("slab_bytes", [1, 8 * ROWS * 600, None])
@pytest.mark.parametrize("training", [True, False])
def test_divergences_and_gradients_are_those_of_all_logits(
    kind: str, slab_bytes: int | None, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slabs of 64 words, of 576, and all 700 at once."""
    monkeypatch.setattr(cross_entropy, "_LEAST_ROWS", 64)
    head, (hidden, base) = head_of(kind), states()
    losses, found = head_divergences(hidden, base, head, TARGETS, training, slab_bytes)

    z, z_base = (np.asarray(logits_of(x, head), np.float64) for x in (hidden, base))
    log_p, log_q = (x - x.max(1, keepdims=True) for x in (z, z_base))
    log_p, log_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (log_p, log_q))
    expected = (np.exp(log_p) * (log_p - log_q)).sum(1)
    assert (expected[0], expected.max() > 0.5) == (0, True)
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(np.array(losses), -log_p[np.arange(ROWS), np.array(TARGETS)], rtol=2e-5, atol=2e-5)

    weights = [mx.random.normal((ROWS,), key=mx.random.key(n)) for n in (4, 5)]

    def total(parts: tuple[mx.array, mx.array]) -> mx.array:
        return (parts[0] * weights[0] + parts[1] * weights[1]).sum()

    ours = mx.grad(lambda h: total(head_divergences(h, base, head, TARGETS, training, slab_bytes)))(hidden)
    wanted = mx.grad(lambda h: total(plain(h, base, head)))(hidden)
    np.testing.assert_allclose(np.array(ours), np.array(wanted), rtol=2e-4, atol=2e-5)


def test_the_losses_beside_it_are_those_without_it() -> None:
    head, (hidden, base) = head_of("linear"), states()
    losses, _ = head_divergences(hidden, base, head, TARGETS, True)
    np.testing.assert_allclose(
        np.array(losses), np.array(head_losses(hidden, head, TARGETS, True)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("slab_bytes", [1, None])
def test_at_the_base_itself_it_is_exactly_nothing(slab_bytes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_LEAST_ROWS", 64)
    head, (hidden, _) = head_of("linear"), states()
    _, found = head_divergences(hidden, hidden, head, TARGETS, True, slab_bytes)
    assert found.tolist() == [0.0] * ROWS
    push = mx.grad(lambda h: head_divergences(h, hidden, head, TARGETS, True, slab_bytes)[1].sum())(hidden)
    assert mx.abs(push).max().item() == 0


def test_huge_and_tiny_logits_stay_finite() -> None:
    """p is certain of the first word and q of the third: log p - log q = 0 - (-20,000)."""
    head = nn.Linear(2, 3, bias=False)
    head.weight = mx.array([[1e4, 0.0], [0.0, 1.0], [-1e4, 0.0]])
    hidden, base, targets = mx.array([[1.0, 1.0]]), mx.array([[-1.0, 1.0]]), mx.array([0])
    assert head_divergences(hidden, base, head, targets, True)[1].tolist() == pytest.approx([2e4])
    push = mx.grad(lambda h: head_divergences(h, base, head, targets, True)[1].sum())(hidden)
    assert bool(mx.isfinite(push).all())


@pytest.mark.parametrize("apart", [0.05, 0.5])
def test_in_16_bits_a_small_divergence_is_no_noise(apart: float) -> None:
    """From two rounded products the gradient was off by half its length where the model is so near to its base."""
    head = nn.Linear(WIDTH, WORDS, bias=True)
    head.weight, head.bias = (0.4 * mx.random.normal(v.shape, key=mx.random.key(7)) for v in (head.weight, head.bias))
    head.set_dtype(mx.bfloat16)
    hidden, steps = (mx.random.normal((ROWS, WIDTH), key=mx.random.key(n)) for n in (1, 2))
    hidden = (3 * hidden).astype(mx.bfloat16)
    base = (hidden + apart * steps).astype(mx.bfloat16)
    found = mx.grad(lambda h: head_divergences(h, base, head, TARGETS, True)[1].sum())(hidden).astype(mx.float32)
    _, divergences = head_divergences(hidden, base, head, TARGETS, False)
    head.set_dtype(mx.float32)
    wide, base = hidden.astype(mx.float32), base.astype(mx.float32)
    wanted = mx.grad(lambda h: plain(h, base, head)[1].sum())(wide)
    assert divergences.mean().item() == pytest.approx(plain(wide, base, head)[1].mean().item(), rel=0.03)
    assert mx.linalg.norm(found - wanted).item() < 0.03 * mx.linalg.norm(wanted).item()


def _peak(words: int, slabs: bool) -> int:
    head, hidden = nn.Linear(64, words, bias=False), mx.random.normal((512, 64))
    base, targets = hidden + 0.1, mx.zeros((512,), mx.int32)
    mx.eval(head.parameters(), hidden, base, targets)

    def loss(h: mx.array) -> mx.array:
        if slabs:
            return head_divergences(h, base, head, targets, True)[1].sum()
        return kl(log_softmax(logits_of(h, head)), log_softmax(logits_of(base, head))).sum()

    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(mx.grad(loss)(hidden))
    return mx.get_peak_memory() - before


def test_memory_does_not_grow_with_the_vocabulary() -> None:
    small, large = _peak(4_000, True), _peak(16_000, True)
    assert large < 1.3 * small
    assert large < _peak(16_000, False) / 5
