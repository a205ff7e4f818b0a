"""A row with two replies behind one prompt gives what two plain rows give: values, gradients, dropout and all."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import gemma, gemma3_text, gpt2, llama, mamba, qwen2, qwen3
from mlx_lm.models.cache import make_prompt_cache

from mlx_persona.models import adapters, shared_prefix
from mlx_persona.models.checkpointing import checkpoint_blocks
from mlx_persona.models.heads import row_logits
from mlx_persona.models.shared_prefix import can_share
from mlx_persona.tokens.batches import make_row, row_keys
from mlx_persona.tokens.pairs import PairRows, token_keys
from mlx_persona.training import objectives

VOCAB = 97
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}


def make(kind: Any, **config: Any) -> Any:
    model = kind.Model(kind.ModelArgs.from_dict({**SIZES, "model_type": kind.__name__.rsplit(".", 1)[1], **config}))
    weights = [
        (k, 0.4 * mx.random.normal(v.shape, key=mx.random.key(i)) + ("norm" in k))
        for i, (k, v) in enumerate(tree_flatten(model.parameters()))
    ]
    model.load_weights(weights)
    return model


def adapted(dora: bool, dropout: float = 0.0) -> tuple[Any, Any]:
    """A llama whose adapter does something, ready to train, and its head."""
    model = make(llama)
    logits = row_logits(model)
    assert can_share(model, logits)
    adapters.attach(model, adapters.AdapterSpec(2, 2.0, dora, dropout=dropout))
    for i, (_, layer) in enumerate(adapters.adapter_layers(model)):
        layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(100 + i))
    adapters.refresh(model)
    model.train()
    return model, logits


def pairs(seed: int = 0, count: int = 4) -> PairRows:
    """Random pairs; the second one's replies begin alike."""
    rng = np.random.default_rng(seed)
    sides: tuple[list[Any], list[Any]] = ([], [])
    for i in range(count):
        prompt = rng.integers(0, VOCAB, rng.integers(2, 20)).tolist()
        for side in sides:
            reply = [*([7, 8] if i == 1 else []), *rng.integers(0, VOCAB, rng.integers(1, 12)).tolist()]
            side.append(make_row([*prompt, *reply], [False] * len(prompt) + [True] * len(reply)))
    return PairRows(tuple(sides[0]), tuple(sides[1]), 0)


def batch_of(rows: PairRows, dropout: bool = False) -> tuple[dict[str, mx.array], mx.array | None]:
    """A micro-batch of all the rows with a reference, and the row keys where dropout needs some."""
    count = len(rows.chosen)
    plain = rows.batch(range(count))
    batch = {name: mx.array(value) for name, value in plain.items()}
    batch["reference"] = mx.array(np.random.default_rng(1).normal(-30, 3, 2 * count).astype(np.float32))
    if not dropout:
        return batch, None
    keys = row_keys(0, 1, 2, range(count))
    return batch, mx.array(token_keys(keys, plain) if rows.shared else np.tile(keys, (2, 1)))


def step(model: Any, logits: Any, rows: PairRows, *, dropout: bool = False, compiled: bool = False) -> Any:
    """``(loss, metrics, gradients by name)`` of one DPO step with every option on."""
    batch, keys = batch_of(rows, dropout)
    if keys is not None:
        adapters.set_row_keys(model, keys)
    objective = objectives.dpo(logits, 0.1, 0.3)
    value_and_grad = nn.value_and_grad(model, lambda b, k: objective(model, b, k))
    run = mx.compile(value_and_grad, inputs=[model.state]) if compiled else value_and_grad
    own = model.trainable_parameters()
    (loss, _, metrics), grads = run(batch, {"beta": mx.array(0.2)})
    model.update(own)
    return loss.item(), {k: v.tolist() for k, v in metrics.items()}, dict(tree_flatten(grads))


def assert_same(found: Any, expected: Any) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    for name, values in expected[1].items():
        assert found[1][name] == pytest.approx(values, rel=1e-4, abs=1e-4), name
    assert found[2].keys() == expected[2].keys()
    for name, grad in expected[2].items():
        assert mx.abs(found[2][name] - grad).max().item() <= 1e-3 * mx.abs(grad).max().item(), name


