"""Near-duplicates, boilerplate and leakage among the person's own replies."""

from __future__ import annotations

import random
import sys
from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_prep import duplicates
from data_prep.duplicates import MIN_SHINGLES, Boilerplate, NearDuplicates, jaccard, leakage, normal, shingles
from mlx_persona.errors import PersonaError

LONG = "I have been looking for that book about the two lighthouses all week long"
OTHER = "can you bring the blue tent and some firewood when you come on saturday"
WORDS = [
    "river",
    "lamp",
    "yellow",
    "seven",
    "about",
    "window",
    "garden",
    "quickly",
    "morning",
    "basket",
    "often",
    "ticket",
]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=25).map(" ".join)


def pieces(text: str) -> set[str]:
    """The shingles of a text that is normal already, spelled out."""
    return {text[i : i + 4] for i in range(len(text) - 3)}


def test_normal_has_no_case_and_no_punctuation() -> None:
    assert normal("  Hey — you!!\n\nWHAT's up…(ok)  ") == "hey you what s up ok"
    assert normal("Ｈｅｙ, ﬁne") == "hey fine"
    assert normal("हिन्दी में") == "हिन्दी में"


@given(TEXTS)
def test_there_are_as_many_shingles_as_runs_of_four_characters(text: str) -> None:
    found = shingles(text)
    assert len(found) == len(pieces(text))
    assert np.array_equal(found, np.unique(found))


@pytest.mark.parametrize("text", ["", "a", "abc", "?!… ...", "😂"])
def test_a_text_without_four_characters_has_no_shingles(text: str) -> None:
    assert len(shingles(text)) == 0


@given(TEXTS, TEXTS)
def test_the_similarity_is_that_of_the_sets(left: str, right: str) -> None:
    mine, yours = pieces(left), pieces(right)
    expected = len(mine & yours) / max(len(mine | yours), 1)
    assert jaccard(shingles(left), shingles(right)) == expected


@given(st.text(), st.text())
def test_the_similarity_is_symmetric_and_a_share(left: str, right: str) -> None:
    similarity = jaccard(shingles(left), shingles(right))
    assert similarity == jaccard(shingles(right), shingles(left))
    assert 0 <= similarity <= 1
    assert jaccard(shingles(left), shingles(left)) == (1 if len(shingles(left)) else 0)


@pytest.mark.parametrize(
    "later",
    [LONG, LONG.upper(), f"{LONG}!!! :)", LONG.replace("week", "month"), f"so {LONG}", LONG.replace(" ", "\n", 3)],
)
def test_a_reply_with_a_small_change_is_nearly_the_same(later: str) -> None:
    index = NearDuplicates()
    assert [index.seen(text) for text in (LONG, OTHER, later)] == [False, False, True]


def test_another_reply_is_not() -> None:
    index = NearDuplicates()
    later = LONG.replace("book about the two lighthouses", "photo of our house in the mountains")
    assert [index.seen(text) for text in (LONG, OTHER, later)] == [False, False, False]


def test_what_was_nearly_the_same_is_not_added() -> None:
    first, second, third = LONG, f"{LONG} maybe yes", f"{LONG} maybe yes because why not"
    similar = [jaccard(shingles(a), shingles(b)) for a, b in ((first, second), (second, third), (first, third))]
    assert [s >= 0.8 for s in similar] == [True, True, False]
    index = NearDuplicates(0.8)
    assert [index.seen(text) for text in (first, second, third)] == [False, True, False]


def test_near_only_looks() -> None:
    index = NearDuplicates()
    assert [index.near(LONG), index.near(LONG)] == [False, False]
    index.add(LONG)
    assert [index.near(LONG), index.near(OTHER), index.seen(LONG)] == [True, False, True]


TERSE = [
    "ok",
    "ok see you then",
    "haha nice one",
    "what are you doing",
    "ha" * 500,
    "😂" * 500,
    "no " * 500,
    "好的明天见",
]


