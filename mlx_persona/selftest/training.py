"""Checks of training: compiled against eager, recomputed activations, and a run that is cut off and goes on."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_persona.config import SftConfig
from mlx_persona.models import adapters, checkpointing, token_chunks
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.heads import row_logits
from mlx_persona.runs import Run
from mlx_persona.selftest.kit import (
    DEEP,
    Measured,
    activations,
    adapt,
    distance,
    gradients,
    limit,
    random_rows,
    small_model,
)
from mlx_persona.stages.sft import SftSource, to_mx
from mlx_persona.tokens.store import Stored
from mlx_persona.training import objectives
from mlx_persona.training.loop import Hook, Loop, LoopConfig

_CLOCK = ("seconds", "peak_bytes")  # what no two runs share


class _Outcome(NamedTuple):
    """What a run logged, without its clock, and what it trained."""

    events: list[dict[str, Any]]
    weights: dict[str, mx.array]


class _CutOffError(Exception):
    """Stands for a process that dies."""


def _prepared() -> tuple[Any, AdapterSpec, SftSource]:
    """A 4-bit model with a new DoRA that drops out, and rows to train it on."""
    model = small_model("llama", 4).model
    spec = adapt(model, dora=True, trained=False, dropout=0.1)
    rows = Stored.of(random_rows(12))
    return model, spec, SftSource(rows, random_rows(4, seed=1), SftConfig(batch_size=2, dropout=0.1))


def _plan(updates: int, compiled: bool | None) -> LoopConfig:
    return LoopConfig(updates, 2, 2e-3, 0.0, 0.1, 0.01, 1.0, 3, 0, 1, compiled=compiled)


def _loop(run: Run, plan: LoopConfig, hooks: tuple[Hook, ...] = ()) -> Loop:
    """The training loop on that model, from its start."""
    model, spec, source = _prepared()
    return Loop(model, objectives.sft(row_logits(model)), source, plan, run, spec, {}, hooks)


def _outcome(loop: Loop) -> _Outcome:
    """Train to the planned end."""
    loop.run()
    events = [{k: v for k, v in event.items() if k not in _CLOCK} for event in loop.run_dir.events()]
    return _Outcome(events, adapters.trainable(loop.model))


@contextmanager
def _run_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "run"


def _trained(plan: LoopConfig) -> _Outcome:
    with _run_folder() as folder:
        run = Run.create(folder, {}, {})
        try:
            return _outcome(_loop(run, plan))
        finally:
            run.close()


def _resumed(plan: LoopConfig, dies_at: int) -> _Outcome:
    """The outcome of a run that dies in an update and goes on from its last checkpoint."""

    def die(event: str, values: dict[str, Any]) -> None:
        if event == "train" and values["update"] == dies_at:
            raise _CutOffError

    with _run_folder() as folder:
        run = Run.create(folder, {}, {})
        try:
            _loop(run, plan, (die,)).run()
        except _CutOffError:
            pass
        finally:
            run.close()
        run = Run.reopen(folder)
        try:
            loop = _loop(run, plan)
            loop.resume()
            return _outcome(loop)
        finally:
            run.close()


def compiled_step() -> Measured:
    """Losses and gradient norms of three updates of the training loop, compiled, against the same ones eager.

    Weights are not compared: where a gradient is all rounding, Adam makes a whole step of it.
    """
    compiled, eager = (_trained(_plan(3, compiled)).events for compiled in (True, False))
    apart = [
        abs(one[key] - other[key]) / max(abs(other[key]), 1e-6)
        for one, other in zip(compiled, eager, strict=True)
        for key in ("loss", "grad_norm")
        if key in other
    ]
    # A NaN must not be hidden by what it is compared with.
    worst = math.nan if any(map(math.isnan, apart)) else max(apart)
    return Measured(worst, limit(activations()[0], DEEP))


def resume() -> Measured:
    """Six updates against three, and three more after the run died: nothing may differ, in any bit."""
    plan = _plan(6, compiled=None)  # as a real run
    whole, pieces = _trained(plan), _resumed(plan, 4)
    differing = sum(a != b for a, b in zip(whole.events, pieces.events, strict=True))
    differing += sum(not mx.array_equal(value, pieces.weights[name]) for name, value in whole.weights.items())
    return Measured(float(differing), 0.0)


def recomputed(bits: int, kind: str, blocks: bool, chunks: bool) -> Measured:
    """Loss and gradients with recomputed blocks, or MLPs that take 16 tokens at a time, against neither."""
    batch = to_mx(random_rows(3))

    def measured(blocks: bool, chunks: bool) -> list[mx.array]:
        model = small_model(kind, bits).model
        adapt(model, dora=True, trained=True)
        objective = objectives.sft(row_logits(model))
        if chunks:
            token_chunks.chunk_mlps(model, 16)
        if blocks:
            checkpointing.checkpoint_blocks(model)
        model.train()
        loss, grads = gradients(model, lambda: objective(model, batch, {})[0])
        return [loss, *(grads[name] for name in sorted(grads))]

    found = distance(measured(blocks, chunks), measured(False, False))
    return Measured(found, limit(activations()[0], DEEP))
