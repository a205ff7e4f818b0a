"""Our training loop as the benchmarks run it: a new adapter, a throw-away run directory, and no trace left."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.heads import row_logits
from mlx_persona.runs import Run
from mlx_persona.training import objectives
from mlx_persona.training.loop import Hook, Loop, LoopConfig, Source

SCALE = 2.0  # alpha is twice the rank, as is the default of sft


class Enough(Exception):  # noqa: N818  (it is no error)
    """A hook raises it where the rest of a run is not needed."""


def run_sft(
    model: Any,
    spec: AdapterSpec,
    source: Source,
    plan: LoopConfig,
    hooks: Sequence[Hook],
    seed: int,
    kind: type[Loop] = Loop,
) -> None:
    """Train as ``sft`` does, to the end or until a hook has enough; the model is bare and frozen again afterwards."""
    logits = row_logits(model)
    attached = adapters.attach(model, spec, seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", {}, {})
        try:
            with suppress(Enough):
                kind(model, objectives.sft(logits), source, plan, run, attached, {}, hooks).run()
        finally:
            run.close()
            adapters.detach(model)
            model.freeze()
            model.eval()


def plan_of(updates: int, learning_rate: float, **changes: Any) -> LoopConfig:
    """A plan with one micro-batch per update, a constant learning rate, and no evaluation before its end."""
    settings: dict[str, Any] = {
        "updates": updates,
        "grad_accumulation": 1,
        "learning_rate": learning_rate,
        "warmup": 0.0,
        "final_lr": 1.0,
        "weight_decay": 0.01,
        "clip": 1.0,
        "eval_every": updates,
        "patience": 0,
        "keep_last": 1,
    }
    return LoopConfig(**{**settings, **changes})
