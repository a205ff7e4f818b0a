"""A series of evaluation losses as the controller sees it."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_persona.config.phases import make_profile
from mlx_persona.phase.controller import Controller, ControllerState, Verdict, init_controller, on_eval, on_update

PER_EVAL = 2


def watched(
    losses: Sequence[float],
    profile: str = "paper",
    changes: tuple[str, ...] = (),
    *,
    train: Sequence[float] | None = None,
    noise: float = 0.0,
) -> tuple[list[Verdict], ControllerState]:
    """What each evaluation says, :data:`PER_EVAL` updates apart; ``train`` defaults to the evaluation losses."""
    controller = Controller(make_profile(profile, changes), True, PER_EVAL * (len(losses) - 1))
    state, verdicts = init_controller(controller, noise), []
    for index, loss in enumerate(losses):
        for _ in range(PER_EVAL if index else 0):
            state = on_update(state, (train or losses)[index], 1.0)
        state, verdict = on_eval(controller, state, PER_EVAL * index, loss)
        verdicts.append(verdict)
    return verdicts, state


def entered(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """At which evaluation each phase began."""
    return {verdict.phase.name: index for index, verdict in reversed(list(enumerate(verdicts)))}
