"""An MLP that takes its tokens in parts computes, and is differentiated, as one that takes all."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama, mixtral

from mlx_persona.models import adapters, substitutes
from mlx_persona.models.checkpointing import checkpoint_blocks
from mlx_persona.models.token_chunks import chunk_mlps

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5,
    "vocab_size": 97,
}
TOKENS = mx.random.randint(0, 97, (2, 50), key=mx.random.key(9))


def adapted(dora: bool, dropout: float = 0.0) -> Any:
    model = llama.Model(llama.ModelArgs.from_dict({**SIZES, "model_type": "llama"}))
    model.load_weights(
        [
            (k, 0.2 * mx.random.normal(v.shape, key=mx.random.key(i)) + ("norm" in k))
            for i, (k, v) in enumerate(tree_flatten(model.parameters()))
        ]
    )
    model.freeze()
    adapters.attach(model, adapters.AdapterSpec(4, 2.0, dora, dropout=dropout))
    for i, (_, layer) in enumerate(adapters.adapter_layers(model)):
        layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(100 + i))
    adapters.refresh(model)
    return model.train()


def step(model: Any) -> tuple[float, dict[str, Any]]:
    own = model.trainable_parameters()
    loss, grads = nn.value_and_grad(model, lambda x: nn.losses.cross_entropy(model(x), x).sum())(TOKENS)
    mx.eval(loss, grads)
    model.update(own)
    return loss.item(), {k: np.asarray(v) for k, v in tree_flatten(grads)}


@pytest.mark.parametrize("dora", [True, False])
@pytest.mark.parametrize("blocks_too", [True, False])
def test_losses_and_gradients_stay(dora: bool, blocks_too: bool) -> None:
    loss, grads = step(adapted(dora))
    model = adapted(dora)
    assert chunk_mlps(model, 16) == 2
    assert chunk_mlps(model, 16) == 2
    if blocks_too:
        checkpoint_blocks(model)
    ours, ours_grads = step(model)
    assert ours == pytest.approx(loss, rel=1e-5)
    for name, grad in grads.items():
        np.testing.assert_allclose(ours_grads[name], grad, rtol=1e-3, atol=1e-4 * np.abs(grad).max())


def test_it_saves_memory() -> None:
    """Against mlx-lm's own functions, whichever a model that was loaded before has left in their place."""
    peaks = []
    for chunk in (0, 8):
        model = adapted(True)
        if chunk:
            chunk_mlps(model, chunk)
        checkpoint_blocks(model)
        with substitutes.as_in_mlx_lm(model):
            step(model)
            mx.clear_cache()
            mx.reset_peak_memory()
            before = mx.get_active_memory()
            step(model)
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] < 0.7 * peaks[0]


def test_experts_stay_whole() -> None:
    sizes = {**SIZES, "model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1}
    assert chunk_mlps(mixtral.Model(mixtral.ModelArgs.from_dict(sizes))) == 0


def test_with_dropout_the_masks_stay() -> None:
    plain, model = adapted(True, 0.3), adapted(True, 0.3)
    chunk_mlps(model, 16)
    for each in (plain, model):
        adapters.set_row_keys(each, mx.array([[1, 2], [3, 4]], mx.uint32))
    assert step(model)[0] == step(plain)[0]
