"""Rows that are written together: who they are, and how their prompts and tokens pass through the model.

:class:`Batch` keeps the keys and values of every row in places of fixed size. A row that is done leaves its
place to a new prompt without the others being touched. :class:`JoinedBatch` does it with mlx-lm's batched
caches, for models whose layers keep something else (sliding windows, states).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_persona.generation.sampling import Sampling, draws, sample

# isort: split

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import KVCache, make_prompt_cache

# Tokens per pass over prompts, which bounds the memory for activations.
_CHUNK_TOKENS = 2048
# Finished rows stay in the batch until they are this share of it: to move the others copies keys and values.
_IDLE_SHARE = 0.25


@dataclass
class Row:
    """A reply being written; ``drawn`` counts its tokens, the one not yet read included."""

    index: int
    identity: int
    prompt: Sequence[int]
    tokens: list[int] = field(default_factory=list)
    drawn: int = 0
    done: bool = False

    @property
    def read(self) -> int:
        """How many tokens are in the cache before the next step: all but the last."""
        return len(self.prompt) - 1 + self.drawn


class Prefix:
    """What all prompts begin with (the system message), read once."""

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]]) -> None:
        first, last = min(map(list, prompts)), max(map(list, prompts))
        shared = first[: min(same(first, last), min(map(len, prompts)) - 1)]
        self.cache = make_prompt_cache(model)
        # Only plain keys and values can be copied into every row's cache whatever the model.
        self.length = len(shared) if len(prompts) > 1 and is_plain(self.cache) else 0
        if self.length:
            model(mx.array([shared]), cache=self.cache)
            mx.eval([layer.state for layer in self.cache])


def same(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def is_plain(cache: Sequence[Any]) -> bool:
    """Whether every layer keeps keys and values, all of them, as they are."""
    return all(type(layer) is KVCache for layer in cache)


class _Places:
    """One layer's keys and values, a place of fixed size per row; a cache for steps of one token."""

    def __init__(self, owner: Batch) -> None:
        self._owner = owner
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    @property
    def offset(self) -> mx.array:
        """Tokens of each row so far: (B,)."""
        return self._owner.offsets

    def _reserve(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """The whole room, made on first use, for heads and depths like those given."""
        if self.keys is None or self.values is None:
            rows, size = self._owner.room
            self.keys, self.values = (mx.zeros((rows, x.shape[1], size, x.shape[3]), x.dtype) for x in (keys, values))
        return self.keys, self.values

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Put one token per row in its place; returns all positions that any row uses."""
        count, end = keys.shape[0], self._owner.longest
        rows, at = mx.arange(count), self._owner.offsets
        rooms = self._reserve(keys, values)
        for room, new in zip(rooms, (keys, values), strict=True):
            room[rows, :, at] = new[:, :, 0]
        return rooms[0][:count, :, :end], rooms[1][:count, :, :end]

    def make_mask(self, length: int, window_size: int | None = None, **_: Any) -> mx.array:
        """What each row has written, or the last ``window_size`` tokens of it: (B, 1, 1, S)."""
        positions, at = mx.arange(self._owner.longest), self._owner.offsets[:, None]
        mask = positions <= at
        if window_size is not None:
            mask = mask & (positions > at - window_size)
        return mask[:, None, None]

    def fill(self, places: mx.array, layer: KVCache) -> None:
        """Copy prompts that were read together into places."""
        if layer.keys is None:
            return  # prompts of one token: nothing was read
        for room, new in zip(self._reserve(layer.keys, layer.values), (layer.keys, layer.values), strict=True):
            room[places, :, : layer.offset] = new[:, :, : layer.offset]

    def move(self, sources: mx.array, targets: mx.array, end: int) -> None:
        """Copy the first ``end`` positions of rows to other places."""
        for room in (self.keys, self.values):
            assert room is not None  # its rows were written
            room[targets, :, :end] = room[sources, :, :end]


def _read(model: nn.Module, prefix: Prefix, prompts: Sequence[Sequence[int]]) -> list[KVCache]:
    """Keys and values of all but the last token of each prompt, (G, heads, longest, depth) per layer.

    Shorter prompts are padded on the right: what stands there is never looked at, and is overwritten.
    """
    cache = make_prompt_cache(model)
    if prefix.length:
        for layer, known in zip(cache, prefix.cache, strict=True):
            copies = [mx.repeat(x, len(prompts), axis=0) for x in known.keys_and_values()]
            layer.keys, layer.values, layer.offset = *copies, prefix.length
    tokens = _padded([list(p[prefix.length : -1]) for p in prompts])
    _pass(model, tokens, cache)
    return cache


def _padded(bodies: list[list[int]]) -> mx.array:
    """Rows of tokens, zeros on the right: (G, T)."""
    width = max(map(len, bodies))
    return mx.array([body + [0] * (width - len(body)) for body in bodies], dtype=mx.uint32).reshape(len(bodies), width)


def _pass(model: nn.Module, tokens: mx.array, cache: list[Any]) -> None:
    """Read tokens (G, T) into the cache, so many at a time that memory is bounded."""
    chunk = max(1, _CHUNK_TOKENS // len(tokens))
    for start in range(0, tokens.shape[1], chunk):
        model(tokens[:, start : start + chunk], cache=cache)
        mx.eval([layer.state for layer in cache])
    mx.clear_cache()  # activations of many tokens, of a size that does not come again


class Batch:
    """Rows in places of fixed size: (rows, heads, positions, depth) per layer, allocated once."""

    def __init__(self, model: nn.Module, sampling: Sampling, prefix: Prefix, rows: int, size: int) -> None:
        self.rows: list[Row] = []
        self._model, self._sampling, self._prefix = model, sampling, prefix
        self.room = rows, size  # of every layer
        self._layers = [_Places(self) for _ in prefix.cache]
        self._latest = mx.zeros((0,), dtype=mx.uint32)  # (B,), what each row reads next
        self._fresh: set[int] = set()  # places whose next token to read is the prompt's last
        self.offsets, self.longest = self._latest, 0

    def free(self, size: int) -> int:
        """How many of ``size`` places a new row can have."""
        return size - sum(not row.done for row in self.rows)

    def add(self, new: list[Row]) -> None:
        """Read the prompts of new rows together, and give them the places of finished rows or new ones."""
        cache = _read(self._model, self._prefix, [row.prompt for row in new])
        places = [i for i, row in enumerate(self.rows) if row.done][: len(new)]
        more = len(new) - len(places)
        places += range(len(self.rows), len(self.rows) + more)
        self.rows += new[:more]
        for place, row in zip(places, new, strict=True):
            self.rows[place] = row
        self._fresh.update(places)
        at = mx.array(places)
        for mine, read in zip(self._layers, cache, strict=True):
            mine.fill(at, read)
        self._latest = mx.concatenate([self._latest, mx.zeros((more,), dtype=mx.uint32)])
        self._latest[at] = mx.array([row.prompt[-1] for row in new], dtype=mx.uint32)
        self._evaluate()

    def _evaluate(self) -> None:
        mx.eval(self._latest, [(layer.keys, layer.values) for layer in self._layers])

    def step(self) -> list[tuple[Row, int]]:
        """The tokens drawn last and whose they are; the next ones are computed meanwhile."""
        latest, fresh = self._latest, self._fresh
        going = [not row.done and row.drawn < self._sampling.max_tokens for row in self.rows]
        if any(going):
            self._latest = self._draw(latest, going)
            mx.async_eval(self._latest)  # type: ignore[no-untyped-call]
        self._fresh = set()
        tokens = np.array(latest).tolist()
        return [(row, tokens[i]) for i, row in enumerate(self.rows) if i not in fresh and not row.done]

    def _draw(self, inputs: mx.array, going: list[bool]) -> mx.array:
        """Put one token per row through the model and draw the next: (B,) -> (B,)."""
        # What a row that is done writes does not matter.
        at = [row.read if goes else 0 for row, goes in zip(self.rows, going, strict=True)]
        self.offsets, self.longest = mx.array(at), max(at) + 1
        logits = self._model(inputs[:, None], cache=self._layers)[:, -1]  # (B, V)
        latest = draw(logits, self.rows, self._sampling)
        for row, goes in zip(self.rows, going, strict=True):
            row.drawn += goes
        return latest

    def drop_finished(self) -> None:
        """Take finished rows out, once there are enough of them: the last rows move into their places."""
        count = sum(not row.done for row in self.rows)
        if count == 0:
            self.rows, self._latest = [], self._latest[:0]
        elif len(self.rows) - count >= _IDLE_SHARE * len(self.rows):
            targets = [i for i in range(count) if self.rows[i].done]
            sources = [i for i in range(count, len(self.rows)) if not self.rows[i].done]
            if targets:
                to, origin = mx.array(targets), mx.array(sources)
                end = max(self.rows[i].read for i in sources)
                for layer in self._layers:
                    layer.move(origin, to, end)
                self._latest[to] = self._latest[origin]
            for target, source in zip(targets, sources, strict=True):
                self.rows[target] = self.rows[source]
            self.rows, self._latest = self.rows[:count], self._latest[:count]
            self._evaluate()


def draw(logits: mx.array, rows: Sequence[Row], sampling: Sampling) -> mx.array:
    """The next token of each row, with the row's own random number: (B, V) -> (B,)."""
    uniform = draws(sampling.seed, [r.identity for r in rows], [r.drawn for r in rows])
    return sample(logits, uniform, sampling.temperature, sampling.top_p).astype(mx.uint32)


class JoinedBatch:
    """Rows in mlx-lm's batched caches, which are extended and filtered by copying."""

    def __init__(self, model: nn.Module, sampling: Sampling) -> None:
        self.rows: list[Row] = []
        self._model, self._sampling = model, sampling
        self._cache: list[Any] = []
        self._latest = mx.zeros((0,), dtype=mx.uint32)  # (B,), drawn and not yet read

    def free(self, size: int) -> int:
        """How many rows can join, for a batch of ``size``."""
        return size - len(self.rows)

    def add(self, new: list[Row]) -> None:
        """Read the prompts of new rows, draw their first tokens, and let them join."""
        singles = [make_prompt_cache(self._model) for _ in new]
        cache = [layers[0].merge(list(layers)) for layers in zip(*singles, strict=True)]
        bodies = [list(row.prompt[:-1]) for row in new]
        tokens = _padded(bodies)
        if tokens.size:
            for layer in cache:
                lengths = [len(body) for body in bodies]
                layer.prepare(lengths=lengths, right_padding=[tokens.shape[1] - n for n in lengths])
            _pass(self._model, tokens, cache)
            for layer in cache:
                layer.finalize()
        latest = self._draw(new, mx.array([row.prompt[-1] for row in new]), cache)
        if self._cache:
            for mine, other in zip(self._cache, cache, strict=True):
                mine.extend(other)
        else:
            self._cache = cache
        self.rows += new
        self._latest = mx.concatenate([self._latest, latest])
        self._evaluate()

    def _evaluate(self) -> None:
        mx.eval(self._latest, [layer.state for layer in self._cache])

    def _draw(self, rows: Sequence[Row], inputs: mx.array, cache: list[Any]) -> mx.array:
        """Put one token per row through the model and draw the next: (B,) -> (B,)."""
        logits = self._model(inputs[:, None], cache=cache)[:, -1]  # (B, V)
        latest = draw(logits, rows, self._sampling)
        for row in rows:
            row.drawn += 1
        return latest

    def step(self) -> list[tuple[Row, int]]:
        """The tokens drawn last and whose they are; the next ones are computed meanwhile."""
        latest = self._latest
        if any(not row.done and row.drawn < self._sampling.max_tokens for row in self.rows):
            self._latest = self._draw(self.rows, latest, self._cache)
            mx.async_eval(self._latest)  # type: ignore[no-untyped-call]
        tokens = np.array(latest).tolist()
        return [(row, token) for row, token in zip(self.rows, tokens, strict=True) if not row.done]

    def drop_finished(self) -> None:
        """Take finished rows out, once there are enough of them."""
        keep = [i for i, row in enumerate(self.rows) if not row.done]
        if not keep:
            self.rows, self._cache, self._latest = [], [], self._latest[:0]
        elif len(self.rows) - len(keep) >= _IDLE_SHARE * len(self.rows):
            indices = mx.array(keep)
            for layer in self._cache:
                layer.filter(indices)
            self.rows, self._latest = [self.rows[i] for i in keep], self._latest[indices]
            self._evaluate()
