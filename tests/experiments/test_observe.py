"""The observer reads a log as it stands, and a correlation over time says how little one run can tell."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from mlx_persona.config.phases import PROFILES
from mlx_persona.experiments.observe import cadences, curvature_links, link, observe, onsets

PAPER = PROFILES["paper"]


def log(losses: list[float], norms: list[float] | None = None) -> list[dict[str, Any]]:
    """A log with two updates between evaluations; gradient norms by evaluation."""
    events: list[dict[str, Any]] = [{"event": "eval", "update": 0, "loss": losses[0], "noise": 0.01}]
    for index, loss in enumerate(losses[1:], start=1):
        norm = norms[index - 1] if norms else 1.0
        events += [
            {"event": "train", "update": update, "loss": loss, "grad_norm": norm + 0.1 * (update % 2)}
            for update in (2 * index - 1, 2 * index)
        ]
        events.append({"event": "eval", "update": 2 * index, "loss": loss, "noise": 0.01})
    return events


HALVING = [2.0 * 0.5**i for i in range(20)]


def test_a_smooth_decay_passes_through_all_phases() -> None:
    """By hand: the n-th change is -0.5^(n-1), so δL(n) = -1.5 (0.7^n - 0.5^n) / (1 - 0.7^n) with α = 0.3.

    It is -1 and -0.7 at first: S1 at the second evaluation (update 4). It shrinks by 0.7 each time and is under 0.02
    from n = 13 on (0.0145). Its deviation over five values is 0.0162 there, 0.0114 at 14 and 0.0080 at 15, the first
    under 0.01: S2 at the second such evaluation, n = 16 (update 32).
    """
    seen = observe(log(HALVING), PAPER)
    assert seen.onset == 4
    assert seen.commitment == 32
    assert seen.after is None
    assert seen.decided_by == {"S1": "signal", "S2": "signal"}
    assert [(one["phase"], one["from"], one["to"]) for one in seen.phases] == [
        ("S0", 0, 4),
        ("S1", 4, 32),
        ("S2", 32, 38),
    ]


def test_the_onset_of_a_smooth_decay_is_where_the_guard_puts_it() -> None:
    rows = onsets(log(HALVING), PAPER, (0, 3, 5))
    found = {(row["before_training"], row["consecutive"], row["guard"]): row for row in rows}
    assert len(found) == 12
    assert [found[True, 1, guard]["onset"] for guard in (0, 3, 5)] == [2, 6, 10]
    assert [found[True, 2, guard]["onset"] for guard in (0, 3, 5)] == [4, 6, 10]
    assert [found[False, 1, guard]["onset"] for guard in (0, 3, 5)] == [4, 8, 12]
    assert found[True, 2, 0]["decided_by"]["S1"] == "signal"
    assert found[True, 2, 5]["decided_by"]["S1"] == "guard"


def test_thresholds_are_per_evaluation() -> None:
    """A loss that falls by 0.03 at every evaluation is under the paper's 0.05; at every second one it is over it."""
    rows = cadences(log([2.0 - 0.03 * i for i in range(21)]), PAPER, (1, 2, 30))
    assert [row["onset"] for row in rows] == [None, 8, None]


def test_gradient_norms_belong_to_the_phase_in_which_they_were_seen() -> None:
    """Norms are 5.1 and 5.0 until S2 (update 32) and 1.1 and 1.0 in it: the mean-to-peak ratio is 1.05 / 5.1."""
    seen = observe(log(HALVING, [5.0] * 16 + [1.0] * 3), PAPER)
    assert seen.calming["mean_to_peak"] == pytest.approx(1.05 / 5.1)
    assert seen.calming["variance"] == pytest.approx(1.0)


def test_nothing_is_seen_in_a_flat_loss() -> None:
    seen = observe(log([1.0] * 10), PAPER)
    assert (seen.onset, seen.commitment, seen.after) == (None, None, None)
    assert seen.calming == {"variance": None, "mean_to_peak": None, "median_to_p95": None}


def test_thresholds_in_units_of_noise_take_it_from_the_first_evaluation() -> None:
    """A step of 0.02 at every evaluation is nothing to the paper's thresholds, and twice the noise of 0.01."""
    falling = log([1.0 - 0.02 * i for i in range(10)])
    assert observe(falling, PAPER).onset is None
    assert observe(falling, replace(PROFILES["noise"], guard=0)).onset == 4


def test_a_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=40).round(1)
    second = (first + rng.normal(size=40)).round(1)
    found = link(first.tolist(), second.tolist())
    assert found.value == pytest.approx(float(spearmanr(first, second).statistic))
    assert found.differences == pytest.approx(float(spearmanr(np.diff(first), np.diff(second)).statistic))
    assert (found.n, found.block) == (40, 6)
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]
    assert link(first.tolist(), second.tolist()) == found


def test_two_trends_go_together_without_a_link() -> None:
    rng = np.random.default_rng(1)
    time = np.arange(60.0)
    found = link((time + rng.normal(size=60)).tolist(), (time + rng.normal(size=60)).tolist())
    assert found.value is not None
    assert found.value > 0.95
    assert found.differences_interval is not None
    assert found.differences_interval[0] < 0 < found.differences_interval[1]


def test_missing_and_constant_values() -> None:
    assert link([1.0, 2.0, math.nan], [3.0, 1.0, 2.0]).n == 2
    assert link([1.0, 2.0, math.nan], [3.0, 1.0, 2.0]).value is None
    assert link([1.0] * 9, [float(i) for i in range(9)]).value is None


def test_curvature_is_paired_with_the_signal_of_its_update() -> None:
    """An eigenvalue that is minus δL goes perfectly against it."""
    events = log(HALVING)
    seen = observe(events, PAPER)
    measured = [
        {"event": "curvature", "update": update, "eigenvalue": -delta, "preconditioned": None, "alignment": 0.5}
        for update, delta in seen.deltas.items()
    ]
    links = curvature_links([*events, *measured], seen)
    assert links["eigenvalue"]["value"] == pytest.approx(-1.0)
    assert links["eigenvalue"]["n"] == 19
    assert links["preconditioned"]["value"] is None
    assert links["alignment"]["value"] is None
