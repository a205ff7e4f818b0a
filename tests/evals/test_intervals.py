"""Wilson's interval against figures worked out elsewhere and against what defines it."""

from __future__ import annotations

import math

import pytest

from mlx_persona.evals.intervals import Z95, Tally, mean_interval, wilson


def test_the_ends_solve_the_equation_that_defines_them() -> None:
    """An end p satisfies (share - p)² = z² p (1 - p) / n."""
    for hits, n in ((1, 10), (5, 10), (7, 15), (99, 100), (0, 5), (5, 5)):
        for p in wilson(hits, n):
            assert (hits / n - p) ** 2 == pytest.approx(Z95**2 * p * (1 - p) / n, abs=1e-12)


def test_a_share_of_none_and_of_all_keep_their_end() -> None:
    """With no success of 10 the upper end is z² / (n + z²)."""
    assert wilson(0, 10) == (0.0, pytest.approx(Z95**2 / (10 + Z95**2)))
    assert wilson(10, 10) == (pytest.approx(10 / (10 + Z95**2)), 1.0)
    assert wilson(0, 0) == (0.0, 1.0)


def test_more_trials_narrow_it() -> None:
    widths = [high - low for low, high in (wilson(n // 2, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)
    assert widths[2] == pytest.approx(2 * Z95 * math.sqrt(0.25 / 1000), rel=0.01)


@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5)])
def test_more_successes_than_trials_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="hits must be 0 to 5"):
        wilson(hits, n)


def test_a_tally_shows_its_interval() -> None:
    assert Tally(7, 15).shown() == "7/15 (25–70 %)"
    assert Tally(0, 0).shown() == "-"
    assert Tally(0, 0).share is None
    assert Tally(1, 4).to_json() == {"hits": 1, "n": 4, "share": 0.25, "interval": list(wilson(1, 4))}


def test_the_mean_of_ratings_has_a_normal_interval() -> None:
    """1, 3 and 5 spread by 2, so the half width is z * 2 / sqrt(3)."""
    assert mean_interval([1.0, 3.0, 5.0]) == (3.0, pytest.approx(Z95 * 2 / math.sqrt(3)))
    assert mean_interval([4.0, 4.0]) == (4.0, 0.0)
    assert mean_interval([4.0]) == (4.0, math.inf)
