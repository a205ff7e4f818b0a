"""Packed rows give what separate rows give, to the loss and every gradient; where they would not, it is refused."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import gemma2, gemma3_text, gpt2, llama, mamba2, mixtral, qwen3

from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.checkpointing import checkpoint_blocks
from mlx_persona.models.heads import row_logits
from mlx_persona.models.masks import check_blocks, with_blocks
from mlx_persona.tokens.batches import Row, collate, collate_packed, make_row, row_keys, token_keys
from mlx_persona.training import objectives

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": 97,
}
GPT2 = {"n_ctx": 64, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "layer_norm_epsilon": 1e-5}
MAMBA = {
    **SIZES,
    **{"num_heads": 4, "head_dim": 16, "state_size": 8, "layer_norm_epsilon": 1e-5, "conv_kernel": 4, "n_groups": 1},
    **{"use_bias": False, "use_conv_bias": True, "tie_word_embeddings": True, "time_step_rank": "auto"},
    **{"time_step_limit": (0.0, 100.0), "intermediate_size": 64},
}
SHAPE = [(0, 2), (1,), (3, 4, 5)]  # which rows share a sequence


def make(kind: Any, **config: Any) -> Any:
    name = kind.__name__.split(".")[-1]
    model = kind.Model(kind.ModelArgs.from_dict({**SIZES, "model_type": name, **config}))
    weights = [
        (k, 0.3 * mx.random.normal(v.shape, key=mx.random.key(i)) + ("norm" in k))
        for i, (k, v) in enumerate(tree_flatten(model.parameters()))
    ]
    model.load_weights(weights)
    return model.eval()


def rows_of_lengths(*lengths: int) -> list[Row]:
    rng = np.random.default_rng(0)
    return [
        make_row(rng.integers(1, 97, n).tolist(), [False, *(rng.random(n - 2) < 0.5).tolist(), True]) for n in lengths
    ]


ROWS = rows_of_lengths(12, 30, 17, 9, 2, 14)


def adapted(dora: bool, dropout: float = 0.0) -> Any:
    """A tiny model in training mode whose adapter does something."""
    model = make(llama)
    adapters.attach(model, adapters.AdapterSpec(4, 2.0, dora, dropout=dropout))
    for i, (_, layer) in enumerate(adapters.adapter_layers(model)):
        layer.lora_b = 0.2 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(100 + i))
    adapters.refresh(model)
    return model.train()


def step(model: Any, arrays: dict[str, Any], compiled: bool = False) -> tuple[float, dict[str, np.ndarray[Any, Any]]]:
    """Loss sum and gradients of one micro-batch."""
    batch = {name: mx.array(value) for name, value in arrays.items()}
    if "rows" in batch:
        adapters.set_row_keys(model, batch.pop("rows"))
    objective = objectives.sft(row_logits(model))
    grad = nn.value_and_grad(model, lambda b: objective(model, b, {})[0])

    def run(batch: Any) -> Any:
        own = model.trainable_parameters()
        out = grad(batch)
        model.update(own)
        return out

    loss, grads = (mx.compile(run, inputs=[model.state]) if compiled else run)(batch)
    return float(loss), {name: np.asarray(value) for name, value in tree_flatten(grads)}


def packed(keys: np.ndarray[Any, np.dtype[np.uint32]] | None = None) -> dict[str, Any]:
    """ROWS in three sequences."""
    arrays = collate_packed([[ROWS[i] for i in sequence] for sequence in SHAPE], length_step=8)
    if keys is not None:
        arrays["rows"] = token_keys(keys[[i for sequence in SHAPE for i in sequence]], arrays["blocks"])
    return arrays


@pytest.mark.parametrize("variant", ["plain", "compiled", "checkpointed", "dropout"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_packed_rows_give_the_loss_and_gradients_of_separate_rows(dora: bool, variant: str) -> None:
    model = adapted(dora, 0.3 if variant == "dropout" else 0.0)
    keys = row_keys(0, 1, 2, range(len(ROWS))) if variant == "dropout" else None
    alone: list[Any] = []
    for i, row in enumerate(ROWS):
        arrays = collate([row])
        if keys is not None:
            arrays["rows"] = keys[[i]]
        alone.append(step(model, arrays))
    if variant == "checkpointed":
        checkpoint_blocks(model)
    loss, grads = step(model, packed(keys), compiled=variant == "compiled")
    assert loss == pytest.approx(sum(part for part, _ in alone), rel=1e-5)
    for name, value in grads.items():
        expected = np.sum([part[name] for _, part in alone], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5 * float(np.abs(expected).max()), err_msg=name)
    assert sum(float(np.abs(g).sum()) for g in grads.values()) > 0


def test_without_the_mask_rows_see_each_other() -> None:
    """What the mask is for: it is no test of nothing."""
    model = adapted(False)
    arrays = packed()
    right = step(model, arrays)[0]
    del arrays["blocks"]
    assert abs(step(model, arrays)[0] - right) > 1e-2 * right


def test_another_row_changes_no_bit_of_a_packed_rows_logits() -> None:
    model = make(llama)
    blocks = mx.array([[0] * 7 + [1] * 9])
    tokens = mx.arange(1, 17)[None]
    other = mx.concatenate([mx.arange(40, 47), tokens[0, 7:]])[None]
    one, two = (np.asarray(model(t, cache=with_blocks(model, blocks)))[0, 7:] for t in (tokens, other))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (llama, {}),
        (qwen3, {"max_position_embeddings": 64, "rope_theta": 1e4, "tie_word_embeddings": True}),
        (mixtral, {"num_local_experts": 4, "num_experts_per_tok": 2}),
        (gemma2, {"final_logit_softcapping": 30.0}),
        (gemma3_text, {"sliding_window": 6, "sliding_window_pattern": 2}),
    ],
    ids=lambda value: value.__name__.split(".")[-1] if hasattr(value, "__name__") else "",
)
def test_it_works_for_models_whose_positions_are_relative(kind: Any, config: dict[str, Any]) -> None:
    """Mixtures of experts, soft-capped attention, and a window that is shorter than the rows."""
    model = make(kind, **config)
    rows = row_logits(model)
    check_blocks(model, rows)
    blocks = mx.array([[0] * 10 + [1] * 14])
    tokens = mx.arange(1, 25)[None]
    got = np.asarray(rows(model, tokens, mx.arange(24), with_blocks(model, blocks)))
    alone = [np.asarray(rows(model, tokens[:, a:b], mx.arange(b - a))) for a, b in ((0, 10), (10, 24))]
    np.testing.assert_allclose(got, np.concatenate(alone), rtol=1e-3, atol=1e-3 * float(np.abs(got).max()))


@pytest.mark.parametrize(("kind", "config"), [(gpt2, GPT2), (mamba2, MAMBA)], ids=["positions", "state"])
def test_models_that_count_positions_or_carry_a_state_are_refused(kind: Any, config: dict[str, Any]) -> None:
    model = make(kind, **config)
    with pytest.raises(PersonaError, match="rows cannot be packed for this model") as caught:
        check_blocks(model, row_logits(model))
    assert "--batch-tokens" in str(caught.value.hint)


def test_a_compiled_step_takes_every_batch_by_its_own_blocks() -> None:
    """The mask is made inside the step: a second batch of the same shape is not masked as the first."""
    model = make(llama)

    @partial(mx.compile, inputs=[model.state])
    def run(tokens: mx.array, blocks: mx.array) -> mx.array:
        return model(tokens, cache=with_blocks(model, blocks))

    tokens = mx.arange(1, 13)[None]
    for first in (4, 9):
        blocks = mx.array([[0] * first + [1] * (12 - first)])
        expected = np.concatenate([np.asarray(model(tokens[:, :first]))[0], np.asarray(model(tokens[:, first:]))[0]])
        np.testing.assert_allclose(np.asarray(run(tokens, blocks))[0], expected, rtol=1e-4, atol=1e-4)
