"""The CPU's SwiGLU is mlx-lm's, only faster, and a comparison with mlx-lm gets mlx-lm's own."""

from __future__ import annotations

from pathlib import Path

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import activations as stock
from mlx_lm.models import base, llama

from mlx_persona.models import attention, load, substitutes
from mlx_persona.models.activations import sigmoid, swiglu

X = np.concatenate([np.linspace(-40, 40, 40001), [0.0, -1e-30, 1e30, -1e30]]).astype(np.float32)


def test_the_sigmoid_is_the_sigmoid_to_single_precision() -> None:
    exact = 1 / (1 + np.exp(-np.clip(X.astype(np.float64), -700, 700)))
    found = np.array(sigmoid(mx.array(X)))
    assert np.abs(found - exact).max() < 3e-7
    assert set(found[X == 0].tolist()) == {0.5}


def test_values_and_gradients_are_mlx_lms() -> None:
    gate, x = (3 * mx.random.normal((4, 7, 33), key=mx.random.key(i)) for i in (0, 1))
    weights = mx.random.normal((4, 7, 33), key=mx.random.key(2))

    def loss(function: object) -> object:
        return mx.value_and_grad(lambda g, y: (function(g, y) * weights).sum(), argnums=(0, 1))(gate, x)  # type: ignore[operator]

    (ours, grads), (theirs, expected) = loss(swiglu), loss(stock.swiglu)  # type: ignore[misc]
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-4)
    for mine, other in zip(grads, expected, strict=True):
        assert np.abs(np.array(mine - other)).max() < 5e-6


def test_other_types_go_to_mlx_lm() -> None:
    gate, x = (mx.random.normal((5, 8), key=mx.random.key(i)).astype(mx.bfloat16) for i in (0, 1))
    assert swiglu(gate, x).dtype == mx.bfloat16
    assert mx.array_equal(swiglu(gate, x), stock.swiglu(gate, x))


def test_it_works_inside_a_compiled_function() -> None:
    gate, x = (mx.random.normal((5, 8), key=mx.random.key(i)) for i in (0, 1))
    grad = mx.grad(lambda g, y: swiglu(g, y).sum())
    assert mx.allclose(mx.compile(grad)(gate, x), grad(gate, x), atol=1e-6)


def test_a_model_on_the_cpu_has_it_and_a_comparison_has_not(tiny_model_dir: Path) -> None:
    loaded = load.load_model(str(tiny_model_dir))
    assert llama.swiglu is swiglu
    assert llama.scaled_dot_product_attention is attention.scaled_dot_product_attention
    tokens = mx.arange(12)[None]
    ours = loaded.model(tokens)
    with substitutes.as_in_mlx_lm(loaded.model):
        assert llama.swiglu is stock.swiglu
        assert llama.scaled_dot_product_attention is base.scaled_dot_product_attention
        assert np.abs(np.array(loaded.model(tokens) - ours)).max() < 1e-4
    assert llama.swiglu is swiglu


def test_a_model_on_a_gpu_has_not(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "swiglu", stock.swiglu)
    monkeypatch.setattr(llama, "scaled_dot_product_attention", base.scaled_dot_product_attention)
    monkeypatch.setattr(load.backend, "on_cpu", lambda: False)
    load.load_model(str(tiny_model_dir))
    assert llama.swiglu is stock.swiglu
    assert llama.scaled_dot_product_attention is base.scaled_dot_product_attention
