"""A quantized layer that stays quantized computes, and is differentiated, as its dense form."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_persona.models import adapters, quantized
from mlx_persona.models.quantized import RESIDENT, dense_weight, product

MODES = [(4, 32, "affine"), (8, 64, "affine"), (4, 32, "mxfp4")]


def layer_of(bits: int, group: int, mode: str, inputs: int = 64, outputs: int = 40) -> Any:
    return nn.QuantizedLinear.from_linear(nn.Linear(inputs, outputs), group_size=group, bits=bits, mode=mode)


@pytest.mark.parametrize(("bits", "group", "mode"), MODES)
@pytest.mark.parametrize("part_bytes", [4 * 64 * 7, 2**20])
def test_products_and_gradients_are_those_of_the_dense_weight(
    bits: int, group: int, mode: str, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "PART_BYTES", part_bytes)  # in pieces of seven rows, and whole
    layer = layer_of(bits, group, mode)
    weight = dense_weight(layer)
    x, push = mx.random.normal((2, 3, 64)), mx.random.normal((2, 3, 40))

    def both(function: Any) -> Any:
        return mx.value_and_grad(lambda x: (function(x) * push).sum())

    plain, ours_too = both(lambda x: x @ weight.T)(x), both(lambda x: product(layer, x))
    for ours in (ours_too(x), mx.compile(ours_too)(x)):
        assert ours[0].item() == pytest.approx(plain[0].item(), rel=1e-4)
        np.testing.assert_allclose(np.asarray(ours[1]), np.asarray(plain[1]), rtol=1e-4, atol=1e-4)


def test_layers_of_a_model_become_resident_with_bias_and_head() -> None:
    linear = layer_of(4, 32, "affine")
    embedding = nn.QuantizedEmbedding.from_embedding(nn.Embedding(40, 64), group_size=32, bits=4)
    x = mx.random.normal((2, 64))
    before = linear(x), embedding(mx.array([3, 39])), embedding.as_linear(x)
    for layer in (linear, embedding):
        layer.__class__ = RESIDENT[type(layer)]
    after = linear(x), embedding(mx.array([3, 39])), embedding.as_linear(x)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(np.asarray(new), np.asarray(old), rtol=1e-4, atol=1e-4)


def test_no_dense_weight_lives_between_the_passes() -> None:
    """Sixteen layers of 4 MB each, dense: the step needs room for one and for MLX's way to it."""
    layers = [layer_of(4, 32, "affine", 1024, 1024) for _ in range(16)]
    for layer in layers:
        layer.freeze()
    model = nn.Sequential(*(adapters.DoRALinear(layer, 2, 1.0, 0.0, str(i), 0) for i, layer in enumerate(layers)))
    x = mx.random.normal((4, 1024))
    step = nn.value_and_grad(model, lambda x: mx.square(model(x)).sum())
    mx.eval(model.parameters(), x)
    own = model.trainable_parameters()
    mx.eval(step(x))
    model.update(own)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(step(x))
    assert mx.get_peak_memory() - before < 5 * 4 * 2**20
