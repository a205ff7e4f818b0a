"""Pairs as rows and as micro-batches, with a real tokenizer."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_persona.errors import PersonaError
from mlx_persona.models.load import load_tokenizer
from mlx_persona.schema import Message, Pair, write_jsonl
from mlx_persona.tokens.batches import Row, make_row
from mlx_persona.tokens.pairs import PairRows, load_pairs, pair_rows, token_keys
from mlx_persona.tokens.render import Renderer

MAX = 60


@functools.cache
def tokenizer(path: Path) -> object:
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def renderer(smollm2_path: Path) -> Renderer:
    return Renderer(tokenizer(smollm2_path), system="Be brief.")


def says(*turns: str) -> tuple[Message, ...]:
    """``"u:hello"``, ``"a:hi"``."""
    roles = {"u": "user", "a": "assistant"}
    return tuple(Message(roles[t[0]], t[2:]) for t in turns)


def pair(*turns: str, chosen: str, rejected: str) -> Pair:
    return Pair(says(*turns), chosen, rejected)


def split_at_reply(row: object) -> tuple[list[int], list[int]]:
    start = int(np.argmax(row.mask))  # type: ignore[attr-defined]
    return row.ids[:start].tolist(), row.ids[start:].tolist()  # type: ignore[attr-defined]


def test_only_the_reply_counts_and_both_sides_have_the_prompt_in_common(renderer: Renderer) -> None:
    turns = ("u:hello", "a:an old reply", "u:how are you?")
    rows = pair_rows([pair(*turns, chosen="fine, you?", rejected="I am an assistant.")], renderer, 500)
    (prompt, good), (same, bad) = (split_at_reply(r[0]) for r in (rows.chosen, rows.rejected))
    assert prompt == same == renderer.prompt(says(*turns))
    decode = renderer._encoder.decode
    assert decode(good, skip_special_tokens=True).strip() == "fine, you?"
    assert decode(bad, skip_special_tokens=True).strip() == "I am an assistant."
    assert rows.dropped == 0
    assert rows.lengths == (max(len(prompt) + len(good), len(prompt) + len(bad)),)


@given(
    turns=st.integers(1, 6),
    prompt_words=st.integers(1, 40),
    chosen=st.integers(1, 60),
    rejected=st.integers(1, 60),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_prompt_that_is_cut_is_cut_alike_on_both_sides(
    turns: int, prompt_words: int, chosen: int, rejected: int, renderer: Renderer
) -> None:
    said = [t for i in range(turns) for t in (f"u:ask {i}" + " what" * prompt_words, f"a:told {i}")][:-1]
    texts = "yes" + " good" * chosen, "no" + " bad" * rejected
    rows = pair_rows([pair(*said, chosen=texts[0], rejected=texts[1])], renderer, MAX)
    assert rows.dropped + len(rows.chosen) == 1
    for good, bad in zip(rows.chosen, rows.rejected, strict=True):
        (prompt, good_reply), (same, bad_reply) = split_at_reply(good), split_at_reply(bad)
        assert prompt == same
        assert max(rows.lengths) <= MAX
        decode = renderer._encoder.decode
        assert [decode(r, skip_special_tokens=True).strip() for r in (good_reply, bad_reply)] == list(texts)


def test_a_rejected_reply_that_was_cut_does_not_teach_an_ending(renderer: Renderer) -> None:
    """Its row ends with its last word; the chosen reply's, and that of one that ended, with the ending token."""
    whole = pair("u:hi", chosen="hey you", rejected="word word")
    cut = Pair(whole.messages, whole.chosen, whole.rejected, {"cut": True})
    rows = pair_rows([whole, cut], renderer, MAX)
    end = renderer._encoder.token_to_id("<|im_end|>")
    targets = [[r.ids[r.mask].tolist() for r in side] for side in (rows.chosen, rows.rejected)]
    assert targets[0][0] == targets[0][1]
    assert targets[0][0][-1] == targets[1][0][-1] == end
    assert targets[1][1] == targets[1][0][:-1]
    assert rows.rejected[1].ids[-1] == targets[1][1][-1]


def test_a_pair_with_a_side_that_does_not_fit_is_dropped_whole(renderer: Renderer) -> None:
    pairs = [
        pair("u:hi", chosen="word " * 100, rejected="hello"),
        pair("u:hi", chosen="hey", rejected="hello"),
        pair("u:hi", chosen="hey", rejected="word " * 100),
    ]
    rows = pair_rows(pairs, renderer, MAX)
    assert (len(rows.chosen), len(rows.rejected), rows.dropped) == (1, 1, 2)


def test_missing_and_empty_files_are_errors_that_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="no such file"):
        load_pairs(tmp_path, "valid")
    (tmp_path / "valid.jsonl").write_text("")
    with pytest.raises(PersonaError, match="holds no pair"):
        load_pairs(tmp_path, "valid")
    one = pair("u:hi", chosen="hey", rejected="hello")
    write_jsonl(tmp_path / "valid.jsonl", [one])
    assert load_pairs(tmp_path, "valid") == [one]


