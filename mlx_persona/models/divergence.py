"""KL(model || base) beside the cross-entropy, in one pass over slabs of the vocabulary.

As in :mod:`mlx_persona.models.cross_entropy`, no logits of the whole vocabulary are ever there at once, and the
gradient is formed in the forward pass. With p the softmax of the model's logits z and q that of the base's z⁰,

    KL(p || q) = Σ p (log p - log q),   ∂KL/∂z_j = p_j (log p_j - log q_j - KL),

for the derivatives of the log-sum-exp cancel (Σ p = 1). A constant added to log p - log q drops out of the bracket,
so r = (z - m) - (z⁰ - m⁰), relative to the highest logits m and m⁰ of either, does in its stead while the sums that
make it a log-probability are not known yet: with S = Σ e^(z - m), T = Σ e^(z - m) r, KL = T / S - log S + log S⁰.

z - z⁰ is the head's product with the difference of the hidden states. From two products in 16 bits, each rounded, it
would be noise where the model is near its base.
"""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx

from mlx_persona.models.cross_entropy import Slab, rows_at_once
from mlx_persona.models.exponential import exp_below
from mlx_persona.models.quantized import codes, dense


def kl(reference: mx.array, other: mx.array) -> mx.array:
    """KL(reference || other) per row of log-probabilities: (N, V), (N, V) -> (N,), in nats."""
    p = mx.exp(reference)
    return mx.where(p > 0, p * (reference - other), 0.0).sum(axis=-1)


def log_softmax(logits: mx.array) -> mx.array:
    """Log-probabilities over the last axis: (..., V)."""
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


class _Sums:
    """Sums over the vocabulary seen so far, relative to the highest logits in it: (P, 1); pushes: (P, D)."""

    def __init__(self, hidden: mx.array) -> None:
        self.top = self.base_top = mx.array(0.0)  # of nothing: all sums are still 0
        self.total = self.base_total = self.tilt = mx.zeros((hidden.shape[0], 1))
        self.push = self.tilted_push = mx.zeros(hidden.shape)
        self._new = True

    def add(self, z: mx.array, apart: mx.array, slab: Slab | None, dtype: mx.Dtype) -> None:
        """Take in the logits of a slab and how far the base's are from them (P, v); without the ``slab`` no push."""
        z_base = z - apart
        highest, base_highest = (mx.stop_gradient(x.max(axis=-1, keepdims=True)) for x in (z, z_base))
        top = highest if self._new else mx.maximum(self.top, highest)
        base_top = base_highest if self._new else mx.maximum(self.base_top, base_highest)
        shares = exp_below(z, top)
        tilted = shares * (apart - (top - base_top))
        kept, base_kept = (0.0, 0.0) if self._new else (exp_below(self.top, top), exp_below(self.base_top, base_top))
        shift = (self.top - top) - (self.base_top - base_top)  # the log-ratios summed so far were relative to others
        if slab is not None:
            self.tilted_push = slab.back(tilted, dtype) + kept * (self.tilted_push + shift * self.push)
            self.push = slab.back(shares, dtype) + kept * self.push
        self.tilt = tilted.sum(axis=-1, keepdims=True) + kept * (self.tilt + shift * self.total)
        self.total = shares.sum(axis=-1, keepdims=True) + kept * self.total
        self.base_total = exp_below(z_base, base_top).sum(axis=-1, keepdims=True) + base_kept * self.base_total
        self.top, self.base_top, self._new = top, base_top, False

    @property
    def arrays(self) -> list[mx.array]:
        """What the next slab waits for."""
        return [self.total, self.base_total, self.tilt, self.push, self.tilted_push]


def _sweep(
    hidden: mx.array, base: mx.array, head: Any, targets: mx.array, rows: int, gradient: bool
) -> tuple[mx.array, ...]:
    """Losses and divergences (P,) and, where wanted, their gradients by ``hidden`` (P, D)."""
    size = int(head.weight.shape[0])
    sums, after = _Sums(hidden), list[mx.array]()
    apart = (hidden.astype(mx.float32) - base.astype(mx.float32)).astype(hidden.dtype)
    aim = mx.zeros(targets.shape, mx.float32)
    for start in range(0, size, rows):
        stop = min(size, start + rows)
        slab = Slab(head, slice(start, stop), after)
        logits = slab.logits(hidden)  # (P, v)
        inside = (targets >= start) & (targets < stop)
        at = mx.clip(targets.astype(mx.int32) - start, 0, stop - start - 1)
        aim = mx.where(inside, mx.take_along_axis(logits, at[:, None], axis=-1)[:, 0], aim)
        sums.add(logits, slab.product(apart), slab if gradient else None, hidden.dtype)
        after = [aim, *sums.arrays]
    mean, log_total = sums.tilt / sums.total, mx.log(sums.total)
    losses = (log_total + sums.top)[:, 0] - aim
    # Rounding may bring it below the 0 that it cannot be less than.
    divergences = mx.maximum(mean - log_total + mx.log(sums.base_total), 0.0)[:, 0]
    if not gradient:
        return losses, divergences
    push = sums.push / sums.total
    by_loss = push - dense(head, codes(head, targets))
    return losses, divergences, by_loss, sums.tilted_push / sums.total - mean * push


def head_divergences(
    hidden: mx.array, base: mx.array, head: Any, targets: mx.array, training: bool, slab_bytes: int | None = None
) -> tuple[mx.array, mx.array]:
    """-log p[target] and KL(p || q) in float32, in nats: (P,), (P,).

    p and q are the softmax of what the head makes of ``hidden`` and of ``base``.

    Args:
        hidden: what the head reads (P, D).
        base: what it reads of the base model (P, D), a constant.
        head: a frozen linear or embedding layer, quantized or not; one of ``cross_entropy.HEADS``.
        targets: token ids (P,).
        training: take the gradients along; without it, plain automatic differentiation holds.
        slab_bytes: largest array that a slab of the vocabulary may need; None is what suits the device.
    """
    rows = rows_at_once(2 * len(hidden), head, slab_bytes)
    if not training:
        losses, divergences = _sweep(hidden, base, head, targets, rows, False)
        return losses, divergences

    @mx.custom_function
    def both(hidden: mx.array) -> tuple[mx.array, ...]:
        return _sweep(hidden, base, head, targets, rows, True)

    @both.vjp
    def both_vjp(hidden: mx.array, cotangents: Any, outputs: Any) -> mx.array:
        push = cotangents[0][:, None] * outputs[2] + cotangents[1][:, None] * outputs[3]
        return push.astype(hidden.dtype)

    found: Any = both(hidden)
    return cast(mx.array, found[0]), cast(mx.array, found[1])
