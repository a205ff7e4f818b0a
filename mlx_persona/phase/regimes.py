"""Which phase a run is in: S0 pre-susceptibility, S1 susceptibility, S2 commitment, S3 post-commitment.

Source: "Phase-Aware Persona Fine-Tuning" (Dixon, 2026), section 2.1. The paper leaves open what happens between its
bands, whether a phase may come back, and how long it must be seen. Here phases latch, in their order; what lies in no
band holds the phase; and ``consecutive`` evaluations must agree (docs/decisions.md).
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

from mlx_persona.config.phases import Profile


class Phase(IntEnum):
    """The phases, in the order in which a run passes through them."""

    S0 = 0
    S1 = 1
    S2 = 2
    S3 = 3


class Observation(NamedTuple):
    """What an evaluation tells about phases, as numbers, in nats; NaN where there is nothing yet.

    Attributes:
        loss: of the evaluation.
        train: smoothed training loss.
        delta, deviation: of :class:`~mlx_persona.phase.signal.Signal`.
    """

    loss: float
    train: float
    delta: float
    deviation: float


class Regimes(NamedTuple):
    """Where a run stands.

    Attributes:
        phase: now.
        seen: evaluations so far, the one before training included.
        streak: of how many of the newest evaluations have agreed on the next phase.
        waited: the guard alone has kept the phase from changing.
        best: lowest evaluation loss.
        train_then: smoothed training loss when that was found.
        rising: of how many of the newest evaluations S3's rule has held.
    """

    phase: int = 0
    seen: int = 0
    streak: int = 0
    waited: bool = False
    best: float = math.inf
    train_then: float = math.nan
    rising: int = 0


class Transition(NamedTuple):
    """A change of phase: to which, why in words, and whether the ``signal`` or a ``guard`` decided when."""

    phase: Phase
    reason: str
    decided_by: str


def band(seen: Observation, profile: Profile) -> Phase | None:
    """The phase whose band the signal is in, whatever came before; None where it is in no band.

    S1: δL < -τ1. S2: its size is under τ2, and it is as steady as τ3 asks. S0: its size is under τ1, and it is less
    steady than that (where τ3 asks for anything).

    Args:
        seen: the observation; NaN is in no band.
        profile: thresholds in nats.
    """
    spread = seen.deviation**2 if profile.spread_as == "variance" else seen.deviation
    if seen.delta < -profile.onset:
        return Phase.S1
    if abs(seen.delta) < profile.commit and (profile.spread == 0 or spread < profile.spread):
        return Phase.S2
    if abs(seen.delta) < profile.onset and profile.spread > 0 and spread > profile.spread:
        return Phase.S0
    return None


def update_regimes(
    state: Regimes, seen: Observation, profile: Profile, margin: float
) -> tuple[Regimes, Transition | None]:
    """One more evaluation.

    Args:
        state: after the evaluations before.
        seen: the new one; a loss that is not finite changes nothing.
        profile: thresholds in nats.
        margin: what a loss must exceed the best by to be worse, in nats.

    Returns:
        The next state, and the change of phase, if there is one.
    """
    if not math.isfinite(seen.loss):
        return state, None
    phase = Phase(state.phase)
    state = _progress(state._replace(seen=state.seen + 1), seen, profile, margin)
    after = _after(phase, state, profile)
    if after is not None:
        return _entered(state, Phase.S3), after
    if phase >= Phase.S2:
        return state, None
    following = Phase(phase + 1)
    streak = state.streak + 1 if band(seen, profile) is following else 0
    # The evaluation before training has no change and is not counted.
    guarded = state.seen - 1 < profile.guard
    waited = streak >= profile.consecutive and guarded
    if streak < profile.consecutive or guarded:
        return state._replace(streak=streak, waited=waited), None
    decided = "guard" if state.waited else "signal"
    return _entered(state, following), Transition(following, _why(following, seen, profile), decided)


def _entered(state: Regimes, phase: Phase) -> Regimes:
    return state._replace(phase=int(phase), streak=0, waited=False, rising=0)


def _progress(state: Regimes, seen: Observation, profile: Profile, margin: float) -> Regimes:
    """The best loss, and for how long S3's rule has held."""
    if seen.loss < state.best:
        return state._replace(best=seen.loss, train_then=seen.train, rising=0)
    worse = True if profile.s3_rule == "plateau" else seen.loss > state.best + margin and seen.train < state.train_then
    return state._replace(rising=state.rising + 1 if worse else 0)


def _after(phase: Phase, state: Regimes, profile: Profile) -> Transition | None:
    """The change to S3: overfitting may begin before a run has settled, a plateau only where it has."""
    rises = profile.s3_rule == "rise"
    begun = phase in (Phase.S1, Phase.S2) if rises else phase is Phase.S2
    if not begun or state.rising < profile.s3_evals:
        return None
    if not rises:
        return Transition(Phase.S3, f"no better loss in {state.rising} evaluations", "signal")
    unsettled = ", before δL settled" if phase is Phase.S1 else ""
    reason = f"the evaluation loss has been above its best ({state.best:.4f}) for {state.rising} evaluations"
    return Transition(Phase.S3, f"{reason} while the training loss falls{unsettled}", "signal")


def _why(phase: Phase, seen: Observation, profile: Profile) -> str:
    times = f"{profile.consecutive} evaluations running" if profile.consecutive > 1 else "at one evaluation"
    if phase is Phase.S1:
        return f"δL {seen.delta:.4f} is below -{profile.onset:.4g}, {times}"
    steady = f" and its {profile.spread_as} below {profile.spread:.4g}" if profile.spread > 0 else ""
    return f"|δL| {abs(seen.delta):.4f} is below {profile.commit:.4g}{steady}, {times}"
