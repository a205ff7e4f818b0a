"""Frequency tables of two sets of texts: the right divergence, chance taken off, its noise known."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from mlx_persona.evals import wording
from mlx_persona.evals.wording import MEASURES, Difference, Telling, Wording, divergence

FUNCTIONS = frozenset({"the", "to", "you", "it", "and"})
WORDS = [*sorted(FUNCTIONS), "game", "fun", "yeah", "going", "think", "tired", "home", "cat"]
WEIGHTS = [9, 8, 7, 6, 5, 4, 4, 4, 3, 3, 2, 2, 1]


def person(n: int, seed: int = 0, longest: int = 15, weights: list[int] | None = None) -> list[str]:
    """Made-up replies whose words are drawn independently, each as often as its weight says."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, weights or WEIGHTS, k=rng.randint(1, longest))) for _ in range(n)]


PERSON = person(400)
counts = st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(any).map(lambda v: np.array(v, dtype=float))


def compare(other: list[str], name: str, **more: int) -> Difference:
    return Wording(PERSON, FUNCTIONS, **more).compare(other)[name]


@given(a=counts, b=counts)
def test_the_divergence_is_scipys(a: wording.Floats, b: wording.Floats) -> None:
    assert float(divergence(a, b)) == pytest.approx(jensenshannon(a, b, base=2) ** 2, abs=1e-9)


def test_the_divergence_of_many_tables_is_that_of_each() -> None:
    tables = np.random.default_rng(0).integers(1, 9, (3, 2, 5)).astype(float)
    expected = [[jensenshannon(tables[0, 0], table, base=2) ** 2 for table in pair] for pair in tables]
    np.testing.assert_allclose(divergence(tables[0, 0], tables), expected, atol=1e-12)


def test_sets_without_anything_in_common_are_one_bit_apart_and_twins_none() -> None:
    ours = Wording(["well a b c!"] * 20, None)
    for name, found in ours.compare(["So x y z?"] * 20).items():
        assert (found.distance, found.floor, *(found.interval or ())) == pytest.approx((1, 0, 1, 1)), name
    for name, found in ours.compare(["well a b c!"] * 30).items():
        assert (found.distance, found.above) == pytest.approx((0.0, 0.0)), name


@pytest.mark.parametrize(
    ("sizes", "size", "expected"),
    [
        ([2, 2, 2, 2], 4, [1, 1, 0, 0]),
        ([3, 3, 3, 3], 4, [1, 0, 0, 0]),  # the middle of the second lies beyond
        ([3, 3, 3, 3], 5, [1, 1, 0, 0]),
        ([9, 1, 1], 2, [1, 0, 0]),  # the first is always in
        ([0, 9, 1], 2, [1, 1, 0]),
    ],
)
def test_texts_are_taken_until_their_middles_reach_the_size(sizes: list[int], size: float, expected: list[int]) -> None:
    assert wording._taken(np.array([sizes], dtype=float), size)[0].tolist() == [bool(e) for e in expected]


def test_halves_are_disjoint_and_of_the_size() -> None:
    table = np.diag(np.random.default_rng(0).integers(1, 9, 60)).astype(float)  # a column for each text
    for size in (table.sum() / 2, table.sum() / 5):
        first, second = wording._halves(table, size, np.random.default_rng(1))
        assert not ((first > 0) & (second > 0)).any()
        for half in (first, second):
            assert (half.sum(axis=1) > 0).all()
            assert half.sum(axis=1).mean() == pytest.approx(size, rel=0.02)


@pytest.mark.parametrize(("n", "longest"), [(60, 15), (250, 15), (30, 60)])
def test_above_is_the_true_divergence_whatever_the_amount_of_text(n: int, longest: int) -> None:
    """The words' shares are known on both sides, so the truth is; plain tables of so little text are far off it."""
    theirs = WEIGHTS[::-1]
    truth = jensenshannon(WEIGHTS, theirs, base=2) ** 2  # 0.137 bits
    ours = Wording(PERSON, None)
    found = [ours.compare(person(n, seed, longest, theirs))["vocabulary"].above for seed in range(1, 9)]
    assert float(np.mean(found)) == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize("longest", [15, 60])
