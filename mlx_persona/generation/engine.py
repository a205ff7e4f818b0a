"""The engine that writes replies: many at once in batches, or one as a stream.

Sampling is repeatable: every token of every reply has a random number of its own, derived from
(seed, row, step). The text of a reply does not depend on what else is in the batch, on the order,
or on where an interrupted job began again, up to rounding in the model's sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mlx_persona.backend import memory_bytes

# isort: split

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import KVCache, can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache
from mlx_lm.utils import maybe_set_recommended_wired_limit

from mlx_persona.models.load import LoadedModel


class Reply(NamedTuple):
    """What was written, without control tokens; ``cut`` says that it did not end by itself."""

    text: str
    cut: bool


OnReply = Callable[[int, Reply], None]

# The nucleus is looked for among this many most likely tokens: sorting the whole vocabulary takes as long as the model.
CANDIDATES = 1024
# Rows whose prompts are read together: enough to fill the machine, and of like length once sorted.
_GROUP = 16
# Tokens per pass over prompts, which bounds the memory for activations.
_CHUNK_TOKENS = 2048
# Finished rows stay in the batch until they are this share of it: to take rows out copies all keys and values.
_IDLE_SHARE = 0.25
# Keys and values may take this share of the machine's memory; the batch shrinks to fit.
_MEMORY_SHARE = 0.25
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
    if top_p >= 1:
        top = logits.max(axis=-1, keepdims=True)
        return _invert(mx.exp((logits - top) * (1 / temperature)), uniform)
    size = logits.shape[-1]
    kept = min(CANDIDATES, size)
    ids = mx.argpartition(logits, size - kept, axis=-1)[:, size - kept :]  # (B, K)
    values = mx.take_along_axis(logits, ids, axis=-1)
    order = mx.argsort(-values, axis=-1)
    values, ids = (mx.take_along_axis(x, order, axis=-1) for x in (values, ids))
    probs = mx.exp(values - mx.logsumexp(logits, axis=-1, keepdims=True))
    above = mx.cumsum(probs, axis=-1, inclusive=False)  # mass of the likelier tokens
    weights = mx.where(above < top_p, mx.exp((values - values[:, :1]) * (1 / temperature)), 0.0)
    chosen = _invert(weights, uniform)
    return mx.take_along_axis(ids, chosen[:, None], axis=-1)[:, 0]


def _invert(weights: mx.array, uniform: mx.array) -> mx.array:
    """Index of the entry that holds the share ``uniform`` of each row's summed weights: (B, N) -> (B,)."""
    summed = mx.cumsum(weights, axis=-1)
    total = summed[:, -1:]
    # The product may round up to the total: then it is the last entry with any weight.
    below = (summed <= uniform[:, None] * total) & (summed < total)
    return below.sum(axis=-1).astype(mx.uint32)


@dataclass
class _Row:
    """A reply being written; ``drawn`` counts its tokens, the one not yet read included."""

    index: int
    identity: int
    tokens: list[int] = field(default_factory=list)
    drawn: int = 0
    done: bool = False


