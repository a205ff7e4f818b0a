"""Preference pairs -> rows, and rows -> micro-batches in which a pair's common beginning stands once.

Two layouts. Stacked: all chosen rows, then all rejected rows, each with its own copy of the prompt.
Shared: one row ``[prompt | chosen | rejected]`` per pair, the prompt padded on the left, the replies on
the right; models/shared_prefix.py tells the attention which part may look at which.
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
from mlx_persona.tokens.batches import Batch, Row, collate, make_row
from mlx_persona.tokens.render import Renderer

# Two replies count as equally long when the shorter has at least this share of the longer's tokens.
MATCHED = 0.75
# Up to so many tokens a part is padded to a multiple of the step beside it, and beyond to the last one:
# few shapes, little waste.
STEPS = ((64, 8), (128, 16), (10**9, 32))
# Prompts whose lengths are in one class of this width are batched by the length of their replies.
PROMPT_CLASS = 32


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
        if not self.shared:
            return self.lengths
        prompts, replies = self.parts[:, 0], self.parts[:, 1:].sum(axis=1)
        classes = prompts // PROMPT_CLASS
        # Every second class runs from long replies to short ones, so that its ends meet its neighbours'.
        within = np.where(classes % 2, replies.max(initial=0) - replies, replies)
        return tuple((classes * (replies.max(initial=0) + 1) + within).tolist())

    def widths(self, members: Sequence[int]) -> list[int]:
        """Padded widths of the parts of a micro-batch in the shared layout: prompt, chosen, rejected."""
        return [_up(int(longest)) for longest in self.parts[list(members)].max(axis=0)]

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


def _up(longest: int) -> int:
    step = next(step for limit, step in STEPS if longest <= limit)
    return max(step, -(-longest // step) * step)


def stacked(rows: PairRows, members: Sequence[int]) -> Batch:
    """Chosen rows 0..N-1, then rejected rows N..2N-1: see :func:`mlx_persona.tokens.batches.collate`."""
    return collate([*(rows.chosen[i] for i in members), *(rows.rejected[i] for i in members)])


def shared(rows: PairRows, members: Sequence[int]) -> Batch:
    """One row ``[prompt | chosen | rejected]`` per pair, of P + C + R places.

    Returns:
        tokens (N, P + C + R); targets, segments and weights as in :func:`stacked`, where chosen replies
        are segments 0..N-1 and rejected ones N..2N-1; positions into the flat tokens;
        prompt (N, P) and chosen (N, C), True where there is a token: their shapes also say P and C.
    """
    apart = stacked(rows, members)
    count, parts = len(members), rows.parts[list(members)]
    widths = rows.widths(members)
    starts = np.cumsum([0, *widths])  # of prompt, chosen, rejected, and the end
    tokens = np.zeros((count, starts[-1]), np.int32)
    for b, (i, (common, *replies)) in enumerate(zip(members, parts.tolist(), strict=True)):
        tokens[b, widths[0] - common : widths[0]] = rows.chosen[i].ids[:common]
        for side, start, length in zip((rows.chosen[i], rows.rejected[i]), starts[1:], replies, strict=False):
            tokens[b, start : start + length] = side.ids[common : common + length]
    # Where each gathered input of the stacked rows stands now.
    row, place = np.divmod(apart["positions"], apart["tokens"].shape[1])
    pair, common = row % count, parts[row % count, 0]
    moved = np.where(place < common, widths[0], starts[1 + row // count]) + place - common
    return {
        **apart,
        "tokens": tokens,
        "positions": (pair * starts[-1] + moved).astype(np.int32),
        "prompt": np.arange(widths[0]) >= widths[0] - parts[:, :1],
        "chosen": np.arange(widths[1]) < parts[:, 1:2],
    }


def token_keys(keys: NDArray[np.uint32], batch: Mapping[str, Any]) -> NDArray[np.uint32]:
    """The pairs' random keys (N, 2) for a shared micro-batch, one per place: (N, P + C + R, 2).

    The second half is raised by the token's place in its own row, as ``models.lora.row_dropout`` does with a
    plain row: so a mask is the same in both layouts, and both replies are masked alike.
    """
    width, chosen = batch["prompt"].shape[1], batch["chosen"].shape[1]
    prompt = np.asarray(batch["prompt"]).sum(axis=1, keepdims=True)
    rejected = batch["tokens"].shape[1] - width - chosen
    before = np.maximum(prompt - width + np.arange(width), 0)
    places = np.concatenate([before, prompt + np.arange(chosen), prompt + np.arange(rejected)], axis=1)
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
