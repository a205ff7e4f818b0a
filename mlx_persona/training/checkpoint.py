"""Checkpoints from which a run continues bit for bit.

``checkpoints/<update>/`` holds the adapter (as stock mlx-lm reads it), ``optimizer.safetensors``
(in the newest only) and ``state.json``. Random keys are derived from (seed, epoch, update, row),
so there is no random state to save. A checkpoint appears whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from mlx_persona.errors import PersonaError
from mlx_persona.files import new_folder
from mlx_persona.models.adapters import WEIGHTS, AdapterSpec, load_weights, read_weights, trainable, write_adapter
from mlx_persona.runs import Run, sorted_checkpoints

OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"


@dataclass
class LoopState:
    """Where a run is. Everything that the next update depends on, besides weights and optimizer."""

    update: int = 0
    cursor: int = 0
    best_update: int = 0
    best_loss: float | None = None
    base_loss: float | None = None
    worse: int = 0
    tokens: int = 0
    supervised: int = 0
    seconds: float = 0.0
    controller: dict[str, Any] = field(default_factory=dict)

    @property
    def wanted(self) -> set[int]:
        """Updates whose checkpoints may be chosen in the end: the best, and the best eligible one."""
        return {self.best_update, int(self.controller.get("chosen", -1))}


def checkpoint_path(run: Path, update: int) -> Path:
    """The folder of one checkpoint."""
    return run / "checkpoints" / f"{update:06d}"


def save(
    run: Run, model: nn.Module, spec: AdapterSpec, optimizer: optim.Optimizer, state: LoopState, keep: int
) -> None:
    """Write the checkpoint of ``state.update``, then drop what is no longer needed.

    Raises:
        PersonaError: the disk is full; earlier checkpoints are unharmed.
    """
    folder = checkpoint_path(run.path, state.update)
    remembered = {**asdict(state), "metrics_bytes": run.metrics_size()}
    with new_folder(folder) as part:
        write_adapter(part, trainable(model), spec)
        mx.save_safetensors(str(part / OPTIMIZER), dict(tree_flatten(optimizer.state)))
        (part / STATE).write_text(json.dumps(remembered, indent=2) + "\n", encoding="utf-8")
    prune(run.path, state.wanted, keep)


def prune(run: Path, wanted: set[int], keep: int) -> None:
    """Remove all checkpoints but the wanted and the newest ``keep``; only the newest keeps its optimizer's state."""
    checkpoints = sorted_checkpoints(run)
    for index, path in enumerate(reversed(checkpoints)):
        if index > 0:
            (path / OPTIMIZER).unlink(missing_ok=True)
        if index >= keep and int(path.name) not in wanted:
            shutil.rmtree(path, ignore_errors=True)


def restore(run: Run, model: nn.Module, optimizer: optim.Optimizer) -> LoopState:
    """Load the newest checkpoint into model and optimizer and cut ``metrics.jsonl`` back to it.

    A run that was cut off before its first checkpoint starts anew.

    Raises:
        PersonaError: a file of the checkpoint is missing, truncated or does not fit.
    """
    checkpoints = sorted_checkpoints(run.path)
    if not checkpoints:
        run.cut_metrics(0)
        return LoopState()
    folder = checkpoints[-1]
    try:
        remembered = json.loads((folder / STATE).read_text(encoding="utf-8"))
        size = remembered.pop("metrics_bytes")
        state = LoopState(**remembered)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        hint = f"begin again from the start: delete {folder.parent}"
        raise PersonaError(f"{folder / STATE} is damaged: {error!r}", hint) from error
    load_weights(model, read_weights(folder / WEIGHTS), folder)
    optimizer.state = tree_unflatten(list(read_weights(folder / OPTIMIZER).items()))
    mx.eval(optimizer.state)
    run.cut_metrics(size)
    return state