class _Batch:
    """Rows that are written together, with mlx-lm's batched caches."""

    def __init__(self, model: nn.Module, sampling: Sampling) -> None:
        self.rows: list[_Row] = []
        self._model, self._sampling = model, sampling
        self._cache: list[Any] = []
        self._latest = mx.zeros((0,), dtype=mx.uint32)  # (B,), drawn and not yet read

    def add(self, rows: list[_Row], prompts: Sequence[Sequence[int]], prefix: _Prefix) -> None:
        """Read the prompts of new rows, draw their first tokens, and let them join."""
        cache = prefix.caches(self._model, len(rows))
        bodies = [list(p[prefix.length : -1]) for p in prompts]
        width = max(len(b) for b in bodies)
        if width:
            padding = [width - len(b) for b in bodies]
            for layer in cache:
                layer.prepare(lengths=[len(b) for b in bodies], right_padding=padding)
            tokens = mx.array([b + [0] * gap for b, gap in zip(bodies, padding, strict=True)])  # (B, T)
            chunk = max(1, _CHUNK_TOKENS // len(rows))
            for start in range(0, width, chunk):
                self._model(tokens[:, start : start + chunk], cache=cache)
                mx.eval([layer.state for layer in cache])
            for layer in cache:
                layer.finalize()
        latest = self._draw(rows, mx.array([p[-1] for p in prompts]), cache)
        if self._cache:
            for mine, other in zip(self._cache, cache, strict=True):
                mine.extend(other)
        else:
            self._cache = cache
        self.rows += rows
        self._latest = mx.concatenate([self._latest, latest])
        mx.eval(self._latest, [layer.state for layer in self._cache])
        mx.clear_cache()

    def _draw(self, rows: Sequence[_Row], inputs: mx.array, cache: list[Any]) -> mx.array:
        """Put one token per row through the model and draw the next: (B,) -> (B,)."""
        logits = self._model(inputs[:, None], cache=cache)[:, -1]  # (B, V)
        uniform = draws(self._sampling.seed, [r.identity for r in rows], [r.drawn for r in rows])
        for row in rows:
            row.drawn += 1
        return sample(logits, uniform, self._sampling.temperature, self._sampling.top_p)

    def step(self) -> list[int]:
        """The tokens drawn last, one per row; the next ones are computed meanwhile."""
        latest = self._latest
        if any(not row.done and row.drawn < self._sampling.max_tokens for row in self.rows):
            self._latest = self._draw(self.rows, latest, self._cache)
            mx.async_eval(self._latest)  # type: ignore[no-untyped-call]
        return [int(token) for token in np.array(latest)]

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
            mx.eval(self._latest, [layer.state for layer in self._cache])

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(layer.nbytes for layer in self._cache)


class _Prefix:
    """What all prompts begin with (the system message), read once."""

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]]) -> None:
        first, last = min(map(list, prompts)), max(map(list, prompts))
        shared = first[: min(_same(first, last), min(map(len, prompts)) - 1)]
        self._cache = make_prompt_cache(model)
        # Only plain keys and values can be copied into every row's cache whatever the model.
        plain = len(prompts) > 1 and all(type(layer) is KVCache for layer in self._cache)
        self.length = len(shared) if plain else 0
        if self.length:
            model(mx.array([shared]), cache=self._cache)
            mx.eval([layer.state for layer in self._cache])

    def caches(self, model: nn.Module, rows: int) -> list[Any]:
        """Batched caches for new rows, with the prefix in them."""
        singles = [self._cache if self.length else make_prompt_cache(model) for _ in range(rows)]
        return [layers[0].merge(list(layers)) for layers in zip(*singles, strict=True)]


def _same(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def replies(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    batch_size: int,
    rows: Sequence[int] | None = None,
    on_reply: OnReply | None = None,
) -> list[Reply]:
    """Write one reply to each prompt, in batches that are refilled as replies end.

    Args:
        loaded: the model, with or without an adapter.
        prompts: token ids, at least one per prompt.
        sampling: how to draw.
        batch_size: replies written at once; fewer where their keys and values would take too much memory.
        rows: the random identity of each prompt (default: its place in ``prompts``).
        on_reply: called with ``(place in prompts, reply)`` as each reply is finished, in no fixed order.

    Returns:
        The replies in the order of the prompts.
    """
    if any(len(p) == 0 for p in prompts):
        raise ValueError("a prompt must hold at least one token")
    model = loaded.model
    out = [Reply("", cut=True)] * len(prompts)
    identities = range(len(prompts)) if rows is None else rows
    special = _special(loaded.tokenizer)

    def finish(index: int, tokens: Sequence[int]) -> None:
        detokenizer = loaded.tokenizer.detokenizer
        text = "".join(_segments(detokenizer, tokens, special))
        out[index] = Reply(text, cut=len(tokens) >= sampling.max_tokens)
        if on_reply is not None:
            on_reply(index, out[index])

    # Longest first: rows of like length share a batch, and the first batch shows the memory needed.
    waiting = [_Row(i, identities[i]) for i in sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))]
    with _generating(model):
        if not all(hasattr(layer, "merge") for layer in make_prompt_cache(model)):
            for row in waiting:
                finish(row.index, list(_tokens(loaded, prompts[row.index], sampling, row.identity, None)))
        elif waiting:
            _write(_Batch(model, sampling), waiting, prompts, batch_size, loaded.tokenizer.eos_token_ids, finish)
    return out


