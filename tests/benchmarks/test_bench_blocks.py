"""The benchmark of a 7B's blocks, on a small shape: the same work on every side, and all as it was afterwards."""

from __future__ import annotations

import json
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import qwen2
from mlx_lm.tuner.trainer import default_loss

from mlx_persona.benchmarks import blocks
from mlx_persona.benchmarks.blocks import BlocksBenchResult, bench_blocks, random_model
from mlx_persona.benchmarks.flops import block_shapes
from mlx_persona.config import BlocksBenchConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.heads import row_logits
from mlx_persona.models.quantized import dense_weight
from mlx_persona.training import objectives

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
ALL = ("ours-dora", "ours-lora", "stock-dora", "stock-lora")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "SHAPE", {**blocks.SHAPE, **SMALL})


def config(**options: Any) -> BlocksBenchConfig:
    return BlocksBenchConfig(**{"vocab": 256, "seq": 32, "rank": 2, **options})


def arrays(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.array(value.astype(mx.float32)) for name, value in tree_flatten(model.parameters())}


def test_the_shape_is_qwens() -> None:
    """The 7B's own count: 6.53 B parameters in 28 blocks, by its model card, are 233 M in one."""
    big = {**blocks.SHAPE, "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28}
    arguments = {**big, "num_key_value_heads": 4, "num_hidden_layers": 1, "vocab_size": 64}
    lazy = qwen2.Model(qwen2.ModelArgs.from_dict(arguments))
    assert sum(out * inner for out, inner in block_shapes(lazy)) * 28 == pytest.approx(6.53e9, rel=1e-3)


def test_weights_are_random_codes_of_the_usual_size() -> None:
    model = random_model(2, 256, 0)
    coded = [m for m in model.modules() if "scales" in m]
    assert len(coded) == 2 * 7 + 2
    assert all((m.bits, m.group_size) == (4, 64) for m in coded)
    first, second = (dense_weight(block.mlp.up_proj) for block in model.layers)
    assert np.array(first).std() == pytest.approx(1 / 8, rel=0.05)
    assert abs(np.array(first).mean()) < 0.01
    assert len(np.unique(np.array(first))) == 16
    assert not mx.array_equal(first, second)


def test_all_sides_are_measured_and_the_model_is_as_it_was() -> None:
    model = random_model(2, 256, 0)
    before, kinds, call = arrays(model), [type(m) for m in model.modules()], qwen2.TransformerBlock.__call__
    for checkpoint in (True, False):
        settings = config(checkpoint=checkpoint, accumulation=2, steps=1)
        for dora in (True, False):
            with blocks._classes_kept(model):
                seconds, parts = blocks._ours(model, dora, settings)
            assert seconds > 0
            assert list(parts) == ["attaching", "evaluation", "micro-batch 1", "micro-batch 2", "update and norms"]
            with blocks._classes_kept(model):
                seconds, peak = blocks._stock(model, dora, settings)
            assert seconds > 0
            assert peak > 0
    assert [type(m) for m in model.modules()] == kinds
    assert qwen2.TransformerBlock.__call__ is call
    after = arrays(model)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    assert not adapters.trainable(model)


def test_ours_and_stock_have_the_same_loss_to_begin_with() -> None:
    model, settings = random_model(2, 256, 0), config()
    batch = blocks._Random(settings, lambda part: None).train_batch(0, 0)
    loss, weight, _ = objectives.sft(row_logits(model))(model, batch, {})
    with blocks._as_loaded(model) as extra:
        assert type(model.lm_head) is nn.QuantizedLinear
        assert model.lm_head.scales.dtype == mx.float32
        assert extra == sum(2 * 4 * m.scales.size for m in model.modules() if "scales" in m)
        spans = mx.array([[17, 32]])
        theirs, count = default_loss(model, mx.array(blocks._tokens(settings, 0)[None]), spans)
    assert int(count) == int(weight) == 16
    assert float(loss / weight) == pytest.approx(float(theirs), rel=1e-3)


def test_checkpointing_is_really_on() -> None:
    """Ours computes the blocks again, so that the backward pass holds less."""
    model = random_model(8, 256, 0)
    peaks = []
    for checkpoint in (True, False):
        before = mx.get_active_memory()  # with what the tests before this one keep
        with blocks._classes_kept(model):
            _, parts = blocks._ours(model, False, config(checkpoint=checkpoint, steps=1, seq=256))
        peaks.append(parts["micro-batch 1"] - before)
    assert peaks[0] < 0.7 * peaks[1]


def test_ratios_name_what_they_are_of() -> None:
    sides = {
        side: {"seconds": s, "peak_bytes": p} for side, s, p in zip(ALL, (2, 1, 8, 4), (30, 20, 60, 40), strict=True)
    }
    result = BlocksBenchResult(sides, {}, 7)
    assert result.ratio() == {
        "ours_dora_over_lora_seconds": 2.0,
        "stock_dora_over_lora_seconds": 2.0,
        "dora_seconds": 0.25,
        "dora_peak_bytes": 0.5,
        "lora_seconds": 0.25,
        "lora_peak_bytes": 0.5,
    }
    assert BlocksBenchResult({"ours-dora": sides["ours-dora"]}, {}, 7).ratio() == {}


def test_the_result_has_a_line_for_each_side_and_its_parts() -> None:
    result = bench_blocks(config(side=("ours-lora", "ours-dora"), optimizer="adafactor", rounds=2))
    out = json.loads(json.dumps(result.to_json()))
    assert list(out["ratio"]) == ["ours_dora_over_lora_seconds"]
    for side in ("ours-lora", "ours-dora"):
        assert out["sides"][side].keys() == {"seconds", "peak_bytes"}
        assert out["parts"][side].keys() == {
            "attaching",
            "evaluation",
            "micro-batch 1",
            "update and norms",
            "between updates",
        }
    assert [row[0] for row in result.table()[1]] == [
        "ours dora over lora seconds",
        "ours-lora",
        "ours-dora",
        "bare model",
    ]


@pytest.mark.parametrize("shared", [True, False])
def test_a_pair_has_one_prompt_and_two_replies(shared: bool) -> None:
    source = blocks._RandomPairs(config(seq=64, pair=True), lambda part: None, shared)
    batch = source.train_batch(0, 1)
    # 31 inputs of a side: 16 of the prompt, and 16 of the reply, whose last is only predicted.
    assert batch["tokens"].shape == ((1, 48) if shared else (2, 32))
    assert batch["weights"].sum().item() == 32
    real = np.array(batch["weights"]) > 0
    targets, segments = (np.array(batch[name])[real] for name in ("targets", "segments"))
    first, second = targets[segments == 0], targets[segments == 1]
    assert len(first) == len(second) == 16
    assert not np.array_equal(first, second)


def test_pairs_are_trained_by_dpo() -> None:
    found = bench_blocks(config(blocks=1, seq=64, pair=True, checkpoint=True, side=("ours-dora",), steps=1))
    assert found.sides["ours-dora"]["peak_bytes"] > found.held_bytes


def test_stock_has_no_pairs() -> None:
    with pytest.raises(PersonaError, match="DPO"):
        bench_blocks(config(pair=True, side=("stock-dora",)))
