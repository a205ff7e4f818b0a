"""Agreement of two raters: checked against scikit-learn, SciPy and draws by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from mlx_persona.evals.blind.agreement import agreement, quadratic_kappa, rounded, spearman

SCALE = [1, 2, 3, 4, 5]


def drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two raters who see the same thing through different noise."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(3, 1.2, n)
    first, second = (np.clip(np.rint(truth + rng.normal(0, noise, n)), 1, 5) for noise in (0.4, 1.0))
    return first, second


@pytest.mark.parametrize(("seed", "n"), [(0, 3), (1, 5), (2, 40), (3, 400), (4, 3000)])
def test_kappa_is_that_of_scikit_learn(seed: int, n: int) -> None:
    first, second = drawn(seed, n)
    reference = cohen_kappa_score(first, second, labels=SCALE, weights="quadratic")
    assert quadratic_kappa(first, second) == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "kappa"),
    [([1, 5], [1, 5], 1.0), ([1, 5], [5, 1], -1.0), ([1, 1, 5, 5], [1, 5, 1, 5], 0.0), ([2, 2], [4, 4], 0.0)],
)
def test_kappa_where_it_is_known(first: list[int], second: list[int], kappa: float) -> None:
    """The same, the opposite, nothing in common, and one score each, of which chance makes as much."""
    assert quadratic_kappa(np.array(first, float), np.array(second, float)) == kappa


def test_kappa_has_no_meaning_where_nothing_could_differ() -> None:
    assert quadratic_kappa(np.array([3.0, 3.0]), np.array([3.0, 3.0])) is None


@pytest.mark.parametrize(("seed", "n"), [(0, 3), (1, 20), (2, 400)])
def test_rank_correlation_is_that_of_scipy(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    first = np.r_[rng.integers(1, 6, n - 2), 1, 5].astype(float)
    second = np.clip(first + rng.normal(0, 1, n), 1, 5)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_rank_correlation_has_no_meaning_with_one_score() -> None:
    assert spearman(np.array([3.0, 3.0, 3.0]), np.array([1.0, 2.0, 3.0])) is None


def test_scores_are_rounded_halves_up_and_stay_on_the_scale() -> None:
    assert [rounded(score) for score in (1.0, 1.49, 1.5, 2.4999999999999996, 4.5, 5.0, 5.4, 0.2)] == [
        1,
        1,
        2,
        3,
        5,
        5,
        5,
        1,
    ]


def test_the_second_rater_is_rounded_for_kappa_only() -> None:
    users, judge = [1, 2, 4, 5, 3], [1.4, 2.6, 3.6, 4.4, 3.0]
    found = agreement([0, 0, 1, 1, 2], users, judge)
    assert found is not None
    assert (found.n, found.groups) == (5, 3)
    assert found.kappa == quadratic_kappa(np.array(users, float), np.array([1.0, 3.0, 4.0, 4.0, 3.0]))
    assert found.spearman == pytest.approx(stats.spearmanr(users, judge).statistic)
    assert found.difference == pytest.approx(np.mean(np.array(judge) - users))


def test_intervals_draw_whole_groups_and_are_the_same_each_time() -> None:
    """Against the plain form: groups drawn one by one, kappa of each draw by scikit-learn."""
    first, second = drawn(7, 60)
    groups = [i // 2 for i in range(60)]
    found = agreement(groups, first.astype(int).tolist(), second.tolist())
    assert found == agreement(groups, first.astype(int).tolist(), second.tolist())
    assert found is not None
    assert found.interval is not None
    assert found.difference_interval is not None
    rng = np.random.default_rng(1)
    kappas, differences = [], []
    for _ in range(500):
        rows = np.array([[2 * i, 2 * i + 1] for i in rng.integers(30, size=30)]).ravel()
        kappas.append(cohen_kappa_score(first[rows], second[rows], labels=SCALE, weights="quadratic"))
        differences.append((second - first)[rows].mean())
    assert found.interval == pytest.approx(np.quantile(kappas, (0.025, 0.975)), abs=0.04)
    assert found.difference_interval == pytest.approx(np.quantile(differences, (0.025, 0.975)), abs=0.05)


def test_things_of_one_group_say_less_than_as_many_on_their_own() -> None:
    first, second = drawn(5, 40)
    twice = [int(value) for value in np.repeat(first, 2)], np.repeat(second, 2).tolist()
    grouped, alone = agreement([i // 2 for i in range(80)], *twice), agreement(list(range(80)), *twice)
    assert grouped is not None
    assert alone is not None
    assert grouped.kappa == alone.kappa
    assert np.ptp(grouped.interval) > 1.2 * np.ptp(alone.interval)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of many samples of 60 pairs from one large set, about 95 % of the intervals hold its kappa."""
    first, second = drawn(11, 100_000)
    truth = quadratic_kappa(first, second)
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(120):
        rows = rng.integers(len(first), size=60)
        found = agreement(range(60), first[rows].astype(int).tolist(), second[rows].tolist())
        assert found is not None
        assert found.interval is not None
        held += found.interval[0] <= truth <= found.interval[1]
    assert 105 <= held <= 119


def test_too_little_has_no_interval_and_nothing_no_agreement() -> None:
    assert agreement([], [], []) is None
    single = agreement([4, 4], [1, 5], [2.0, 4.0])
    assert single is not None
    assert (single.groups, single.interval, single.difference_interval) == (1, None, None)
    assert single.kappa is not None
    same = agreement([0, 1, 2], [3, 3, 3], [3.0, 3.2, 2.9])
    assert same is not None
    assert (same.kappa, same.interval, same.spearman) == (None, None, None)
    assert same.difference_interval is not None
    with pytest.raises(ValueError, match="one group and two scores per thing, got 1, 2, 1"):
        agreement([0], [1, 2], [1.0])


def test_draws_without_a_kappa_are_left_out() -> None:
    """Two groups of the same score: a draw of one of them twice has no kappa, any other has 1."""
    found = agreement([0, 1], [2, 4], [2.0, 4.0])
    assert found is not None
    assert found.interval == (1.0, 1.0)
