"""Factored DoRA against the materialised form, against stock mlx-lm, and where 16 bits or zeros could hurt."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.tuner.dora import DoRALinear as StockDoRA

from mlx_persona.models import adapters
from mlx_persona.models import quantized as quantized_layers
from mlx_persona.models.dora import DoRALinear
from mlx_persona.models.quantized import dense_weight

IN, OUT, RANK, SCALE = 128, 48, 4, 2.5
BITS = (2, 3, 4, 5, 6, 8)
BASES = [None, *((bits, group) for bits in BITS for group in (32, 64))]


def normal(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def make_base(quantized: tuple[int, int] | None, bias: bool = False) -> Any:
    """A linear layer with random weights, dense or quantized to (bits, group size)."""
    base = nn.Linear(IN, OUT, bias=bias)
    base.weight = normal(1, OUT, IN) / IN**0.5
    if bias:
        base.bias = normal(2, OUT)
    return base if quantized is None else nn.QuantizedLinear.from_linear(base, quantized[1], quantized[0])


def make_dora(base: Any) -> DoRALinear:
    """A DoRA layer that has been trained: B is not zero, m is not the norm of W."""
    layer = DoRALinear(base, RANK, SCALE, 0.0, "layers.0.q", 0)
    layer.lora_b = 0.1 * normal(3, RANK, OUT)
    layer.m = layer.m * (1 + 0.1 * normal(4, OUT))
    layer.refresh()
    return layer


def gradients(layer: Any, x: mx.array, refresh: Callable[[], None] = lambda: None) -> list[mx.array]:
    """Output, and the gradients with respect to lora_a, lora_b, m and x, of an arbitrary smooth loss."""
    weights = normal(6, *x.shape[:-1], OUT)

    def loss(a: mx.array, b: mx.array, m: mx.array, x: mx.array) -> mx.array:
        layer.lora_a, layer.lora_b, layer.m = a, b, m
        refresh()
        return (mx.sin(layer(x)) * weights).sum()

    start = (layer.lora_a, layer.lora_b, layer.m)
    grads = mx.grad(loss, argnums=(0, 1, 2, 3))(*start, x)
    layer.lora_a, layer.lora_b, layer.m = start
    refresh()
    return [layer(x), *grads]


def assert_close(actual: list[mx.array], expected: list[mx.array], relative: float = 1e-4) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert mx.abs(one - other).max().item() <= relative * mx.abs(other).max().item()


@pytest.mark.parametrize("on_cpu", [True, False], ids=["dequantized", "quantized-matmul"])
@pytest.mark.parametrize("quantized", BASES, ids=str)
def test_outputs_and_gradients_equal_stock_for_every_width(
    quantized: tuple[int, int] | None, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_layers, "on_cpu", lambda: on_cpu)
    base = make_base(quantized)
    ours, x = make_dora(base), normal(5, 2, 3, IN)
    stock = StockDoRA(IN, OUT, RANK, scale=SCALE)  # from_base has no right width for 3, 5 and 6 bits
    stock.set_linear(base)
    stock.lora_a, stock.lora_b, stock.m = ours.lora_a, ours.lora_b, ours.m
    assert_close(gradients(ours, x, ours.refresh), gradients(stock, x))


@pytest.mark.parametrize("quantized", [None, (4, 32), (3, 64)], ids=str)
def test_the_layer_equals_its_definition_in_float64(quantized: tuple[int, int] | None) -> None:
    base = make_base(quantized, bias=True)
    layer, x = make_dora(base), normal(5, 7, IN)
    w, a, b = (np.asarray(v, np.float64) for v in (dense_weight(base), layer.lora_a, layer.lora_b))
    summed = w + SCALE * b.T @ a.T
    norms = np.linalg.norm(summed, axis=1)
    merged = np.asarray(layer.m, np.float64)[:, None] * summed / norms[:, None]
    np.testing.assert_allclose(np.asarray(layer._norm), norms, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(layer.merged_weight()), merged, rtol=1e-4, atol=1e-6)
    expected = np.asarray(x, np.float64) @ merged.T + np.asarray(base.bias, np.float64)
    np.testing.assert_allclose(np.asarray(layer(x)), expected, rtol=1e-4, atol=1e-5)


def test_a_new_adapter_changes_nothing_and_its_magnitude_is_the_row_norm() -> None:
    base = make_base(None, bias=True)
    layer, x = DoRALinear(base, RANK, SCALE, 0.0, "q", 0), normal(5, 7, IN)
    np.testing.assert_allclose(np.asarray(layer.m), np.linalg.norm(np.asarray(base.weight), axis=1), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(layer(x)), np.asarray(base(x)), rtol=1e-5, atol=1e-6)


def test_the_cached_norm_changes_with_refresh_only() -> None:
    layer = make_dora(make_base(None))
    old = np.asarray(layer._norm)
    layer.lora_b = 3 * layer.lora_b
    np.testing.assert_array_equal(np.asarray(layer._norm), old)
    layer.refresh()
    expected = np.linalg.norm(np.asarray(layer.linear.weight + SCALE * layer.lora_b.T @ layer.lora_a.T), axis=1)
    np.testing.assert_allclose(np.asarray(layer._norm), expected, rtol=1e-5)
    assert np.abs(expected - old).max() > 0.01


def test_a_compiled_function_sees_refreshed_norms() -> None:
    layer, x = make_dora(make_base(None)), normal(5, 7, IN)

    def forward(x: mx.array) -> mx.array:
        return layer(x)

    compiled = mx.compile(forward, inputs=layer.state)
    before = np.asarray(compiled(x))
    layer.lora_b = 3 * layer.lora_b
    layer.refresh()
    after = np.asarray(compiled(x))
    np.testing.assert_allclose(after, np.asarray(layer(x)), rtol=1e-5, atol=1e-6)
    assert np.abs(after - before).max() > 0.1


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=["float16", "bfloat16"])
def test_a_16_bit_base_keeps_its_type_and_feels_a_small_change_of_the_magnitude(dtype: Any) -> None:
    """0.1 % of m is less than a step of bfloat16 at 1 (0.8 %), so m / norm must not be rounded to it."""
    base = make_base(None)
    base.set_dtype(dtype)
    layer, x = make_dora(base), normal(5, 64, IN).astype(dtype)
    layer.m = layer._norm
    before = layer(x)
    layer.m = 1.001 * layer.m
    after = layer(x)
    assert after.dtype == dtype
    change = np.asarray(after.astype(mx.float32)).ravel() - np.asarray(before.astype(mx.float32)).ravel()
    y = np.asarray(before.astype(mx.float32)).ravel()
    assert (change @ y) / (y @ y) == pytest.approx(0.001, rel=0.2)
    assert {k: v.dtype for k, v in layer.items() if k in ("lora_a", "lora_b", "m", "_norm")} == dict.fromkeys(
        ("lora_a", "lora_b", "m", "_norm"), mx.float32
    )


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=["float16", "bfloat16"])
def test_a_quantized_16_bit_base_agrees_with_float32(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base((4, 64))
    exact = make_dora(base)(normal(5, 3, IN))
    base.scales, base.biases = base.scales.astype(dtype), base.biases.astype(dtype)
    monkeypatch.setattr(quantized_layers, "on_cpu", lambda: False)
    out = make_dora(base)(normal(5, 3, IN).astype(dtype))
    assert out.dtype == dtype
    assert_close([out.astype(mx.float32)], [exact], relative=0.03)


def test_a_row_of_zeros_stays_zero_and_gives_finite_gradients() -> None:
    base = make_base(None)
    base.weight[5] = 0
    layer, x = DoRALinear(base, RANK, SCALE, 0.0, "q", 0), normal(5, 7, IN)
    out, *grads = gradients(layer, x)
    np.testing.assert_array_equal(np.asarray(out[:, 5]), np.zeros(7))
    assert all(mx.isfinite(g).all().item() for g in grads)


def test_refreshing_a_16_bit_model_holds_few_float32_copies_of_its_weights() -> None:
    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(256, 256, bias=False)

    model = nn.Module()
    model.layers = [Block() for _ in range(24)]
    model.set_dtype(mx.bfloat16)
    adapters.attach(model, adapters.AdapterSpec(2, 1.0, dora=True))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    adapters.refresh(model)
    assert mx.get_peak_memory() - before < 12 * 4 * 256 * 256
