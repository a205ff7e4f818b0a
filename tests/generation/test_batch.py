"""Many rows at once: places are refilled, and every reply is what it would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import pytest
from mlx_lm.generate import stream_generate
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import RotatingKVCache

from mlx_persona.generation import batch, engine
from mlx_persona.generation.engine import Sampling, write
from mlx_persona.models.embedded import fetch_model
from mlx_persona.models.load import LoadedModel, load_model
from tests.generation.kit import GREEDY, HOT, make_prompts


def written(loaded: LoadedModel, prompts: Sequence[Sequence[int]], sampling: Sampling, size: int) -> list[list[int]]:
    """Token ids of every reply; each is reported once."""
    found: dict[int, list[int]] = {}

    def keep(index: int, tokens: Sequence[int]) -> None:
        assert index not in found
        found[index] = list(tokens)

    write(loaded, prompts, sampling, keep, batch_size=size)
    return [found[i] for i in range(len(prompts))]


def stock(loaded: LoadedModel, prompt: Sequence[int], limit: int) -> list[int]:
    """The greedy reply of mlx-lm, without the end token."""
    made = stream_generate(loaded.model, loaded.tokenizer, list(prompt), max_tokens=limit)
    return [r.token for r in made if r.token not in loaded.tokenizer.eos_token_ids]


def test_greedy_tokens_are_those_of_mlx_lm_one_by_one(short_ends: LoadedModel) -> None:
    """Whatever the size of the batch, with many refills and with none."""
    prompts = make_prompts(24)
    expected = [stock(short_ends, prompt, 12) for prompt in prompts]
    assert len({len(tokens) for tokens in expected}) > 4
    for size in (1, 3, 8, 24):
        assert written(short_ends, prompts, GREEDY, size) == expected, size


@pytest.mark.parametrize("sampling", [GREEDY, HOT])
def test_the_order_of_refills_changes_nothing(
    short_ends: LoadedModel, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    """Places filled one at a time or in groups, rows moved at once or late, prompts in passes of any size."""
    prompts = make_prompts(20)
    expected = written(short_ends, prompts, sampling, 1)
    for group, tokens, share, idle, chunk in (
        (1, 1, 0.0, 0.0, 7),
        (3, 10**9, 0.5, 0.9, 64),
        (16, 10**9, 1.0, 0.1, 2048),
    ):
        for name, value in (("_GROUP", group), ("_READ_TOKENS", tokens), ("_FREE_SHARE", share)):
            monkeypatch.setattr(engine, name, value)
        monkeypatch.setattr(batch, "_IDLE_SHARE", idle)
        monkeypatch.setattr(batch, "_CHUNK_TOKENS", chunk)
        assert written(short_ends, prompts, sampling, 6) == expected, group


def test_a_finished_row_leaves_its_place_to_the_next_prompt(
    short_ends: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While prompts wait, three of four places are busy at every step, and the rows are never more than the size."""
    busy: list[int] = []
    step = batch.Batch.step

    def counting(self: Any) -> Any:
        busy.append(sum(not row.done for row in self.rows))
        assert len(self.rows) <= 8
        return step(self)

    monkeypatch.setattr(batch.Batch, "step", counting)
    found = written(short_ends, make_prompts(64), GREEDY, 8)
    tail = 2 * (GREEDY.max_tokens + 1)  # no prompt waits any more
    assert min(busy[:-tail]) >= 6
    # Batches that wait for their longest reply would take at least this many steps.
    slowest = sorted((len(tokens) for tokens in found), reverse=True)
    assert len(busy) < 8 * (1 + slowest[0])


