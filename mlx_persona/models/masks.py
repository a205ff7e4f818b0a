"""An attention mask of one's own for any mlx-lm model, without patching it.

mlx-lm's models ask the cache object for their mask (``make_mask``) and for keys and values to attend to
(``update_and_fetch``). An object that hands out the given mask and stores nothing therefore stands in for a cache.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from mlx_persona.errors import PersonaError
from mlx_persona.models.heads import RowLogits

# How far packed logits may be from separate ones, as a share of the largest; a leak is a hundred times as much.
_TOLERANCE, _TOLERANCE_16_BIT = 1e-3, 3e-2


class GivenMask:
    """Stands in for a layer's cache: gives a mask (B, 1, T, T), true where a token may look, and keeps nothing.

    ``offset`` is what rotary positions begin at. They are relative, so one count for all rows of a sequence does.
    """

    offset = 0

    def __init__(self, mask: mx.array) -> None:
        self._mask = mask

    def make_mask(self, n: int, *, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """The mask, within a sliding window where the layer has one; it is an array, asked for or not."""
        if window_size is None or n <= window_size:
            return self._mask
        at = mx.arange(n)
        return self._mask & (at[:, None] < at[None] + window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """What was just computed is all there is."""
        return keys, values


def with_mask(model: nn.Module, mask: mx.array) -> list[GivenMask]:
    """What to give a model as its ``cache``, so that every layer attends by ``mask`` (B, 1, T, T)."""
    return [GivenMask(mask)] * len(make_prompt_cache(model))


def with_blocks(model: nn.Module, blocks: mx.array) -> list[GivenMask]:
    """The same for packed rows: a token looks back, and only within its block.

    Args:
        model: an mlx-lm model.
        blocks: which row each token belongs to (B, T).
    """
    at = mx.arange(blocks.shape[1])
    same = blocks[:, None, :, None] == blocks[:, None, None, :]  # (B, 1, T, T)
    return with_mask(model, same & (at[:, None] >= at[None]))


def check_blocks(model: nn.Module, rows: RowLogits) -> None:
    """Try on the model itself whether packed rows give what separate rows give.

    Raises:
        PersonaError: they do not: its layers carry a state along, or count positions from the start.
    """
    lengths = (5, 9, 7)
    ids = mx.arange(1, 1 + sum(lengths))
    blocks = mx.array([[number for number, length in enumerate(lengths) for _ in range(length)]])
    try:
        packed = rows(model, ids[None], mx.arange(ids.size), with_blocks(model, blocks))
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        parts = [rows(model, ids[None, a : a + n], mx.arange(n)) for a, n in zip(starts, lengths, strict=True)]
        alone = mx.concatenate(parts)
        error = float(mx.abs(packed - alone).max() / mx.abs(alone).max())
    except Exception as reason:  # a model is foreign code, and is given what it does not expect
        raise _no_packing(f"{type(reason).__name__}: {reason}") from reason
    narrow = any(v.dtype in (mx.float16, mx.bfloat16) for _, v in tree_flatten(model.parameters()))
    if not error <= (_TOLERANCE_16_BIT if narrow else _TOLERANCE):
        raise _no_packing(f"logits change by {error:.2g} of the largest")


def _no_packing(reason: str) -> PersonaError:
    return PersonaError(
        f"rows cannot be packed for this model: one would see another ({reason})",
        "leave --packing out; --batch-tokens wastes little on padding too",
    )
