"""What a training run will take, said before it starts; checkpointing of the fewest blocks that make it fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_persona import backend, ui
from mlx_persona.config import DpoConfig, SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.files import check_space
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.checkpointing import checkpoint_blocks
from mlx_persona.models.load import LoadedModel
from mlx_persona.models.token_chunks import chunk_mlps
from mlx_persona.planner.coefficients import coefficients
from mlx_persona.planner.cost import Work, seconds
from mlx_persona.planner.estimate import FAR, Needs, advise, spoken_time, with_checkpoints
from mlx_persona.planner.memory import DENSE, PACKED, Load, Setup, states_of, trainable
from mlx_persona.planner.shapes import FULL, Shapes, shapes
from mlx_persona.tokens.batches import LENGTH_STEP, TARGET_STEP, Row, ordered_batches
from mlx_persona.tokens.pairs import PairRows
from mlx_persona.training.loop import LoopConfig
from mlx_persona.training.objectives import Batch

# Adapters in a run directory beside the last few: the best, the one being written, the chosen one.
_MORE_ADAPTERS = 3
# The longest rows that are looked at for their targets: there may be a million rows.
_LOOKED_AT = 64
_EVAL_TOKENS = 2048


def padded(length: int, step: int = LENGTH_STEP) -> int:
    """A length in tokens, padded as a micro-batch is."""
    return max(step, -(-length // step) * step)


def evaluation_rows(batch_size: int, longest: int) -> int:
    """Rows that are evaluated together: up to four short ones, since that needs less than a training step of them."""
    return max(batch_size, min(4, _EVAL_TOKENS // longest))


def largest_load(rows: Sequence[Row], lengths: Sequence[int] | NDArray[Any], count: int) -> Load:
    """The largest micro-batch of ``count`` of these rows, whose lengths are known: rows of like length share one."""
    longest = np.argsort(np.asarray(lengths), kind="stable")[-max(count, _LOOKED_AT) :]
    targets = sorted((rows[int(i)].targets for i in longest), reverse=True)[:count]
    width = int(lengths[int(longest[-1])]) - 1
    return Load(min(count, len(rows)), padded(width), padded(sum(targets), TARGET_STEP))


def pairs_load(rows: PairRows, count: int) -> Load:
    """The largest micro-batch of ``count`` pairs, in the layout of the rows."""
    if not rows.shared:
        sides = (*rows.chosen, *rows.rejected)
        return largest_load(sides, [len(row.ids) for row in sides], 2 * count)
    groups = ordered_batches(rows.order, count)
    widest = max(groups, key=lambda members: len(members) * rows.width(members))
    targets = max(sum(rows.chosen[i].targets + rows.rejected[i].targets for i in members) for members in groups)
    return Load(len(widest), rows.width(widest), padded(targets, TARGET_STEP))


def batches_load(batches: Sequence[Batch]) -> Load:
    """The largest of these batches."""
    loads = [Load(int(b["tokens"].shape[0]), int(b["tokens"].shape[1]), int(b["weights"].size)) for b in batches]
    return max(loads, key=lambda load: (load.tokens, load.targets))


def run_bytes(shape: Shapes, setup: Setup, keep_last: int) -> int:
    """What a run directory takes: adapters of its checkpoints, and the optimizer's state of the newest two."""
    adapter = trainable(shape, setup.rank, setup.dora, setup.num_layers, setup.keys) * FULL
    return round(adapter * (keep_last + _MORE_ADAPTERS + 2 * setup.states))


