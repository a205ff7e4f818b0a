"""LoRA layers (Hu et al., 2021, arXiv 2106.09685): y = W x + s B A x, with W frozen.

Tensors are named and shaped as stock mlx-lm's (``lora_a`` (in, r), ``lora_b`` (r, out)), so a
saved adapter opens there. The base of a layer may be dense, quantized, or another adapter layer.
"""

from __future__ import annotations

import math
import zlib
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from mlx_persona.models.quantized import dense_weight, product


def matmul_base(base: nn.Module, x: mx.array) -> mx.array:
    """x Wᵀ for the effective weight W of a base, without its bias: (..., in) -> (..., out)."""
    if isinstance(base, LoRALinear):
        return base.without_bias(x)
    if isinstance(base, nn.QuantizedLinear):
        return product(base, x)
    return x @ base.weight.T


def row_square_norms(base: nn.Module) -> mx.array:
    """Squared L2 norm of each row of a base's effective weight, in fp32: (out,)."""
    if isinstance(base, LoRALinear):
        return base.row_square_norms()
    return mx.square(dense_weight(base)).sum(axis=1)


def low_rank_square_norms(w_sq: mx.array, aw: mx.array, a: mx.array, b: mx.array, scale: float) -> mx.array:
    """‖W + sBA‖² per row without forming the sum.

    ‖W‖² + 2s·rowsum((W Aᵀ) ∘ B) + s²·rowsum((B A Aᵀ) ∘ B), exact. Everything lies as (r, out), the rows being summed
    over the short axis: no pass here crosses an array against the grain.

    Args:
        w_sq: ‖W‖² per row (out,).
        aw: (W Aᵀ)ᵀ (r, out).
        a: lora_a = Aᵀ (in, r).
        b: lora_b = Bᵀ (r, out).
        scale: s.
    """
    both = mx.addmm(aw, a.T @ a, b, alpha=scale, beta=2.0)
    return w_sq + scale * (both * b).sum(axis=0)


def input_dims(base: nn.Module) -> int:
    """Width of the input of a dense, quantized or adapted linear layer."""
    if isinstance(base, LoRALinear):
        return int(base.lora_a.shape[0])
    if isinstance(base, nn.QuantizedLinear):
        return int(base.weight.shape[1]) * 32 // int(base.bits)
    return int(base.weight.shape[1])


def row_dropout(x: mx.array, p: float, rows: mx.array, salt: int) -> mx.array:
    """Dropout whose mask depends on (row key, position, salt) only: (B, T, D).

    Padding, the composition of the batch and resuming cannot change a row's mask.

    Args:
        x: activations (B, T, D).
        p: the share that is dropped.
        rows: one key per row, uint32 (B, 2), or one per token where rows share a sequence (B, T, 2).
        salt: what tells layers apart.
    """
    batch, length, width = x.shape
    if rows.ndim == 2:
        low = rows[:, 1:] + mx.arange(length, dtype=mx.uint32)
        rows = mx.stack([mx.broadcast_to(rows[:, :1], (batch, length)), low], axis=-1)
    keys = mx.stack([rows[..., 0] ^ salt, rows[..., 1]], axis=-1)  # (B, T, 2)
    draw = mx.vmap(mx.vmap(lambda key: mx.random.bernoulli(1 - p, (width,), key=key)))
    return x * draw(keys).astype(x.dtype) * (1 / (1 - p))


def plus_low_rank(
    x: mx.array, y: mx.array, a: mx.array, b: mx.array, scale: float, magnitude: mx.array | None = None, norm: Any = 1.0
) -> mx.array:
    """y + s (x A) B, in one product that accumulates; with a magnitude m, m / norm times that: (..., out).

    The gradient is our own for two reasons. MLX puts off the products that give the adapter's gradients, and until
    then holds the wide arrays that they are made of, of all layers: here nothing flows on to earlier layers before
    they are made. And the gradient of m is taken from the output, which the next layer mostly holds anyway, instead
    of from the sum before the scaling.

    Args:
        x: the adapter's input (..., in).
        y: the base's output, in float32 (..., out).
        a, b: lora_a (in, r), lora_b (r, out).
        scale: s.
        magnitude: DoRA's m (out,).
        norm: ‖W + sBA‖ (out,), a constant.
    """

    @mx.custom_function
    def forward(x: mx.array, y: mx.array, a: mx.array, b: mx.array, m: mx.array) -> mx.array:
        total = mx.addmm(y, x @ a, b, alpha=scale)
        return total if magnitude is None else m / norm * total

    @forward.vjp
    def backward(primals: Any, push: mx.array, out: mx.array) -> tuple[mx.array, ...]:
        x, _, a, b, m = primals
        by_m = mx.zeros_like(m)
        if magnitude is not None:
            by_m = mx.where(m == 0, 0, _summed(push * out) / mx.where(m == 0, 1, m))
            push = push * (m / norm)
        narrow = (push @ b.T) * scale  # (..., r)
        by_a = _rows(x).T @ _rows(narrow)
        by_b = _rows((x @ a) * scale).T @ _rows(push)
        by_x, push = mx.depends([narrow @ a.T, push], [by_a, by_b, by_m])
        return by_x.astype(x.dtype), push, by_a, by_b, by_m

    return cast(mx.array, forward(x, y, a, b, mx.ones((1,)) if magnitude is None else magnitude))


