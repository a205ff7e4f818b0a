"""The phase controller of a training stage: made from its options, shown while it runs, told about when it ends."""

from __future__ import annotations

from typing import Any

from mlx_persona import ui
from mlx_persona.config import DpoConfig, SftConfig
from mlx_persona.config.phases import Profile, make_profile
from mlx_persona.phase.controller import Controller
from mlx_persona.phase.summary import calming, story, stretches
from mlx_persona.runs import Run
from mlx_persona.training.loop import LoopConfig, LoopResult
from mlx_persona.training.objectives import Each
from mlx_persona.training.watch import PhaseWatch

OFF, CONTROL = "off", "control"


def profile_of(config: SftConfig | DpoConfig) -> Profile:
    """The profile that the options name, with their changes."""
    return make_profile(config.phase_profile, config.phase_set)


def watch_of(config: SftConfig | DpoConfig, loop: LoopConfig, each: Each) -> PhaseWatch | None:
    """The controller that the options ask for; None with ``phase off``."""
    if config.phase == OFF:
        return None
    return PhaseWatch(Controller(profile_of(config), config.phase == CONTROL, loop.updates), each)


def by_phase(config: SftConfig | DpoConfig) -> bool:
    """Whether an eligible checkpoint goes before the one with the lowest loss."""
    select = config.select if isinstance(config, SftConfig) else "auto"
    return select == "phase" or (select == "auto" and config.phase == CONTROL)


class PhaseNote:
    """The phase in the live display, and a line where it changes."""

    def __init__(self) -> None:
        self._begun, self._told = 0, ""

    def event(self, values: dict[str, Any]) -> None:
        """Take in a ``phase`` event."""
        if values["reason"]:
            self._begun = values["update"]
            guard = " (a guard decided when)" if values["decided_by"] == "guard" else ""
            ui.info(f"update {values['update']}: {values['phase']} begins: {values['reason']}{guard}")
        delta = f" δL {values['delta']:+.3f}" if values["delta"] is not None else ""
        self._told = f"{values['phase']}{delta}"

    def at(self, update: int) -> str:
        """What is shown beside the loss of an update: phase, δL, and for how many updates it has lasted."""
        return f"  {self._told}, {update - self._begun} in it" if self._told else ""


def record(run: Run, result: LoopResult, watch: PhaseWatch | None) -> list[dict[str, Any]]:
    """Write what the phases were into ``run.json`` and tell the user; returns them, none with ``phase off``."""
    if watch is None:
        return []
    events, best = run.events(), result.state.best_update
    found = stretches(events)
    at = [event for event in events if event["event"] == "phase" and event["update"] <= best][-1]
    chosen = {"update": best, "phase": at["phase"], "eligible": bool(at["eligible"]) and at["update"] == best}
    told = story(found, events, watch.controller.acts, {**chosen, "by": result.chosen_by})
    run.update_info(
        phase={
            "mode": CONTROL if watch.controller.acts else "observe",
            "profile": watch.controller.profile.to_json(),
            "noise": watch.noise,
            "phases": found,
            "calming": calming(found),
            "chosen": chosen,
            "story": told,
        }
    )
    ui.info(told)
    return found