def run_work(
    config: SftConfig | DpoConfig, loop: LoopConfig, per_epoch: int, read: tuple[int, int, int], length: int
) -> Work:
    """The work of a planned run.

    Args:
        config: the stage's options.
        loop: the run in updates.
        per_epoch: micro-batches in one pass.
        read: tokens and targets of one pass, and tokens of one evaluation.
        length: tokens of a typical row.
    """
    passes = loop.updates * config.grad_accumulation / per_epoch
    evaluations = 1 + -(-loop.updates // loop.eval_every)
    work = Work(read[0] * passes, read[1] * passes, float(read[2] * evaluations), length)
    return work.anchored() if anchored(config) else work


def anchored(config: SftConfig | DpoConfig) -> bool:
    """Whether the loss holds the model to its base by a KL term."""
    return isinstance(config, SftConfig) and config.kl > 0


def prepare(
    loaded: LoadedModel,
    config: SftConfig | DpoConfig,
    spec: AdapterSpec,
    loads: tuple[Load, Load],
    loop: LoopConfig,
    work: Work,
    below: int = 0,
) -> float | None:
    """Settings before the first step: the plan in one line, checkpointing, and a word on a slow BLAS.

    Args:
        loaded: the model, with its adapter on.
        config: the stage's options.
        spec: the adapter to train.
        loads: the largest micro-batch and the largest evaluation batch.
        loop: the run in updates.
        work: what it reads.
        below: rank of a frozen adapter below the trained one (0: none).

    Returns:
        The seconds that the run is thought to take; None where the architecture cannot be planned.

    Raises:
        PersonaError: it surely does not fit in this machine's memory, or the disk has no room for its checkpoints.
    """
    if problem := backend.slow_blas_problem():
        ui.warn(problem)
    try:
        shape = shapes(loaded.config)
    except PersonaError as error:
        _checkpoint(loaded, {"on": None, "auto": 0, "off": 0}.get(config.grad_checkpoint, -1), config)
        ui.info(f"memory cannot be planned: {error.message}")
        return None
    setup = Setup(
        spec.rank,
        spec.dora,
        spec.num_layers,
        accumulation=config.grad_accumulation,
        states=states_of(config.optimizer, spec.rank),
        device=backend.device_name(),
        held=held_by(loaded.model),
        below=below,
        keys=spec.keys,
        pairs=isinstance(config, DpoConfig),
        anchored=anchored(config),
    )
    needs = with_checkpoints(Needs(shape, setup, *loads, backend.usable_bytes()), config.grad_checkpoint)
    _checkpoint(loaded, needs.setup.checkpointed, config)
    check_space(
        Path(config.out or "runs"),
        run_bytes(shape, needs.setup, loop.keep_last),
        "this run",
        "free some space, or write to another disk with --out",
    )
    took = seconds(shape, needs.setup, work)
    announce_plan(needs, loop.updates, took)
    _check(needs)
    return took


def held_by(model: Any) -> str:
    """How a loaded model holds its weights."""
    return PACKED if any(isinstance(m, nn.QuantizedLinear) for m in model.modules()) else DENSE


def _checkpoint(loaded: LoadedModel, count: int | None, config: SftConfig | DpoConfig) -> None:
    blocks = len(loaded.model.layers)
    count = blocks if count is None else int(config.grad_checkpoint) if count < 0 else count
    if count:
        checkpoint_blocks(loaded.model, count)
        chunk_mlps(loaded.model)
        ui.info(f"activations of {count} of {blocks} blocks are recomputed to save memory (--no-grad-checkpoint: none)")


def announce_plan(needs: Needs, updates: int, took: float) -> None:
    """The plan in one line."""
    peak = needs.peak.bytes
    sure = "" if needs.setup.device == "cpu" else f" ({coefficients(needs.setup.device).measured})"
    ui.info(f"plan: peak {peak / 1e9:.1f} GB of {needs.budget / 1e9:.1f}{sure}, {updates} updates, {spoken_time(took)}")


def _check(needs: Needs) -> None:
    """Warn where it is close; raise where even the whole machine's memory is too small."""
    if needs.fits:
        return
    peak, machine = needs.peak.bytes, backend.memory_bytes()
    advice = advise(needs)
    way = f"try {advice[-1].change} (peak {advice[-1].peak_bytes / 1e9:.1f} GB)" if advice else "use a smaller model"
    if peak > FAR * machine:
        raise PersonaError(
            f"this run takes about {peak / 1e9:.1f} GB of memory, and this machine has {machine / 1e9:.1f} GB", way
        )
    ui.warn(f"memory may not do: {way}")