def _rows(x: mx.array) -> mx.array:
    """(..., D) -> (N, D)."""
    return x.reshape(-1, x.shape[-1])


def _summed(x: mx.array) -> mx.array:
    """(..., D) -> (D,)."""
    return _rows(x).sum(axis=0)


class AdapterLayer(nn.Module):
    """What all adapter layers share: a frozen layer ``linear`` with a trainable low-rank update ``lora_a``, ``lora_b``.

    Underscore-named arrays are module state: a compiled step sees them change, and they are
    neither trained nor saved. ``_strength`` t interpolates W -> W + t (W' - W). ``bypassed`` is no state: it
    tells which function is traced, that of the adapter or that of the layer below it.
    """

    lora_a: mx.array
    lora_b: mx.array
    bypassed = False

    def __init__(self, base: nn.Module, scale: float, dropout: float, path: str) -> None:
        super().__init__()
        self.linear = base
        self.scale = scale
        self._salt = zlib.crc32(path.encode())
        self._strength: mx.array | None = None
        self._rows: mx.array | None = None
        self.set_dropout(dropout)

    def key(self, seed: int) -> mx.array:
        """The random key of this layer, for a seed of the whole adapter."""
        return mx.random.key(((seed << 32) ^ self._salt) % 2**64)

    def set_dropout(self, p: float) -> None:
        """Change the share of the input that training drops."""
        self._dropout = p

    @property
    def drops(self) -> bool:
        """Whether training drops a share of the input."""
        return self._dropout > 0

    @property
    def innermost(self) -> nn.Module:
        """The dense or quantized layer below all adapters."""
        base = self.linear
        return base.innermost if isinstance(base, AdapterLayer) else base

    def merged_weight(self) -> mx.array:
        """W' in fp32, at the strength that is set, shaped as W is. For fusing."""
        base = self.linear
        w = base.merged_weight() if isinstance(base, AdapterLayer) else dense_weight(base)
        full = self.merge_into(w)
        return full if self._strength is None else w + self._strength * (full - w)

    def merge_into(self, w: mx.array) -> mx.array:
        """W' at full strength for a dense W."""
        raise NotImplementedError


class LoRALinear(AdapterLayer):
    """A frozen linear layer with ``lora_a`` (in, r) and ``lora_b`` (r, out)."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float, path: str, seed: int) -> None:
        super().__init__(base, scale, dropout, path)
        bound = 1 / math.sqrt(input_dims(base))
        outputs = int(base.lora_b.shape[1] if isinstance(base, LoRALinear) else base.weight.shape[0])
        self.lora_a = mx.random.uniform(-bound, bound, (input_dims(base), rank), key=self.key(seed))
        self.lora_b = mx.zeros((rank, outputs))

    def dropped(self, x: mx.array) -> mx.array:
        """The adapter's input: x, in training with dropout."""
        if not (self.training and self.drops):
            return x
        if self._rows is None:
            raise RuntimeError("dropout needs row keys: call set_row_keys before the step")
        return row_dropout(x, self._dropout, self._rows, self._salt)

    def adapted(self, x: mx.array, y: mx.array) -> mx.array:
        """The adapted output at full strength, from the input and the base's output (no bias)."""
        return plus_low_rank(self.dropped(x), y.astype(mx.float32), self.lora_a, self.lora_b, self.scale).astype(
            y.dtype
        )

    def without_bias(self, x: mx.array) -> mx.array:
        """x W'ᵀ, without the innermost layer's bias: (..., in) -> (..., out)."""
        y = matmul_base(self.linear, x)
        if self.bypassed:
            return y
        out = self.adapted(x, y)
        if self._strength is not None:
            out = y + self._strength.astype(y.dtype) * (out - y)
        return out

    def row_square_norms(self) -> mx.array:
        """Squared row norms of W + sBA, factored, in fp32: (out,)."""
        aw = matmul_base(self.linear, self.lora_a.T)
        w_sq = row_square_norms(self.linear)
        return low_rank_square_norms(w_sq, aw, self.lora_a, self.lora_b, self.scale)

    def __call__(self, x: mx.array) -> mx.array:
        """The layer's output, bias included: (..., in) -> (..., out)."""
        out = self.without_bias(x)
        base = self.innermost
        return out + base.bias if "bias" in base else out

    def merge_into(self, w: mx.array) -> mx.array:
        """W + sBA for a dense W (out, in)."""
        return w + self.scale * (self.lora_b.T @ self.lora_a.T)
