"""The phase controller in the step loop: it is shown reduced values only, so that all ranks decide the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_persona.phase.controller import (
    Controller,
    Knobs,
    from_json,
    init_controller,
    knobs,
    on_eval,
    on_update,
    to_json,
)
from mlx_persona.phase.noise import bootstrap_error
from mlx_persona.training.distributed import Group
from mlx_persona.training.objectives import Batch, Each


class PhaseWatch:
    """A controller and where it stands; see :mod:`mlx_persona.phase.controller`."""

    def __init__(self, controller: Controller, each: Each) -> None:
        self.controller, self._each = controller, each
        self._state = init_controller(controller, noise=math.inf)  # of no use before :meth:`begin`

    def begin(self, model: nn.Module, batches: Sequence[Batch], parts: dict[str, mx.array], group: Group) -> None:
        """Measure the noise of the evaluation loss before training: rank 0's, since other chips round otherwise.

        Args:
            model: in eval mode.
            batches: the evaluation set.
            parts: the objective's knobs.
            group: the ranks.

        Raises:
            PersonaError: phases are to be measured by the noise, and there is none.
        """
        self._state = init_controller(self.controller, float(group.first(lambda: self._noise(model, batches, parts))))

    def _noise(self, model: nn.Module, batches: Sequence[Batch], parts: dict[str, mx.array]) -> float:
        found = []
        for batch in batches:
            each = self._each(model, batch, parts)
            mx.eval(each)
            found.append([np.array(values, np.float64) for values in each])
        sums, weights = (np.concatenate(values) for values in zip(*found, strict=True))
        return bootstrap_error(sums, weights)

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from what :meth:`saved` returned."""
        self._state = from_json(self._state, kept)

    def saved(self) -> dict[str, Any]:
        """Where it stands, as JSON values."""
        values: dict[str, Any] = to_json(self._state)
        return values

    def knobs(self, update: int) -> Knobs:
        """What the update ``update`` is multiplied by."""
        return knobs(self.controller, self._state, update)

    @property
    def stop(self) -> str:
        """Why the run must end; empty while it need not."""
        return self._state.stop

    @property
    def noise(self) -> float:
        """Standard error of the evaluation loss, in nats."""
        return self._state.noise

    @property
    def chosen(self) -> tuple[int, float] | None:
        """The best eligible update and its evaluation loss, if there is one."""
        return (self._state.chosen, self._state.chosen_loss) if self._state.chosen >= 0 else None

    def after_update(self, loss: float, norm: float) -> None:
        """Show it an update's training loss and gradient norm."""
        self._state = on_update(self._state, loss, norm)

    def after_eval(self, update: int, loss: float) -> dict[str, Any]:
        """Show it an evaluation's loss; returns the values of the ``phase`` event."""
        self._state, verdict = on_eval(self.controller, self._state, update, loss)
        now, change = self.knobs(update + 1), verdict.transition
        return {
            "phase": verdict.phase.name,
            "delta": _known(verdict.delta),
            "deviation": _known(verdict.deviation),
            "entropy": _known(verdict.entropy),
            "lr_factor": now.lr,
            "batch_factor": now.batch,
            "eligible": verdict.eligible,
            "reason": change.reason if change else "",
            "decided_by": change.decided_by if change else "",
        }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
