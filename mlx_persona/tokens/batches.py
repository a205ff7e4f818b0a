"""Rendered rows -> micro-batches: length-bucketed true epochs, planned from the seed alone.

The plan of every epoch follows from (seed, epoch), so any micro-batch can be named by its number:
resuming needs no replay, and nothing depends on how far a random stream has run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from mlx_persona.tokens.grouping import by_count, by_tokens, pack, round_up, take

Batch = dict[str, NDArray[np.generic]]

# Lengths are padded to a multiple of this, so that few shapes occur (few traces, reused buffers).
LENGTH_STEP = 8
# With a token budget, rows of one width class share micro-batches: wide classes leave few of them half filled.
CLASS_STEP = 32
TARGET_STEP = 64
# Rows are sorted by length within windows of this many micro-batches: little padding, yet a shuffle.
WINDOW = 16


@dataclass(frozen=True)
class Row:
    """One conversation as tokens: ids (L,), which of them are training targets (L,), and how often it is drawn.

    A row of ``weight`` 2 comes twice as often as one of weight 1, and one of weight 0 never.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    weight: float = 1.0

    @property
    def targets(self) -> int:
        """How many tokens are trained on (the first token of a row is never predicted)."""
        return int(self.mask[1:].sum())


def make_row(ids: Sequence[int], mask: Sequence[bool], weight: float = 1.0) -> Row:
    """A row from plain lists."""
    return Row(np.asarray(ids, np.int32), np.asarray(mask, np.bool_), weight)


def collate(rows: Sequence[Row], length_step: int = LENGTH_STEP, target_step: int = TARGET_STEP) -> Batch:
    """Pad rows into one micro-batch.

    Returns:
        tokens (B, T) inputs, right-padded with 0 (causal attention never looks there);
        positions (P,) flat indices b·T + t of the inputs whose next token is a target;
        targets (P,) those next tokens; segments (P,) their row; weights (P,) 1, or 0 for padding.
    """
    batch = collate_packed([[row] for row in rows], length_step, target_step)
    del batch["blocks"]
    return batch


def collate_packed(
    sequences: Sequence[Sequence[Row]], length_step: int = LENGTH_STEP, target_step: int = TARGET_STEP
) -> Batch:
    """Put rows one behind the other into sequences, and pad those into one micro-batch.

    Returns:
        As :func:`collate`; rows are numbered over all sequences. And blocks (B, T), which row of its sequence
        an input belongs to (-1: padding): nothing may look into another block.
    """
    longest = max(sum(len(row.ids) - 1 for row in sequence) for sequence in sequences)
    width = int(round_up(np.int64(longest), length_step))
    tokens = np.zeros((len(sequences), width), np.int32)
    blocks = np.full((len(sequences), width), -1, np.int32)
    positions, targets, counts = [], [], []
    for b, sequence in enumerate(sequences):
        start = 0
        for number, row in enumerate(sequence):
            end = start + len(row.ids) - 1
            tokens[b, start:end] = row.ids[:-1]
            blocks[b, start:end] = number
            at = np.flatnonzero(row.mask[1:])
            positions.append(b * width + start + at)
            targets.append(row.ids[1:][at])
            counts.append(len(at))
            start = end
    count = sum(counts)
    size = int(round_up(np.int64(count), target_step))

    def flat(values: NDArray[Any]) -> NDArray[np.int32]:
        out = np.zeros(size, np.int32)
        out[:count] = values
        return out

    weights = np.zeros(size, np.float32)
    weights[:count] = 1
    return {
        "tokens": tokens,
        "positions": flat(np.concatenate(positions)),
        "targets": flat(np.concatenate(targets)),
        "segments": flat(np.repeat(np.arange(len(counts)), counts)),
        "weights": weights,
        "blocks": blocks,
    }


def row_keys(seed: int, epoch: int, update: int, rows: Sequence[int]) -> NDArray[np.uint32]:
    """One random key per row, from (seed, epoch, update, row): (B, 2)."""
    keys = [np.random.SeedSequence((seed, epoch, update, row)).generate_state(2) for row in rows]
    return np.asarray(keys, np.uint32)


def token_keys(keys: NDArray[np.uint32], blocks: NDArray[Any]) -> NDArray[np.uint32]:
    """The row keys of packed sequences for every token: (B, T, 2), a row's key with its position added to the second.

    So a row's random draws are the same, packed or not.

    Args:
        keys: (R, 2), one per row over all sequences, as :func:`row_keys` makes them.
        blocks: (B, T), as :func:`collate_packed` makes them.
    """
    at = np.arange(blocks.shape[1])
    begins = np.diff(blocks, axis=1, prepend=-2) != 0  # (B, T)
    within = at - np.maximum.accumulate(np.where(begins, at, 0), axis=1)
    counts = blocks.max(axis=1) + 1  # rows of each sequence
    rows = (np.cumsum(counts) - counts)[:, None] + np.maximum(blocks, 0)
    out = keys[rows]  # (B, T, 2)
    out[..., 1] += within.astype(np.uint32)
    return out