@pytest.mark.parametrize("text", TERSE)
def test_a_terse_reply_is_never_a_duplicate(text: str) -> None:
    index = NearDuplicates(0.5)
    assert [index.seen(text) for _ in range(3)] == [False, False, False]
    assert leakage({"train": [text], "test": [text]}, 0.5) == 0


@given(st.text(max_size=MIN_SHINGLES + 2))
def test_nothing_short_is_ever_flagged(text: str) -> None:
    assume(len(normal(text)) < MIN_SHINGLES + 3)  # a ligature is two letters
    index = NearDuplicates(0.5)
    index.add(text)
    assert not index.seen(text)


def test_about_six_words_are_compared() -> None:
    index = NearDuplicates()
    assert [index.seen("what did you do at the weekend") for _ in range(2)] == [False, True]


@given(st.lists(TEXTS, max_size=12), st.floats(0.5, 1))
def test_only_texts_that_really_are_alike_are_flagged(texts: list[str], threshold: float) -> None:
    index = NearDuplicates(threshold)
    kept: list[str] = []
    for text in texts:
        alike = any(jaccard(shingles(text), shingles(k)) >= threshold for k in kept)
        flagged = index.seen(text)
        assert alike or not flagged
        kept += [] if flagged else [text]


@given(TEXTS, TEXTS, st.floats(0.5, 1), st.floats(0.5, 1))
def test_a_higher_threshold_finds_no_more(left: str, right: str, one: float, two: float) -> None:
    low, high = NearDuplicates(min(one, two)), NearDuplicates(max(one, two))
    low.add(left)
    high.add(left)
    assert low.near(right) or not high.near(right)


@given(st.lists(TEXTS, max_size=4))
def test_at_threshold_1_the_order_does_not_matter(texts: list[str]) -> None:
    def flagged(order: tuple[str, ...]) -> list[str]:
        index = NearDuplicates(1)
        return sorted(text for text in order if index.seen(text))

    assert all(flagged(order) == flagged(tuple(texts)) for order in permutations(texts))


def edited(text: str, rng: random.Random) -> str:
    """A text with one word replaced."""
    words = text.split()
    words[rng.randrange(len(words))] = rng.choice(WORDS)
    return " ".join(words)


def test_nearly_all_pairs_over_the_threshold_are_found() -> None:
    """8 bands of 4 rows find a pair of similarity s with 1 - (1 - s^4)^8: 98.5 % at 0.8, and more above."""
    rng = random.Random(1)
    index = NearDuplicates(0.8)
    alike = found = 0
    for _ in range(400):
        text = " ".join(rng.choice(WORDS) + str(rng.randrange(1000)) for _ in range(25))
        index.add(text)
        near = edited(text, rng)
        if jaccard(shingles(text), shingles(near)) >= 0.8:
            alike += 1
            found += index.near(near)
    assert alike > 350
    assert found >= 0.98 * alike


def test_the_same_texts_give_the_same_answers() -> None:
    rng = random.Random(2)
    texts = [" ".join(rng.choice(WORDS) for _ in range(12)) for _ in range(100)]
    texts += [edited(text, rng) for text in texts]
    one, two = NearDuplicates(0.7), NearDuplicates(0.7)
    answers = [one.seen(text) for text in texts]
    assert answers == [two.seen(text) for text in texts]
    assert 50 < sum(answers) < 150


def test_a_huge_text_is_sketched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(str(n) for n in range(3000))
    whole = NearDuplicates(1)
    whole.add(text)
    monkeypatch.setattr(duplicates, "_BATCH", 1000)
    assert len(shingles(text)) > 5000
    assert whole.near(text)


def test_of_many_alike_the_latest_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    index = NearDuplicates(0.9)
    index.add(LONG)
    index.add(f"{LONG} and so on and on")
    assert index.near(LONG)
    monkeypatch.setattr(duplicates, "CANDIDATES", 1)
    assert not index.near(LONG)


