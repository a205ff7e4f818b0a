"""What only decays is told from what has a transition."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlx_persona.config.phases import PROFILES
from mlx_persona.experiments.decay import decay
from mlx_persona.experiments.observe import observe
from mlx_persona.experiments.trial import Plan

PAPER = PROFILES["paper"]
N = 30
PLAN = Plan("made", 0, N, 1, 0.01, "constant", 0.0, 1, 1, {})


def log(losses: list[float]) -> list[dict[str, Any]]:
    """One update between evaluations."""
    events: list[dict[str, Any]] = [{"event": "eval", "update": 0, "loss": losses[0], "noise": 0.01}]
    for update, loss in enumerate(losses[1:], start=1):
        events.append({"event": "train", "update": update, "loss": loss, "grad_norm": 1.0})
        events.append({"event": "eval", "update": update, "loss": loss, "noise": 0.01})
    return events


def test_an_exponential_is_its_own_decay() -> None:
    """2 exp(-t / 4): the fit is as exact as its grid of time constants, and the observer sees the same in both."""
    events = log([2 * math.exp(-t / 4) + 0.3 for t in range(N + 1)])
    found = decay(events, PLAN, PAPER)
    assert found is not None
    seen = observe(events, PAPER)
    assert found["error"] < 0.02
    assert (found["onset"], found["commitment"]) == (seen.onset, pytest.approx(seen.commitment, abs=1))
    assert found["ratios"]["exponential"] > 1


def test_a_loss_that_waits_then_falls_is_no_decay() -> None:
    """Flat, a steep straight line, flat: three regimes predict it, an exponential cannot."""
    events = log([min(3.0, max(0.2, 3.0 - 0.35 * (t - 12))) for t in range(N + 1)])
    found = decay(events, PLAN, PAPER)
    assert found is not None
    assert found["ratios"]["exponential"] < 0.5
    assert found["error"] > 0.2


def test_a_rise_at_first_is_left_out() -> None:
    rising = log([1.0, 2.0, 3.0] + [3.0 * math.exp(-t / 4) for t in range(1, N - 1)])
    found = decay(rising, PLAN, PAPER)
    assert found is not None
    assert found["evals"] == N - 1
    assert found["error"] < 0.02


def test_too_few_evaluations_tell_nothing() -> None:
    assert decay(log([1.0] * 10), PLAN, PAPER) is None
