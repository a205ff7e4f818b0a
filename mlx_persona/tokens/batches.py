"""Rendered rows -> micro-batches: length-bucketed true epochs, planned from the seed alone.

The plan of every epoch follows from (seed, epoch), so any micro-batch can be named by its number:
resuming needs no replay, and nothing depends on how far a random stream has run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Batch = dict[str, NDArray[np.generic]]

# Lengths are padded to a multiple of this, so that few shapes occur (few traces, reused buffers).
LENGTH_STEP = 32
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


def _up(n: int, step: int) -> int:
    return max(step, -(-n // step) * step)


def collate(rows: Sequence[Row], length_step: int = LENGTH_STEP, target_step: int = TARGET_STEP) -> Batch:
    """Pad rows into one micro-batch.

    Returns:
        tokens (B, T) inputs, right-padded with 0 (causal attention never looks there);
        positions (P,) flat indices b·T + t of the inputs whose next token is a target;
        targets (P,) those next tokens; segments (P,) their row; weights (P,) 1, or 0 for padding.
    """
    width = _up(max(len(r.ids) - 1 for r in rows), length_step)
    tokens = np.zeros((len(rows), width), np.int32)
    positions, targets, segments = [], [], []
    for b, row in enumerate(rows):
        tokens[b, : len(row.ids) - 1] = row.ids[:-1]
        at = np.flatnonzero(row.mask[1:])
        positions.append(b * width + at)
        targets.append(row.ids[1:][at])
        segments.append(np.full(len(at), b))
    count = sum(len(p) for p in positions)
    size = _up(count, target_step)

    def flat(parts: Sequence[NDArray[Any]]) -> NDArray[np.int32]:
        out = np.zeros(size, np.int32)
        out[:count] = np.concatenate(parts)
        return out

    weights = np.zeros(size, np.float32)
    weights[:count] = 1
    return {
        "tokens": tokens,
        "positions": flat(positions),
        "targets": flat(targets),
        "segments": flat(segments),
        "weights": weights,
    }


def row_keys(seed: int, epoch: int, update: int, rows: Sequence[int]) -> NDArray[np.uint32]:
    """One random key per row, from (seed, epoch, update, row): (B, 2)."""
    keys = [np.random.SeedSequence((seed, epoch, update, row)).generate_state(2) for row in rows]
    return np.asarray(keys, np.uint32)


@dataclass(frozen=True)
class Plan:
    """Which rows make up micro-batch number n, for every n >= 0; epochs follow one another.

    An epoch has as many places as there are rows. Where ``weights`` are given and not all alike, they are
    shared out by weight: over the epochs, a row comes weight / mean(weights) times per epoch.
    """

    lengths: tuple[int, ...]
    batch_size: int
    seed: int
    weights: tuple[float, ...] = ()

    @property
    def per_epoch(self) -> int:
        """Micro-batches per epoch; the last one of a length window may be smaller, none is dropped."""
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, epoch: int) -> list[tuple[int, ...]]:
        """The micro-batches of one epoch, as row numbers: each row exactly once, or by its weight."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        order = rng.permutation(len(self.lengths))
        if len(set(self.weights)) > 1:
            # Systematic sampling: each row gets its share rounded up or down, never more off than that.
            summed = np.cumsum(np.asarray(self.weights, np.float64)[order])
            places = (np.arange(len(order)) + rng.random()) * (summed[-1] / len(order))
            drawn = np.searchsorted(summed, places, side="right")
            order = rng.permutation(order[np.minimum(drawn, len(order) - 1)])  # rounding may lead past the end
        window = WINDOW * self.batch_size
        batches: list[tuple[int, ...]] = []
        for start in range(0, len(order), window):
            part = sorted(order[start : start + window].tolist(), key=lambda i: self.lengths[i])
            batches += [tuple(part[i : i + self.batch_size]) for i in range(0, len(part), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def micro_batch(self, number: int) -> tuple[int, tuple[int, ...]]:
        """``(epoch, row numbers)`` of micro-batch ``number``, counted over all epochs."""
        epoch, index = divmod(number, self.per_epoch)
        return epoch, self._cached(epoch)[index]

    def _cached(self, epoch: int) -> list[tuple[int, ...]]:
        # One epoch at a time; frozen dataclass, so the memo lives in the instance's dict.
        memo: dict[int, list[tuple[int, ...]]] = self.__dict__.setdefault("_memo", {})
        if epoch not in memo:
            memo.clear()
            memo[epoch] = self.epoch(epoch)
        return memo[epoch]


def ordered_batches(lengths: Sequence[int], batch_size: int) -> list[tuple[int, ...]]:
    """The frozen order for evaluation: every row once, shortest first, the same every time."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [tuple(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]


def evenly(n: int, limit: int) -> list[int]:
    """``limit`` of ``n`` indices, evenly spread and in order (all of them if there are fewer)."""
    if n <= limit:
        return list(range(n))
    return [i * n // limit for i in range(limit)]