@pytest.mark.parametrize("threshold", [0.49, 1.01, float("nan")])
def test_a_threshold_that_makes_no_sense_is_refused(threshold: float) -> None:
    with pytest.raises(PersonaError) as caught:
        NearDuplicates(threshold)
    assert caught.value.message == f"the threshold for near-duplicates must be 0.5 to 1, got {threshold:g}"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(PersonaError) as caught:
        NearDuplicates()
    assert caught.value.message == "finding near-duplicates needs datasketch"
    assert caught.value.hint == "pip install 'mlx-persona[data]'"


def test_leakage_counts_held_out_replies_that_are_nearly_trained_on() -> None:
    splits = {
        "train": [LONG, LONG, OTHER, "ok"],
        "valid": [LONG.upper(), "ok", "the train to the coast leaves at half past nine"],
        "test": [f"{OTHER}!", f"{OTHER}?", "the train to the coast leaves at half past nine"],
    }
    assert leakage(splits) == 3
    assert leakage({"valid": [LONG], "test": [LONG]}) == 0
    assert leakage({}) == 0


def test_leakage_sees_every_training_reply() -> None:
    """A held-out reply that is like the second training reply only, which is itself like the first."""
    first, second, third = LONG, f"{LONG} maybe yes", f"{LONG} maybe yes because why not"
    assert leakage({"train": [first], "test": [third]}) == 0
    assert leakage({"train": [first, second], "test": [third]}) == 1


@given(st.lists(TEXTS, max_size=20), st.floats(0.5, 1), st.randoms(use_true_random=False))
def test_nothing_leaks_after_the_filter(texts: list[str], threshold: float, rng: random.Random) -> None:
    index = NearDuplicates(threshold)
    kept = [text for text in texts if not index.seen(text)]
    rng.shuffle(kept)
    third = len(kept) // 3
    assert leakage({"train": kept[third:], "valid": kept[:third]}, threshold) == 0


def sent(text: str, *chats: str) -> Boilerplate:
    """The text, sent once in each of these chats."""
    seen = Boilerplate()
    for chat in chats:
        seen.add(text, chat)
    return seen


@pytest.mark.parametrize(
    ("chats", "expected"),
    [("abcde", True), ("aabbc", True), ("aaaaabc", True), ("aabb", False), ("abcd", False), ("aaabbb" * 9, False)],
)
def test_boilerplate_went_to_three_chats_and_five_times(chats: str, expected: bool) -> None:
    assert sent(LONG, *chats).is_boilerplate(LONG) is expected


def test_boilerplate_is_found_without_case_and_punctuation() -> None:
    seen = sent("Hi, thanks for the order! It will be sent tomorrow.", *"abcde")
    assert seen.is_boilerplate("hi thanks for the order it will be sent tomorrow :)")
    assert not seen.is_boilerplate("hi thanks for the orders it will be sent tomorrow")


@pytest.mark.parametrize("text", ["hello, how are you doing today?", "ha" * 50, "😂" * 50, "no " * 50, "?" * 50, ""])
def test_what_everybody_gets_because_it_is_short_is_no_boilerplate(text: str) -> None:
    assert not sent(text, *"abcdefgh").is_boilerplate(text)


def test_forty_characters_can_be_boilerplate() -> None:
    text = "see you at the gym at ten, bring a towel"
    assert len(normal(text)) == 39
    assert sent(text, *"abcde").is_boilerplate(text) is False
    assert sent(f"{text}s", *"abcde").is_boilerplate(f"{text}s") is True


@given(st.lists(st.tuples(st.sampled_from([LONG, OTHER]), st.sampled_from("abcd")), max_size=14), st.randoms())
def test_boilerplate_does_not_depend_on_the_order(replies: list[tuple[str, str]], rng: random.Random) -> None:
    def found(order: list[tuple[str, str]]) -> list[bool]:
        seen = Boilerplate()
        for text, chat in order:
            seen.add(text, chat)
        return [seen.is_boilerplate(LONG), seen.is_boilerplate(OTHER)]

    expected = [
        sum(t == text for t, _ in replies) >= 5 and len({c for t, c in replies if t == text}) >= 3
        for text in (LONG, OTHER)
    ]
    shuffled = rng.sample(replies, len(replies))
    assert found(replies) == found(shuffled) == expected
