"""Conversations as rows, with a real tokenizer."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_persona.errors import PersonaError
from mlx_persona.models.load import load_tokenizer
from mlx_persona.schema import Conversation, Message, write_jsonl
from mlx_persona.tokens import dataset
from mlx_persona.tokens.dataset import (
    common_system,
    conversation_rows,
    load_split,
    windows,
)
from mlx_persona.tokens.render import Rendered, Renderer

MAX = 60


@functools.cache
def tokenizer(path: Path) -> object:
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def renderer(smollm2_path: Path) -> Renderer:
    return Renderer(tokenizer(smollm2_path), system="Be brief.")


def says(*turns: str) -> tuple[Message, ...]:
    """``"u:hello"``, ``"a:hi"``; ``"x:..."`` is a reply that is not trained on."""
    roles = {"u": ("user", True), "a": ("assistant", True), "x": ("assistant", False), "s": ("system", True)}
    return tuple(Message(roles[t[0]][0], t[2:], roles[t[0]][1]) for t in turns)  # type: ignore[arg-type]


def trained_texts(rendered: Rendered, path: Path) -> list[str]:
    """The trained replies of a row, read back from the tokens: each ends with the ending token."""
    ids = [i for i, m in zip(rendered.ids, rendered.mask, strict=True) if m]
    text: str = tokenizer(path).decode(ids)  # type: ignore[attr-defined]
    return [part for part in text.split("<|im_end|>") if part.strip()]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Turns in any order of roles, each with words of its own, some far too long."""
    turns = []
    for i in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from("uuaaax"))
        words = draw(st.sampled_from([1, 3, 8, 20, 70]))
        turns.append(f"{kind}:t{i}" + " word" * words)
    head = ["s:You are somebody."] if draw(st.booleans()) else []
    return says(*head, *turns)


def _run(messages: tuple[Message, ...], end: int) -> tuple[Message, ...]:
    """The replies in a row that end with this one."""
    start = end
    while start > 0 and messages[start - 1].role == "assistant":
        start -= 1
    return messages[start : end + 1]


@given(messages=conversations())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_trained_reply_is_a_target_of_exactly_one_row_or_counted_as_lost(
    messages: tuple[Message, ...], renderer: Renderer, smollm2_path: Path
) -> None:
    rows, lost = windows(messages, renderer, MAX)
    assert all(len(r.ids) <= MAX for r in rows)
    seen = [text for row in reversed(rows) for text in trained_texts(row, smollm2_path)]
    wanted = [m.content for m in messages if m.role == "assistant" and m.train]
    assert len(seen) == len(set(seen))
    assert [w for w in wanted if w in seen] == seen
    missing = [i for i, m in enumerate(messages) if m.content in wanted and m.content not in seen]
    assert lost == len(missing)
    for i in missing:  # only what does not fit: the reply with what stands between it and its user turn
        assert sum(len(m.content.split()) for m in _run(messages, i)) > 20


def test_a_conversation_that_fits_is_one_row(renderer: Renderer) -> None:
    messages = says("u:hello", "a:hi", "u:how are you?", "a:fine")
    rows, lost = windows(messages, renderer, 500)
    assert [r.ids for r in rows] == [renderer.render(messages).ids]  # type: ignore[union-attr]
    assert lost == 0


def test_a_reply_that_is_too_long_costs_no_other_reply(renderer: Renderer, smollm2_path: Path) -> None:
    messages = says("u:one", "a:first", "u:two", "a:second", "u:three", "a:" + "long " * 100)
    rows, lost = windows(messages, renderer, MAX)
    assert [trained_texts(r, smollm2_path) for r in rows] == [["first", "second"]]
    assert lost == 1


def test_rows_come_in_order_and_their_counts_are_right(renderer: Renderer) -> None:
    long = says(*(turn for i in range(8) for turn in (f"u:question {i}", f"a:answer {i} is rather long, you know")))
    short = says("u:hi", "a:hello <|im_end|> you")
    untrained = says("u:hi", "x:hello")
    too_long = says("u:hi", "a:" + "word " * 100)
    parts, _ = windows(long, renderer, MAX)
    rows = conversation_rows([Conversation(m) for m in (long, short, untrained, too_long)], renderer, MAX)
    counted = rows.account
    assert (counted.conversations, counted.split, counted.cut, counted.defused) == (4, len(parts) - 1, 1, 1)
    assert len(parts) > 2
    assert len(rows.rows) == len(parts) + 1
    for row, part in zip(rows.rows, reversed(parts), strict=False):
        np.testing.assert_array_equal(row.ids, part.ids)
        np.testing.assert_array_equal(row.mask, part.mask)
    assert rows.rows.lengths.tolist() == [len(r.ids) for r in rows.rows]
    assert rows.tokens == sum(len(r.ids) for r in rows.rows)
    assert rows.targets == sum(int(r.mask[1:].sum()) for r in rows.rows)
    assert rows.describe() == (
        f"4 conversations, {len(rows.rows)} rows, {rows.tokens} tokens, {rows.targets} trained on; "
        f"{len(parts) - 1} rows continue a conversation that was too long for one; "
        "1 replies are too long for a row and left out; 1 control tokens in the text are broken up"
    )


def test_without_masking_every_token_is_a_target(smollm2_path: Path) -> None:
    renderer = Renderer(tokenizer(smollm2_path), mask_prompt=False)
    rows = conversation_rows([Conversation(says("u:hello there", "a:hi"))], renderer, MAX)
    assert rows.targets == rows.tokens - 1
    assert conversation_rows([], renderer, MAX).describe() == "0 conversations, 0 rows, 0 tokens, 0 trained on"


# --- files -------------------------------------------------------------------------------------


def test_the_common_system_message_is_the_most_frequent_one() -> None:
    some = [Conversation(says("s:Be kind.", "u:a", "a:b"))] * 2
    assert common_system([*some, Conversation(says("u:a", "a:b"))]) == "Be kind."
    assert common_system([*some, *[Conversation(says("u:a", "a:b"))] * 3]) == ""
    assert common_system([]) == ""


def test_missing_and_empty_files_are_errors_that_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=r"no data: .*train\.jsonl is missing") as caught:
        load_split(tmp_path, "train")
    assert caught.value.hint == dataset.CLEAN_HINT
    write_jsonl(tmp_path / "train.jsonl", [Conversation(says("u:hi", "x:hello"))])
    with pytest.raises(PersonaError, match="holds no reply to train on"):
        load_split(tmp_path, "train")
    write_jsonl(tmp_path / "test.jsonl", [])
    with pytest.raises(PersonaError, match=r"test\.jsonl holds no reply to train on") as caught:
        load_split(tmp_path, "test")
    assert caught.value.hint == dataset.FEW_HINT