def test_a_shared_beginning_is_read_once(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies are those of plain reading, and the beginning's tokens pass through the model a single time."""
    prompts = make_prompts(9, prefix=4)
    expected = written(tiny, prompts[:1], HOT, 1)
    read: list[int] = []
    forward = type(tiny.model).__call__

    def counting(self: Any, tokens: mx.array, *args: Any, **kwargs: Any) -> Any:
        read.append(int((tokens == 102).sum().item()))
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(type(tiny.model), "__call__", counting)
    together = written(tiny, prompts, Sampling(1, 1.0, 0.95, 7), 3)
    assert sum(read) == 1
    assert together[0] == expected[0][:1]


def test_prompts_that_are_equal_or_contain_each_other(tiny: LoadedModel) -> None:
    prompt = make_prompts(1)[0]
    prompts = [prompt, prompt, prompt[:5], prompt[:1], [*prompt, 300]]
    assert written(tiny, prompts, GREEDY, 3) == [stock(tiny, p, 12) for p in prompts]
    assert written(tiny, [[5], [6], [7]], GREEDY, 2) == [stock(tiny, [t], 12) for t in (5, 6, 7)]


def test_the_batch_shrinks_when_memory_is_short(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads of 32 in two layers, keys and values, float32: bytes per token from the model's config."""
    prompts = make_prompts(8)
    expected = written(tiny, prompts, GREEDY, 8)
    config = tiny.config
    depth = config["hidden_size"] // config["num_attention_heads"]
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    token = 2 * 4 * heads * depth * config["num_hidden_layers"]
    row = token * (max(map(len, prompts)) + GREEDY.max_tokens)
    sizes: list[int] = []
    step = batch.Batch.step

    def counting(self: Any) -> Any:
        sizes.append(len(self.rows))
        return step(self)

    monkeypatch.setattr(batch.Batch, "step", counting)
    for memory, size in ((4 * 3 * row, 3), (1, 1), (4 * 100 * row, 8)):
        monkeypatch.setattr(engine, "memory_bytes", lambda memory=memory: memory)
        sizes.clear()
        assert written(tiny, prompts, GREEDY, 8) == expected
        assert max(sizes) == size


def test_layers_with_a_sliding_window_are_written_together_too(
    short_ends: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mlx-lm's batched caches, extended and filtered; a window that is never full sees all."""
    prompts = make_prompts(20)
    expected = written(short_ends, prompts, HOT, 6)
    make = lambda model: [RotatingKVCache(max_size=128) for _ in model.layers]  # noqa: E731
    for module in (batch, engine):
        monkeypatch.setattr(module, "make_prompt_cache", make)
    used: list[int] = []
    step = batch.JoinedBatch.step

    def counting(self: Any) -> Any:
        used.append(len(self.rows))
        return step(self)

    monkeypatch.setattr(batch.JoinedBatch, "step", counting)
    assert written(short_ends, prompts, HOT, 6) == expected
    assert max(used) == 6


def test_a_window_over_plain_keys_is_that_of_mlx_lm() -> None:
    """Rows of 3 and 8 tokens, of which the last 4 are seen."""
    owner = SimpleNamespace(offsets=mx.array([2, 7]), longest=8)
    places = batch._Places(owner)  # type: ignore[arg-type]
    for window in (None, 4, 100):
        mask = places.make_mask(1, return_array=False, window_size=window)
        for row, last in enumerate((2, 7)):
            expected = create_causal_mask(1, last, window_size=window)[0].tolist()
            assert mask[row, 0, 0].tolist() == expected + [False] * (7 - last)


@pytest.mark.slow
def test_a_real_model_writes_what_mlx_lm_writes() -> None:
    """Greedy, real prompts. Where two tokens are nearly tied, rounding may choose: their logits must be close then."""
    loaded = load_model(str(fetch_model()))
    questions = ("Hi", "What is rain?", "Name three cats.", "Tell me a short story about a boat and the sea.")
    prompts = [
        list(loaded.tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True))
        for q in (*questions, "Why? " * 60)
    ]
    for prompt, found in zip(prompts, written(loaded, prompts, Sampling(32, 0.0, 1.0, 0), 3), strict=True):
        expected = stock(loaded, prompt, 32)
        if found == expected:
            continue
        shared = batch.same(found, expected)
        assert shared < min(len(found), len(expected))
        logits = loaded.model(mx.array([[*prompt, *expected[:shared]]]))[0, -1]
        gap = abs(logits[found[shared]].item() - logits[expected[shared]].item())
        assert gap < 1e-3, (shared, gap)
