"""Attention in blocks against MLX's own: values and gradients, whatever the mask."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.base import scaled_dot_product_attention as theirs
from mlx_lm.models.cache import QuantizedKVCache

from mlx_persona.models import attention
from mlx_persona.models.attention import blockwise_attention, scaled_dot_product_attention


def drawn(*shape: int, key: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(key))


def plain(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Any) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)


def masks(batch: int, heads: int, length: int, seen: int) -> dict[str, Any]:
    allowed = mx.random.bernoulli(0.5, (batch, 1, length, seen), key=mx.random.key(7))
    allowed = allowed | (mx.arange(seen) == 0)  # nobody sees nothing
    return {
        "none": None,
        "causal": "causal",
        "two": mx.tril(mx.ones((length, seen), mx.bool_), k=seen - length),
        "rows": allowed,
        "heads": mx.where(drawn(batch, heads, length, seen, key=8) > 1, -1e9, 0.1),
    }


@pytest.mark.parametrize("name", ["none", "causal", "two", "rows", "heads"])
@pytest.mark.parametrize(("length", "seen"), [(1, 12), (7, 7), (5, 9), (20, 20), (17, 30)])
def test_it_is_mlx_own_with_its_gradients(name: str, length: int, seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 8)  # one block, and several, the last one shorter
    batch, heads, kv_heads, width = 2, 6, 2, 4
    q, weights = drawn(batch, heads, length, width, key=1), drawn(batch, heads, length, width, key=4)
    k, v = drawn(batch, kv_heads, seen, width, key=2), drawn(batch, kv_heads, seen, width, key=3)
    mask = masks(batch, heads, length, seen)[name]

    def weighed(function: Any) -> Any:
        return mx.value_and_grad(lambda *x: (function(*x, 0.5, mask) * weights).sum(), argnums=(0, 1, 2))(q, k, v)

    (ours, our_grads), (their, their_grads) = weighed(blockwise_attention), weighed(plain)
    assert float(ours) == pytest.approx(float(their), rel=1e-4, abs=1e-4)
    for mine, other in zip(our_grads, their_grads, strict=True):
        np.testing.assert_allclose(np.array(mine), np.array(other), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(
        np.array(blockwise_attention(q, k, v, 0.5, mask)), np.array(plain(q, k, v, 0.5, mask)), rtol=1e-4, atol=1e-5
    )


def test_a_query_that_may_see_nothing_gives_numbers() -> None:
    q, k, v = (drawn(1, 2, 3, 4, key=n) for n in range(3))
    out = blockwise_attention(q, k, v, 1.0, mx.zeros((3, 3), mx.bool_))
    assert bool(mx.isfinite(out).all())


@pytest.mark.parametrize("kind", ["16 bits", "sinks"])
def test_what_it_is_not_made_for_goes_to_mlx_lm(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "blockwise_attention", None)
    q, k, v = drawn(1, 2, 4, 4, key=1), drawn(1, 2, 4, 4, key=2), drawn(1, 2, 4, 4, key=3)
    if kind == "16 bits":
        q, k, v = (x.astype(mx.float16) for x in (q, k, v))
    sinks = mx.zeros((2,)) if kind == "sinks" else None
    ours = scaled_dot_product_attention(q, k, v, None, scale=0.5, mask=None, sinks=sinks)
    assert mx.array_equal(ours, theirs(q, k, v, None, scale=0.5, mask=None, sinks=sinks))


def test_a_quantized_cache_goes_to_mlx_lm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "blockwise_attention", None)
    cache = QuantizedKVCache(group_size=32, bits=8)
    keys, values = cache.update_and_fetch(drawn(1, 2, 4, 32, key=2), drawn(1, 2, 4, 32, key=3))
    q = drawn(1, 2, 4, 32, key=1)
    ours = scaled_dot_product_attention(mx.array(q), keys, values, cache, scale=0.5, mask=None)  # it scales q in place
    assert mx.array_equal(ours, theirs(q, keys, values, cache, scale=0.5, mask=None))
