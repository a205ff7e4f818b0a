"""Style distance: zero for the same, growing with every kind of change, its noise known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_persona.evals import style

WORDS = ["yeah", "so", "im", "going", "to", "the", "game", "haha", "you", "should", "come", "its", "fun", "i", "think"]
ASSISTANT = (
    "I understand your concern. Here are some suggestions:\n1. Plan ahead, and stay organized.\n2. It's vital to rest.",
    "That's a wonderful idea! Traveling offers many benefits, such as new experiences, friendships, and memories.",
    "Certainly! To bake bread, you'll need flour, water, salt, and yeast. First, mix the dry ingredients; then knead.",
)


def person(n: int, seed: int = 0) -> list[str]:
    """Made-up replies of somebody who writes in lower case, with few marks, in bursts."""
    rng = random.Random(seed)
    out = []
    for _ in range(n):
        text = " ".join(rng.choices(WORDS, k=rng.randint(2, 25)))
        text += rng.choice(["", "", "", "!", "?", " :)", " lol"])
        out.append(text.capitalize() if rng.random() < 0.3 else text)
    return out


def feature(name: str, text: str) -> float:
    return float(style.profile([text]).values[0, style.FEATURES.index(name)])


def rate(count: int, size: int) -> float:
    return math.sqrt(100 * count / (size + 20))


PERSON = person(300)


def test_a_set_is_at_distance_zero_from_itself_in_any_order() -> None:
    assert style.distance(PERSON, PERSON) == 0.0
    assert style.distance(PERSON, PERSON[::-1]) == 0.0


def test_the_distance_does_not_depend_on_how_often_a_set_is_repeated() -> None:
    other = person(50, seed=1)
    assert style.distance(PERSON, other * 3) == pytest.approx(style.distance(PERSON, other), rel=1e-9)


def test_the_two_directions_agree_within_a_fifth_for_sets_of_like_spread() -> None:
    other = [text + "!" for text in person(300, seed=1)]
    there, back = style.distance(PERSON, other), style.distance(other, PERSON)
    assert abs(there - back) < 0.2 * there


@pytest.mark.parametrize(
    ("change", "group"),
    [
        (str.upper, "casing"),
        (lambda text: f"{text} {text} {text}", "length"),
        (lambda text: text.replace(" ", "\n"), "length"),
        (lambda text: text.replace(" ", ", ") + ".", "punctuation"),
        (lambda text: text + " 😂", "expression"),
    ],
)
def test_a_change_of_style_moves_a_set_and_moves_its_own_group_most(change: Callable[[str], str], group: str) -> None:
    same = person(300, seed=1)
    changed = [change(text) for text in same]
    assert style.distance(PERSON, changed) > 2 * style.distance(PERSON, same)
    parts = style.contributions(PERSON, changed)
    sums = {name: sum(parts[f] for f in features) for name, features in style._GROUPS.items()}
    assert max(sums, key=lambda name: sums[name]) == group


@pytest.mark.parametrize("change", [str.upper, lambda text: text * 3, lambda text: text.replace(" ", ", ")])
def test_the_distance_grows_with_the_share_of_changed_replies(change: Callable[[str], str]) -> None:
    def mixed(share: float) -> float:
        return style.distance(PERSON, [change(t) if i < share * len(PERSON) else t for i, t in enumerate(PERSON)])

    steps = [mixed(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert steps == sorted(steps)
    assert steps[0] == 0.0 < steps[1]


def test_an_assistant_is_farther_than_another_sample_of_the_person() -> None:
    floor = style.split_half_floor(PERSON, 30)
    assert style.distance(PERSON, list(ASSISTANT) * 10) > 4 * floor
    assert style.distance(PERSON, person(30, seed=2)) < 1.5 * floor


def test_contributions_sum_to_the_distance_and_none_exceeds_the_cap() -> None:
    extreme = ["!" * 500 + "\n" * 500 + "X9;" * 500]
    parts = style.contributions(PERSON, extreme)
    assert tuple(parts) == style.FEATURES
    assert sum(parts.values()) == pytest.approx(style.distance(PERSON, extreme), rel=1e-12)
    assert all(part <= style.CAP * weight + 1e-12 for part, weight in zip(parts.values(), style.WEIGHTS, strict=True))
    assert style.WEIGHTS.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0.0], [1.0], 1.0),
        ([0.0, 1.0, 3.0], [5.0, 6.0, 8.0], 5.0),  # a shift by 5
        ([0.0, 2.0], [1.0], 1.0),  # same mean, other spread
        ([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0], 0.25),  # shares of 1/2 and 3/4
        ([2.0, 2.0], [2.0], 0.0),
    ],
)
def test_wasserstein_on_sets_worked_out_by_hand(a: list[float], b: list[float], expected: float) -> None:
    assert style.wasserstein(np.array(a), np.array(b))[0] == pytest.approx(expected)


numbers = st.lists(st.floats(-50, 50), min_size=1, max_size=12).map(np.array)


@settings(max_examples=60, deadline=None)
@given(a=numbers, b=numbers, c=numbers)
def test_wasserstein_is_a_metric(a: style.Floats, b: style.Floats, c: style.Floats) -> None:
    def between(x: style.Floats, y: style.Floats) -> float:
        return float(style.wasserstein(x, y)[0])

    assert between(a, b) == pytest.approx(between(b, a), abs=1e-9)
    assert between(a, a) == pytest.approx(0.0, abs=1e-9)
    assert between(a, c) <= between(a, b) + between(b, c) + 1e-9


def test_weights_mean_the_same_as_repeated_values() -> None:
    a, b = np.array([0.0, 1.0, 4.0]), np.array([1.0, 2.0])
    of_a, of_b = np.array([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.0, 0.5]]), np.array([[0.75, 0.25], [0.0, 1.0]])
    expected = [
        style.wasserstein(a, np.array([1.0, 1.0, 1.0, 2.0]))[0],
        style.wasserstein(np.array([0.0, 4.0]), np.array([2.0]))[0],
    ]
    assert style.wasserstein(a, b, (of_a, of_b)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("characters (log)", " four ", math.log(5)),
        ("words (log)", "two words", math.log(3)),
        ("lines (log)", "a\nb\nc", math.log(3)),
        ("upper-case letters", "Ab1!", rate(1, 2)),
        ("starts with a capital", '"Hi', 1),
        ("starts with a capital", "hI", 0),
        ("no capitals", "hi there", 1),
        ("no capitals", "hi There", 0),
        ("no capitals", ":D 123", 0),  # no letters at all
        ("lower-case i", "i think i'm in", rate(2, 14)),
        ("ends in .", "ok.", 1),
        ("ends in .", 'he said "ok."', 1),
        ("ends in .", "ok...", 0),
        ("ends in !", "ok!!", 1),
        ("ends in ?", "ok?) ", 1),
        ("ends bare", "ok 3", 1),
        ("ends bare", "ok :)", 0),
        ("ends in emoji", "ok :)", 1),
        ("ends in emoji", "ok ❤️", 1),
        ("ends in emoji", "😂 ok", 0),
        ("comma", "a, b, c", rate(2, 7)),
        ("period", "a. b... c.", rate(2, 10)),
        ("ellipsis", "a.. b... c… d.", rate(3, 14)),
        ("apostrophe", "it's it’s", rate(2, 9)),
        ("other marks", "a :) b", 0),  # the emoticon's own marks do not count
        ("other marks", 'see: "x" (y)', rate(5, 12)),
        ("other marks", "1. a\n2) b", rate(2, 9)),
        ("repeated ! ?", "what?! no!! ok!", rate(2, 15)),
        ("digits", "at 10", rate(2, 5)),
        ("emoji", ":) 😂 <3 xD ;-)", rate(5, 14)),
        ("emoji", "http://x.org 3:30 ratio (a): b max", 0),
        ("laughter", "haha LOL lmao hehehe hahahahah loool", rate(6, 36)),
        ("laughter", "the lollipop has a hat", 0),
        ("missing apostrophe", "Im sure dont", rate(2, 12)),
        ("missing apostrophe", "I'm sure we don’t want cantaloupe", 0),
        ("stretched word", "sooo good nooo", rate(2, 14)),
    ],
)
def test_a_feature_counts_what_its_name_says(name: str, text: str, expected: float) -> None:
    assert feature(name, text) == pytest.approx(expected)


def test_empty_replies_have_a_profile_and_no_replies_have_none() -> None:
    assert np.isfinite(style.profile(["", "  "]).values).all()
    with pytest.raises(ValueError, match="at least one reply, got 0"):
        style.profile([])


def test_the_floor_falls_with_the_number_of_replies() -> None:
    many = person(1200)
    floors = [style.split_half_floor(many[:n]) for n in (40, 200, 1200)]
    assert floors == sorted(floors, reverse=True)
    # In proportion to 1 / sqrt(n): del Barrio et al., 1999.
    assert floors[0] / floors[2] == pytest.approx(math.sqrt(1200 / 40), rel=0.35)


@pytest.mark.parametrize("available", [150, 1000])
def test_the_floor_is_what_new_samples_of_the_same_style_show(available: int) -> None:
    texts, n = person(available), 100
    drawn = np.mean([style.distance(texts, person(n, seed=seed)) for seed in range(1, 21)])
    assert style.split_half_floor(texts, n) == pytest.approx(drawn, rel=0.25)


def test_the_floor_is_fixed_by_its_seed() -> None:
    assert style.split_half_floor(PERSON, 50, seed=3) == style.split_half_floor(PERSON, 50, seed=3)
    assert style.split_half_floor(PERSON, 50, seed=3) != style.split_half_floor(PERSON, 50, seed=4)


def test_one_reply_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="at least 2 replies, got 1"):
        style.split_half_floor(["ok"])


@pytest.mark.parametrize("other", [person(60, seed=5), list(ASSISTANT) * 5])
def test_the_interval_holds_the_estimate_and_is_fixed_by_its_seed(other: list[str]) -> None:
    low, high = style.bootstrap_interval(PERSON, other, seed=1)
    assert 0 <= low <= style.distance(PERSON, other) <= high
    assert low < high
    assert style.bootstrap_interval(PERSON, other, seed=1) == (low, high)
    assert style.bootstrap_interval(PERSON, other, seed=2) != (low, high)


def test_the_interval_narrows_with_more_replies() -> None:
    many = person(200, seed=6)
    for small, large in (((PERSON, many[:20]), (PERSON, many)), ((PERSON[:20], many), (PERSON, many))):
        widths = [high - low for low, high in (style.bootstrap_interval(*both) for both in (small, large))]
        assert widths[1] < 0.6 * widths[0]


def test_above_floor_is_never_negative() -> None:
    assert style.above_floor(0.3, 0.1) == pytest.approx(0.2)
    assert style.above_floor(0.05, 0.1) == 0.0
