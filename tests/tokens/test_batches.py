"""Plans, keys and padding, against naive constructions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_persona.tokens.batches import (
    WINDOW,
    Plan,
    Row,
    collate,
    collate_packed,
    evenly,
    make_row,
    ordered_batches,
    row_keys,
    token_keys,
)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    out = []
    for _ in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, 40))
        ids = draw(st.lists(st.integers(1, 99), min_size=length, max_size=length))
        out.append(make_row(ids, draw(st.lists(st.booleans(), min_size=length, max_size=length))))
    return out


@given(rows=rows(), length_step=st.integers(1, 40), target_step=st.integers(1, 70))
def test_a_batch_equals_its_naive_construction(rows: list[Row], length_step: int, target_step: int) -> None:
    batch = collate(rows, length_step, target_step)
    longest = max(len(r.ids) for r in rows) - 1
    width = batch["tokens"].shape[1]
    assert width == max(length_step, length_step * ((longest + length_step - 1) // length_step))
    expected = []
    for b, row in enumerate(rows):
        for t in range(width):
            assert batch["tokens"][b, t] == (row.ids[t] if t < len(row.ids) - 1 else 0)
        expected += [(b * width + t - 1, row.ids[t], b, 1.0) for t in range(1, len(row.ids)) if row.mask[t]]
    size = len(batch["weights"])
    assert size % target_step == 0
    assert 0 <= size - len(expected) < target_step or size == target_step
    names = ("positions", "targets", "segments", "weights")
    assert list(zip(*(batch[n].tolist() for n in names), strict=True)) == expected + [(0, 0, 0, 0.0)] * (
        size - len(expected)
    )
    assert {n: batch[n].dtype.name for n in ("tokens", *names)} == {
        "tokens": "int32",
        "positions": "int32",
        "targets": "int32",
        "segments": "int32",
        "weights": "float32",
    }
    assert sum(r.targets for r in rows) == len(expected)


@given(rows=rows(), cuts=st.sets(st.integers(1, 20)))
def test_a_packed_batch_equals_its_naive_construction(rows: list[Row], cuts: set[int]) -> None:
    edges = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    sequences = [rows[a:b] for a, b in pairwise(edges)]
    batch = collate_packed(sequences, 8, 4)
    width = batch["tokens"].shape[1]
    expected = []
    for b, sequence in enumerate(sequences):
        tokens = [token for row in sequence for token in row.ids[:-1].tolist()]
        blocks = [number for number, row in enumerate(sequence) for _ in row.ids[:-1]]
        assert batch["tokens"][b].tolist() == tokens + [0] * (width - len(tokens))
        assert batch["blocks"][b].tolist() == blocks + [-1] * (width - len(tokens))
        start = b * width
        for number, row in enumerate(sequence, edges[b]):
            expected += [(start + t - 1, row.ids[t], number) for t in range(1, len(row.ids)) if row.mask[t]]
            start += len(row.ids) - 1
    count = int(batch["weights"].sum())
    found = zip(*(batch[name][:count].tolist() for name in ("positions", "targets", "segments")), strict=True)
    assert list(found) == expected


def test_a_token_of_a_packed_row_has_the_key_that_it_has_alone() -> None:
    """A row's key, its second half counted up along the row, wherever the row stands."""
    packed = [make_row(range(n), [True] * n) for n in (4, 3, 6)]
    keys = row_keys(0, 1, 2, [7, 8, 9])
    found = token_keys(keys, collate_packed([packed[:2], packed[2:]], 8)["blocks"])
    assert (found.shape, found.dtype) == ((2, 8, 2), np.uint32)
    high, low = keys[:, 0].tolist(), keys[:, 1].tolist()
    places = [(0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 0, 1), (0, 1, 1)]
    assert found[0, :5].tolist() == [[high[r], (low[r] + t) % 2**32] for _, t, r in places]
    assert found[1, :5].tolist() == [[high[2], (low[2] + t) % 2**32] for t in range(5)]


lengths = st.lists(st.integers(1, 500), min_size=1, max_size=300)


