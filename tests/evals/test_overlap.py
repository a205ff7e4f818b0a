"""Runs of words that replies share with what was trained on, against a plain search of all of them."""

from __future__ import annotations

import random

from mlx_persona.evals.intervals import Tally
from mlx_persona.evals.overlap import COPIED, overlap, shared_runs, words

LONG = "we met at the old harbour and ate far too many chips"


def plain_longest(text: str, corpus: list[str]) -> int:
    """Length of the longest run, by trying every run of the text."""
    ours, theirs = words(text), [f" {' '.join(words(other))} " for other in corpus]
    runs = [ours[i:j] for i in range(len(ours)) for j in range(i + 1, len(ours) + 1)]
    shared = [len(run) for run in runs if any(f" {' '.join(run)} " in other for other in theirs)]
    return max(shared, default=0)


def test_runs_are_as_long_as_a_plain_search_finds() -> None:
    draw = random.Random(0)
    corpus = [" ".join(draw.choices("abcd", k=draw.randint(0, 12))) for _ in range(20)]
    texts = [" ".join(draw.choices("abcde", k=draw.randint(0, 12))) for _ in range(40)]
    found = shared_runs(texts, corpus)
    assert [len(run) for run in found] == [plain_longest(text, corpus) for text in texts]
    assert len({len(run) for run in found}) > 3
    for run, text in zip(found, texts, strict=True):
        assert " ".join(run) in " ".join(words(text))


def test_case_marks_and_apostrophes_make_no_difference() -> None:
    assert shared_runs(["Don't WORRY, Ann!"], ["dont worry ann"]) == [("dont", "worry", "ann")]


def test_the_first_of_equal_runs_is_shown() -> None:
    assert shared_runs(["a b x c d"], ["c d", "a b"]) == [("a", "b")]


def test_nothing_shared_and_nothing_to_compare() -> None:
    assert shared_runs(["", "a"], ["b"]) == [(), ()]
    assert shared_runs(["a"], []) == [()]
    assert shared_runs([], ["a"]) == []


def test_copies_and_placeholders_are_counted() -> None:
    replies = [f"haha {LONG}", "we met at the old harbour", "call me [NAME_3] or [PHONE_1]", "[LIKE_1] no"]
    found = overlap(replies, ["other", LONG.upper()])
    assert len(LONG.split()) >= COPIED
    assert found.copied == Tally(1, 4)
    assert (found.longest, found.run) == (12, LONG)
    assert found.placeholders == Tally(1, 4)


def test_a_run_of_just_enough_words_is_a_copy() -> None:
    run = LONG.split()[:COPIED]
    assert overlap([" ".join(run)], [LONG]).copied.hits == 1
    assert overlap([" ".join(run[1:])], [LONG]).copied.hits == 0
