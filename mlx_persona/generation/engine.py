"""The engine that writes replies: many at once in batches, or one as a stream.

Sampling is repeatable: every token of every reply has a random number of its own, derived from
(seed, row, step). The text of a reply does not depend on what else is in the batch, on the order,
or on where an interrupted job began again, up to rounding in the model's sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from mlx_persona.backend import memory_bytes

# isort: split

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache
from mlx_lm.utils import maybe_set_recommended_wired_limit

from mlx_persona.generation.batch import Batch, JoinedBatch, Prefix, Row, is_plain, same
from mlx_persona.generation.sampling import Sampling as Sampling  # part of this module's interface
from mlx_persona.generation.sampling import draws, sample
from mlx_persona.models.load import LoadedModel


class Reply(NamedTuple):
    """What was written, without control tokens; ``cut`` says that it did not end by itself."""

    text: str
    cut: bool


OnReply = Callable[[int, Reply], None]
OnTokens = Callable[[int, Sequence[int]], None]

# Rows whose prompts are read together: enough to fill the machine, and of like length once sorted.
_GROUP = 16
# A free place waits until there is so much to read at once, in tokens, ...
_READ_TOKENS = 512
# ... or until this share of the places is free.
_FREE_SHARE = 0.25
# Keys and values may take this share of the machine's memory; the batch shrinks to fit.
_MEMORY_SHARE = 0.25


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
    out = [Reply("", cut=True)] * len(prompts)
    special = _special(loaded.tokenizer)

    def finish(index: int, tokens: Sequence[int]) -> None:
        text = "".join(_segments(loaded.tokenizer.detokenizer, tokens, special))
        out[index] = Reply(text, cut=len(tokens) >= sampling.max_tokens)
        if on_reply is not None:
            on_reply(index, out[index])

    write(loaded, prompts, sampling, finish, batch_size=batch_size, rows=rows)
    return out


def write(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    on_tokens: OnTokens,
    *,
    batch_size: int,
    rows: Sequence[int] | None = None,
) -> None:
    """As :func:`replies`, but token ids: ``on_tokens(place in prompts, ids without the end token)`` for each."""
    if any(len(p) == 0 for p in prompts):
        raise ValueError("a prompt must hold at least one token")
    model, identities = loaded.model, range(len(prompts)) if rows is None else rows
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    waiting = [Row(i, identities[i], prompts[i]) for i in order]  # longest first: rows of like length share a batch
    with _generating(model):
        if waiting and not all(hasattr(layer, "merge") for layer in make_prompt_cache(model)):
            for row in waiting:
                on_tokens(row.index, list(_tokens(loaded, row.prompt, sampling, row.identity, None)))
        elif waiting:
            batch, size = _batch(model, sampling, prompts, batch_size)
            _write(batch, waiting, size, sampling.max_tokens, loaded.tokenizer.eos_token_ids, on_tokens)


def _batch(
    model: nn.Module, sampling: Sampling, prompts: Sequence[Sequence[int]], batch_size: int
) -> tuple[Batch | JoinedBatch, int]:
    """An empty batch for these prompts, and how many rows it may hold."""
    probe = make_prompt_cache(model)
    model(mx.array([[0]]), cache=probe)
    longest = max(map(len, prompts)) + sampling.max_tokens
    arrays = [x for _, x in tree_flatten([layer.state for layer in probe]) if isinstance(x, mx.array)]
    # Keys and values are (1, heads, positions, depth), with more room than the one token needs.
    token_bytes = sum(x.nbytes // x.shape[2] for x in arrays if x.ndim == 4)
    room = int(_MEMORY_SHARE * memory_bytes() / max(longest * token_bytes, 1))
    size = min(batch_size, len(prompts), max(1, room))
    if is_plain(probe):
        return Batch(model, sampling, Prefix(model, prompts), size, longest), size
    return JoinedBatch(model, sampling), size


def _write(
    batch: Batch | JoinedBatch,
    waiting: list[Row],
    size: int,
    limit: int,
    ends: set[int],
    finish: OnTokens,
) -> None:
    """Continuous batching: step all rows, finish some, fill their places."""
    while waiting or batch.rows:
        while waiting and _worth_reading(free := batch.free(size), size, len(waiting[0].prompt)):
            count = min(_GROUP, free)
            group, waiting = waiting[:count], waiting[count:]
            batch.add(group)
        batch.drop_finished()
        for row, token in batch.step():
            if token not in ends:
                row.tokens.append(token)
            if token in ends or len(row.tokens) == limit:
                row.done = True
                finish(row.index, row.tokens)


def _worth_reading(free: int, size: int, length: int) -> bool:
    """Whether so many free places, for prompts of this length, are enough to read some."""
    return free > 0 and (free * length >= _READ_TOKENS or free >= _FREE_SHARE * size)


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
        known = min(same(self._ids, prompt), len(prompt) - 1)
        layers, excess = self._layers, len(self._ids) - known
        self.clear()
        if known == 0 or (excess and not can_trim_prompt_cache(layers)):
            return make_prompt_cache(model), 0
        trim_prompt_cache(layers, excess)
        return layers, known

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
    """The model without dropout and at its fastest and, on a Mac, its memory wired; all as before at the end."""
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
