"""Preference pairs -> rows, and rows -> micro-batches in which a pair's common beginning stands once.

Two layouts. Stacked: all chosen rows, then all rejected rows, each with its own copy of the prompt.
Shared: one row ``prompt, chosen, rejected`` per pair, one behind the other and padded at the end;
models/shared_prefix.py tells the attention which part may look at which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_persona.errors import PersonaError
from mlx_persona.schema import Message, Pair, read_pairs
from mlx_persona.tokens.batches import LENGTH_STEP, Batch, Row, collate, make_row
from mlx_persona.tokens.grouping import round_up
from mlx_persona.tokens.render import Renderer

# Two replies count as equally long when the shorter has at least this share of the longer's tokens.
MATCHED = 0.75


@dataclass(frozen=True)
class PairRows:
    """Chosen and rejected rows of the same pairs, in the same order; ``dropped`` did not fit.

    ``shared``: whether a micro-batch holds a pair's prompt once (see the module) or twice.
    """

    chosen: tuple[Row, ...]
    rejected: tuple[Row, ...]
    dropped: int
    shared: bool = False

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of the longer side of each pair."""
        return tuple(max(len(c.ids), len(r.ids)) for c, r in zip(self.chosen, self.rejected, strict=True))

    @cached_property
    def parts(self) -> NDArray[np.int64]:
        """Inputs in each pair's common beginning, and in each side behind it: (N, 3).

        What follows a side's last target is no input: nothing is predicted from it.
        """
        return np.array([_parts(c, r) for c, r in zip(self.chosen, self.rejected, strict=True)]).reshape(-1, 3)

    @property
    def order(self) -> tuple[int, ...]:
        """What micro-batches are sorted by: neighbours in this order waste little padding on each other."""
        return tuple(self.parts.sum(axis=1).tolist()) if self.shared else self.lengths

    def width(self, members: Sequence[int]) -> int:
        """Padded tokens of a row in a micro-batch of these pairs in the shared layout."""
        longest = self.parts[list(members)].sum(axis=1).max()
        return max(LENGTH_STEP, int(round_up(longest, LENGTH_STEP)))

    def batch(self, members: Sequence[int]) -> Batch:
        """A micro-batch of these pairs in the layout of the rows: :func:`stacked` or :func:`shared`, and

        ``matched`` (N,), 1 where both sides are about equally long.
        """
        out = shared(self, members) if self.shared else stacked(self, members)
        lengths = [sorted((self.chosen[i].targets, self.rejected[i].targets)) for i in members]
        return {**out, "matched": np.array([short >= MATCHED * long for short, long in lengths], np.float32)}


def _parts(chosen: Row, rejected: Row) -> tuple[int, int, int]:
    ends = [int(np.flatnonzero(row.mask)[-1]) for row in (chosen, rejected)]
    least = min(len(chosen.ids), len(rejected.ids))
    differ = np.flatnonzero(chosen.ids[:least] != rejected.ids[:least])
    common = min(int(differ[0]) if len(differ) else least, max(ends))
    return common, max(0, ends[0] - common), max(0, ends[1] - common)


def stacked(rows: PairRows, members: Sequence[int]) -> Batch:
    """Chosen rows 0..N-1, then rejected rows N..2N-1: see :func:`mlx_persona.tokens.batches.collate`."""
    return collate([*(rows.chosen[i] for i in members), *(rows.rejected[i] for i in members)])


