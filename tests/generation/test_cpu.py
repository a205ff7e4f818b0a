"""The exponential and the attention of the CPU against MLX's own."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import base, llama
from mlx_lm.models.cache import QuantizedKVCache

from mlx_persona import backend
from mlx_persona.generation import cpu
from mlx_persona.models.load import LoadedModel


def test_the_exponential_is_that_of_float64() -> None:
    x = np.linspace(-80, 0, 100_001).astype(np.float32)
    exact, found = np.exp(x.astype(np.float64)), np.array(cpu._exp(mx.array(x))).astype(np.float64)
    error = found / exact - 1
    assert np.abs(error[x > -20]).max() < 1e-5
    assert np.abs(error[x > -1]).max() < 4e-6
    assert abs(error[x > -20].mean()) < 1e-6  # sums over a vocabulary are not off to one side
    assert found[-1] == 1
    assert np.array(cpu._exp(mx.array([-1e4, -np.inf]))).max() < 1e-37


def test_elsewhere_the_exponential_is_that_of_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "on_cpu", lambda: False)
    x = -mx.arange(20).astype(mx.float32)
    assert (cpu.exp(x) == mx.exp(x)).all()


def make(length: int, seen: int, heads: int = 6, groups: int = 2) -> tuple[mx.array, mx.array, mx.array]:
    """Queries, keys and values of three rows."""
    shapes = ((3, heads, length, 16), (3, groups, seen, 16), (3, groups, seen, 16))
    q, k, v = (2 * mx.random.normal(shape, key=mx.random.key(i)) for i, shape in enumerate(shapes))
    return q, k, v


@pytest.mark.parametrize(("length", "seen"), [(1, 1), (1, 50), (7, 7), (7, 50), (128, 128), (300, 300), (300, 333)])
@pytest.mark.parametrize("heads", [2, 6])
def test_causal_attention_is_that_of_mlx(length: int, seen: int, heads: int) -> None:
    """One query or many, with or without earlier keys, in blocks of 128, one head per group or three."""
    q, k, v = make(length, seen, heads)
    for mask in ("causal", None):
        expected = base.scaled_dot_product_attention(q, k, v, None, 0.25, mask)
        assert mx.allclose(cpu.attention(q, k, v, None, 0.25, mask), expected, rtol=1e-5, atol=1e-5), mask


def test_masked_attention_is_that_of_mlx() -> None:
    """Rows of different lengths, as in a batch."""
    q, k, v = make(1, 40)
    mask = (mx.arange(40) < mx.array([1, 17, 40])[:, None])[:, None, None]
    expected = base.scaled_dot_product_attention(q, k, v, None, 0.25, mask)
    found = cpu.attention(q, k, v, None, 0.25, mask)
    assert mx.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert mx.allclose(found[0, :, 0], mx.repeat(v[0, :, 0], 3, axis=0), atol=1e-6)  # one key: its value


def test_what_is_not_plain_is_left_to_mlx() -> None:
    """An additive mask, 16 bits, quantized keys."""
    q, k, v = make(4, 4)
    bias = mx.random.normal((4, 4), key=mx.random.key(9))
    same = cpu.attention(q, k, v, None, 0.25, bias) == base.scaled_dot_product_attention(q, k, v, None, 0.25, bias)
    assert same.all()
    half = [x.astype(mx.float16) for x in (q, k, v)]
    assert cpu.attention(*half, None, 0.25, "causal").dtype == mx.float16
    cache = QuantizedKVCache(group_size=32)
    wide = mx.random.normal((1, 2, 4, 32), key=mx.random.key(3))
    keys, values = cache.update_and_fetch(wide, wide)
    assert cpu.attention(wide, keys, values, cache, 0.25, "causal").shape == (1, 2, 4, 32)


@pytest.mark.skipif(not backend.on_cpu(), reason="for the CPU only")
def test_the_model_calls_it_only_meanwhile(tiny: LoadedModel) -> None:
    with cpu.fast_attention(tiny.model):
        assert llama.scaled_dot_product_attention is cpu.attention
    assert llama.scaled_dot_product_attention is base.scaled_dot_product_attention
