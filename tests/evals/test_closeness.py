"""Distances that are resampled together, against distances of texts that are really drawn again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mlx_persona.evals import style
from mlx_persona.evals.closeness import MIN_REPLIES, Closeness, Resampled, redraws, shown, shown_share
from mlx_persona.evals.intervals import Tally, shown_tally
from tests.part_kit import ASSISTANT, PERSON


def test_draws_are_the_distances_of_redrawn_texts_around_the_estimate() -> None:
    counts = redraws(10, seed=3)
    found = Closeness(PERSON, 10, seed=0).resampled(ASSISTANT, counts)
    really = [
        style.distance(PERSON, [text for text, times in zip(ASSISTANT, row, strict=True) for _ in range(int(times))])
        for row in counts[:20]
    ]
    assert found.value == pytest.approx(style.distance(PERSON, ASSISTANT))
    assert np.diff(found.draws[:20]) == pytest.approx(np.diff(really))
    assert found.draws.mean() == pytest.approx(found.value)


def test_the_interval_lies_in_that_of_the_report_card_which_draws_the_person_again_too() -> None:
    found = Closeness(PERSON, 10, seed=0).resampled(ASSISTANT, redraws(10, seed=5))
    low, high = style.bootstrap_interval(PERSON, ASSISTANT, seed=5)
    assert low < found.interval[0] < found.interval[1] < high


def test_a_redraw_takes_as_many_as_there_are() -> None:
    counts = redraws(4, seed=0)
    assert set(counts.sum(axis=1)) == {4}
    assert len(Counter(map(tuple, counts))) > 30  # of 35 that there are


def test_the_difference_of_a_thing_and_itself_is_nothing_at_all() -> None:
    found = Closeness(PERSON, 10, seed=0).resampled(ASSISTANT, redraws(10, seed=0))
    assert found.minus(found).to_json(10) == {"value": 0.0, "interval": [0.0, 0.0], "n": 10}


def test_above_the_floor_is_never_below_nothing() -> None:
    near = Closeness(PERSON, 10, seed=0)
    figure = near.above(near.resampled(PERSON, redraws(10, seed=0)))
    assert figure["value"] == 0
    assert figure["interval"][0] == 0
    assert figure["floor"] == pytest.approx(style.split_half_floor(PERSON, 10))


@pytest.mark.parametrize(("person", "n"), [(PERSON[:3], 40), (PERSON, 9), ((), 0)])
def test_too_few_replies_say_so(person: tuple[str, ...], n: int) -> None:
    why = Closeness(person, n, seed=0).why_not
    assert f"{MIN_REPLIES} replies" in why
    assert f"{len(person)} of the person and {n} of a model" in why


def test_figures_for_people() -> None:
    figure = {"value": 0.12345, "interval": [-0.01, 0.5], "n": 10}
    assert shown(figure) == "0.123 (-0.010–0.500)"
    assert shown(figure, "+.2f") == "+0.12 (-0.01 to +0.50), may be 0"
    assert shown({**figure, "interval": [0.01, 0.5]}, "+.2f") == "+0.12 (+0.01 to +0.50)"
    assert shown({**figure, "interval": None}) == "0.123 (?)"
    assert shown_share({"share": 0.5, "interval": [0.25, 0.75], "n": 8}) == "50 % (25–75 %)"
    assert shown_tally(Tally(0, 0).to_json()) == shown(None) == shown_share(None) == shown_tally(None) == "-"


def test_percentiles_of_a_known_distribution() -> None:
    assert Resampled(50.0, np.arange(101.0)).interval == pytest.approx((2.5, 97.5))
    assert Resampled(50.0, np.arange(101.0)).times(2).interval == pytest.approx((5, 195))
