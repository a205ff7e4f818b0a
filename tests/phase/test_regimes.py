"""Hand-made series: where the phases must lie is derived in each docstring."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from phase.watched import entered, watched

from mlx_persona.config.phases import PROFILES, make_profile
from mlx_persona.errors import PersonaError
from mlx_persona.phase.regimes import Observation, Phase, Regimes, band, update_regimes
from mlx_persona.phase.signal import init_signal, update_signal

FALLING = [3.0 - 0.1 * t for t in range(11)]


def test_falling_then_flat() -> None:
    """ΔL = -0.1 for evaluations 1 to 10, so δL = -0.1 < -τ1 at 1 and 2: S1 at 2.

    From then on ΔL = 0 and δL shrinks by 0.7 each time: -0.0687, -0.0478, -0.0333, -0.0232, -0.0164 (under τ2 = 0.02 at
    15), -0.0114, -0.0080, -0.0056. The standard deviation of the newest five is 0.0131 at 16, 0.0092 at 17: under
    τ3 = 0.01 at 17 and 18, so S2 at 18.
    """
    assert entered(watched([*FALLING, *[2.0] * 20])[0]) == {"S0": 0, "S1": 2, "S2": 18}


def test_staircase() -> None:
    """As above at the first step. The second step, of -0.3, takes δL to -0.09 again, but S2 does not go back to S1."""
    first = [*FALLING, *[2.0] * 20]
    verdicts = watched([*first, *[1.7] * 20])[0]
    assert verdicts[len(first)].delta == pytest.approx(-0.09, abs=0.002)
    assert entered(verdicts) == {"S0": 0, "S1": 2, "S2": 18}


def test_u_shape() -> None:
    """Falls by 0.1 until evaluation 10, rises by 0.05 while training goes on falling: S1 at 2.

    The margin is 0.005 (no noise), so 11, 12 and 13 are worse than the best: S3 at 13, from S1, for δL passes through
    τ2's band on its way up without being steady in it.
    """
    losses = [*FALLING, *[2.0 + 0.05 * t for t in range(1, 10)]]
    train = [3.0 - 0.1 * t for t in range(len(losses))]
    verdicts, state = watched(losses, train=train)
    assert entered(verdicts) == {"S0": 0, "S1": 2, "S3": 13}
    assert "before δL settled" in state.stop
    assert verdicts[13].transition is not None


def test_u_shape_without_overfitting() -> None:
    """Where the training loss rises too, by enough to turn its average, it is no overfitting, and never S3."""
    losses = [*FALLING, *[2.0 + 0.05 * t for t in range(1, 10)]]
    verdicts, state = watched(losses, train=[*FALLING, *[2.0 + 1.0 * t for t in range(1, 10)]])
    assert "S3" not in entered(verdicts)
    assert state.stop == ""


def test_plateau_then_drop() -> None:
    """Flat until evaluation 10: δL = 0 is in S2's band, but S2 comes after S1 only, so S0.

    Then ΔL = -0.3: δL = -0.093 at 11 and -0.157 at 12: S1 at 12.
    """
    losses = [3.0] * 11 + [3.0 - 0.3 * t for t in range(1, 5)]
    verdicts = watched(losses)[0]
    assert verdicts[11].delta == pytest.approx(-0.3 * 0.3 / (1 - 0.7**11), rel=1e-4)
    assert entered(verdicts) == {"S0": 0, "S1": 12}


def test_a_nan_holds_the_phase_and_counts_for_nothing() -> None:
    """One evaluation later than without it, everything is as it was."""
    losses = [*FALLING, *[2.0] * 20]
    verdicts = watched([*losses[:5], math.nan, *losses[5:]])[0]
    assert entered(verdicts) == {"S0": 0, "S1": 2, "S2": 19}
    assert math.isnan(verdicts[5].delta)
    assert not verdicts[5].eligible


def test_a_slow_fall_is_no_phase() -> None:
    """ΔL = -0.03: neither below -τ1 nor, for all its steadiness, within τ2."""
    assert entered(watched([3.0 - 0.03 * t for t in range(30)])[0]) == {"S0": 0}


def test_the_guard_says_so_where_it_decides() -> None:
    """δL is below -τ1 at 1 and 2, but nothing may happen before 3: the guard decided. Later on it does not."""
    verdicts, _ = watched(FALLING, changes=("guard=3",))
    change = verdicts[3].transition
    assert change is not None
    assert (change.phase, change.decided_by) == (Phase.S1, "guard")
    later = watched([3.0] * 6 + FALLING, changes=("guard=3",))[0]
    assert {v.transition.decided_by for v in later if v.transition} == {"signal"}


def test_one_evaluation_out_of_the_band_breaks_the_streak() -> None:
    """δL by the mean of one change: -0.1, 0, -0.1, -0.1: two running only at 4."""
    losses = np.cumsum([3.0, -0.1, 0.0, -0.1, -0.1]).tolist()
    assert entered(watched(losses, changes=("smoothing=mean", "window=1"))[0]) == {"S0": 0, "S1": 4}


def test_commit_regimes_goes_by_the_training_loss() -> None:
    """Training changes of -0.03 are known from evaluation 2 on, and their mean is below -0.02: S1 at 3.

    Evaluations see nothing of it. Training is flat after 10, so the mean of three changes is 0 at 13 and 14: S2 at 14.
    Then five evaluations without a better loss: S3 at 19.
    """
    train = [3.0, *[3.0 - 0.03 * t for t in range(1, 11)], *[2.7] * 10]
    verdicts = watched([1.0] * len(train), "commit-regimes", train=train)[0]
    assert entered(verdicts) == {"S0": 0, "S1": 3, "S2": 14, "S3": 19}


def test_literal_variance() -> None:
    """Read as a variance, τ3 = 0.01 asks nothing inside of |δL| < 0.05 (its variance is under 0.0025): S2 at 16."""
    losses = [*FALLING, *[2.0] * 20]
    assert entered(watched(losses, changes=("spread_as=variance",))[0]) == {"S0": 0, "S1": 2, "S2": 16}


def test_bands() -> None:
    paper = PROFILES["paper"]
    assert band(Observation(2, 2, -0.06, 0.5), paper) is Phase.S1
    assert band(Observation(2, 2, 0.01, 0.005), paper) is Phase.S2
    assert band(Observation(2, 2, 0.01, 0.05), paper) is Phase.S0
    assert band(Observation(2, 2, 0.03, 0.005), paper) is None
    assert band(Observation(2, 2, math.nan, math.nan), paper) is None


def test_thresholds_in_units_of_noise() -> None:
    scaled = PROFILES["noise"].scaled(0.2)
    assert (scaled.onset, scaled.commit, scaled.spread) == pytest.approx((0.2, 0.08, 0.04))
    assert make_profile("noise", ("spread_as=variance",)).scaled(0.2).spread == pytest.approx(0.2 * 0.04)
    with pytest.raises(PersonaError, match="no noise"):
        PROFILES["noise"].scaled(0.0)


def test_no_phase_from_noise_alone() -> None:
    """Of 1,000 runs of a loss that is only noise at most 5 % see a phase, with thresholds in units of that noise."""
    noise, runs = 0.1, 1000
    losses = 3 + noise * np.random.default_rng(0).standard_normal((50, runs))
    state = mx.vmap(lambda _: init_signal(3, 5))(mx.zeros(runs))
    step = mx.compile(mx.vmap(lambda s, loss: update_signal(s, loss, "ema", 0.3)))
    profile = PROFILES["noise"]
    thresholds, margin = profile.scaled(noise), profile.margin(noise)
    regimes = [Regimes() for _ in range(runs)]
    like = init_signal(3, 5)
    for row in losses:
        (last, ema, changes, deltas), signal = step(state, mx.array(row))
        state = type(like)(last, type(like.ema)(*ema), type(like.changes)(*changes), type(like.deltas)(*deltas))
        delta, deviation = np.array(signal[1]), np.array(signal[3])
        for i in range(runs):
            seen = Observation(row[i], math.nan, float(delta[i]), float(deviation[i]))
            regimes[i], _ = update_regimes(regimes[i], seen, thresholds, margin)
    began = sum(one.phase > 0 for one in regimes)
    assert began <= 0.05 * runs
    assert began > 0  # else the test could not fail


@pytest.mark.parametrize("profile", list(PROFILES))
def test_latching_never_goes_back(profile: str) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        losses = (3 + np.cumsum(rng.normal(-0.02, 0.15, 25))).tolist()
        phases = [v.phase for v in watched(losses, profile, noise=0.1)[0]]
        assert phases == sorted(phases)


def test_profiles_refuse_what_they_do_not_know() -> None:
    for change in ("nonsense=1", "s1_lr", "s1_lr=fast", "s1_batch=1.5", "s3_stop=maybe", "onset=0.001", "alpha=2"):
        with pytest.raises(PersonaError):
            make_profile("paper", (change,))
    assert make_profile("paper", ("s3_stop=false", "s1_batch=2")).s1_batch == 2