@dataclass(frozen=True, eq=False)
class Epoch(Sequence[tuple[int, ...]]):
    """The micro-batches of one epoch, each as its row numbers.

    Sequence s is ``rows[starts[s]:starts[s + 1]]``: one row, or several that are packed. Micro-batch b is the
    sequences ``edges[b]`` to ``edges[b + 1]``.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    edges: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.edges) - 1

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, ...]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | list[tuple[int, ...]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return tuple(row for sequence in self.sequences(index) for row in sequence)

    def sequences(self, index: int) -> tuple[tuple[int, ...], ...]:
        """The row numbers of micro-batch ``index``, by sequence."""
        first, last = self.edges[range(len(self))[index]], self.edges[range(len(self))[index] + 1]
        ends = self.starts[first : last + 1].tolist()
        return tuple(tuple(self.rows[a:b].tolist()) for a, b in pairwise(ends))


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rows make up micro-batch number n, for every n >= 0; epochs follow one another.

    An epoch has as many places as there are rows. Where ``weights`` are given and not all alike, they are
    shared out by weight: over the epochs, a row comes weight / mean(weights) times per epoch.

    Attributes:
        lengths: tokens of each row.
        batch_size: sequences per micro-batch, unless there is a budget.
        seed: with the epoch's number, what decides the order.
        weights: how often each row is drawn; empty: all alike.
        batch_tokens: rows of like length together, at most so many tokens with their padding; 0: ``batch_size``.
        capacity: pack several rows into a sequence of at most so many tokens; 0: one row each.
    """

    lengths: Sequence[int] | NDArray[np.int32]
    batch_size: int
    seed: int
    weights: Sequence[float] | NDArray[np.float64] = ()
    batch_tokens: int = 0
    capacity: int = 0

    @cached_property
    def _inputs(self) -> NDArray[np.int64]:
        """Tokens that each row puts into a sequence: all but its last, which is only predicted."""
        return np.maximum(np.asarray(self.lengths, np.int64) - 1, 0)

    @property
    def per_epoch(self) -> int:
        """Micro-batches of the first epoch. The others have as many, but for weights and packs: about as many."""
        return len(self._cached(0))

    def epoch(self, epoch: int) -> Epoch:
        """The micro-batches of one epoch: each row exactly once, or by its weight."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        order = self._drawn(rng)
        lengths, starts = self._inputs[order], np.arange(len(order) + 1)
        if self.capacity:
            packed, starts = pack(lengths, self.capacity)
            order = order[packed]
            lengths = np.add.reduceat(lengths[packed], starts[:-1]) if len(order) else lengths
        if self.batch_tokens:
            sequences, edges = by_tokens(lengths, self.batch_tokens, CLASS_STEP)
        else:
            sequences, edges = by_count(lengths, self.batch_size, WINDOW * self.batch_size)
        shuffled, edges = take(edges, rng.permutation(len(edges) - 1))
        members, starts = take(starts, sequences[shuffled])
        return Epoch(order[members], starts, edges)

    def _drawn(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The rows of an epoch in random order, by weight."""
        order = rng.permutation(len(self.lengths))
        weights = np.asarray(self.weights, np.float64)
        if not (weights != weights[:1]).any():
            return order
        # Systematic sampling: each row gets its share rounded up or down, never more off than that.
        summed = np.cumsum(weights[order])
        places = (np.arange(len(order)) + rng.random()) * (summed[-1] / len(order))
        drawn = np.searchsorted(summed, places, side="right")
        return rng.permutation(order[np.minimum(drawn, len(order) - 1)])  # rounding may lead past the end

    def micro_batch(self, number: int) -> tuple[int, tuple[int, ...]]:
        """``(epoch, row numbers)`` of micro-batch ``number``, counted over all epochs."""
        epoch, index = self._place(number)
        return epoch, self._cached(epoch)[index]

    def sequences(self, number: int) -> tuple[int, tuple[tuple[int, ...], ...]]:
        """As :meth:`micro_batch`, with the rows of each sequence by themselves."""
        epoch, index = self._place(number)
        return epoch, self._cached(epoch).sequences(index)

    @property
    def widest(self) -> int:
        """What the longest row takes up with its padding."""
        return int(round_up(self._inputs.max(initial=0), CLASS_STEP))

    def padding(self) -> float:
        """The share of the first epoch's tokens that is padding."""
        plan = self._cached(0)
        if not len(plan):
            return 0.0
        inputs = self._inputs[plan.rows]
        longest = np.maximum.reduceat(np.add.reduceat(inputs, plan.starts[:-1]), plan.edges[:-1])
        return 1 - int(inputs.sum()) / int((round_up(longest, LENGTH_STEP) * np.diff(plan.edges)).sum())

    def describe(self) -> str:
        """What a micro-batch is, and what of it is wasted, for people."""
        size = f"up to {self.batch_tokens} tokens" if self.batch_tokens else f"{self.batch_size} rows"
        if self.capacity:
            size = f"{size} of packed sequences" if self.batch_tokens else f"{self.batch_size} packed sequences"
        return f"{size} ({self.padding():.0%} padding)"

    @cached_property
    def _firsts(self) -> list[int]:
        """The number of the first micro-batch of each epoch so far, and of the one after."""
        return [0]

    def _place(self, number: int) -> tuple[int, int]:
        """``(epoch, number within it)``: epochs are counted from the first, for not all are equally long."""
        while number >= self._firsts[-1]:
            self._firsts.append(self._firsts[-1] + len(self._cached(len(self._firsts) - 1)))
        epoch = bisect_right(self._firsts, number) - 1
        return epoch, number - self._firsts[epoch]

    @cached_property
    def _memo(self) -> dict[int, Epoch]:
        return {}

    def _cached(self, epoch: int) -> Epoch:
        if epoch not in self._memo:  # one epoch at a time
            self._memo.clear()
            self._memo[epoch] = self.epoch(epoch)
        return self._memo[epoch]


def ordered_batches(lengths: Sequence[int] | NDArray[np.int32], batch_size: int) -> list[tuple[int, ...]]:
    """The frozen order for evaluation: every row once, shortest first, the same every time."""
    order = np.argsort(np.asarray(lengths, np.int64), kind="stable").tolist()
    return [tuple(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]


def evenly(n: int, limit: int) -> list[int]:
    """``limit`` of ``n`` indices, evenly spread and in order (all of them if there are fewer)."""
    if n <= limit:
        return list(range(n))
    return [i * n // limit for i in range(limit)]
