"""Our training loop as the benchmarks run it: a new adapter, a throw-away run directory, and no trace left."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_persona.config import DpoConfig
from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.heads import RowLogits, row_logits
from mlx_persona.runs import Run
from mlx_persona.training import objectives
from mlx_persona.training.loop import Hook, Loop, LoopConfig, Source
from mlx_persona.training.objectives import Objective

SCALE = 2.0  # alpha is twice the rank, as is the default of sft
_DPO = DpoConfig()


class Enough(Exception):  # noqa: N818  (it is no error)
    """A hook raises it where the rest of a run is not needed."""


def dpo(logits: RowLogits) -> Objective:
    """The objective of ``dpo`` with its defaults."""
    return objectives.dpo(logits, _DPO.label_smoothing, _DPO.nll_weight)


def run_ours(
    model: Any,
    spec: AdapterSpec,
    source: Source,
    plan: LoopConfig,
    hooks: Sequence[Hook],
    seed: int,
    kind: Callable[..., Loop] = Loop,
    objective: Callable[[RowLogits], Objective] = objectives.sft,
) -> None:
    """Train to the end, or until a hook has enough; the model is bare and frozen again afterwards.

    Args:
        model: bare and frozen.
        spec: the adapter that it gets.
        source: the micro-batches.
        plan: in updates.
        hooks: called with every event.
        seed: of the adapter.
        kind: what makes the loop.
        objective: what ``sft`` minimises, or :func:`dpo`.
    """
    logits = row_logits(model)
    attached = adapters.attach(model, spec, seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", {}, {})
        try:
            with suppress(Enough):
                kind(model, objective(logits), source, plan, run, attached, {"beta": mx.array(_DPO.beta)}, hooks).run()
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
