"""What a plan says: sizes, checkpoints by choice, advice that leads to a run that fits, time."""

from __future__ import annotations

from dataclasses import replace

# isort: split

import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.planner import cost
from mlx_persona.planner.cost import Work, activations, seconds, training_flops
from mlx_persona.planner.estimate import Needs, advise, parse_memory, spoken_time, with_checkpoints
from mlx_persona.planner.memory import PACKED, Load, Setup, states_of
from mlx_persona.planner.shapes import shapes
from tests.planner.test_shapes import LLAMA, QWEN_7B

SEVEN = shapes(QWEN_7B)
NEEDS = Needs(SEVEN, Setup(64, device="metal", held=PACKED), Load(4, 2048, 2048), Load(4, 2048, 2048), 11 * 10**9)


@pytest.mark.parametrize(("text", "size"), [("16GB", 2**34), ("16", 2**34), ("0.5 gb", 2**29), ("100MB", 100 * 2**20)])
def test_memory_is_read_as_it_is_sold(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "16GBs"])
def test_what_is_no_size_is_an_error(text: str) -> None:
    with pytest.raises(PersonaError, match="memory must be a size such as 16GB"):
        parse_memory(text)


@pytest.mark.parametrize(("wanted", "count"), [("on", 28), ("off", 0), ("3", 3), ("0", 0)])
def test_checkpoints_are_those_asked_for(wanted: str, count: int) -> None:
    assert with_checkpoints(NEEDS, wanted).setup.checkpointed == count


def test_auto_checkpoints_nothing_where_all_fits_and_everything_where_nothing_does() -> None:
    assert with_checkpoints(replace(NEEDS, budget=10**12), "auto").setup.checkpointed == 0
    assert with_checkpoints(replace(NEEDS, budget=10**9), "auto").setup.checkpointed == 28


def test_more_blocks_than_there_are_is_an_error() -> None:
    with pytest.raises(PersonaError, match="grad_checkpoint must be <= 28 blocks for this model, got 29"):
        with_checkpoints(NEEDS, "29")


def test_advice_ends_with_the_first_change_that_fits() -> None:
    found = advise(NEEDS)
    assert [one.fits for one in found] == [False] * (len(found) - 1) + [True]
    assert found[0].change == "--grad-checkpoint on"
    peaks = [one.peak_bytes for one in found]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] <= NEEDS.budget < peaks[-2]


def test_a_sparing_optimizer_is_offered_before_a_smaller_adapter() -> None:
    said = advise(replace(NEEDS, budget=10**9))[-1].change
    assert said.index("--optimizer adafactor") < said.index("--rank")
    sparing = replace(NEEDS, budget=10**9, setup=replace(NEEDS.setup, states=states_of("adafactor", 64)))
    assert not any("--optimizer" in one.change for one in advise(sparing))


def test_what_fits_needs_no_advice() -> None:
    assert advise(replace(NEEDS, budget=10**12)) == []


def test_operations_are_counted_by_hand() -> None:
    """Three blocks of 27,648 weights, rank 2: see the sums."""
    small = shapes(LLAMA)
    block = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96
    adapter = 3 * 2 * (2 * 128 + 2 * 96 + 3 * 160)
    once = 2 * block + 4 * 10 * 64
    expected = 100 * (3 * 2 * once + 6 * adapter) + 50 * 4 * 64 * 128 + 20 * (3 * once + 2 * adapter)
    assert training_flops(small, Setup(2, False), Work(100, 50, 20, 10)) == expected
    more = training_flops(small, Setup(2, False, checkpointed=2), Work(100, 50, 20, 10))
    assert more - expected == 100 * 2 * once


def test_an_anchor_takes_a_forward_pass_of_everything_and_the_head_once_more() -> None:
    small, setup, work = shapes(LLAMA), Setup(2, False), Work(100, 50, 20, 10)
    more = training_flops(small, setup, work.anchored()) - training_flops(small, setup, work)
    assert more == training_flops(small, setup, Work(0, 50, 120, 10))


def test_time_is_products_over_the_rate_measured_here_and_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention hands on 64 and the MLP 96 numbers per token and block; a forward pass is a third of a step."""
    monkeypatch.setattr(cost.backend, "device_name", lambda: "cpu")
    monkeypatch.setattr(cost.backend, "measure_gflops", lambda seconds: 100.0)
    small, setup, work = shapes(LLAMA), Setup(2, False, checkpointed=3), Work(300, 50, 30, 10)
    assert activations(small, setup, work) == pytest.approx(3 * 160 * (300 * 4 + 30) / 3)
    expected = training_flops(small, setup, work) / 1e11 + cost._PER_ELEMENT["cpu"] * activations(small, setup, work)
    assert seconds(small, setup, work) == pytest.approx(expected)
    assert seconds(small, replace(setup, device="metal"), work) < expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.2, "about 1 s"), (42, "about 42 s"), (600, "about 10 min"), (7800, "about 2 h 10 min")],
)
def test_times_are_spoken(value: float, text: str) -> None:
    assert spoken_time(value) == text
