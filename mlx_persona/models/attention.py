"""Attention for the CPU: in blocks of queries, each against the keys that it may see, with a gradient of its own.

MLX's own form there makes the whole matrix of scores, forbidden half included, and keeps the probabilities of
every layer for the backward pass. Here a block of a long sequence keeps its maximum and its sum, and forms its
probabilities again (Dao et al., 2022, arXiv 2205.14135, algorithms 1 and 4, with all keys of a block at once).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import mlx.core as mx
from mlx_lm.models import base

from mlx_persona.backend import on_cpu
from mlx_persona.models.exponential import exp_below

# Queries per block. A sequence of one block keeps its probabilities: they are small, and save a product.
BLOCK = 256
_FORBIDDEN = -1e30


class _Block(NamedTuple):
    """Queries start:stop, how many keys they may see at most, and what is added to their scores."""

    start: int
    stop: int
    seen: int
    bias: mx.array | None


def _scores(q: mx.array, k: mx.array, bias: mx.array | None) -> mx.array:
    """q (B, Hk, G, c, D) times k (B, Hk, S, D) plus the bias (..., c, S): (B, Hk, G, c, S)."""
    batch, heads, group, count, width = q.shape
    scores = (q.reshape(batch, heads, group * count, width) @ k.swapaxes(-1, -2)).reshape(
        batch, heads, group, count, k.shape[2]
    )
    return scores if bias is None else scores + bias


def _weighted(p: mx.array, v: mx.array) -> mx.array:
    """p (B, Hk, G, c, S) times v (B, Hk, S, D): (B, Hk, G, c, D)."""
    batch, heads, group, count, keys = p.shape
    return (p.reshape(batch, heads, group * count, keys) @ v).reshape(batch, heads, group, count, v.shape[-1])


def _gathered(p: mx.array, x: mx.array) -> mx.array:
    """pᵀ x, summed over the queries and the group: (B, Hk, G, c, S), (B, Hk, G, c, D) -> (B, Hk, S, D)."""
    batch, heads, group, count, keys = p.shape
    rows = (batch, heads, group * count)
    return p.reshape(*rows, keys).swapaxes(-1, -2) @ x.reshape(*rows, x.shape[-1])


@partial(mx.compile, shapeless=True)
def _score_push(p: mx.array, by_weight: mx.array, mean: mx.array) -> mx.array:
    return p * (by_weight - mean)


def _forward(q: mx.array, k: mx.array, v: mx.array, blocks: list[_Block], keep: bool) -> tuple[mx.array, ...]:
    """The output, and of each block the maximum, the sum and, where they are kept, the probabilities times it."""
    outs: list[mx.array] = []
    held: list[mx.array] = []
    for block in blocks:
        part = q[:, :, :, block.start : block.stop]
        if outs:  # or MLX begins with all blocks at once
            (part,) = mx.depends([part], [outs[-1]])
        scores = _scores(part, k[:, :, : block.seen], block.bias)
        top = scores.max(axis=-1, keepdims=True)
        p = exp_below(scores, top)
        total = p.sum(axis=-1, keepdims=True)
        outs.append(_weighted(p, v[:, :, : block.seen]) / total)
        held += [top, total, *([p] if keep else [])]
    return (outs[0] if len(outs) == 1 else mx.concatenate(outs, axis=3)), *held


def _backward(
    primals: Any, push: mx.array, outputs: Any, blocks: list[_Block], keep: bool
) -> tuple[mx.array, mx.array, mx.array]:
    q, k, v = primals
    out, each = outputs[0], 3 if keep else 2
    means = (push * out).sum(axis=-1, keepdims=True)
    by_q: list[mx.array] = []
    by_k: Any = None
    by_v: Any = None
    for number, block in enumerate(blocks):
        rows = slice(block.start, block.stop)
        top, total = outputs[1 + number * each : 3 + number * each]
        part, pushed = q[:, :, :, rows], push[:, :, :, rows]
        if by_k is not None:
            part, pushed = mx.depends([part, pushed], [by_q[-1], by_k, by_v])
        keys, values = k[:, :, : block.seen], v[:, :, : block.seen]
        p = outputs[3] if keep else exp_below(_scores(part, keys, block.bias), top)
        # The sum divides the narrow arrays, not the probabilities.
        pushed = pushed / total
        by_score = _score_push(p, _scores(pushed, values, None), means[:, :, :, rows] / total)
        by_q.append(_weighted(by_score, keys))
        by_k = _grown(by_k, _gathered(by_score, part))
        by_v = _grown(by_v, _gathered(p, pushed))
    return (by_q[0] if len(by_q) == 1 else mx.concatenate(by_q, axis=3)), by_k, by_v


def _grown(total: mx.array | None, part: mx.array) -> mx.array:
    """The sum of two arrays (B, Hk, S, D) of which the first may be shorter in S."""
    if total is None:
        return part
    before = total.shape[2]
    head = total + part[:, :, :before]
    return head if part.shape[2] == before else mx.concatenate([head, part[:, :, before:]], axis=2)


def _bias(mask: mx.array | str | None, start: int, stop: int, seen: int, grouped: tuple[int, int]) -> mx.array | None:
    """What is added to the scores of queries start:stop against the first ``seen`` keys."""
    if mask is None:
        return None
    if isinstance(mask, str):  # "causal": the last query sees the last key
        last = mx.arange(seen - (stop - start), seen)[:, None]
        return mx.where(mx.arange(seen)[None] <= last, 0.0, _FORBIDDEN)
    part = mask[..., start:stop, :seen]
    if part.dtype == mx.bool_:
        part = mx.where(part, 0.0, _FORBIDDEN)
    while part.ndim < 4:
        part = part[None]
    heads = part.shape[1]
    return part[:, :, None] if heads == 1 else part.reshape(part.shape[0], *grouped, *part.shape[2:])


def blockwise_attention(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | str | None
) -> mx.array:
    """softmax(scale q kᵀ + mask) v: (B, H, L, D), (B, Hk, S, D) twice -> (B, H, L, D).

    Args:
        queries, keys, values: in float32; H is a multiple of Hk.
        scale: of the scores.
        mask: None, "causal", or an array that broadcasts to (B, H, L, S): True or 0 where a query may look.
    """
    batch, heads, length, width = queries.shape
    kv_heads, seen_in_all = keys.shape[1:3]
    grouped = (kv_heads, heads // kv_heads)
    q = (queries * scale).reshape(batch, *grouped, length, width)
    blocks = []
    for start in range(0, length, BLOCK):
        stop = min(length, start + BLOCK)
        seen = seen_in_all - (length - stop) if isinstance(mask, str) else seen_in_all
        blocks.append(_Block(start, stop, seen, _bias(mask, start, stop, seen, grouped)))
    keep = len(blocks) == 1

    @mx.custom_function
    def attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, ...]:
        return _forward(q, k, v, blocks, keep)

    @attend.vjp
    def attend_vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array, mx.array]:
        return _backward(primals, cotangents[0], outputs, blocks, keep)

    found: Any = attend(q, keys, values)
    return cast(mx.array, found[0].reshape(batch, heads, length, values.shape[-1]))


def scaled_dot_product_attention(
    queries: mx.array,
    keys: Any,
    values: Any,
    cache: Any,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
) -> mx.array:
    """As mlx-lm's function of this name, on the CPU in blocks where that is better."""
    plain = sinks is not None or hasattr(cache, "bits") or queries.dtype != mx.float32
    if plain or not on_cpu():
        return base.scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks)
    return blockwise_attention(queries, keys, values, scale, mask)