def _write(
    batch: _Batch,
    waiting: list[_Row],
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    ends: set[int],
    finish: Callable[[int, Sequence[int]], None],
) -> None:
    """Continuous batching: step all rows, finish some, fill their places."""
    prefix = _Prefix(batch._model, prompts)
    limit, size = batch._sampling.max_tokens, batch_size
    while waiting or batch.rows:
        while waiting and len(batch.rows) < size:
            count = min(_GROUP, size - len(batch.rows))
            group, waiting = waiting[:count], waiting[count:]
            first = not batch.rows
            batch.add(group, [prompts[row.index] for row in group], prefix)
            if first:
                longest = len(prompts[group[0].index])
                row_bytes = batch.nbytes / count * (1 + limit / longest)
                size = min(batch_size, max(1, int(_MEMORY_SHARE * memory_bytes() / max(row_bytes, 1))))
        for row, token in zip(batch.rows, batch.step(), strict=True):
            if row.done:
                continue
            if token not in ends:
                row.tokens.append(token)
            if token in ends or len(row.tokens) == limit:
                row.done = True
                finish(row.index, row.tokens)
        batch.drop_finished()


class PromptCache:
    """Keys and values of an earlier prompt and its reply, so that the next turn reads only what is new."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._layers: list[Any] = []

    def clear(self) -> None:
        """Forget everything: after a change of the model or its adapter's strength."""
        self._ids, self._layers = [], []

    def take(self, model: nn.Module, prompt: Sequence[int]) -> tuple[list[Any], int]:
        """Layers that hold the first ``n`` tokens of ``prompt``, and ``n``; the cache is empty until :meth:`keep`."""
        same = min(_same(self._ids, prompt), len(prompt) - 1)
        layers, excess = self._layers, len(self._ids) - same
        self.clear()
        if same == 0 or (excess and not can_trim_prompt_cache(layers)):
            return make_prompt_cache(model), 0
        trim_prompt_cache(layers, excess)
        return layers, same

    def keep(self, layers: list[Any], ids: list[int]) -> None:
        """Remember layers that hold exactly ``ids``."""
        self._layers, self._ids = layers, ids


def stream(
    loaded: LoadedModel, prompt: Sequence[int], sampling: Sampling, row: int = 0, cache: PromptCache | None = None
) -> Iterator[str]:
    """Yield a reply piece by piece; joined, it is what :func:`replies` gives for this row.

    Args:
        loaded: the model, with or without an adapter.
        prompt: token ids, at least one.
        sampling: how to draw.
        row: the random identity of this reply.
        cache: what was read and said before; updated when the reply is complete.
    """
    with _generating(loaded.model):
        tokens = _tokens(loaded, prompt, sampling, row, cache)
        yield from _segments(loaded.tokenizer.detokenizer, tokens, _special(loaded.tokenizer))


def _tokens(
    loaded: LoadedModel, prompt: Sequence[int], sampling: Sampling, row: int, cache: PromptCache | None
) -> Iterator[int]:
    """The tokens of one reply, without the end token."""
    cache = cache or PromptCache()
    layers, known = cache.take(loaded.model, prompt)
    step = 0

    def sampler(logprobs: mx.array) -> mx.array:
        nonlocal step
        uniform = draws(sampling.seed, [row], [step])
        step += 1
        return sample(logprobs, uniform, sampling.temperature, sampling.top_p)

    new = mx.array(list(prompt[known:]))
    said: list[int] = []
    for token, _ in generate_step(
        new, loaded.model, max_tokens=sampling.max_tokens, sampler=sampler, prompt_cache=layers
    ):
        said.append(token)
        if token in loaded.tokenizer.eos_token_ids:
            break
        yield token
    # mlx-lm puts a token through the model before it hands it out, so the layers hold all that was said.
    cache.keep(layers, [*prompt, *said])


def _special(tokenizer: Any) -> set[int]:
    """Ids of control tokens, which are no text."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _segments(detokenizer: Any, tokens: Sequence[int] | Iterator[int], special: set[int]) -> Iterator[str]:
    """Text as it becomes readable, without control tokens."""
    for token in tokens:
        if token not in special:
            detokenizer.add_token(token)
            if segment := detokenizer.last_segment:
                yield segment
    detokenizer.finalize()
    if segment := detokenizer.last_segment:
        yield segment


@contextmanager
def _generating(model: nn.Module) -> Iterator[None]:
    """The model without dropout and, on a Mac, its memory wired; both as before at the end."""
    training, before = model.training, maybe_set_recommended_wired_limit()
    model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
        if before is not None:
            mx.synchronize()
            mx.set_wired_limit(before)