def test_more_of_the_same_is_at_the_floor(longest: int) -> None:
    ours = Wording(PERSON, FUNCTIONS)
    found = [ours.compare(person(100, seed, longest)) for seed in range(1, 13)]
    for name in MEASURES:
        excess = np.mean([one[name].distance - one[name].floor for one in found])
        assert abs(float(excess)) < 0.2 * np.mean([one[name].floor for one in found]), name


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda text: text.replace("the", "you"), "function words"),
        (lambda text: text.replace("game", "tea").replace("fun", "rain"), "vocabulary"),
        (lambda text: f"yeah {text}", "openings"),
        (lambda text: f"{text} cat", "closings"),
        (lambda text: f"{text}!", "closings"),
        (str.upper, "letters"),
    ],
)
def test_a_change_of_habit_moves_its_own_measure_most(change: Callable[[str], str], name: str) -> None:
    same = person(100, seed=1)
    found = Wording(PERSON, FUNCTIONS).compare([change(text) for text in same])
    times = {one: value.distance / value.floor for one, value in found.items()}
    assert max(times, key=lambda one: times[one]) == name
    assert found[name].interval is not None
    assert found[name].interval[0] > found[name].floor


def test_the_floor_falls_with_the_amount_of_text() -> None:
    floors = [Wording(person(n), FUNCTIONS).own()["letters"].floor for n in (40, 160, 640)]
    # Chance adds to a divergence in proportion to 1 / size (it is a chi-square of small differences).
    assert floors[0] / floors[2] == pytest.approx(16, rel=0.4)
    assert floors[0] > floors[1] > floors[2]


def test_the_own_column_is_its_floor() -> None:
    for name, found in Wording(PERSON, FUNCTIONS).own().items():
        assert (found.distance, found.above, found.interval) == (found.floor, 0.0, None), name
        assert found.floor > 0
    assert Wording(PERSON, FUNCTIONS).own()["openings"].size == 200


@pytest.mark.parametrize("n", [60, 240])
def test_the_interval_is_as_wide_as_new_samples_are_apart(n: int) -> None:
    """With 240 texts less than all of them are drawn at a time; the interval is for all the same."""
    ours = Wording(PERSON, FUNCTIONS)
    theirs = [ours.compare(person(n, seed, weights=WEIGHTS[::-1]))["vocabulary"] for seed in range(1, 17)]
    spread = 2 * 1.96 * np.std([one.distance for one in theirs], ddof=1)
    widths = [one.interval[1] - one.interval[0] for one in theirs if one.interval]
    assert float(np.mean(widths)) == pytest.approx(spread, rel=0.4)
    assert all(one.interval and one.interval[0] <= one.distance <= one.interval[1] for one in theirs)


def test_a_seed_fixes_every_draw() -> None:
    other = person(50, seed=2)
    assert compare(other, "letters", seed=1) == compare(other, "letters", seed=1)
    assert compare(other, "letters", seed=1) != compare(other, "letters", seed=2)


def test_a_reply_that_was_broken_off_has_no_closing() -> None:
    ours, other = Wording(["ok!"] * 30 + ["home"] * 30, FUNCTIONS), ["the game!"] * 10 + ["going home"] * 10
    assert ours.compare(other)["closings"].size == 20
    found = ours.compare(other, [False] * 10 + [True] * 10)["closings"]
    assert found.size == 10
    assert Telling("!", 0.5, 1.0) in found.telling
    assert "closings" not in ours.compare(other, [True] * 20)


def test_what_makes_the_difference_is_named_with_both_shares() -> None:
    found = Wording(["yeah ok"] * 10 + ["no"] * 10, None).compare(["yeah", "maybe ok"] * 10)["vocabulary"]
    assert found.telling == (Telling("no", 1 / 3, 0.0),)  # "maybe" has no place: the person never says it


def test_what_there_is_too_little_text_for_is_left_out() -> None:
    assert set(Wording(PERSON, None).compare(["yeah"] * 5)) == set(MEASURES) - {"function words"}
    assert Wording(PERSON, FUNCTIONS).compare(["", " "]) == {}
    assert Wording(["", "hello there"], FUNCTIONS).own() == {}
    assert Wording(["hello", "hi there"], FUNCTIONS).compare(["the game"]).keys() == set(MEASURES)


def test_a_big_set_is_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "MAX_TEXTS", 100)
    assert Wording(PERSON, FUNCTIONS).own() == Wording(PERSON[::4], FUNCTIONS).own()
