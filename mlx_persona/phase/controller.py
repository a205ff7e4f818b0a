"""Watches a run's phases and, where it may, acts on them: learning rate, batch, stop, and the eligible checkpoint.

An ``init``/``update`` pair on a NamedTuple, without a clock, a model or a file: what it decides follows from the
numbers that it is shown. Source: "Phase-Aware Persona Fine-Tuning" (Dixon, 2026), sections 2.2 and 4.4. "Trajectory
eligibility" has no public definition; ours is in :func:`on_eval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_persona.config.phases import Profile
from mlx_persona.phase.regimes import Observation, Phase, Regimes, Transition, band, update_regimes
from mlx_persona.phase.signal import (
    Ema,
    Norms,
    SignalState,
    init_ema,
    init_histogram,
    init_norms,
    init_signal,
    norm_entropy,
    update_ema,
    update_histogram,
    update_norms,
    update_signal,
)


class Gathered(NamedTuple):
    """Since the last evaluation: summed training loss, updates, and the histogram of gradient norms."""

    loss: mx.array
    updates: mx.array
    histogram: mx.array


class ControllerState(NamedTuple):
    """Everything that the next decision depends on.

    Attributes:
        signal, train, norms: arrays; norms have a row per phase.
        gathered: since the last evaluation.
        regimes: the phases.
        onset: the update at which S1 began (-1: not yet).
        noise: standard error of the evaluation loss, in nats.
        chosen, chosen_loss: the best eligible update (-1: none) and its evaluation loss.
        stop: why the run must end; empty while it need not.
    """

    signal: SignalState
    train: Ema
    norms: Norms
    gathered: Gathered
    regimes: Regimes
    onset: int
    noise: float
    chosen: int
    chosen_loss: float
    stop: str


class Knobs(NamedTuple):
    """What the next update is multiplied by: its learning rate, and its micro-batches."""

    lr: float = 1.0
    batch: int = 1


class Verdict(NamedTuple):
    """What an evaluation says: the signal, the phase, whether the checkpoint is eligible, and the change, if any.

    ``delta``, ``deviation`` and ``entropy`` are NaN where there is nothing yet.
    """

    phase: Phase
    delta: float
    deviation: float
    entropy: float
    eligible: bool
    transition: Transition | None


@dataclass(frozen=True)
class Controller:
    """What stays the same during a run.

    Attributes:
        profile: every number.
        acts: whether it changes anything; otherwise it only tells what it sees.
        updates: of the whole run.
    """

    profile: Profile
    acts: bool
    updates: int


def init_controller(controller: Controller, noise: float) -> ControllerState:
    """Before the first evaluation.

    Args:
        controller: the settings.
        noise: standard error of the evaluation loss, in nats.

    Raises:
        PersonaError: thresholds are in units of a noise that is zero.
    """
    profile = controller.profile
    profile.scaled(noise)
    return ControllerState(
        init_signal(profile.window, profile.variance_window),
        init_ema(),
        init_norms(len(Phase)),
        _nothing(),
        Regimes(),
        onset=-1,
        noise=noise,
        chosen=-1,
        chosen_loss=math.inf,
        stop="",
    )


def _nothing() -> Gathered:
    return Gathered(mx.array(0.0), mx.array(0.0), init_histogram())


def knobs(controller: Controller, state: ControllerState, update: int) -> Knobs:
    """What the update ``update`` (from 1) is multiplied by.

    In S1 the learning rate for as long as it lasts, the batch from its onset until it ends or its share of the updates
    has passed, whichever is first.
    """
    profile, phase = controller.profile, Phase(state.regimes.phase)
    if not controller.acts or phase is Phase.S0:
        return Knobs()
    if phase is Phase.S1:
        pulsed = update - state.onset <= pulse_updates(controller)
        return Knobs(profile.s1_lr, profile.s1_batch if pulsed else 1)
    if phase is Phase.S2:
        return Knobs(profile.s2_lr, profile.s2_batch)
    return Knobs(profile.s3_lr)


def pulse_updates(controller: Controller) -> int:
    """The most updates for which S1 has a larger batch: its share of all, at least one."""
    return max(1, round(controller.profile.s1_batch_share * controller.updates))


def on_update(state: ControllerState, loss: float, norm: float) -> ControllerState:
    """After an optimizer update.

    Args:
        state: before it.
        loss: mean training loss of the update, in nats.
        norm: of its gradient, before clipping.
    """
    value = mx.array(norm)
    gathered = Gathered(
        state.gathered.loss + loss,
        state.gathered.updates + 1,
        update_histogram(state.gathered.histogram, value),
    )
    state = state._replace(norms=update_norms(state.norms, value, state.regimes.phase), gathered=gathered)
    mx.eval(state.norms, state.gathered)
    return state


def on_eval(
    controller: Controller, state: ControllerState, update: int, loss: float
) -> tuple[ControllerState, Verdict]:
    """After an evaluation, the one before training included.

    A checkpoint is eligible (our definition, for the paper has none) in S2, while the signal is inside of S2's band and
    the loss not above the best by more than the margin; of the eligible ones the one with the lowest loss is chosen.

    Args:
        controller: the settings.
        state: before it.
        update: after which it was made.
        loss: the evaluation's, in nats.
    """
    thresholds, margin = controller.profile.scaled(state.noise), controller.profile.margin(state.noise)
    gathered = state.gathered
    trained = float(gathered.updates) > 0
    mean = gathered.loss / mx.maximum(gathered.updates, 1)
    train, smooth = update_ema(state.train, mean, thresholds.alpha) if trained else (state.train, mx.array(math.nan))
    observed = mx.array(loss) if thresholds.signal == "eval" else (mean if trained else mx.array(math.nan))
    signal, told = update_signal(state.signal, observed, thresholds.smoothing, thresholds.alpha)
    seen = Observation(loss, float(smooth), float(told.delta), float(told.deviation))
    regimes, transition = update_regimes(state.regimes, seen, thresholds, margin)
    phase = Phase(regimes.phase)
    eligible = phase is Phase.S2 and band(seen, thresholds) is Phase.S2 and loss <= regimes.best + margin
    entropy = float(norm_entropy(gathered.histogram))
    state = state._replace(signal=signal, train=train, gathered=_nothing(), regimes=regimes)
    mx.eval(state.signal, state.train)
    if transition is not None and phase is Phase.S1:
        state = state._replace(onset=update)
    if eligible and loss < state.chosen_loss:
        state = state._replace(chosen=update, chosen_loss=loss)
    if transition is not None and phase is Phase.S3 and controller.acts and thresholds.s3_stop:
        state = state._replace(stop=transition.reason)
    return state, Verdict(phase, seen.delta, seen.deviation, entropy, eligible, transition)


def to_json(state: Any) -> Any:
    """A state as JSON values, exactly: float32 numbers are written as the doubles that they are."""
    if isinstance(state, mx.array):
        return _spelled(state.tolist())
    if hasattr(state, "_fields"):
        return {name: to_json(getattr(state, name)) for name in state._fields}
    return _spelled(state)


def _spelled(value: Any) -> Any:
    """JSON has no word for infinity and NaN."""
    if isinstance(value, list):
        return [_spelled(one) for one in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def from_json(like: Any, value: Any) -> Any:
    """What :func:`to_json` wrote.

    Args:
        like: a state of the same form; its values do not matter.
        value: what was read.

    Raises:
        KeyError, TypeError, ValueError: it is of another form.
    """
    if isinstance(like, mx.array):
        return mx.array(_read(value), like.dtype).reshape(like.shape)
    if hasattr(like, "_fields"):
        return type(like)(**{name: from_json(getattr(like, name), value[name]) for name in like._fields})
    return type(like)(_read(value))


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(one) for one in value]
    return float(value) if value in ("nan", "inf", "-inf") else value
