"""Predicted peaks against steps that are really made, and what the prediction must do."""

from __future__ import annotations

from dataclasses import replace

import mlx_persona.backend

# isort: split

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_persona.planner.calibrate import Case, llama, measure, predicted
from mlx_persona.planner.memory import (
    DENSE,
    PACKED,
    Load,
    Setup,
    fewest_checkpoints,
    generation_peak,
    holding,
    peak,
    resident,
    saved_sizes,
    sizes,
    states_of,
)
from mlx_persona.planner.shapes import shapes
from mlx_persona.training.optim import make_optimizer
from tests.planner.test_shapes import QWEN_7B

# Peaks repeat to about a hundredth; of these cases none was off by more than 7 % (docs/planner.md).
TOLERANCE = 0.1
MODEL = llama(4, 384, 1024, 6, 2, 4096)
SEVEN = shapes(QWEN_7B)
MIXTURE = {
    **llama(2, 384, 768, 4, 2, 4096),
    "model_type": "qwen3_moe",
    "head_dim": 96,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 160,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
}


@pytest.mark.skipif(not mlx_persona.backend.on_cpu(), reason="the CPU's model")
@pytest.mark.parametrize(
    "case",
    [
        Case(MODEL, 4, 128, 128, 8, True),
        Case(MODEL, 4, 128, 128, 8, True, checkpointed=True),
        Case(MODEL, 1, 512, 64, 8, False),
        Case(MODEL, 1, 512, 64, 8, False, checkpointed=True),
        Case(MODEL, 2, 128, 64, 64, True, num_layers=2, accumulation=2),
        Case(MODEL, 4, 128, 128, 8, True, pairs=True, accumulation=2),
        Case(MODEL, 4, 128, 128, 8, True, kl=0.05),
        Case(MODEL, 4, 128, 128, 8, True, checkpointed=True, kl=0.05),
        Case(MIXTURE, 2, 256, 128, 8, False),
        Case({**MIXTURE, "num_hidden_layers": 4}, 2, 128, 128, 8, False, checkpointed=True),
    ],
    ids=[
        *("dora", "dora recomputed", "lora", "lora recomputed", "two blocks", "pairs", "anchor", "anchor recomputed"),
        *("experts", "experts recomputed"),
    ],
)
def test_a_real_step_peaks_where_it_was_predicted(case: Case) -> None:
    """None of these was fitted to: other widths, vocabulary and depth."""
    found = measure(case)
    assert predicted(case).bytes == pytest.approx(max(found.step, found.update, found.evaluation), rel=TOLERANCE)
    assert predicted(case).parts["base"] == pytest.approx(found.base, rel=0.01)


SETUP = Setup(64, True, accumulation=2)
LOAD = Load(1, 1024, 256)


def bytes_of(setup: Setup = SETUP, load: Load = LOAD) -> int:
    return peak(SEVEN, setup, load, load).bytes


def test_less_takes_less() -> None:
    assert bytes_of(replace(SETUP, checkpointed=28)) < bytes_of(replace(SETUP, checkpointed=14)) < bytes_of()
    assert bytes_of(replace(SETUP, rank=8)) < bytes_of()
    assert bytes_of(replace(SETUP, dora=False)) < bytes_of()
    assert bytes_of(replace(SETUP, num_layers=4)) < bytes_of()
    assert bytes_of(load=Load(1, 512, 128)) < bytes_of()
    assert bytes_of(replace(SETUP, held=PACKED)) < bytes_of()


@pytest.mark.parametrize(
    ("blocks", "measured"), [(1, 1.498e9), (2, 1.656e9), (4, 1.949e9), (28, 5.508e9)], ids=lambda value: f"{value:g}"
)
def test_steps_of_a_quantized_7b_model_were_measured(blocks: int, measured: float) -> None:
    """Blocks of Qwen2.5-7B's shape, kept in 4 bits on the CPU, 512 tokens (docs/planner.md)."""
    model = shapes({**QWEN_7B, "num_hidden_layers": blocks})
    load = Load(1, 512, 256)
    found = peak(model, Setup(8, True, checkpointed=blocks, held=PACKED), load, load)
    assert found.step == pytest.approx(measured, rel=0.05)