@given(lengths=lengths, size=st.integers(1, 9), seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
@settings(max_examples=50)
def test_an_epoch_has_every_row_exactly_once(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    plan = Plan(tuple(lengths), size, seed)
    batches = plan.epoch(epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == plan.per_epoch
    assert all(1 <= len(batch) <= size for batch in batches)
    assert list(batches) == list(Plan(tuple(lengths), size, seed).epoch(epoch))


def test_another_seed_or_epoch_gives_another_order() -> None:
    lengths = tuple(range(1, 101))
    plans = [
        list(plan)
        for plan in (Plan(lengths, 4, 0).epoch(0), Plan(lengths, 4, 0).epoch(1), Plan(lengths, 4, 1).epoch(0))
    ]
    assert all(a != b for i, a in enumerate(plans) for b in plans[i + 1 :])
    assert {frozenset(b) for b in plans[0]} != {frozenset(b) for b in plans[1]}  # other company, not only other order


@given(numbers=st.lists(st.integers(0, 60), min_size=1, max_size=20), size=st.integers(1, 5))
def test_micro_batches_can_be_asked_for_in_any_order(numbers: list[int], size: int) -> None:
    lengths = tuple((7 * i) % 31 + 1 for i in range(23))
    plan = Plan(lengths, size, 3)
    sequence = [(epoch, batch) for epoch in range(61 // plan.per_epoch + 1) for batch in plan.epoch(epoch)]
    assert [plan.micro_batch(n) for n in numbers] == [sequence[n] for n in numbers]


@given(
    weights=st.lists(st.floats(0, 5), min_size=1, max_size=60).filter(lambda w: sum(w) > 0.1),
    size=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_an_epoch_shares_its_places_out_by_weight(weights: list[float], size: int, seed: int) -> None:
    """Every row comes its share of the places, rounded up or down; equal weights are no weights."""
    lengths = tuple(range(1, len(weights) + 1))
    plan = Plan(lengths, size, seed, tuple(weights))
    drawn = np.bincount([i for batch in plan.epoch(2) for i in batch], minlength=len(weights))
    share = np.asarray(weights) * len(weights) / sum(weights)
    assert drawn.sum() == len(weights)
    assert len(plan.epoch(2)) == plan.per_epoch
    assert np.all(np.abs(drawn - share) < 1 + 1e-9)
    assert np.all(drawn[share == 0] == 0)
    alike = Plan(lengths, size, seed, (2.5,) * len(weights))
    assert list(alike.epoch(1)) == list(Plan(lengths, size, seed).epoch(1))


def test_over_epochs_a_row_comes_as_often_as_its_weight() -> None:
    plan = Plan((5, 5, 5, 5), 2, 0, (1.0, 0.5, 2.0, 0.1))
    drawn = np.bincount([i for epoch in range(3000) for batch in plan.epoch(epoch) for i in batch])
    assert drawn / drawn.sum() == pytest.approx(np.array([1.0, 0.5, 2.0, 0.1]) / 3.6, abs=0.01)


def test_batches_hold_rows_of_like_length() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 500, 4 * WINDOW * 8)
    padded = sum(max(lengths[i] for i in b) * len(b) for b in Plan(tuple(lengths.tolist()), 8, 0).epoch(0))
    shuffled = sum(lengths[i : i + 8].max() * 8 for i in range(0, len(lengths), 8))
    assert padded < 1.1 * lengths.sum()
    assert shuffled > 1.5 * lengths.sum()


def test_a_row_key_depends_on_seed_epoch_update_and_row_only() -> None:
    base = row_keys(1, 2, 3, [4, 5])
    assert base.shape == (2, 2)
    assert base.dtype == np.uint32
    others = [row_keys(*c) for c in ((9, 2, 3, [4, 5]), (1, 9, 3, [4, 5]), (1, 2, 9, [4, 5]), (1, 2, 3, [9, 8]))]
    keys = [tuple(key) for part in (base, *others) for key in part.tolist()]
    assert len(set(keys)) == 10
    np.testing.assert_array_equal(row_keys(1, 2, 3, [7, 5, 4])[[2, 1]], base)


@given(lengths=lengths, size=st.integers(1, 9))
def test_the_evaluation_order_is_frozen_shortest_first_and_complete(lengths: list[int], size: int) -> None:
    batches = ordered_batches(lengths, size)
    flat = [i for b in batches for i in b]
    assert flat == sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)


@given(n=st.integers(0, 300), limit=st.integers(1, 300))
def test_evenly_spread_indices_are_distinct_in_order_and_spread(n: int, limit: int) -> None:
    got = evenly(n, limit)
    assert len(got) == min(n, limit)
    assert got == sorted(set(got))
    assert all(0 <= i < n for i in got)
    gaps = np.diff([*got, n])
    if n:
        assert got[0] == 0
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(("n", "limit", "expected"), [(10, 4, [0, 2, 5, 7]), (3, 9, [0, 1, 2]), (0, 4, [])])
def test_evenly_by_example(n: int, limit: int, expected: Sequence[int]) -> None:
    assert evenly(n, limit) == expected
