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


class _Setup(NamedTuple):
    """A run: DoRA on a 4-bit model (``dense``: as float32 on the CPU), updates of two micro-batches."""

    updates: int
    dropout: float
    dense: bool
    compiled: bool | None = None


def _loop(run: Run, setup: _Setup, hooks: tuple[Hook, ...] = ()) -> Loop:
    """The training loop from its start, with a new model and adapter."""
    model = small_model("llama", 4, setup.dense).model
    spec = adapt(model, dora=True, trained=False, dropout=setup.dropout)
    options = SftConfig(batch_size=2, dropout=setup.dropout)
    source = SftSource(Stored.of(random_rows(12)), random_rows(4, seed=1), options)
    plan = LoopConfig(setup.updates, 2, 2e-3, 0.0, 0.1, 0.01, 1.0, 3, 0, 1, compiled=setup.compiled)
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


def _trained(setup: _Setup) -> _Outcome:
    with _run_folder() as folder:
        run = Run.create(folder, {}, {})
        try:
            return _outcome(_loop(run, setup))
        finally:
            run.close()


def _resumed(setup: _Setup, dies_at: int) -> _Outcome:
    """The outcome of a run that dies in an update and goes on from its last checkpoint."""

    def die(event: str, values: dict[str, Any]) -> None:
        if event == "train" and values["update"] == dies_at:
            raise _CutOffError

    with _run_folder() as folder:
        run = Run.create(folder, {}, {})
        try:
            _loop(run, setup, (die,)).run()
        except _CutOffError:
            pass
        finally:
            run.close()
        run = Run.reopen(folder)
        try:
            loop = _loop(run, setup)
            loop.resume()
            return _outcome(loop)
        finally:
            run.close()


def compiled_step() -> Measured:
    """Losses and gradient norms of three updates of the training loop, compiled, against the same ones eager.

    Weights are not compared: where a gradient is all rounding, Adam makes a whole step of it. Without dropout, and
    dense on the CPU: the C++ compiler takes half a second for each kernel, and those would need 30 more.
    """
    compiled, eager = (_trained(_Setup(3, 0.0, True, compiled)).events for compiled in (True, False))
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
    setup = _Setup(6, 0.1, False)
    whole, pieces = _trained(setup), _resumed(setup, 4)
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