@pytest.mark.parametrize("dropout", [0.0, 0.3], ids=["plain", "dropout"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_loss_metrics_and_gradients_are_those_of_plain_rows(dora: bool, dropout: float) -> None:
    model, logits = adapted(dora, dropout)
    rows = pairs()
    plain, ours = (step(model, logits, r, dropout=dropout > 0) for r in (rows, replace(rows, shared=True)))
    assert_same(ours, plain)
    if dropout:
        model.eval()
        assert step(model, logits, rows)[0] != pytest.approx(plain[0], rel=1e-3)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "recomputed"])
def test_compiling_and_checkpointing_change_nothing(compiled: bool, checkpointed: bool) -> None:
    """Two batches of one shape and one of another go through."""
    model, logits = adapted(dora=True, dropout=0.2)
    some = [replace(pairs(seed, count), shared=True) for seed, count in ((0, 4), (1, 4), (2, 3))]
    expected = [step(model, logits, rows, dropout=True) for rows in some]
    if checkpointed:
        checkpoint_blocks(model)
    for rows, wanted in zip(some, expected, strict=True):
        assert_same(step(model, logits, rows, dropout=True, compiled=compiled), wanted)


def test_neither_reply_sees_the_other() -> None:
    """Other tokens in the one change nothing for the other; other tokens in the prompt do."""
    model, logits = adapted(dora=False)
    batch, _ = batch_of(replace(pairs(), shared=True))
    before = np.asarray(objectives.row_log_probs(logits, model, batch, 8)[0])
    prompt, stem = (np.asarray(value)[:, None] for value in (batch["prompt"], batch["prompt"] + batch["chosen"]))
    place = np.arange(batch["tokens"].shape[1])
    parts = {"prompt": place < prompt, "chosen": (prompt <= place) & (place < stem), "rejected": stem <= place}
    for part, moved in (("prompt", (True, True)), ("chosen", (True, False)), ("rejected", (False, True))):
        tokens = np.asarray(batch["tokens"]).copy()
        tokens[parts[part]] = (tokens[parts[part]] + 1) % VOCAB
        after = np.asarray(objectives.row_log_probs(logits, model, {**batch, "tokens": mx.array(tokens)}, 8)[0])
        for side, changed in zip((slice(0, 4), slice(4, 8)), moved, strict=True):
            assert bool(np.abs(after - before)[side].max() > 1e-3) is changed, (part, side)


@pytest.mark.parametrize("kind", [llama, qwen2, qwen3, gemma])
def test_models_with_plain_attention_share_prompts(kind: Any) -> None:
    model = make(kind, head_dim=8, tie_word_embeddings=True, rope_theta=10000.0, max_position_embeddings=512)
    assert can_share(model, row_logits(model))


@pytest.mark.parametrize("bits", [None, 4])
def test_scaled_positions_half_precision_and_quantized_weights_share_too(bits: int | None) -> None:
    model = make(llama, rope_scaling=LLAMA3_ROPE, max_position_embeddings=64)
    model.set_dtype(mx.bfloat16)
    if bits:
        nn.quantize(model, group_size=32, bits=bits)
    assert can_share(model, row_logits(model))


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (gemma3_text, {"head_dim": 8, "sliding_window": 4, "sliding_window_pattern": 2}),
        (gpt2, {"n_ctx": 64, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "layer_norm_epsilon": 1e-5}),
        (mamba, {"state_size": 4, "conv_kernel": 2, "use_bias": False, "use_conv_bias": True, "time_step_rank": 4}),
    ],
    ids=["sliding window", "learned positions", "recurrent"],
)
def test_other_models_do_not(kind: Any, config: dict[str, Any]) -> None:
    model = make(kind, **config)
    assert not can_share(model, row_logits(model))


def test_positions_that_go_on_behind_the_chosen_reply_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe is no formality: without the RoPE's part of it, the mask alone is not enough."""
    monkeypatch.setattr(shared_prefix, "_branching", lambda kind: kind)
    model = make(llama)
    assert not can_share(model, row_logits(model))


def test_a_prepared_model_still_writes_as_before() -> None:
    """Prompt and token by token, with a cache of keys and values."""
    model = make(llama)
    tokens = mx.array([[5, 17, 3, 60, 9]])
    expected = model(tokens)
    shared_prefix.prepare(model)
    kinds = [type(m) for m in model.modules()]
    shared_prefix.prepare(model)
    assert [type(m) for m in model.modules()] == kinds
    assert mx.array_equal(model(tokens), expected)
    cache = make_prompt_cache(model)
    found = [model(tokens[:, :3], cache=cache), *(model(tokens[:, i : i + 1], cache=cache) for i in (3, 4))]
    assert mx.allclose(mx.concatenate(found, axis=1), expected, atol=1e-4)
