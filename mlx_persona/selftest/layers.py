"""Checks of single layers: products, adapters, the loss and attention, with their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_persona.models import attention, cross_entropy, quantized
from mlx_persona.models.dora import DoRALinear
from mlx_persona.models.lora import LoRALinear
from mlx_persona.models.quantized import dense_weight
from mlx_persona.selftest.kit import DEEP, GROUP, Measured, distance, limit, linear, normal

_IN, _OUT, _TOKENS = 256, 384, 48
_RANK, _SCALE = 8, 2.0


def with_gradients(function: Callable[..., mx.array], arguments: tuple[mx.array, ...]) -> list[mx.array]:
    """A function's result, and the gradients by its arguments of some smooth loss of it."""

    def loss(*given: mx.array) -> mx.array:
        out = function(*given).astype(mx.float32)
        return (out * normal(99, *out.shape)).sum()

    grads = mx.grad(loss, argnums=tuple(range(len(arguments))))(*arguments)
    return [function(*arguments), *grads]


def matrix_product(dtype: mx.Dtype) -> Measured:
    """A product of matrices against NumPy's in float64, from the same rounded numbers."""
    a, b = normal(1, 300, 512, dtype=dtype), normal(2, 512, 200, dtype=dtype)
    exact = np.array(a.astype(mx.float32), np.float64) @ np.array(b.astype(mx.float32), np.float64)
    return Measured(distance([a @ b], [mx.array(exact.astype(np.float32))]), limit(dtype))


def quantized_product(dtype: mx.Dtype, bits: int) -> Measured:
    """A product with a quantized weight, and its gradient, against the dense weight in float32."""
    layer = linear(_OUT, _IN, bits, dtype)
    x, weight = normal(3, 2, _TOKENS, _IN, dtype=dtype), dense_weight(layer)
    ours = with_gradients(lambda x: quantized.product(layer, x), (x,))
    plain = with_gradients(lambda x: x @ weight.T, (x.astype(mx.float32),))
    return Measured(distance(ours, plain), limit(dtype))


def adapter_layer(dtype: mx.Dtype, bits: int, dora: bool) -> Measured:
    """LoRA or DoRA on a quantized layer, with gradients by x, A, B and m, against W + sBA written out in float32."""
    base = linear(_OUT, _IN, bits, dtype)
    layer = (DoRALinear if dora else LoRALinear)(base, _RANK, _SCALE, 0.0, "layers.0.q_proj", 0)
    layer.lora_b = 0.1 * normal(4, _RANK, _OUT)
    names = ["lora_a", "lora_b"]
    if isinstance(layer, DoRALinear):
        layer.m = layer.m * (1 + 0.1 * normal(5, _OUT))
        layer.refresh()
        names.append("m")
    weight, bias = dense_weight(base), base.bias.astype(mx.float32)

    def ours(x: mx.array, *values: mx.array) -> mx.array:
        layer.update(dict(zip(names, values, strict=True)))
        return layer(x)

    def plain(x: mx.array, a: mx.array, b: mx.array, *m: mx.array) -> mx.array:
        merged = weight + _SCALE * (b.T @ a.T)
        if m:  # the norm carries no gradient (DoRA's paper, section 4.3)
            merged = m[0][:, None] * merged / mx.stop_gradient(mx.linalg.norm(merged, axis=1, keepdims=True))
        return x @ merged.T + bias

    x, values = normal(6, 2, _TOKENS, _IN, dtype=dtype), tuple(layer[name] for name in names)
    expected = with_gradients(plain, (x.astype(mx.float32), *values))
    return Measured(distance(with_gradients(ours, (x, *values)), expected), limit(dtype))


def _head(tied: bool, bits: int | None, dtype: mx.Dtype, words: int) -> Any:
    """An output head; a tied one is the embedding."""
    if not tied:
        return linear(words, _IN, bits, dtype)
    embedding = nn.Embedding(words, _IN)
    embedding.weight = normal(7, words, _IN) / _IN**0.5
    embedding.set_dtype(dtype)
    return embedding if bits is None else nn.QuantizedEmbedding.from_embedding(embedding, GROUP, bits)


def loss_in_slabs(dtype: mx.Dtype, tied: bool, bits: int | None) -> Measured:
    """The loss in slabs of the vocabulary, and its gradient, against MLX's cross-entropy of all logits in float32."""
    words = 1900  # four slabs, the last one shorter
    head, hidden = _head(tied, bits, dtype, words), 3 * normal(8, _TOKENS, _IN, dtype=dtype)
    weight, bias = dense_weight(head), head.bias.astype(mx.float32) if "bias" in head else 0.0
    targets = mx.random.randint(0, words, (_TOKENS,), key=mx.random.key(9))

    def ours(hidden: mx.array) -> mx.array:
        return cross_entropy.head_losses(hidden, head, targets, training=True, slab_bytes=1)

    def plain(hidden: mx.array) -> mx.array:
        return nn.losses.cross_entropy(hidden @ weight.T + bias, targets)

    got, expected = with_gradients(ours, (hidden,)), with_gradients(plain, (hidden.astype(mx.float32),))
    return Measured(distance(got, expected), limit(dtype, DEEP))


def _plain_attention(q: mx.array, k: mx.array, v: mx.array, allowed: mx.array) -> mx.array:
    """softmax(q kᵀ / sqrt(D)) v, as it is written."""
    group = q.shape[1] // k.shape[1]
    k, v = mx.repeat(k, group, axis=1), mx.repeat(v, group, axis=1)
    scores = mx.where(allowed, q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5, -1e9)
    return mx.softmax(scores, axis=-1) @ v


def attention_form(dtype: mx.Dtype, mask: str) -> Measured:
    """Our attention (on the CPU in blocks) and MLX's own, with gradients, against the formula in float32.

    Args:
        dtype: of the activations.
        mask: ``causal``, ``rows`` (an array that packs two rows into one sequence), or ``one token`` (generation).
    """
    seen, width = 300, 64  # more than one block
    length = 1 if mask == "one token" else seen
    q = normal(10, 2, 4, length, width, dtype=dtype)
    k, v = (normal(seed, 2, 2, seen, width, dtype=dtype) for seed in (11, 12))
    allowed = mx.arange(seen)[None] <= mx.arange(seen - length, seen)[:, None]
    if mask == "rows":
        allowed = allowed & ((mx.arange(seen)[None] < 130) == (mx.arange(seen)[:, None] < 130))
    given: dict[str, Any] = {"causal": "causal", "rows": allowed, "one token": None}
    scale = width**-0.5

    def ours(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return attention.scaled_dot_product_attention(q, k, v, None, scale=scale, mask=given[mask])

    def theirs(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=given[mask])

    exact = (q.astype(mx.float32), k.astype(mx.float32), v.astype(mx.float32))
    expected = with_gradients(lambda q, k, v: _plain_attention(q, k, v, allowed), exact)
    return Measured(max(distance(with_gradients(f, (q, k, v)), expected) for f in (ours, theirs)), limit(dtype, DEEP))
