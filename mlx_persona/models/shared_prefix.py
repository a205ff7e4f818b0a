"""Two replies behind one prompt in a single row, ``prompt, chosen, rejected``, and neither reply sees the other.

mlx-lm's models take a cache, ask it for a mask and an offset, and hand it keys and values. A
:class:`SharedPrefix` stands in its place and keeps nothing: it gives the mask, and the rejected reply the
positions right behind the prompt. For that a model's RoPE instances are extended; for every other cache they act
as before. :func:`can_share` finds out by numbers whether that is all that a model needs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_persona.models.heads import RowLogits
from mlx_persona.tokens.batches import Row, make_row
from mlx_persona.tokens.pairs import PairRows

# How far apart rounding may bring the two layouts, as a share of the logits' spread, by the weights' type. SmolLM2
# comes to 2e-6 and, in bfloat16, to 0.035; with the rejected replies at wrong positions, to 0.3 in both.
TOLERANCE = {mx.float32: 1e-3, mx.float16: 3e-2, mx.bfloat16: 0.12}


class Branch(int):
    """The offset 0 of rows that branch: their RoPE reads here where.

    ``back`` (B,) is how far the rejected replies' positions go back, and ``rejected`` (B, 1, T, 1) where those stand.
    """

    back: mx.array
    rejected: mx.array

    def __new__(cls, back: mx.array, rejected: mx.array) -> Branch:
        """An offset of 0 with these two."""
        self = super().__new__(cls, 0)
        self.back, self.rejected = back, rejected
        return self


class SharedPrefix:
    """What a model is given as the cache of each layer, for one micro-batch.

    Args:
        tokens: (B, T), one row per pair, right-padded.
        prompt: tokens of the prompts (B,).
        chosen: tokens of the chosen replies behind them (B,).
    """

    def __init__(self, tokens: mx.array, prompt: mx.array, chosen: mx.array) -> None:
        place = mx.arange(tokens.shape[1])
        reply, rejected = prompt[:, None] <= place, (prompt + chosen)[:, None] <= place  # (B, T)
        self.offset = Branch(chosen, rejected[:, None, :, None])
        apart = rejected[:, :, None] & (reply & ~rejected)[:, None]  # a rejected reply does not see the chosen one
        self.mask = ((place[:, None] >= place) & ~apart)[:, None]  # (B, 1, T, T)

    def make_mask(self, length: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """What may look at what: bool (B, 1, T, T).

        Raises:
            ValueError: the model's attention is windowed, which a branching row is not made for.
        """
        if window_size is not None:
            raise ValueError("a sliding window and a shared prompt do not go together")
        return self.mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values as they are: nothing is kept."""
        return keys, values


def prefix_cache(model: nn.Module, batch: dict[str, mx.array]) -> list[SharedPrefix] | None:
    """The caches for a micro-batch of ``tokens.pairs.shared``; None for any other."""
    if "prompt" not in batch:
        return None
    return [SharedPrefix(batch["tokens"], batch["prompt"], batch["chosen"])] * len(model.layers)


def prepare(model: nn.Module) -> None:
    """Extend a model for branching rows, in place; a second call changes nothing."""
    for module in model.modules():
        rope = module.get("rope")
        if isinstance(rope, nn.Module) and not getattr(type(rope), "_branches", False):
            rope.__class__ = _branching(type(rope))


def _branching(kind: type) -> type:
    def call(self: Any, x: mx.array, offset: Any = 0, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(offset, Branch):
            return kind.__call__(self, x, offset, *args, **kwargs)
        stem = kind.__call__(self, x, 0, *args, **kwargs)
        branch = kind.__call__(self, x, -offset.back, *args, **kwargs)
        return mx.where(offset.rejected, branch, stem)

    return type(f"Branching{kind.__name__}", (kind,), {"__call__": call, "_branches": True})


def can_share(model: nn.Module, logits: RowLogits) -> bool:
    """Whether a model gives the same logits in both layouts; it is prepared for branching rows on the way.

    Tried on three pairs of random tokens with parts of unequal lengths, before any adapter is attached.
    """
    rng = np.random.default_rng(0)

    def row(prompt: list[int], length: int) -> Row:
        reply = rng.integers(1, 24, length).tolist()
        return make_row([*prompt, *reply], [False] * len(prompt) + [True] * length)

    prompts = [rng.integers(1, 24, length).tolist() for length in (9, 4, 14)]
    sides = [[row(p, n) for p, n in zip(prompts, lengths, strict=True)] for lengths in ((5, 8, 2), (7, 3, 10))]
    rows = PairRows(tuple(sides[0]), tuple(sides[1]), 0)
    found = []
    try:
        prepare(model)
        for layout in (rows, replace(rows, shared=True)):
            batch = {name: mx.array(value) for name, value in layout.batch(range(3)).items()}
            found.append(logits(model, batch["tokens"], batch["positions"], prefix_cache(model, batch)))
        plain, ours = found
        error = mx.sqrt(mx.square(ours - plain).mean() / mx.var(plain, axis=-1).mean())
        return float(error) <= _tolerance(model)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False  # a model of another build


def _tolerance(model: nn.Module) -> float:
    norm = next((m.weight for m in model.modules() if isinstance(m, nn.RMSNorm | nn.LayerNorm)), None)
    return TOLERANCE.get(mx.float32 if norm is None else norm.dtype, 1e-3)
