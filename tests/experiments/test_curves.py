"""The phase model and its rivals on curves whose nature is known."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_persona.experiments.curves import (
    EXPONENTIAL,
    PHASES,
    RIVALS,
    SCHEDULE,
    TWO,
    Floats,
    Series,
    advantage,
    bic,
    fit,
    held_back,
    series,
    strongest,
)

X = np.linspace(0, 1, 31)


def staircase(begin: float, end: float) -> Floats:
    """Flat at 5 until ``begin``, then straight down to 3 at ``end``."""
    return 5 - 2 * np.clip((X - begin) / (end - begin), 0, 1)


def test_each_model_finds_its_own_curve() -> None:
    assert fit(EXPONENTIAL, X, 3 + 2 * np.exp(-X / 0.2), X) == pytest.approx(3 + 2 * np.exp(-X / 0.2), abs=1e-3)
    both = 3 + np.exp(-X / 0.05) + np.exp(-X / 0.8)
    assert fit(TWO, X, both, X) == pytest.approx(both, abs=0.02)
    corner = staircase((X[6] + X[7]) / 2, (X[15] + X[16]) / 2)
    assert fit(PHASES, X, corner, X) == pytest.approx(corner, abs=1e-9)


def test_a_decay_has_no_onset_and_the_phase_model_must_have_one() -> None:
    """Straight down all the way: no line may be more than half as steep as the middle one, so the fit is off."""
    straight = 5 - 2 * X
    assert np.abs(fit(PHASES, X, straight, X) - straight).max() > 0.02
    assert fit(EXPONENTIAL, X, straight, X) == pytest.approx(straight, abs=0.02)


def test_no_decay_is_fitted_that_rises() -> None:
    rising = 3 + X
    for name in RIVALS:
        assert fit(name, X, rising, X) == pytest.approx(np.full(31, 3.5), abs=1e-6)


def test_what_is_held_back_is_not_seen() -> None:
    """A spike at one evaluation changes the predictions for its fold by nothing."""
    loss = 3 + 2 * np.exp(-X / 0.3)
    spiked = loss.copy()
    spiked[10] += 7
    plain, changed = (held_back(Series(X, X, y)) for y in (loss, spiked))
    for name in plain:
        fold = np.arange(31) % 5 == 0
        own = changed[name][fold] + spiked[fold]
        np.testing.assert_allclose(own, plain[name][fold] + loss[fold])


def test_a_schedule_that_begins_and_ends_slowly_is_no_phase() -> None:
    """Exponential in the summed learning rate: in tokens it has an onset and a plateau, and is neither's doing."""
    rate = np.where(X < 0.2, X / 0.2, 0.5 + 0.5 * np.cos(np.pi * (X - 0.2) / 0.8))
    summed = np.cumsum(rate) / rate.sum()
    loss = 3 + 2 * np.exp(-summed / 0.5)
    errors = held_back(Series(X, summed, loss))
    assert strongest([errors]).endswith(SCHEDULE)
    assert advantage(errors, strongest([errors])) > 0
    assert advantage(errors, EXPONENTIAL) < 0  # in tokens alone the phases would have won


def test_bic_prefers_the_model_that_made_the_curve() -> None:
    noise = 0.01 * np.random.default_rng(0).normal(size=31)
    stairs = bic(Series(X, X, staircase(0.3, 0.5) + noise))
    decay = bic(Series(X, X, 3 + 2 * np.exp(-X / 0.2) + noise))
    assert min(stairs, key=lambda name: stairs[name]) == PHASES
    assert decay[EXPONENTIAL] < decay[PHASES] - 10  # very strong evidence (Kass & Raftery, 1995)


def test_a_record_becomes_shares_of_tokens_and_of_learning_rate() -> None:
    found = series({"evals": [[0, 0, 4.0], [1, 30, 3.0], [3, 60, 2.0]], "rates": [1.0, 2.0, 1.0]})
    np.testing.assert_allclose(found.tokens, [0, 0.5, 1])
    np.testing.assert_allclose(found.schedule, [0, 0.25, 1])
    np.testing.assert_allclose(found.loss, [4, 3, 2])
