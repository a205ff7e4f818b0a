"""Drawing tokens: every token of every reply has a random number of its own, derived from (seed, row, step)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_persona.models.exponential import exp_below

# isort: split

import mlx.core as mx

# The nucleus is looked for among this many most likely tokens: sorting the whole vocabulary takes as long as the model.
CANDIDATES = 1024
# Tokens are first chosen by groups of this many; the groups with the largest maxima hold all the largest tokens.
_NEIGHBOURS = 16
_ODD = 0x9E3779B1


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn: at most ``max_tokens``, temperature 0 is greedy, ``top_p`` is the nucleus's mass."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int


def draws(seed: int, rows: Sequence[int], steps: Sequence[int]) -> mx.array:
    """One number in [0, 1) per (seed, row, step), from nothing else: (B,)."""
    keys = [[(seed * _ODD ^ row) & 0xFFFFFFFF, step] for row, step in zip(rows, steps, strict=True)]
    return mx.vmap(lambda key: mx.random.uniform(key=key))(mx.array(keys, dtype=mx.uint32))


def sample(logits: mx.array, uniform: mx.array, temperature: float, top_p: float) -> mx.array:
    """Draw one token per row by inverting the cumulative distribution at ``uniform``.

    The nucleus is cut from the model's own probabilities and the temperature is applied within it, as
    in mlx-lm. It is exact when it has at most ``CANDIDATES`` tokens; a larger one is cut there.

    Args:
        logits: (B, V).
        uniform: one number in [0, 1) per row: (B,).
        temperature: 0 is greedy.
        top_p: mass of the nucleus; 1 keeps every token.

    Returns:
        Token ids (B,), uint32.
    """
    if temperature == 0:
        return mx.argmax(logits, axis=-1)
    logits = logits.astype(mx.float32)
    logits = logits - logits.max(axis=-1, keepdims=True)
    if top_p >= 1:
        return _invert(exp_below(logits * (1 / temperature)), uniform)
    mass = exp_below(logits).sum(axis=-1, keepdims=True)
    values, ids = _largest(logits, min(CANDIDATES, logits.shape[-1]))
    order = mx.argsort(-values, axis=-1)
    values, ids = (mx.take_along_axis(x, order, axis=-1) for x in (values, ids))
    above = mx.cumsum(exp_below(values), axis=-1, inclusive=False)  # mass of the likelier tokens
    weights = mx.where(above < top_p * mass, exp_below(values * (1 / temperature)), 0.0)
    chosen = _invert(weights, uniform)
    return mx.take_along_axis(ids, chosen[:, None], axis=-1)[:, 0]


def _largest(x: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """The ``count`` largest values of each row and their places, in no order: (B, V) -> (B, count) twice.

    A selection over all of a vocabulary is what costs. An entry among the ``count`` largest lies in one of
    the ``count`` groups with the largest maxima, so the selection is among groups, then among their entries.
    """
    rows, size = x.shape
    groups = size // _NEIGHBOURS
    if size % _NEIGHBOURS or groups <= count:
        places = mx.argpartition(x, size - count, axis=-1)[:, size - count :]
        return mx.take_along_axis(x, places, axis=-1), places
    grouped = x.reshape(rows, groups, _NEIGHBOURS)
    best = mx.argpartition(grouped.max(axis=-1), groups - count, axis=-1)[:, groups - count :]  # (B, count)
    within = mx.take_along_axis(grouped, best[:, :, None], axis=1).reshape(rows, -1)
    chosen = mx.argpartition(within, within.shape[-1] - count, axis=-1)[:, within.shape[-1] - count :]
    places = mx.take_along_axis(best, chosen // _NEIGHBOURS, axis=-1) * _NEIGHBOURS + chosen % _NEIGHBOURS
    return mx.take_along_axis(within, chosen, axis=-1), places


def _invert(weights: mx.array, uniform: mx.array) -> mx.array:
    """Index of the entry that holds the share ``uniform`` of each row's summed weights: (B, N) -> (B,)."""
    summed = mx.cumsum(weights, axis=-1)
    total = summed[:, -1:]
    # The product may round up to the total: then it is the last entry with any weight.
    below = (summed <= uniform[:, None] * total) & (summed < total)
    return below.sum(axis=-1).astype(mx.uint32)
