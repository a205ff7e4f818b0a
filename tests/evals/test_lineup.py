"""Could it be the person's? The person passes best, an exaggeration of them does not, and known answers come out."""

from __future__ import annotations

import random

import pytest

from mlx_persona.evals import lineup
from mlx_persona.evals.attribution import Attribution, Share
from mlx_persona.evals.lineup import MIN_REPLIES, Lineup
from mlx_persona.schema import Conversation, Message

WORDS = ["yeah", "so", "going", "to", "the", "game", "you", "should", "come", "fun", "think", "tired", "home"]
HABIT = 0.6


def said(n: int, mark: str, often: float, seed: int) -> list[str]:
    """Replies of the same words, that often with a mark at their end."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(4, 9))) + mark * (rng.random() < often) for _ in range(n)]


def known(found: Share | None) -> Share:
    """It could be said."""
    assert found is not None
    return found


@pytest.fixture(scope="module")
def judge() -> Attribution:
    """Of somebody who laughs in six replies of ten, and of others who never do."""
    person, others = said(300, " haha", HABIT, 1), said(300, " oh", HABIT, 2)
    pairs = [(Message("user", theirs), Message("assistant", own)) for own, theirs in zip(person, others, strict=True)]
    return Attribution([Conversation(sum(pairs[i : i + 10], ())) for i in range(0, 300, 10)])


@pytest.fixture(scope="module")
def real() -> list[str]:
    """Held-out replies of that person."""
    return said(400, " haha", HABIT, 3)


def test_the_person_passes_best_and_an_exaggeration_of_them_does_not(judge: Attribution, real: list[str]) -> None:
    """It laughs in every reply: the more like the person than others, the less like the person."""
    caricature, others = said(200, " haha", 1.0, 4), said(200, " oh", HABIT, 5)
    among = Lineup(real, judge, 200)
    own, too_much, too_other = map(known, (among.own(), among.share(caricature), among.share(others)))
    assert judge.share(caricature).interval[0] > judge.share(real).interval[1]
    assert own.share > 0.9
    assert own.interval[1] == 1.0
    assert max(too_much.interval[1], too_other.interval[1]) < own.interval[0]
    assert too_other.share < too_much.share


def test_somebody_new_of_the_same_habits_passes(judge: Attribution, real: list[str]) -> None:
    found = known(Lineup(real, judge, 200).share(said(200, " haha", HABIT, 6)))
    assert found.share > 0.85
    assert found.n == 200


@pytest.mark.parametrize("often", [0.1, 0.35, 0.85, 1.0])
def test_it_is_one_minus_the_total_variation_distance(judge: Attribution, often: float) -> None:
    """Of two kinds of replies the person says the first six times of ten, the column ``often``: TV = |often - 0.6|."""

    def two_kinds(share: float) -> list[str]:
        return ["going home!!"] * round(400 * share) + ["you think so, yeah"] * round(400 * (1 - share))

    found = known(Lineup(two_kinds(HABIT) * 2, judge, 400).share(two_kinds(often)))
    assert found.share == pytest.approx(1 - abs(often - HABIT), abs=0.06)


@pytest.mark.parametrize(
    ("missed", "taken", "n_missed", "n_taken", "low", "high"),
    [(14 / 70, 48 / 80, 70, 80, 1 - 0.3339, 1 - 0.0524), (1 / 10, 3 / 10, 10, 10, 1 - 0.8090, 1 - 0.1705)],
)
def test_the_interval_is_newcombes(
    missed: float, taken: float, n_missed: int, n_taken: int, low: float, high: float
) -> None:
    """Table II of the paper: 56/70 - 48/80 and 9/10 - 3/10, turned round."""
    found = lineup._share(missed, taken, n_missed, n_taken)
    assert found.share == pytest.approx(missed + taken)
    assert found.interval == pytest.approx((low, high), abs=1e-4)


def test_a_missing_end_betrays_nobody(judge: Attribution, real: list[str]) -> None:
    """Replies like the person's, broken off: if it is said so, both sides are seen to that length only."""
    broken = [text[:15] for text in said(200, " haha", HABIT, 7)]
    among = Lineup(real, judge, 200)
    fair, unfair = known(among.share(broken, [True] * 200)), known(among.share(broken))
    assert fair.share > 0.8 > 0.6 > unfair.share


def test_an_empty_reply_is_not_the_persons(judge: Attribution, real: list[str]) -> None:
    among = Lineup(real, judge, 100)
    nothing, half = known(among.share(["", " [NAME_1] "] * 50)), known(among.share(["", "yeah so fun"] * 50))
    assert (nothing.share, nothing.n) == (0.0, 100)
    assert half.share < 0.6


def test_of_too_few_replies_nothing_is_said(judge: Attribution, real: list[str]) -> None:
    assert Lineup(real[: 2 * MIN_REPLIES - 1], judge, 100).own() is None
    assert Lineup(real[: 2 * MIN_REPLIES], judge, 100).own() is not None
    assert Lineup(real, judge, MIN_REPLIES - 1).own() is None
    assert Lineup(real, judge, 100).share(real[: MIN_REPLIES - 1]) is None
    assert Lineup([], judge, 100).share(real) is None


def test_it_is_the_same_every_time(judge: Attribution, real: list[str]) -> None:
    texts = said(60, " haha", 0.3, 8)
    once, twice = (Lineup(real, judge, 60, seed=1) for _ in range(2))
    assert (once.own(), once.share(texts)) == (twice.own(), twice.share(texts))
