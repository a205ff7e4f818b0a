"""Logits of gathered rows are the rows of the full logits."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import cohere, gemma2, llama

from mlx_persona.models.heads import RowLogits, row_logits

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
}
TOKENS = mx.array([[5, 17, 3, 60], [9, 2, 71, 33]])
POSITIONS = mx.array([0, 3, 6, 6, 7])


def make(kind: Any, **config: Any) -> Any:
    model = kind.Model(kind.ModelArgs.from_dict({**SIZES, **config}))
    weights = [
        (k, 0.5 * mx.random.normal(v.shape, key=mx.random.key(i)) + ("norm" in k))
        for i, (k, v) in enumerate(tree_flatten(model.parameters()))
    ]
    model.load_weights(weights)
    return model


def tied_llama(tied: bool) -> Any:
    return make(llama, model_type="llama", rms_norm_eps=1e-5, tie_word_embeddings=tied)


def soft_capped() -> Any:
    return make(gemma2, model_type="gemma2", head_dim=16, rms_norm_eps=1e-5, final_logit_softcapping=30.0)


def scaled() -> Any:
    return make(cohere, model_type="cohere", logit_scale=0.0625, layer_norm_eps=1e-5)


@pytest.mark.parametrize("quantized", [False, True], ids=["dense", "4-bit"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_llama_needs_no_full_logits(tied: bool, quantized: bool) -> None:
    model = tied_llama(tied)
    if quantized:
        nn.quantize(model, group_size=32, bits=4)
    model.freeze()
    rows = row_logits(model)
    assert rows == RowLogits(split=True, in_slabs=True)
    expected = np.asarray(model(TOKENS)).reshape(8, 97)[np.asarray(POSITIONS)]
    np.testing.assert_allclose(np.asarray(rows(model, TOKENS, POSITIONS)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make_model", [soft_capped, scaled])
def test_a_head_that_does_more_than_a_product_gets_full_logits(make_model: Any) -> None:
    model = make_model()
    rows = row_logits(model)
    assert rows == RowLogits(split=False, in_slabs=False)
    expected = np.asarray(model(TOKENS)).reshape(8, 97)[np.asarray(POSITIONS)]
    np.testing.assert_allclose(np.asarray(rows(model, TOKENS, POSITIONS)), expected, rtol=1e-5, atol=1e-5)


def test_an_unknown_architecture_gets_full_logits_in_float32() -> None:
    model = nn.Sequential(nn.Embedding(97, 8), nn.Linear(8, 97))
    model.set_dtype(mx.bfloat16)
    rows = row_logits(model)
    assert rows == RowLogits(split=False, in_slabs=False)
    assert rows(model, TOKENS, POSITIONS).dtype == mx.float32
    assert rows(model, TOKENS, POSITIONS).shape == (5, 97)


@pytest.mark.parametrize("make_model", [lambda: tied_llama(True), lambda: tied_llama(False), soft_capped, scaled])
@pytest.mark.parametrize("training", [True, False])
def test_losses_and_their_gradients_are_those_of_the_full_logits(make_model: Any, training: bool) -> None:
    model = make_model()
    model.freeze()
    model.layers[0].self_attn.q_proj.unfreeze()
    model.train(training)
    rows, targets = row_logits(model), mx.array([1, 96, 0, 5, 70])
    assert rows.in_slabs == isinstance(model, llama.Model)

    def ours(model: Any) -> mx.array:
        return -rows.log_probs(model, TOKENS, POSITIONS, targets).sum()

    def plain(model: Any) -> mx.array:
        logits = model(TOKENS).reshape(8, 97)[POSITIONS]
        return nn.losses.cross_entropy(logits, targets).sum()

    (mine, mine_grads), (theirs, their_grads) = (nn.value_and_grad(model, f)(model) for f in (ours, plain))
    assert float(mine) == pytest.approx(float(theirs), rel=1e-5)
    for (_, a), (_, b) in zip(tree_flatten(mine_grads), tree_flatten(their_grads), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=1e-4)


def test_a_head_that_is_trained_gets_its_gradient() -> None:
    model = tied_llama(False)
    assert not row_logits(model).in_slabs
