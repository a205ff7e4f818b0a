"""A judge beside the one who knows the person: what is counted, read back and shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.evals.blind.agreement import agreement
from mlx_persona.evals.blind.judged import SCALE, Ratings, described, judged, meanings
from mlx_persona.evals.blind.score import score
from mlx_persona.evals.intervals import Tally, wilson
from tests.evals.test_blind import pressed, session

SHIPPED = {"honesty": "says what is so", "persona_energy": "has temper"}
LABELS = {"a": "base", "b": "sft-1"}


def ratings(*pairs: tuple[float, float], name: str = "warm", by_probability: int = 0) -> Ratings:
    """What a judge gave a and b of each item on one dimension."""
    scores = tuple({"a": {name: a}, "b": {name: b}} for a, b in pairs)
    return Ratings("http://127.0.0.1:1/v1", "judge-7b", {name: SCALE}, scores, by_probability)


def test_a_measure_with_the_name_of_a_shipped_dimension_means_that() -> None:
    assert described("Persona  Energy", SHIPPED) == "has temper"
    assert described("persona_energy", SHIPPED) == "has temper"
    assert described("warm", SHIPPED) == ""
    assert meanings(("honesty", "warm"), SHIPPED) == {"honesty": "says what is so", "warm": SCALE}
    assert meanings((), SHIPPED) == SHIPPED


def test_each_reply_counts_once_and_skipped_ones_not_at_all() -> None:
    """Firsts a, b: the user chooses a, then a; rates a 4, b skipped; b 2, a 5."""
    said = pressed(session("ab", ("warm",)), "14s" + "225")
    found = judged(said, ratings((3.5, 1.0), (5.0, 2.4)))
    warm = found.dimensions["warm"]
    assert warm.means == {"a": 4.25, "b": 1.7}
    assert warm.agreement == agreement([0, 1, 1], [4, 2, 5], [3.5, 2.4, 5.0])
    assert (found.preferred, found.ties, found.choices) == ({"a": 2, "b": 0}, 0, Tally(2, 2))


def test_ties_of_either_are_left_out_of_the_choices() -> None:
    """The user: a, b, tie, a, a; the judge: a, a, a, tie, b."""
    said = pressed(session("aaaaa"), "12t11")
    found = judged(said, ratings((3, 2), (4, 1), (5, 1), (2, 2), (1, 2)))
    assert found.choices == Tally(1, 3)
    assert (found.preferred, found.ties) == ({"a": 3, "b": 1}, 1)


def test_the_side_with_the_higher_mean_over_dimensions_is_preferred() -> None:
    scores = ({"a": {"x": 5.0, "y": 1.0}, "b": {"x": 3.0, "y": 3.5}},)
    found = judged(pressed(session("a"), "1"), Ratings("u", "m", {"x": "", "y": ""}, scores, 0))
    assert found.preferred == {"a": 0, "b": 1}
    assert found.choices == Tally(0, 1)


def test_what_differs_through_rounding_only_is_a_tie() -> None:
    scores = ({"a": {"x": 1.1, "y": 1.3, "z": 1.7}, "b": {"x": 1.7, "y": 1.3, "z": 1.1}},)
    assert sum((1.1, 1.3, 1.7)) / 3 != sum((1.7, 1.3, 1.1)) / 3
    found = judged(pressed(session("a"), "1"), Ratings("u", "m", {"x": "", "y": "", "z": ""}, scores, 6))
    assert (found.ties, found.choices) == (1, Tally(0, 0))


def test_without_a_rubric_there_are_means_and_choices_but_no_agreement() -> None:
    result = score(pressed(session("ab"), "12"), LABELS, ratings((3, 2), (4, 1), name="persona_energy"))
    assert result.judge is not None
    assert result.judge.dimensions["persona_energy"].agreement is None
    rows = dict(map(tuple, result.rows()))
    assert rows["judge"] == "judge-7b"
    assert (rows["judge prefers base"], rows["judge prefers sft-1"]) == ("2 of 2", "0 of 2")
    assert rows["  the same side as you"] == "2/2 (34–100 %)"
    assert rows["judge on persona energy: base"] == "3.50"
    assert not any("kappa" in name for name in rows)


def test_the_result_holds_the_agreement_and_shows_it() -> None:
    said = pressed(session("aba", ("warm",)), "114" + "132" + "1s5")
    given = ratings((2.0, 4.0), (2.0, 3.0), (1.0, 5.0), by_probability=6)
    result = score(said, LABELS, given)
    shown = json.loads(json.dumps(result.to_json()))["judge"]
    assert (shown["url"], shown["model"], shown["rubric"]) == (given.url, given.model, given.rubric)
    assert (shown["questions"], shown["by_probability"]) == (6, 6)
    warm = shown["dimensions"]["warm"]
    assert warm["means"] == {"a": pytest.approx(5 / 3), "b": 4.0}
    assert (warm["agreement"]["n"], warm["agreement"]["groups"]) == (5, 3)
    assert warm["agreement"]["difference"] == pytest.approx(0.2)
    assert shown["choices"] == {
        "hits": 1,
        "n": 3,
        "share": pytest.approx(1 / 3),
        "interval": list(wilson(1, 3)),
    }
    rows = dict(map(tuple, result.rows()))
    assert rows["judge on warm: sft-1"] == "4.00"
    kappa = result.judge.dimensions["warm"].agreement
    low, high = kappa.interval
    assert rows["  agreement with you on 5 replies (kappa)"] == f"{kappa.kappa:.2f} ({low:.2f} to {high:.2f})"
    assert rows["  judge minus you"].startswith("+0.20 (")
    assert score(said, LABELS).to_json()["judge"] is None


def test_figures_without_a_meaning_are_shown_as_none() -> None:
    result = score(pressed(session("a", ("warm",)), "133"), LABELS, ratings((3.0, 3.0)))
    rows = dict(map(tuple, result.rows()))
    assert rows["  agreement with you on 2 replies (kappa)"] == "-"
    assert rows["  rank correlation with you"] == "-"
    assert rows["  judge minus you"] == "+0.00"
    assert rows["  the same side as you"] == "-"


def test_ratings_are_read_as_they_were_written() -> None:
    given = ratings((3.5, 2), (1, 5), by_probability=3)
    assert Ratings.from_json(json.loads(json.dumps(given.to_json())), 2) == given
    assert given.questions == 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"scores": []}, "for each of 1 items"),
        ({"scores": [{"a": {"warm": 1}, "b": {"warm": 6}}]}, "must be 1 to 5"),
        ({"scores": [{"a": {"warm": 1}, "b": {"warm": float("nan")}}]}, "must be 1 to 5"),
        ({"scores": [{"a": {"warm": 1}, "b": {}}]}, "must have url, model, rubric and scores"),
        ({"scores": 5}, "must have url"),
        ({"rubric": []}, "must have url"),
        ({"model": None, "by_probability": "x"}, "must have url"),
    ],
)
def test_ratings_that_are_none_are_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(PersonaError, match=problem):
        Ratings.from_json({**ratings((1, 2)).to_json(), **change}, 1)
    with pytest.raises(PersonaError, match="must have url"):
        Ratings.from_json([1], 1)
