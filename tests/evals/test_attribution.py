"""Whose texts are they? Told by style, not by length, not by heart, and with a known certainty."""

from __future__ import annotations

import random
import sys
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binomtest

from mlx_persona.errors import PersonaError
from mlx_persona.evals import attribution
from mlx_persona.evals.attribution import Attribution, Share
from mlx_persona.schema import Conversation, Message

WORDS = ["yeah", "so", "going", "to", "the", "game", "you", "should", "come", "fun", "think", "tired", "home"]


def text(rng: random.Random, longest: int = 12) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(2, longest)))


def chats(n: int = 20, turns: int = 6, seed: int = 0, mark: str = " haha", longer: bool = False) -> list[Conversation]:
    """Both write the same words, the person adds a mark; ``longer``: and says the longer of every two things."""
    rng = random.Random(seed)
    out = []
    for _ in range(n):
        messages = []
        for _ in range(turns):
            said = [text(rng, 24 if longer else 12) for _ in range(2)]
            if longer:
                said.sort(key=len)
            messages += [Message("user", said[0] + " oh."), Message("assistant", said[1] + mark)]
        out.append(Conversation(tuple(messages)))
    return out


def texts_of(conversations: list[Conversation], role: str) -> list[str]:
    return [m.content for c in conversations for m in c.messages if m.role == role]


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (61, 104)])
def test_the_interval_is_wilsons(count: int, n: int) -> None:
    expected = binomtest(count, n).proportion_ci(0.95, method="wilson")
    made = Share.of(count, n)
    assert (made.share, made.n) == (count / n, n)
    assert made.interval == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_two_people_of_one_length_are_told_apart_by_their_habits() -> None:
    judge = Attribution(chats())
    held_out = chats(seed=1)
    assert judge.training.accuracy.share > 0.95
    assert judge.share(texts_of(held_out, "assistant")).share > 0.85  # the longest lose their ends
    assert judge.share(texts_of(held_out, "user")).share < 0.05


def test_length_alone_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sides that differ in nothing but length: without the matching, most are told apart."""
    apart = chats(100, mark=" oh.", longer=True)
    judge = Attribution(apart)
    low, high = judge.training.accuracy.interval
    assert low < 0.5 < high
    held_out = chats(100, seed=1, mark=" oh.", longer=True)
    shares = [judge.share(texts_of(held_out, role)).share for role in ("user", "assistant")]
    assert abs(shares[0] - shares[1]) < 0.1
    monkeypatch.setattr(attribution, "_matched", lambda person, others, rng: (person, others))
    assert Attribution(apart).training.accuracy.interval[0] > 0.6


def test_both_sides_have_as_many_messages_of_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    person, others = attribution._sides(chats(60, longer=True))

    def lengths(side: list[attribution._Said]) -> Counter[int]:
        return Counter(int(np.log(len(said.text)) / np.log(attribution.LENGTH_STEP)) for said in side)

    first, second = attribution._matched(person, others, np.random.default_rng(0))
    assert lengths(first) == lengths(second) == lengths(person) & lengths(others)
    monkeypatch.setattr(attribution, "MAX_MESSAGES", 100)
    fewer, as_few = attribution._matched(person, others, np.random.default_rng(0))
    assert lengths(fewer) == lengths(as_few)
    assert 85 <= len(fewer) <= 100


def test_accuracy_is_of_conversations_that_were_not_learned_from() -> None:
    """Every conversation has a word of its own for each side: by heart all are right, unseen ones by chance."""
    rng = random.Random(0)
    made = ["".join(rng.choices("abcdefghijklmnop", k=12)) for _ in range(40)]
    conversations = [
        Conversation(tuple([Message("user", made[2 * i]), Message("assistant", made[2 * i + 1])] * 6))
        for i in range(20)
    ]
    judge = Attribution(conversations)
    assert judge.share(texts_of(conversations, "assistant")).share == 1.0
    assert judge.training.accuracy.share < 0.8


def test_only_what_the_person_is_trained_on_is_theirs() -> None:
    conversations = [
        Conversation((Message("system", "be kind"), Message("user", "a"), Message("assistant", "b", train=False)))
    ]
    with_more = [*conversations, Conversation((Message("user", " [NAME_1] "), Message("assistant", " c [NAME_2]")))]
    person, others = attribution._sides(with_more)
    assert [(said.text, said.conversation) for said in person] == [("c", 1)]
    assert [(said.text, said.conversation) for said in others] == [("a", 0)]


@pytest.mark.parametrize(
    ("long", "limit", "expected"),
    [
        ("one two three", 13, "one two three"),
        ("one two three", 8, "one two"),
        ("one two", 3, "one"),
        ("onetwo", 4, "onet"),
    ],
)
def test_a_text_is_cut_between_words(long: str, limit: int, expected: str) -> None:
    assert attribution._cut(long, limit) == expected


def test_what_stands_behind_the_cut_makes_no_difference() -> None:
    judge = Attribution(chats())
    rng = random.Random(3)
    said = [" ".join(rng.choices(WORDS, k=40)) for _ in range(50)]
    assert judge.share(said) == judge.share([one + " haha oh. haha" for one in said])
    assert judge.training.max_chars < 100


def test_it_is_the_same_every_time() -> None:
    some = texts_of(chats(seed=5, mark=""), "assistant")
    once, twice = (Attribution(chats(), seed=1) for _ in range(2))
    assert once.training == twice.training
    probabilities = [judge._classifier.predict_proba(some) for judge in (once, twice)]
    assert probabilities[0].tolist() == probabilities[1].tolist()


def test_without_the_library_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(PersonaError, match="needs scikit-learn") as caught:
        Attribution(chats())
    assert caught.value.hint == "pip install 'mlx-persona[eval]'"


@pytest.mark.parametrize(
    ("conversations", "problem"),
    [
        (chats(8, 6), r"at least 50 of the person's messages, .* in 5 conversations; got \d+"),
        (chats(4, 40), "in 5 conversations; got 1"),
        ([Conversation((Message("user", "a"),))], "must hold replies of the person and messages of others"),
    ],
)
def test_too_little_to_learn_from_is_an_error(conversations: list[Conversation], problem: str) -> None:
    with pytest.raises(PersonaError, match=problem):
        Attribution(conversations)


def test_an_empty_text_is_nobodys() -> None:
    assert Attribution(chats()).share(["", " [NAME_1] "]).share == 0.0
    assert Attribution(chats(), seed=1).share(["yeah haha", ""]).share == 0.5
