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
from mlx_persona.models.masks import check_blocks
from mlx_persona.runs import Run
from mlx_persona.stages.budget import batches_load, evaluation_rows, largest_load, padded, prepare, run_work
from mlx_persona.stages.phases import watch_of
from mlx_persona.stages.select import select_by_style, selection_data
from mlx_persona.stages.training import (
    TrainResult,
    announce,
    choose_adapter,
    finish,
    guarded,
    open_run,
    outcome,
    plan,
    resumed_config,
    train_progress,
)
from mlx_persona.tokens.batches import (
    LENGTH_STEP,
    Plan,
    Row,
    collate,
    collate_packed,
    evenly,
    ordered_batches,
    row_keys,
    token_keys,
)
from mlx_persona.tokens.cache import Survey, load_rows, survey
from mlx_persona.tokens.dataset import NoReply, Rows
from mlx_persona.tokens.render import Renderer
from mlx_persona.tokens.store import Joined, RowSequence
from mlx_persona.training import objectives
from mlx_persona.training.checkpoint import prune
from mlx_persona.training.distributed import Group, joined
from mlx_persona.training.loop import Loop, LoopConfig, LoopResult
from mlx_persona.training.objectives import Batch
from mlx_persona.training.watch import PhaseWatch


class SftSource:
    """Micro-batches of rows, and the frozen evaluation set."""

    def __init__(self, train: RowSequence, held_out: Sequence[Row], config: SftConfig) -> None:
        self.train = train
        budget = config.batch_tokens or 0
        capacity = config.max_seq_length if config.packing else 0
        if budget:
            capacity = min(capacity, budget // LENGTH_STEP * LENGTH_STEP)
        self.plan = Plan(train.lengths, config.batch_size, config.seed, train.weights, budget, capacity)
        if 0 < budget < self.plan.widest:
            raise PersonaError(
                f"batch_tokens must be >= {self.plan.widest}, what the longest row takes up, got {budget}",
                "raise --batch-tokens or lower --max-seq-length",
            )
        self._seed, self._dropout, self._packing = config.seed, config.dropout > 0, config.packing
        lengths = [len(r.ids) for r in held_out]
        groups = ordered_batches(lengths, evaluation_rows(config.batch_size, max(lengths, default=1)))
        self._eval = [to_mx([held_out[i] for i in group]) for group in groups]
        self.eval_tokens = sum(int(b["tokens"].size) for b in self._eval)

    def train_batch(self, number: int, update: int) -> Batch:
        """Micro-batch ``number`` of the endless sequence of epochs."""
        epoch, sequences = self.plan.sequences(number)
        arrays = collate_packed([[self.train[i] for i in sequence] for sequence in sequences])
        if self._dropout:
            keys = row_keys(self._seed, epoch, update, [i for sequence in sequences for i in sequence])
            arrays["rows"] = token_keys(keys, arrays["blocks"]) if self._packing else keys
        unused = {"segments"} if self._packing else {"segments", "blocks"}
        return {name: mx.array(value) for name, value in arrays.items() if name not in unused}

    def tokens(self, number: int) -> int:
        """What its rows are long."""
        return int(self.train.lengths[list(self.plan.micro_batch(number)[1])].sum())

    def eval_batches(self) -> Sequence[Batch]:
        """The same batches in the same order, every time."""
        return self._eval


def to_mx(rows: Sequence[Row]) -> Batch:
    """Rows as one evaluation batch of MLX arrays."""
    return {name: mx.array(value) for name, value in collate(rows).items()}


def _survey_all(config: SftConfig) -> dict[str, tuple[Path, Survey]]:
    """Every file that is trained or evaluated on, by its name in ``run.json``: a path may name a person.

    Raises:
        PersonaError: one is missing or holds nothing to train on, or an ``--extra`` folder is there twice.
    """
    files = {name: Path(config.data) / f"{name}.jsonl" for name in ("train", "valid")}
    known = {Path(config.data).resolve()}
    for number, name in enumerate(config.extra, 1):
        folder = Path(name)
        if folder.resolve() in known:
            raise PersonaError(f"--extra {name} is trained on already", "name each folder once, and --data not again")
        known.add(folder.resolve())
        if not (folder / "train.jsonl").is_file():
            raise PersonaError(
                f"--extra must be a folder with train.jsonl, got {name}", "make it with: mlx-persona augment"
            )
        files[f"extra {number}"] = folder / "train.jsonl"
    surveys: dict[str, tuple[Path, Survey]] = {}
    for name, path in files.items():
        try:
            surveys[name] = path, survey(path)
        except NoReply:  # cleaning holds nothing out where an export has fewer than three conversations
            if name != "valid":
                raise
    return surveys


def _with_extra(own: Rows, extras: dict[str, Rows], max_tokens: int) -> RowSequence:
    """All rows to train on, with a line on each extra folder; raises PersonaError for one of which none fits."""
    rows = Joined([own.rows, *(more.rows for more in extras.values())])
    drawn = rows.weights.sum()
    for name, more in extras.items():
        if not len(more.rows):
            raise PersonaError(f"no conversation of {name} fits in {max_tokens} tokens", "raise --max-seq-length")
        share = more.rows.weights.sum() / drawn if drawn else 0.0
        ui.info(f"extra data of {name}: {more.describe()}; {share:.0%} of the rows drawn")
    return rows


def _load_all(
    files: dict[str, tuple[Path, Survey]], renderer: Renderer, config: SftConfig
) -> tuple[Rows, Rows, dict[str, Rows]]:
    """Rows to train and to evaluate on, the same where nothing is held out, and extra ones by their folder.

    Raises:
        PersonaError: none fits in a row.
    """
    found = {name: load_rows(*file, renderer, config.max_seq_length) for name, file in files.items()}
    for name in ("train", "valid"):
        if name in found and not len(found[name].rows):
            raise PersonaError(
                f"no conversation of {files[name][0]} fits in {config.max_seq_length} tokens", "raise --max-seq-length"
            )
    train = found.pop("train")
    ui.info(f"training data: {train.describe()}")
    if "valid" not in found:
        ui.warn("no held-out conversations: losses are of training rows, and no proof of learning")
    valid = found.pop("valid", train)
    return train, valid, dict(zip(config.extra, found.values(), strict=True))


def _budget(
    loaded: LoadedModel, config: SftConfig, spec: AdapterSpec, source: SftSource, targets: int, loop: LoopConfig
) -> float | None:
    """The plan of the run, shown, and acted upon; the seconds that it is thought to take."""
    rows, plan = source.train, source.plan
    tokens = rows.tokens
    work = run_work(config, loop, plan.per_epoch, (tokens, targets, source.eval_tokens), tokens // len(rows))
    count = max(1, config.batch_tokens // plan.widest) if config.batch_tokens else config.batch_size
    load = largest_load(rows, rows.lengths, count)
    if config.packing:
        load = replace(load, length=padded(plan.capacity))
    return prepare(loaded, config, spec, (load, batches_load(source.eval_batches())), loop, work)


def sft(config: SftConfig) -> TrainResult:
    """Train an adapter on the person's replies and write a run directory.

    Without held-out conversations it is evaluated on training rows; ``run.json`` then says ``"held_out": false``.

    Raises:
        PersonaError: bad input, no memory, a loss that is not finite; what was reached is kept.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint written.
    """
    with joined() as group:
        return _sft(config, group)


def _sft(config: SftConfig, group: Group) -> TrainResult:
    if config.resume:
        config = resumed_config(config, "sft", group)
    files = _survey_all(config)
    if config.select == "style":
        selection_data(config)  # what it will need in the end is there
    loaded = load_model(config.model)
    system = config.system or files["train"][1].system
    renderer = Renderer(loaded.tokenizer, system=system, mask_prompt=config.mask_prompt)
    for note in renderer.notes:
        ui.info(note)
    train, valid, extras = _load_all(files, renderer, config)
    every = _with_extra(train, extras, config.max_seq_length)
    source = SftSource(every, [valid.rows[i] for i in evenly(len(valid.rows), config.eval_limit)], config)

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
    if config.packing:
        check_blocks(loaded.model, rows)
    loop_config = plan(config, source.plan.per_epoch, every.tokens, source.eval_tokens, source.plan.describe())
    targets = sum(found.targets for found in (train, *extras.values()))
    planned = _budget(loaded, config, spec, source, targets, loop_config)
    info = {
        "stage": "sft",
        "model": config.model,
        "model_identity": loaded.identity,
        "parent": None,
        "data_hashes": {name: known.sha256 for name, (_, known) in files.items()},
        "held_out": "valid" in files,
        "planned_updates": loop_config.updates,
    }
    run = open_run(config, info, group)
    mx.reset_peak_memory()
    with guarded(run):
        watch = watch_of(config, loop_config, objectives.each_row(rows))
        objective = objectives.sft(rows, config.kl)
        loop = Loop(loaded.model, objective, source, loop_config, run, spec, {}, group=group, watch=watch)
        if config.resume:
            loop.resume()
        with train_progress("sft", loop_config.updates, loop.state.update, planned) as hook:
            loop.hooks = [hook]
            result = loop.run()
        watch = loop.watch
        del loop, loaded, rows  # a checkpoint is judged on a model of its own
        return outcome(group, lambda: _finished(config, run, result, system, watch))


def _finished(config: SftConfig, run: Run, result: LoopResult, system: str, watch: PhaseWatch | None) -> TrainResult:
    """Choose the checkpoint that becomes the adapter, and record the outcome."""
    if config.select == "style":
        mx.clear_cache()
        result = select_by_style(run, result, config, system)
        prune(run.path, result.state.wanted, config.keep_last)
    evals = [e for e in run.events() if e["event"] == "eval" and e["update"] <= result.state.best_update]
    extra = {"kl": evals[-1]["kl"]} if config.kl else {}
    return finish(run, result, choose_adapter(run, result), extra, watch)
