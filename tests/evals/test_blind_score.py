"""What a blind comparison's answers say: checked against SciPy and by hand."""

from __future__ import annotations

import json

import pytest
from scipy.stats import binomtest

from mlx_persona.evals.blind.score import Share, binomial_p, score, share_of
from mlx_persona.evals.blind.session import Session
from mlx_persona.evals.intervals import wilson
from tests.evals.test_blind import pressed, session

LABELS = {"a": "base", "b": "sft-1"}


@pytest.mark.parametrize(("times", "of"), [(0, 1), (1, 1), (0, 20), (20, 20), (3, 3), (14, 18), (9, 18), (211, 400)])
def test_interval_and_test_are_those_of_scipy(times: int, of: int) -> None:
    reference = binomtest(times, of, 0.5)
    interval = reference.proportion_ci(0.95, method="wilson")
    assert wilson(times, of) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert binomial_p(times, of) == pytest.approx(reference.pvalue, rel=1e-9)


def test_nothing_decided_has_no_rate() -> None:
    assert share_of(0, 0) == Share(0, 0, None, None, None)
    result = score(pressed(session("abb"), "tt"), LABELS)
    assert (result.ties, result.answered, result.items) == (2, 2, 3)
    assert result.b_share.rate is None
    assert result.headline() == "Nothing was decided."
    assert ["ties", "2"] in result.rows()


def test_wins_ties_and_the_pull_of_the_first_place_are_counted() -> None:
    # First is a, b, b, a, a: so 1 is a, 2 is a, 1 is b, tie, 2 is b.
    result = score(pressed(session("abbaa"), "121t2"), LABELS)
    assert (result.wins, result.ties) == ({"a": 2, "b": 2}, 1)
    assert result.b_share == share_of(2, 4)
    assert result.first == share_of(2, 4)
    assert result.fooled is None
    assert result.cut == {"a": 0, "b": 1}
    assert result.headline() == "4 decided answers do not tell base and sft-1 apart."
    rows = dict(map(tuple, result.rows()))
    assert rows["base was preferred"] == rows["sft-1 was preferred"] == "2 of 5"
    assert rows["for sft-1, ties left out"] == "50 %"
    assert rows["  95 % interval"] == "15 % to 85 %"
    assert rows["  p-value against a coin"] == "1.000"
    assert rows["the first of the two was chosen"] == "2 of 4"
    assert rows["replies of sft-1 cut at the token limit"] == "1"


def test_a_clear_winner_is_called_one() -> None:
    assert score(pressed(session("a" * 8), "2" * 8), LABELS).headline() == "sft-1 is preferred, 8 of 8 times."
    assert ["  p-value against a coin", "< 0.001"] in score(pressed(session("a" * 12), "2" * 12), LABELS).rows()
    assert score(pressed(session("a" * 8), "1" * 8), LABELS).headline() == "base is preferred, 8 of 8 times."


@pytest.mark.parametrize("real", ["a", "b"])
def test_against_the_real_person_it_counts_how_often_the_model_was_taken_for_them(real: str) -> None:
    labels = {"a": "sft-1", "b": "sft-1", real: "real"}
    model = {"a": "b", "b": "a"}[real]
    keys = {real: "1", model: "2"}
    said = pressed(session(real * 10), keys[real] * 7 + keys[model] * 2 + "t")
    result = score(said, labels)
    assert result.fooled == share_of(2, 9)
    assert result.main == result.fooled
    assert result.headline().startswith("Fooled 2 of 9 times. That does not show")
    rows = dict(map(tuple, result.rows()))
    assert rows["the real reply was found"] == "7 of 10"
    assert rows["sft-1 was taken for the person"] == "2 of 10"
    found = score(pressed(session(real * 8), "1" * 8), labels).headline()
    assert found == "Fooled 0 of 8 times. The model can be told from the person."
    taken = score(pressed(session(real * 8), "2" * 8), labels).headline()
    assert taken == "Fooled 8 of 8 times. The model is taken for the person more often than the person is."


def rated() -> Session:
    """Three items: a gets 1, 2 and no rating, b gets 4, 3 and 5."""
    return pressed(session("aba", ("warm",)), "114" + "132" + "1s5")


def test_ratings_are_means_and_their_difference_is_over_items_with_both() -> None:
    warm = score(rated(), LABELS).ratings["warm"]
    assert warm.means == {"a": 1.5, "b": 4.0}
    assert (warm.both, warm.difference) == (2, 2.0)
    assert warm.interval == (1.0, 3.0)
    assert warm == score(rated(), LABELS).ratings["warm"]
    rows = dict(map(tuple, score(rated(), LABELS).rows()))
    assert (rows["warm: base"], rows["warm: sft-1"]) == ("1.50", "4.00")
    assert rows["  sft-1 minus base"] == "+2.00"
    assert score(rated(), LABELS).rows()[-2] == ["  95 % interval", "+1.00 to +3.00"]


def test_ratings_that_nobody_gave_have_no_mean() -> None:
    warm = score(pressed(session("aba", ("warm",)), "1ss"), LABELS).ratings["warm"]
    assert warm.means == {"a": None, "b": None}
    assert (warm.both, warm.difference, warm.interval) == (0, None, None)


def test_the_json_of_a_result_holds_the_figures_that_the_contract_names() -> None:
    result = score(rated(), LABELS)
    shown = json.loads(json.dumps(result.to_json()))
    assert (shown["a"], shown["b"], shown["items"], shown["answered"]) == ("base", "sft-1", 3, 3)
    assert (shown["a_wins"], shown["b_wins"], shown["ties"]) == (2, 1, 0)
    assert shown["win_rate"] == pytest.approx(1 / 3)
    assert shown["interval"] == list(wilson(1, 3))
    assert shown["p_value"] == 1.0
    assert shown["fooled"] is None
    assert shown["ratings"]["warm"]["means"] == {"a": 1.5, "b": 4.0}
