"""Checkpointed blocks compute the same, and touch nothing but themselves."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from mlx_persona.models import adapters
from mlx_persona.models.checkpointing import checkpoint_blocks
from mlx_persona.tokens.batches import row_keys

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 97,
}
TOKENS = mx.array([[5, 17, 3, 60, 42, 8], [9, 2, 71, 33, 1, 90]])


def tiny(layers: int = 2) -> Any:
    model = llama.Model(llama.ModelArgs.from_dict({**CONFIG, "num_hidden_layers": layers}))
    weights = [
        (k, 0.2 * mx.random.normal(v.shape, key=mx.random.key(i)) + ("norm" in k))
        for i, (k, v) in enumerate(tree_flatten(model.parameters()))
    ]
    model.load_weights(weights)
    return model


def adapted(dora: bool, layers: int = 2) -> Any:
    """A tiny model in training mode, with dropout, and an adapter whose B is not zero."""
    model = tiny(layers)
    adapters.attach(model, adapters.AdapterSpec(4, 2.0, dora, dropout=0.2))
    for i, (_, layer) in enumerate(adapters.adapter_layers(model)):
        layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(100 + i))
    adapters.refresh(model)
    adapters.set_row_keys(model, mx.array(row_keys(0, 0, 1, [3, 4])))
    return model.train()


def loss_and_grads(model: Any, compiled: bool = False) -> tuple[mx.array, dict[str, mx.array]]:
    step = nn.value_and_grad(model, lambda tokens: nn.losses.cross_entropy(model(tokens), tokens).sum())

    def run(tokens: mx.array) -> Any:
        own = model.trainable_parameters()
        out = step(tokens)
        model.update(own)
        return out

    loss, grads = (partial(mx.compile, inputs=[model.state])(run) if compiled else run)(TOKENS)
    mx.eval(loss, grads)
    return loss, dict(tree_flatten(grads))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_loss_and_gradients_are_the_same_with_and_without(dora: bool, compiled: bool) -> None:
    model = adapted(dora)
    loss, grads = loss_and_grads(model)
    assert min(mx.abs(g).max().item() for g in grads.values()) > 0
    checkpoint_blocks(model)
    for _ in range(2):  # a block must come out of its first step unharmed
        again, same = loss_and_grads(model, compiled)
        assert again.item() == pytest.approx(loss.item(), rel=1e-5)
        assert same.keys() == grads.keys()
        for name, grad in grads.items():
            assert mx.abs(same[name] - grad).max().item() <= 1e-4 * mx.abs(grad).max().item()


def test_it_saves_memory() -> None:
    peaks = []
    for wanted in (False, True):
        model = adapted(True, 12)
        if wanted:
            checkpoint_blocks(model)
        step = nn.value_and_grad(model, lambda tokens, model=model: mx.square(model.model(tokens)).sum())
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(step(mx.zeros((2, 64), mx.int32)))
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] < 0.5 * peaks[0]


def test_only_this_model_is_changed_and_a_second_call_changes_nothing() -> None:
    model, other = adapted(True), tiny()
    names = set(adapters.trainable(model))
    checkpoint_blocks(model)
    kinds = [type(block) for block in model.layers]
    checkpoint_blocks(model)
    assert [type(block) for block in model.layers] == kinds
    assert all(issubclass(kind, llama.TransformerBlock) and kind is not llama.TransformerBlock for kind in kinds)
    assert [type(block) for block in other.layers] == [llama.TransformerBlock] * 2
    assert type(tiny().layers[0]) is llama.TransformerBlock
    assert set(adapters.trainable(model)) == names


def test_a_number_checkpoints_the_first_blocks_only() -> None:
    model = adapted(True)
    checkpoint_blocks(model, 1)
    assert [type(block) is llama.TransformerBlock for block in model.layers] == [False, True]