def test_attention_in_blocks_keeps_no_probabilities_of_a_long_sequence() -> None:
    block = SEVEN.blocks[0]
    short, long = (sizes(SEVEN, block, Load(2, length, 8), Setup(8)) for length in (256, 1024))
    assert (short.scores, short.probabilities) == (2 * 28 * 256 * 256, 2 * 28 * 256 * 256)
    assert (long.scores, long.probabilities) == (2 * 28 * 256 * 1024, 0)
    gpu = sizes(SEVEN, block, Load(2, 1024, 8), Setup(8, device="metal"))
    assert gpu.scores == gpu.probabilities == 2 * 28 * 1024 * 1024


def test_where_blocks_are_recomputed_mlps_take_512_tokens_at_a_time() -> None:
    block, load = SEVEN.blocks[0], Load(2, 2048, 8)
    whole, parts = (sizes(SEVEN, block, load, Setup(8, checkpointed=count)) for count in (0, 1))
    assert (whole.gated, parts.gated) == (2 * 2048 * 18944, 2 * 512 * 18944)
    assert (whole.gating, parts.gating) == (2 * whole.gated, 2 * parts.gated)
    assert whole.opened == parts.opened == 2 * 2048 * (3584 + 2 * 512)
    assert saved_sizes(SEVEN, block, load, Setup(8, checkpointed=1)).gated == 0  # such a part is recomputed as well
    assert saved_sizes(SEVEN, block, load, Setup(8)) == whole


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor"])
def test_an_optimizer_keeps_as_many_numbers_as_are_planned(name: str) -> None:
    """Of A and B; the magnitudes are few."""
    optimizer = make_optimizer(name, 0.0)
    weights = {"a": mx.zeros((4096, 64)), "b": mx.zeros((64, 4096))}
    optimizer.init(weights)
    kept = sum(value.size for _, value in tree_flatten(optimizer.state) if value.size > 1)
    assert kept / (2 * 64 * 4096) == pytest.approx(states_of(name, 64), rel=0.05)


def test_smaller_optimizer_states_save_what_they_are() -> None:
    setup = replace(SETUP, rank=256, checkpointed=28)
    small = replace(setup, states=0.0)
    saved = peak(SEVEN, setup, LOAD, LOAD).update - peak(SEVEN, small, LOAD, LOAD).update
    assert saved == peak(SEVEN, setup, LOAD, LOAD).parts["optimizer"]


def test_an_anchor_takes_the_hidden_states_and_the_gradient_of_the_targets_once_more() -> None:
    """Not the activations of another forward pass: it is over when the model's begins."""
    plain, anchored = (peak(SEVEN, replace(SETUP, anchored=on), LOAD, LOAD) for on in (False, True))
    states = 4 * LOAD.targets * SEVEN.width
    assert states <= anchored.step - plain.step <= 8 * states
    assert anchored.evaluation > plain.evaluation


def test_the_fewest_blocks_that_fit_are_checkpointed() -> None:
    """One block fewer would not fit."""
    budget = bytes_of(replace(SETUP, checkpointed=10))
    assert fewest_checkpoints(SEVEN, SETUP, LOAD, LOAD, budget) == 10
    assert bytes_of(replace(SETUP, checkpointed=9)) > budget
    assert fewest_checkpoints(SEVEN, SETUP, LOAD, LOAD, 10**9) is None


def test_a_base_is_dense_on_the_cpu_where_it_fits() -> None:
    assert holding(SEVEN, "cpu", 64 * 2**30) == DENSE
    assert holding(SEVEN, "cpu", 48 * 2**30) == PACKED  # 28 GiB of 48 are more than half
    assert holding(SEVEN, "cpu", 16 * 2**30) == PACKED
    assert holding(SEVEN, "metal", 64 * 2**30) == PACKED
    assert resident(SEVEN, Setup(8)) == 4 * SEVEN.parameters


def test_writing_replies_takes_keys_and_values_for_every_row() -> None:
    setup = Setup(0, False, device="metal", held=PACKED)
    few, many = (generation_peak(SEVEN, setup, Load(rows, 512, rows), 57344) for rows in (8, 32))
    assert many - few > 57344 * 24 * 512


def test_the_phase_of_the_peak_is_named() -> None:
    """Four long rows in an evaluation can take more than one in a step."""
    wide = Load(8, 1024, 4096)
    assert peak(SEVEN, replace(SETUP, checkpointed=28), LOAD, wide).phase == "evaluation"
    assert peak(SEVEN, SETUP, LOAD, LOAD).phase == "step"
