"""Which rows go together: every row once, nothing over the budget, the same shapes again and again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_persona.tokens.batches import CLASS_STEP, LENGTH_STEP, WINDOW, Plan
from mlx_persona.tokens.grouping import PACK_WINDOW, by_tokens, pack

lengths = st.lists(st.integers(2, 300), min_size=1, max_size=200)
BUDGET, CAPACITY = 640, 320


def plain_epoch(plan: Plan, epoch: int) -> list[tuple[int, ...]]:
    """An epoch of batches of so many rows, as it is defined: windows of a shuffle, sorted, cut and shuffled."""
    rng = np.random.Generator(np.random.Philox(key=[plan.seed, epoch]))
    order = rng.permutation(len(plan.lengths)).tolist()
    batches = []
    for start in range(0, len(order), WINDOW * plan.batch_size):
        part = sorted(order[start : start + WINDOW * plan.batch_size], key=lambda i: plan.lengths[i])
        batches += [tuple(part[i : i + plan.batch_size]) for i in range(0, len(part), plan.batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


@given(lengths=lengths, size=st.integers(1, 9), seed=st.integers(0, 2**40), epoch=st.integers(0, 9))
@settings(max_examples=50)
def test_the_arrays_give_the_plain_definition(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    plan = Plan(lengths, size, seed)
    assert list(plan.epoch(epoch)) == plain_epoch(plan, epoch)


def test_a_plan_of_some_windows_gives_the_plain_definition() -> None:
    plan = Plan(np.random.default_rng(0).integers(2, 500, 1000).tolist(), 4, 5)
    assert list(plan.epoch(1)) == plain_epoch(plan, 1)


def width(longest: int, step: int = CLASS_STEP) -> int:
    return max(step, -(-longest // step) * step)


@given(lengths=lengths, seed=st.integers(0, 99), capacity=st.sampled_from([0, CAPACITY]), epoch=st.integers(0, 3))
def test_an_epoch_by_tokens_has_every_row_once_and_no_batch_over_the_budget(
    lengths: list[int], seed: int, capacity: int, epoch: int
) -> None:
    plan = Plan(lengths, 1, seed, (), BUDGET, capacity)
    found = plan.epoch(epoch)
    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))
    for index, batch in enumerate(found):
        sequences = found.sequences(index)
        assert tuple(row for sequence in sequences for row in sequence) == batch
        inputs = [sum(lengths[i] - 1 for i in sequence) for sequence in sequences]
        assert width(max(inputs)) * len(inputs) <= BUDGET
        assert max(inputs) <= (capacity or BUDGET)
        assert capacity or all(len(sequence) == 1 for sequence in sequences)
        assert 2 * width(min(inputs)) >= width(max(inputs))


@given(lengths=lengths, seed=st.integers(0, 99), size=st.integers(1, 5))
def test_a_packed_epoch_has_every_row_once_and_no_sequence_over_the_capacity(
    lengths: list[int], seed: int, size: int
) -> None:
    found = Plan(lengths, size, seed, (), 0, CAPACITY).epoch(0)
    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))
    for index in range(len(found)):
        sequences = found.sequences(index)
        assert 1 <= len(sequences) <= size
        assert all(sum(lengths[i] - 1 for i in sequence) <= CAPACITY for sequence in sequences)


@given(lengths=lengths)
def test_how_many_batches_the_budget_gives_does_not_depend_on_the_order(lengths: list[int]) -> None:
    """So an epoch has a fixed number of micro-batches."""
    plan = Plan(lengths, 1, 0, (), BUDGET)
    assert {len(plan.epoch(epoch)) for epoch in range(4)} == {plan.per_epoch}


@pytest.mark.parametrize("options", [{"batch_tokens": BUDGET}, {"capacity": CAPACITY}, {"weights": True}])
def test_numbers_run_on_over_epochs_of_unequal_length(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, 300, 90)
    weights = rng.random(90) if options.pop("weights", False) else ()
    plan = Plan(lengths, 2, 7, weights, **{"batch_tokens": 0, **options})
    every = [(epoch, batch) for epoch in range(12) for batch in plan.epoch(epoch)]
    numbers = rng.permutation(len(every))[:40].tolist()
    assert [plan.micro_batch(n) for n in numbers] == [every[n] for n in numbers]
    fresh = Plan(lengths, 2, 7, weights, **{"batch_tokens": 0, **options})
    assert fresh.micro_batch(len(every) - 1) == every[-1]  # a resumed run asks for a late one first


def test_weights_hold_for_packed_rows_and_budgets() -> None:
    weights = np.asarray([1.0, 0.0, 2.0, 0.5, 4.0, 1.0])
    plan = Plan([40, 50, 60, 70, 80, 90], 1, 0, weights, BUDGET, CAPACITY)
    drawn = np.bincount([i for epoch in range(2000) for batch in plan.epoch(epoch) for i in batch], minlength=6)
    assert drawn / drawn.sum() == pytest.approx(weights / weights.sum(), abs=0.01)


def test_a_token_budget_gives_few_shapes() -> None:
    """Full batches of a width all have as many rows; only where a width runs out there may be others."""
    lengths = np.random.default_rng(1).integers(2, 513, 5000)
    order, edges = by_tokens(lengths - 1, 2048, CLASS_STEP)
    shapes = [(width(int(lengths[order[a]]) - 1), int(b - a)) for a, b in pairwise(edges)]
    widths = {w for w, _ in shapes}
    assert len(widths) == 16
    assert all(rows <= 2048 // w for w, rows in shapes)
    assert sum(rows != 2048 // w for w, rows in shapes) <= 3  # the narrowest, where nothing is left to fill up with


def test_packing_fills_sequences() -> None:
    lengths = np.random.default_rng(2).integers(5, 200, 2 * PACK_WINDOW + 17)
    _, edges = pack(lengths, 512)
    assert 512 * (len(edges) - 1) < 1.01 * lengths.sum() + 3 * 512  # a last one per window


def test_packing_by_example() -> None:
    order, edges = pack(np.asarray([3, 7, 5, 5, 2, 8]), 10)
    packs = [sorted(order[a:b].tolist()) for a, b in pairwise(edges)]
    assert packs == [[4, 5], [0, 1], [2, 3]]


@given(lengths=lengths, options=st.sampled_from([(3, 0, 0), (1, BUDGET, 0), (2, 0, CAPACITY), (1, BUDGET, CAPACITY)]))
def test_padding_is_what_the_arrays_hold_beyond_the_inputs(lengths: list[int], options: tuple[int, int, int]) -> None:
    size, budget, capacity = options
    plan = Plan(lengths, size, 0, (), budget, capacity)
    found = plan.epoch(0)
    total = 0
    for index in range(len(found)):
        inputs = [sum(lengths[i] - 1 for i in sequence) for sequence in found.sequences(index)]
        total += width(max(inputs), LENGTH_STEP) * len(inputs)
    assert plan.padding() == pytest.approx(1 - sum(n - 1 for n in lengths) / total)
    assert f"{plan.padding():.0%} padding" in plan.describe()