def shared(rows: PairRows, members: Sequence[int]) -> Batch:
    """One row ``prompt, chosen, rejected`` per pair, right-padded to T places.

    Returns:
        tokens (N, T); targets, segments and weights as in :func:`stacked`, where chosen replies are segments
        0..N-1 and rejected ones N..2N-1; positions into the flat tokens; prompt and chosen (N,), how many
        tokens of each row are prompt and how many after them are the chosen reply.
    """
    apart = stacked(rows, members)
    count, width, parts = len(members), rows.width(members), rows.parts[list(members)]
    tokens = np.zeros((count, width), np.int32)
    for row, i, (common, good, bad) in zip(tokens, members, parts.tolist(), strict=True):
        stem = common + good
        row[:stem] = rows.chosen[i].ids[:stem]
        row[stem : stem + bad] = rows.rejected[i].ids[common : common + bad]
    # Where each gathered input of the stacked rows stands now.
    row, place = np.divmod(apart["positions"], apart["tokens"].shape[1])
    common, good = parts[row % count, 0], parts[row % count, 1]
    moved = place + good * ((row >= count) & (place >= common))
    return {
        **apart,
        "tokens": tokens,
        "positions": (row % count * width + moved).astype(np.int32),
        "prompt": parts[:, 0].astype(np.int32),
        "chosen": parts[:, 1].astype(np.int32),
    }


def token_keys(keys: NDArray[np.uint32], batch: Mapping[str, Any]) -> NDArray[np.uint32]:
    """The pairs' random keys (N, 2) for a shared micro-batch, one per place: (N, T, 2).

    The second half is raised by the token's place in its own row, as ``models.lora.row_dropout`` does with a
    plain row: so a mask is the same in both layouts, and both replies are masked alike.
    """
    prompt, chosen = (np.asarray(batch[name])[:, None] for name in ("prompt", "chosen"))
    place = np.arange(batch["tokens"].shape[1])
    places = place - chosen * (place >= prompt + chosen)
    high = np.broadcast_to(keys[:, :1], places.shape)
    return np.stack([high, keys[:, 1:] + places.astype(np.uint32)], axis=-1)


def pair_rows(pairs: Iterable[Pair], renderer: Renderer, max_tokens: int) -> PairRows:
    """Rows for DPO: both sides have the same prompt, cut for the longer one, and only the reply counts.

    A rejected reply that its token limit cut off (``meta["cut"]``) has no end to learn from: its ending
    token does not count, or "long, and then the end" would be what is rejected.
    """
    chosen, rejected, dropped = [], [], 0
    for pair in pairs:
        prompt = tuple(replace(m, train=False) for m in pair.messages)
        sides = [
            renderer.render((*prompt, Message("assistant", text)), max_tokens) for text in (pair.chosen, pair.rejected)
        ]
        rows = _one_prompt([make_row(s.ids, s.mask) for s in sides if s is not None and any(s.mask)])
        if len(rows) == 2 and pair.meta.get("cut"):
            rows[1] = _without_end(rows[1])
        if len(rows) == 2 and all(r.targets for r in rows):
            chosen.append(rows[0])
            rejected.append(rows[1])
        else:
            dropped += 1
    return PairRows(tuple(chosen), tuple(rejected), dropped)


def _without_end(row: Row) -> Row:
    """The row up to its last target, which is the ending token and no target any more."""
    end = int(np.flatnonzero(row.mask)[-1])
    return Row(row.ids[:end], row.mask[:end])


def _one_prompt(rows: list[Row]) -> list[Row]:
    """The rows, each behind the shortest of their prompts: a longer reply may have left less room for its own."""
    starts = [int(np.argmax(r.mask)) for r in rows]
    if len(set(starts)) < 2:
        return rows
    least = int(np.argmin(starts))
    prompt = rows[least].ids[: starts[least]]
    return [
        Row(np.concatenate([prompt, r.ids[at:]]), np.concatenate([np.zeros(len(prompt), np.bool_), r.mask[at:]]))
        for r, at in zip(rows, starts, strict=True)
    ]


def load_pairs(folder: Path, name: str) -> list[Pair]:
    """``<folder>/<name>.jsonl``; raises PersonaError when it is missing or empty."""
    path = folder / f"{name}.jsonl"
    pairs = read_pairs(path)
    if not pairs:
        raise PersonaError(f"{path} holds no pair", "make some with: mlx-persona pairs")
    return pairs
