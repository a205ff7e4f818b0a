"""What makes writing faster on a CPU: an exponential that compilers vectorise, and attention by groups of heads.

MLX's exponential takes 10-19 ns an element there, and its attention one small matrix product per query
head, where all heads of a group could share one (docs/lab-notes.md). On a GPU nothing here is used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from mlx_persona.backend import on_cpu

# isort: split

import mlx.core as mx
from mlx_lm.models import base

# exp(x) = (1 + y P(y))^32 with y = x / 32, for -87 <= x <= 0: P is fitted to float64 by reweighted least squares.
# The fit is within 4e-7, relative; in float32, 5e-6 of rounding is left at worst, 1e-6 as a rule.
_LOWEST = -87.0
_SQUARINGS = 5
_P = (
    9.999995652261e-01,
    4.999946715379e-01,
    1.666432067651e-01,
    4.161427696197e-02,
    8.265081447082e-03,
    1.333416866941e-03,
    1.694642110627e-04,
    1.507545425433e-05,
    6.855887116353e-07,
)
# Queries per block of a causal pass: keys after a block are not looked at.
_BLOCK = 128


def exp(x: mx.array) -> mx.array:
    """e to the power of ``x`` <= 0, any shape: MLX's on a GPU; on a CPU, to 5e-6 and at least e^-87."""
    return _exp(x) if on_cpu() and x.dtype == mx.float32 else mx.exp(x)


@partial(mx.compile, shapeless=True)
def _exp(x: mx.array) -> mx.array:
    y = mx.maximum(x, _LOWEST) * (1 / 2**_SQUARINGS)
    power = y * _P[-1] + _P[-2]
    for c in _P[-3::-1]:
        power = power * y + c
    power = power * y + 1
    for _ in range(_SQUARINGS):
        power = power * power
    return power


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
) -> mx.array:
    """mlx-lm's ``scaled_dot_product_attention``, with all query heads of a group in one product.

    Args:
        queries: (B, H, T, D), the last T positions.
        keys: (B, K, S, D), H a multiple of K.
        values: (B, K, S, E).
        cache: of the layer; a quantized one is left to mlx-lm.
        scale: of the scores.
        mask: boolean, true where a key is seen, broadcast to (B, H, T, S); ``"causal"``; or None.
        sinks: left to mlx-lm.

    Returns:
        (B, H, T, E).
    """
    plain = mask is None or isinstance(mask, str) or mask.dtype == mx.bool_
    if hasattr(cache, "bits") or sinks is not None or not plain or queries.dtype != mx.float32:
        return base.scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks)
    queries = queries * scale
    if not isinstance(mask, str):
        return _grouped(queries, keys, values, mask)
    length, before = queries.shape[2], keys.shape[2] - queries.shape[2]
    blocks = []
    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        seen = mx.arange(before + end) <= mx.arange(before + start, before + end)[:, None]
        blocks.append(
            _grouped(queries[:, :, start:end], keys[:, :, : before + end], values[:, :, : before + end], seen)
        )
    return mx.concatenate(blocks, axis=2) if len(blocks) > 1 else blocks[0]


def _grouped(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None) -> mx.array:
    """Attention of scaled queries, a product per group of heads."""
    rows, heads, length, depth = queries.shape
    groups, seen = keys.shape[1], keys.shape[2]
    scores = queries.reshape(rows, groups, -1, depth) @ keys.swapaxes(-1, -2)  # (B, K, H / K * T, S)
    if mask is not None:
        scores = scores.reshape(rows, heads, length, seen)
        scores = mx.where(mask, scores, -mx.inf).reshape(rows, groups, -1, seen)
    weights = exp(scores - scores.max(axis=-1, keepdims=True))
    out = (weights @ values) / weights.sum(axis=-1, keepdims=True)
    return out.reshape(rows, heads, length, -1)


@contextmanager
def fast_attention(model: Any) -> Iterator[None]:
    """On a CPU, meanwhile the model's classes call :func:`attention` where they call mlx-lm's."""
    name = "scaled_dot_product_attention"
    places: list[Any] = [sys.modules[m] for m in {type(m).__module__ for m in model.modules()}] if on_cpu() else []
    changed = [place for place in places if getattr(place, name, None) is base.scaled_dot_product_attention]
    for place in changed:
        setattr(place, name, attention)
    try:
        yield
    finally:
        for place in changed:
            setattr(place, name, base.scaled_dot_product_attention)
