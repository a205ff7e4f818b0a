"""One engine writes all replies: repeatable, whatever the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import pytest
from mlx_lm.generate import generate
from mlx_lm.models.cache import ConcatenateKVCache

from mlx_persona.generation import batch, engine
from mlx_persona.generation.engine import PromptCache, Reply, Sampling, replies, stream
from mlx_persona.models import adapters
from mlx_persona.models.load import LoadedModel, load_model
from tests.generation.kit import GREEDY, HOT, make_prompts


def test_replies_do_not_depend_on_the_batch(short_ends: LoadedModel) -> None:
    prompts = make_prompts(23)
    alone = replies(short_ends, prompts, HOT, batch_size=1)
    assert len(set(alone)) > 15
    assert replies(short_ends, prompts, HOT, batch_size=4) == alone
    assert replies(short_ends, prompts, HOT, batch_size=64) == alone


def test_replies_do_not_depend_on_the_order_or_on_a_resume(short_ends: LoadedModel) -> None:
    prompts = make_prompts(9)
    whole = replies(short_ends, prompts, HOT, batch_size=4)
    rows = [8, 2, 5]
    part = replies(short_ends, [prompts[i] for i in rows], HOT, batch_size=4, rows=rows)
    assert part == [whole[i] for i in rows]


def test_another_seed_or_row_gives_another_reply(tiny: LoadedModel) -> None:
    prompt = make_prompts(1) * 2
    one, other = replies(tiny, prompt, HOT, batch_size=2)
    assert one != other
    assert replies(tiny, prompt, HOT, batch_size=2, rows=[0, 0]) == [one, one]
    assert replies(tiny, prompt[:1], Sampling(12, 1.0, 0.95, seed=8), batch_size=1) != [one]


def test_prompts_without_a_common_beginning_and_of_one_token(tiny: LoadedModel) -> None:
    prompts = [[5], *make_prompts(3), [7, 9]]
    together = replies(tiny, prompts, GREEDY, batch_size=5)
    assert together == [replies(tiny, [p], GREEDY, batch_size=1)[0] for p in prompts]


def test_long_prompts_are_read_in_chunks(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = make_prompts(6)
    whole = replies(tiny, prompts, GREEDY, batch_size=6)
    monkeypatch.setattr(batch, "_CHUNK_TOKENS", 24)
    assert replies(tiny, prompts, GREEDY, batch_size=6) == whole


def test_greedy_is_what_mlx_lm_writes(tiny: LoadedModel) -> None:
    prompt = make_prompts(1)[0]
    expected = generate(tiny.model, tiny.tokenizer, prompt, max_tokens=12)
    assert replies(tiny, [prompt], GREEDY, batch_size=1) == [Reply(expected, cut=True)]


@pytest.mark.parametrize("sampling", [GREEDY, HOT])
def test_a_stream_gives_the_text_of_the_batch(short_ends: LoadedModel, sampling: Sampling) -> None:
    prompts = make_prompts(6)
    expected = replies(short_ends, prompts, sampling, batch_size=6)
    assert ["".join(stream(short_ends, p, sampling, row)) for row, p in enumerate(prompts)] == [
        r.text for r in expected
    ]


def test_a_reply_ends_at_its_longest_and_is_reported_once(tiny: LoadedModel) -> None:
    prompts, seen = make_prompts(5), {}

    def on_reply(index: int, reply: Reply) -> None:
        assert index not in seen
        seen[index] = reply

    out = replies(tiny, prompts, Sampling(1, 0.0, 1.0, 0), batch_size=2, on_reply=on_reply)
    assert [seen[i] for i in range(5)] == out
    for prompt, (text, _) in zip(prompts, out, strict=True):
        best = int(tiny.model(mx.array([prompt]))[0, -1].argmax().item())
        assert text.strip() == tiny.tokenizer.decode([best], skip_special_tokens=True).strip()


@pytest.mark.parametrize("batched", [True, False])
def test_a_reply_is_cut_unless_it_ended_by_itself(
    short_ends: LoadedModel, monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    """With the end token among the first n tokens it was not cut, else it was, at exactly n."""
    if not batched:
        monkeypatch.setattr(engine, "make_prompt_cache", lambda model: [ConcatenateKVCache() for _ in model.layers])
    prompts = make_prompts(20)
    long = [list(engine._tokens(short_ends, p, Sampling(40, 1.0, 0.95, 7), i, None)) for i, p in enumerate(prompts)]
    lengths = [len(tokens) for tokens in long]
    limit = sorted(lengths)[10]
    out = replies(short_ends, prompts, Sampling(limit, 1.0, 0.95, 7), batch_size=4)
    assert [reply.cut for reply in out] == [n >= limit for n in lengths]
    assert {reply.cut for reply in out} == {True, False}


def test_control_tokens_are_no_text(tiny: LoadedModel) -> None:
    special = tiny.tokenizer.convert_tokens_to_ids("<|im_start|>")
    hello = tiny.tokenizer.encode("hello you", add_special_tokens=False)
    found = engine._special(tiny.tokenizer)
    segments = engine._segments(tiny.tokenizer.detokenizer, [special, *hello, special], found)
    assert "".join(segments) == "hello you"


def test_a_cache_that_cannot_be_batched_is_written_row_by_row(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = make_prompts(3)
    expected = replies(tiny, prompts, HOT, batch_size=3)
    monkeypatch.setattr(engine, "make_prompt_cache", lambda model: [ConcatenateKVCache() for _ in model.layers])
    assert replies(tiny, prompts, HOT, batch_size=3) == expected


def test_no_prompts_give_no_replies_and_an_empty_prompt_is_refused(tiny: LoadedModel) -> None:
    assert replies(tiny, [], HOT, batch_size=4) == []
    with pytest.raises(ValueError, match="at least one token"):
        replies(tiny, [[1], []], HOT, batch_size=4)


def test_dropout_is_off_while_a_model_in_training_writes(tiny_model_dir: Path) -> None:
    loaded = load_model(str(tiny_model_dir))
    prompts = make_prompts(2)
    expected = replies(loaded, prompts, GREEDY, batch_size=2)
    adapters.attach(loaded.model, adapters.AdapterSpec(2, 1.0, dora=False, dropout=0.5))
    loaded.model.train()
    assert replies(loaded, prompts, GREEDY, batch_size=2) == expected  # a new adapter changes nothing
    assert loaded.model.training


def test_the_prompt_cache_reads_only_what_is_new(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, prompt = PromptCache(), make_prompts(1)[0]
    read: list[int] = []
    step = engine.generate_step

    def spying(new: mx.array, *args: Any, **kwargs: Any) -> Any:
        read.append(new.size)
        return step(new, *args, **kwargs)

    monkeypatch.setattr(engine, "generate_step", spying)
    first = "".join(stream(tiny, prompt, GREEDY, cache=cache))
    assert "".join(stream(tiny, prompt, GREEDY, cache=cache)) == first
    longer = [*prompt, 300, 301, 302]
    assert "".join(stream(tiny, longer, GREEDY, cache=cache)) == "".join(stream(tiny, longer, GREEDY))
    assert read == [len(prompt), 1, 3, len(longer)]


def test_the_prompt_cache_goes_on_after_a_reply(tiny: LoadedModel) -> None:
    cache, prompt = PromptCache(), make_prompts(1)[0]
    said = list(engine._tokens(tiny, prompt, GREEDY, 0, cache))
    following = [*prompt, *said, 400, 401]
    layers, known = cache.take(tiny.model, following)
    assert known == len(prompt) + len(said) == layers[0].offset


def test_a_stream_that_is_left_early_leaves_no_cache(tiny: LoadedModel) -> None:
    cache, prompt = PromptCache(), make_prompts(1)[0]
    pieces = stream(tiny, prompt, GREEDY, cache=cache)
    next(pieces)
    pieces.close()
    assert cache.take(tiny.model, prompt)[1] == 0
