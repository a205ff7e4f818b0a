"""Cross-entropy of an output head in slabs of the vocabulary, with the gradient formed in the forward pass.

Neither the logits of all tokens nor a dense copy of a quantized head are ever there at once: the
softmax is built up slab by slab with a running maximum (online softmax: Milakov and Gimelshein, 2018,
arXiv 1805.02867). While a slab is there, its share of the gradient is taken too, so that the backward
pass is one product with the cotangent (as in Liger Kernel, Hsu et al., 2024, arXiv 2410.10989, but over
the vocabulary instead of over the tokens).
"""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from mlx_persona.backend import on_cpu
from mlx_persona.models.exponential import exp_below
from mlx_persona.models.quantized import RESIDENT, codes, codes_after, dense, kind

# Largest array that a slab may need, in bytes: what stays in a CPU's cache, or what keeps a GPU busy.
_CPU_BYTES, _GPU_BYTES = 2 * 2**20, 64 * 2**20
_LEAST_ROWS = 512
HEADS = (nn.Linear, nn.Embedding, *RESIDENT, *RESIDENT.values())


class Slab:
    """Some rows of a head's weight (V, D), which nothing reads before ``after`` is there."""

    def __init__(self, head: Any, rows: slice, after: list[mx.array]) -> None:
        parts = codes(head, rows)
        if after:  # or MLX begins with all slabs at once, and holds them until the sums need them
            parts = codes_after(parts, after)
        if "scales" in parts and on_cpu():  # its quantized kernels are 20 times slower than this
            parts = {"weight": dense(head, parts)}
        self._weight = parts.pop("weight")
        self._coded = {**parts, **kind(head)} if parts else {}
        self._bias = head.bias[rows] if "bias" in head else None

    def product(self, hidden: mx.array) -> mx.array:
        """Logits without the bias: (P, D) -> (P, v), in float32."""
        if self._coded:
            out = mx.quantized_matmul(hidden, self._weight, transpose=True, **self._coded)
        else:
            out = hidden @ self._weight.T
        return out.astype(mx.float32)

    def logits(self, hidden: mx.array) -> mx.array:
        """(P, D) -> (P, v), in float32."""
        out = self.product(hidden)
        return out if self._bias is None else out + self._bias

    def back(self, shares: mx.array, dtype: mx.Dtype) -> mx.array:
        """(P, v) -> (P, D), in float32."""
        shares = shares.astype(dtype)
        if self._coded:
            out = mx.quantized_matmul(shares, self._weight, transpose=False, **self._coded)
        else:
            out = shares @ self._weight
        return out.astype(mx.float32)


def slab_rows(count: int, coded_width: int, cpu: bool, slab_bytes: int | None = None) -> int:
    """How many rows of the vocabulary make a slab.

    Args:
        count: tokens whose loss is wanted.
        coded_width: width of a quantized head (0: it is dense); on the CPU a slab of it is made dense.
        cpu: computed on the CPU, not on a GPU.
        slab_bytes: largest array that a slab may need; None is what suits the device.
    """
    slab_bytes = slab_bytes or (_CPU_BYTES if cpu else _GPU_BYTES)
    widest = max(1, count, coded_width if cpu else 0)
    return max(_LEAST_ROWS, slab_bytes // (4 * widest) // 64 * 64)


def rows_at_once(count: int, head: Any, slab_bytes: int | None = None) -> int:
    """:func:`slab_rows` for ``count`` tokens on this device, for this head."""
    coded = int(head.weight.shape[1]) * 32 // int(head.bits) if head.get("scales") is not None else 0
    return slab_rows(count, coded, on_cpu(), slab_bytes)


def _sweep(hidden: mx.array, head: Any, targets: mx.array, rows: int, gradient: bool) -> tuple[mx.array, mx.array]:
    """Losses (P,) and, where wanted, their gradient by ``hidden`` (P, D), in one pass over the vocabulary."""
    size = int(head.weight.shape[0])
    top: Any = None  # of what was seen: the highest logit, the sum and the gradient, both relative to it
    total: Any = None
    push: Any = None
    after: list[mx.array] = []
    aim = mx.zeros(targets.shape, mx.float32)
    for start in range(0, size, rows):
        stop = min(size, start + rows)
        slab = Slab(head, slice(start, stop), after)
        logits = slab.logits(hidden)  # (P, v)
        inside = (targets >= start) & (targets < stop)
        at = mx.clip(targets.astype(mx.int32) - start, 0, stop - start - 1)
        aim = mx.where(inside, mx.take_along_axis(logits, at[:, None], axis=-1)[:, 0], aim)
        highest = mx.stop_gradient(logits.max(axis=-1, keepdims=True))
        new_top = highest if top is None else mx.maximum(top, highest)
        shares = exp_below(logits, new_top)
        kept = 0.0 if top is None else exp_below(top, new_top)
        total = shares.sum(axis=-1, keepdims=True) + (0.0 if total is None else kept * total)
        if gradient:
            push = slab.back(shares, hidden.dtype) + (0.0 if push is None else kept * push)
        top, after = new_top, [aim, total, *([push] if gradient else [])]
    losses = (mx.log(total) + top)[:, 0] - aim
    return losses, (push / total - dense(head, codes(head, targets)) if gradient else losses)


def head_losses(
    hidden: mx.array, head: Any, targets: mx.array, training: bool, slab_bytes: int | None = None
) -> mx.array:
    """-log softmax(head(hidden))[target] in float32, in nats: (P,).

    Args:
        hidden: what the head reads (P, D).
        head: a frozen linear or embedding layer, quantized or not; one of ``HEADS``.
        targets: token ids (P,).
        training: take the gradient along; without it, plain automatic differentiation holds.
        slab_bytes: largest array that a slab of the vocabulary may need; None is what suits the device.
    """
    rows = rows_at_once(hidden.shape[0], head, slab_bytes)
    if not training:
        return _sweep(hidden, head, targets, rows, False)[0]

    @mx.custom_function
    def losses(hidden: mx.array) -> tuple[mx.array, mx.array]:
        return _sweep(hidden, head, targets, rows, True)

    @losses.vjp
    def losses_vjp(hidden: mx.array, cotangents: Any, outputs: Any) -> mx.array:
        return (cotangents[0][:, None] * outputs[1]).astype(hidden.dtype)

    found: Any = losses(hidden)
    return cast(mx.array, found[0])
