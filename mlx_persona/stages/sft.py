"""Supervised fine-tuning: conversations -> an adapter that talks like the person.

mlx-persona sft --rank 64 --dora
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from mlx_persona import ui
from mlx_persona.config import SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.heads import row_logits
from mlx_persona.models.load import LoadedModel, load_model
from mlx_persona.runs import file_hash
from mlx_persona.schema import Conversation
from mlx_persona.stages.budget import batches_load, largest_load, prepare, run_work
from mlx_persona.stages.training import (
    TrainResult,
    announce,
    choose_adapter,
    data_hashes,
    finish,
    guarded,
    open_run,
    plan,
    resumed_config,
    train_progress,
)
from mlx_persona.tokens.batches import Plan, Row, collate, evenly, ordered_batches, row_keys
from mlx_persona.tokens.dataset import Rows, common_system, conversation_rows, load_split
from mlx_persona.tokens.render import Renderer
from mlx_persona.training import objectives
from mlx_persona.training.loop import Loop, LoopConfig
from mlx_persona.training.objectives import Batch


class SftSource:
    """Micro-batches of rows, and the frozen evaluation set."""

    def __init__(self, train: Sequence[Row], held_out: Sequence[Row], config: SftConfig) -> None:
        self.train = train
        lengths, weights = tuple(len(r.ids) for r in train), tuple(r.weight for r in train)
        self.plan = Plan(lengths, config.batch_size, config.seed, weights)
        self._seed, self._dropout = config.seed, config.dropout > 0
        groups = ordered_batches([len(r.ids) for r in held_out], max(config.batch_size, 4))
        self._eval = [to_mx([held_out[i] for i in group]) for group in groups]
        self.eval_tokens = sum(int(b["tokens"].size) for b in self._eval)

    def train_batch(self, number: int, update: int) -> Batch:
        """Micro-batch ``number`` of the endless sequence of epochs."""
        epoch, members = self.plan.micro_batch(number)
        batch = to_mx([self.train[i] for i in members])
        if self._dropout:
            batch["rows"] = mx.array(row_keys(self._seed, epoch, update, members))
        return batch

    def tokens(self, number: int) -> int:
        """What its rows are long."""
        return sum(self.plan.lengths[i] for i in self.plan.micro_batch(number)[1])

    def eval_batches(self) -> Sequence[Batch]:
        """The same batches in the same order, every time."""
        return self._eval


def to_mx(rows: Sequence[Row]) -> Batch:
    """Rows as one micro-batch of MLX arrays."""
    return {name: mx.array(value) for name, value in collate(rows).items() if name != "segments"}


def _load_extras(config: SftConfig) -> dict[str, list[Conversation]]:
    """The conversations of every ``--extra`` folder; raises PersonaError."""
    extras: dict[str, list[Conversation]] = {}
    known = {Path(config.data).resolve()}
    for name in config.extra:
        folder = Path(name)
        if folder.resolve() in known:
            raise PersonaError(f"--extra {name} is trained on already", "name each folder once, and --data not again")
        known.add(folder.resolve())
        if not (folder / "train.jsonl").is_file():
            raise PersonaError(
                f"--extra must be a folder with train.jsonl, got {name}", "make it with: mlx-persona augment"
            )
        extras[name] = load_split(folder, "train")
    return extras


def _with_extra(own: Rows, extras: dict[str, list[Conversation]], renderer: Renderer, max_tokens: int) -> Rows:
    """All rows to train on, with a line on each extra folder; raises PersonaError for one of which none fits."""
    added = {name: conversation_rows(conversations, renderer, max_tokens) for name, conversations in extras.items()}
    rows = own.rows + tuple(row for more in added.values() for row in more.rows)
    drawn = sum(row.weight for row in rows)
    for name, more in added.items():
        if not more.rows:
            raise PersonaError(f"no conversation of {name} fits in {max_tokens} tokens", "raise --max-seq-length")
        share = sum(row.weight for row in more.rows) / drawn if drawn else 0.0
        ui.info(f"extra data of {name}: {more.describe()}; {share:.0%} of the rows drawn")
    return replace(own, rows=rows, conversations=own.conversations + sum(more.conversations for more in added.values()))


def _hashes(config: SftConfig) -> dict[str, str]:
    """SHA-256 of every file that is trained or evaluated on; extra ones by number, for a path may name a person."""
    extra = {f"extra {n}": file_hash(Path(name) / "train.jsonl") for n, name in enumerate(config.extra, 1)}
    return {**data_hashes(Path(config.data), ("train", "valid")), **extra}


def _budget(
    loaded: LoadedModel, config: SftConfig, spec: AdapterSpec, source: SftSource, loop: LoopConfig
) -> float | None:
    """The plan of the run, shown, and acted upon; the seconds that it is thought to take."""
    rows = source.train
    read = (sum(source.plan.lengths), sum(row.targets for row in rows), source.eval_tokens)
    work = run_work(config, loop, source.plan.per_epoch, read, read[0] // len(rows))
    loads = (largest_load(rows, config.batch_size), batches_load(source.eval_batches()))
    return prepare(loaded, config, spec, loads, loop, work)


def sft(config: SftConfig) -> TrainResult:
    """Train an adapter on the person's replies and write a run directory.

    Raises:
        PersonaError: bad input, no memory, a loss that is not finite; what was reached is kept.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint written.
    """
    if config.resume:
        config = resumed_config(config, "sft")
    folder = Path(config.data)
    conversations, held_out = load_split(folder, "train"), load_split(folder, "valid")
    extras = _load_extras(config)
    loaded = load_model(config.model)
    system = config.system or common_system(conversations)
    renderer = Renderer(loaded.tokenizer, system=system, mask_prompt=config.mask_prompt)
    for note in renderer.notes:
        ui.info(note)
    train = conversation_rows(conversations, renderer, config.max_seq_length)
    valid = conversation_rows(held_out, renderer, config.max_seq_length)
    if not train.rows or not valid.rows:
        raise PersonaError(
            f"no conversation of {folder / ('train' if not train.rows else 'valid')}.jsonl fits in "
            f"{config.max_seq_length} tokens",
            "raise --max-seq-length",
        )
    ui.info(f"training data: {train.describe()}")
    train = _with_extra(train, extras, renderer, config.max_seq_length)
    source = SftSource(train.rows, [valid.rows[i] for i in evenly(len(valid.rows), config.eval_limit)], config)

    rows = row_logits(loaded.model)
    scale = (2.0 * config.rank if config.alpha is None else config.alpha) / config.rank
    spec = adapters.attach(
        loaded.model,
        AdapterSpec(
            config.rank, scale, config.dora, config.num_layers, config.dropout, base=loaded.identity, system=system
        ),
        config.seed,
    )
    announce(spec, loaded.model, config.learning_rate)
    loop_config = plan(config, source.plan.per_epoch, train.tokens, source.eval_tokens)
    planned = _budget(loaded, config, spec, source, loop_config)
    info = {
        "stage": "sft",
        "model": config.model,
        "model_identity": loaded.identity,
        "parent": None,
        "data_hashes": _hashes(config),
    }
    run = open_run(config, info)
    mx.reset_peak_memory()
    with guarded(run):
        loop = Loop(loaded.model, objectives.sft(rows), source, loop_config, run, spec, knobs={})
        if config.resume:
            loop.resume()
        with train_progress("sft", loop_config.updates, loop.state.update, planned) as hook:
            loop.hooks = [hook]
            result = loop.run()
        adapter = choose_adapter(run, result)
        return finish(run, result, adapter, {})