# --- micro-batches -----------------------------------------------------------------------------


def random_pairs(seed: int, count: int, shared: bool) -> PairRows:
    """Pairs of two token ids, so that replies often begin alike, or one is the beginning of the other."""
    rng = np.random.default_rng(seed)
    sides: tuple[list[Row], list[Row]] = ([], [])
    for _ in range(count):
        prompt = rng.integers(1, 3, rng.integers(1, 12)).tolist()
        for side in sides:
            reply, tail = (rng.integers(1, 3, n).tolist() for n in (rng.integers(1, 9), rng.integers(0, 3)))
            mask = [False] * len(prompt) + [True] * len(reply) + [False] * len(tail)
            side.append(make_row([*prompt, *reply, *tail], mask))
    return PairRows(tuple(sides[0]), tuple(sides[1]), 0, shared)


def seen_and_said(batch: dict[str, np.ndarray], count: int) -> list[list[tuple[list[int], int]]]:
    """For each segment of a shared batch, what every target is predicted from, read by the layout alone."""
    out: list[list[tuple[list[int], int]]] = [[] for _ in range(2 * count)]
    total = batch["tokens"].shape[1]
    for at, target, segment, weight in zip(
        *(batch[k].tolist() for k in ("positions", "targets", "segments", "weights")), strict=True
    ):
        pair, place = divmod(at, total)
        if not weight:
            continue
        assert pair == segment % count
        row, prompt, chosen = (batch[k][pair].tolist() for k in ("tokens", "prompt", "chosen"))
        if place < prompt or segment < count:
            assert place < prompt + chosen
            context = row[: place + 1]
        else:
            assert place >= prompt + chosen
            context = row[:prompt] + row[prompt + chosen : place + 1]
        out[segment].append((context, target))
    return out


@given(seed=st.integers(0, 10_000), count=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_shared_row_predicts_every_target_from_what_came_before_it(seed: int, count: int) -> None:
    rows = random_pairs(seed, count, shared=True)
    members = list(range(count))[::-1]
    found = seen_and_said(rows.batch(members), count)
    sides = [*(rows.chosen[i] for i in members), *(rows.rejected[i] for i in members)]
    for row, targets in zip(sides, found, strict=True):
        at = np.flatnonzero(row.mask[1:]) + 1
        assert targets == [(row.ids[:t].tolist(), int(row.ids[t])) for t in at]


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_every_token_of_a_shared_row_has_the_key_that_it_has_in_a_plain_one(seed: int) -> None:
    """Both sides of a pair have the same key, counted up from the start of their rows."""
    rows = random_pairs(seed, 3, shared=True)
    batch = rows.batch([0, 1, 2])
    keys = np.array([[5, 2**32 - 2], [7, 11], [8, 40]], np.uint32)
    found = token_keys(keys, batch)
    assert found.shape == (*batch["tokens"].shape, 2)
    for b, (common, good, bad) in enumerate(rows.parts.tolist()):
        stem, branch = (
            keys[b, 1:] + np.arange(*ends, dtype=np.uint32) for ends in ((0, common + good), (common, common + bad))
        )
        assert (found[b, :, 0] == keys[b, 0]).all()
        np.testing.assert_array_equal(found[b, : common + good, 1], stem)
        np.testing.assert_array_equal(found[b, common + good : common + good + bad, 1], branch)


def test_pairs_of_like_shape_are_neighbours() -> None:
    """Sorted batches of four hold less padding than batches in the order of the file."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(5, 120, (64, 3)).tolist()
    plain = [(list(range(1, p + 1)), c, r) for p, c, r in lengths]
    sides = [
        tuple(make_row([*p, *[first] * n], [False] * len(p) + [True] * n) for p, n in some)
        for first, some in ((500, [(p, c) for p, c, _ in plain]), (600, [(p, r) for p, _, r in plain]))
    ]
    rows = PairRows(sides[0], sides[1], 0, shared=True)

    def places(order: list[int]) -> int:
        return sum(rows.batch(order[i : i + 4])["tokens"].size for i in range(0, 64, 4))

    ordered = sorted(range(64), key=lambda i: rows.order[i])
    assert places(ordered) < 0.9 * places(list(range(64)))
    assert replace(rows, shared=False).order == rows.lengths


def test_equally_long_replies_are_marked() -> None:
    sides = [[make_row([1, *[t] * n], [False] + [True] * n) for n in ns] for t, ns in ((2, (4, 4, 4)), (3, (4, 3, 2)))]
    for shared in (False, True):
        rows = PairRows(tuple(sides[0]), tuple(sides[1]), 0, shared)
        assert rows.batch([0, 1, 2])["matched"].tolist() == [1, 1, 0]
