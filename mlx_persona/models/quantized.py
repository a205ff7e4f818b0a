"""Quantized layers on the CPU, whose weights stay quantized: dequantize one layer, multiply, forget.

MLX's quantized kernels are 20 times slower there. The backward pass dequantizes again, so that
no dense weight lives between the two.
"""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from mlx_persona.backend import on_cpu

# Largest dense piece of a weight, in bytes. While MLX dequantizes it, three to four times as much is there.
PART_BYTES = 16 * 2**20


def kind(module: Any) -> dict[str, Any]:
    """How a quantized layer's weight is coded."""
    return {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}


def codes(module: Any, rows: slice | mx.array | None = None) -> dict[str, mx.array]:
    """The arrays of a layer's weight, or of some of its rows: ``weight`` and, where it is quantized, the rest."""
    parts = {name: module[name] for name in ("weight", "scales", "biases") if module.get(name) is not None}
    return parts if rows is None else {name: part[rows] for name, part in parts.items()}


def dense(module: Any, parts: dict[str, mx.array]) -> mx.array:
    """What ``codes`` gave, as float32: (rows, in)."""
    if "scales" not in parts:
        return parts["weight"].astype(mx.float32)
    scales, biases = parts["scales"], parts.get("biases")
    if biases is not None:
        # In float32, or each weight would be rounded to the scales' 16 bits.
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(
        parts["weight"],
        scales,
        biases,
        **kind(module),
        global_scale=module.get("global_scale"),
        dtype=mx.float32,
    )


def dense_weight(module: Any) -> mx.array:
    """The float32 weight of a linear or embedding layer, dequantized where it is quantized (any mode): (out, in)."""
    return dense(module, codes(module))


def _slices(module: Any) -> list[slice]:
    """The rows of a weight, in parts whose dense form is small."""
    rows, columns = int(module.weight.shape[0]), int(module.weight.shape[1]) * 32 // int(module.bits)
    step = max(1, PART_BYTES // (4 * columns))
    return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]


def codes_after(parts: dict[str, mx.array], after: list[mx.array]) -> dict[str, mx.array]:
    """The same arrays, which nothing uses before ``after`` is there; no gradient flows through that bond."""
    ordered = mx.depends(list(parts.values()), after)
    return {name: mx.stop_gradient(part) for name, part in zip(parts, ordered, strict=True)}


def _dense_after(module: Any, rows: slice, after: list[mx.array], dtype: mx.Dtype) -> mx.array:
    """Dense rows, made no sooner than ``after``: MLX would dequantize a whole model before it needs the first layer."""
    parts = codes(module, rows)
    return dense(module, codes_after(parts, after)).astype(dtype)


def product(module: Any, x: mx.array) -> mx.array:
    """x Wᵀ for a quantized W, without the bias, and its gradient by x: (..., in) -> (..., out)."""
    if not on_cpu():
        parts: dict[str, Any] = codes(module)
        return mx.quantized_matmul(x, parts.pop("weight"), **parts, transpose=True, **kind(module))
    slices = _slices(module)

    @mx.custom_function
    def forward(x: mx.array) -> mx.array:
        out: list[mx.array] = []
        for rows in slices:
            out.append(x @ _dense_after(module, rows, [x, *out[-1:]], x.dtype).T)
        return out[0] if len(out) == 1 else mx.concatenate(out, axis=-1)

    @forward.vjp
    def backward(x: mx.array, push: mx.array, _: mx.array) -> Any:
        total: Any = None
        for rows in slices:
            weight = _dense_after(module, rows, [push if total is None else total], push.dtype)
            part = push[..., rows] @ weight
            total = part if total is None else total + part
        return total

    return cast(mx.array, forward(x))


class ResidentLinear(nn.QuantizedLinear):
    """A quantized linear layer that computes as :func:`product` does."""

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out)."""
        y = product(self, x)
        return y + self.bias if "bias" in self else y


class ResidentEmbedding(nn.QuantizedEmbedding):
    """A quantized embedding that gives float32, and is a head as :func:`product` is."""

    def __call__(self, x: mx.array) -> mx.array:
        """Token ids (...) -> (..., D)."""
        return dense(self, codes(self, x))

    def as_linear(self, x: mx.array) -> mx.array:
        """(..., D) -> (..., V)."""
        return product(self, x)


RESIDENT = {nn.QuantizedLinear: ResidentLinear, nn.QuantizedEmbedding: ResidentEmbedding}
