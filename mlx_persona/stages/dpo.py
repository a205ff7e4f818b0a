"""Preference training (DPO): the person's real replies against what the base model would have said.

    mlx-persona dpo

Continues the SFT adapter; ``--fresh`` trains a new one, stacked on the frozen SFT adapter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_persona import backend, ui
from mlx_persona.config import DpoConfig, PairsConfig
from mlx_persona.errors import PersonaError
from mlx_persona.files import new_folder
from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.heads import RowLogits, row_logits
from mlx_persona.models.load import LoadedModel, load_model
from mlx_persona.models.shared_prefix import can_share
from mlx_persona.models.trained import find_trained
from mlx_persona.runs import Run, adapter_hash, run_of
from mlx_persona.stages.budget import batches_load, pairs_load, prepare, run_work
from mlx_persona.stages.pairs import make_pairs
from mlx_persona.stages.phases import watch_of
from mlx_persona.stages.training import (
    TrainResult,
    agree,
    announce,
    choose_adapter,
    data_hashes,
    finish,
    guarded,
    open_run,
    outcome,
    plan,
    resumed_config,
    train_progress,
)
from mlx_persona.tokens.batches import Plan, evenly, ordered_batches, row_keys
from mlx_persona.tokens.pairs import PairRows, load_pairs, pair_rows, token_keys
from mlx_persona.tokens.render import Renderer
from mlx_persona.training import objectives
from mlx_persona.training.checkpoint import checkpoint_path
from mlx_persona.training.distributed import Group, joined
from mlx_persona.training.loop import Loop, LoopConfig, LoopResult
from mlx_persona.training.objectives import Batch

FRESH_RANK = 32
START = "start"
Reference = NDArray[np.float32]


def pair_batch(rows: PairRows, members: Sequence[int]) -> Batch:
    """These pairs as one micro-batch (without the reference), in the layout of the rows."""
    return {name: mx.array(value) for name, value in rows.batch(members).items()}


def reference_log_probs(
    model: nn.Module, logits: RowLogits, rows: PairRows, batch_size: int, group: Group
) -> Reference:
    """Summed log-probabilities of chosen and rejected replies under the model as it is: (N, 2).

    The same forward, dtype and backend as training, without dropout. The batches are shared out among the ranks.
    """
    model.eval()
    out = np.zeros((len(rows.chosen), 2), np.float32)
    with ui.progress("reference", len(rows.chosen)) as bar:
        for members in ordered_batches(rows.order, batch_size)[group.rank :: group.size]:
            batch = pair_batch(rows, members)
            sums, _ = objectives.row_log_probs(logits, model, batch, 2 * len(members))
            out[list(members)] = np.asarray(sums, np.float32).reshape(2, -1).T
            bar.advance(group.size * len(members))
    # Every other rank has zeros where this one has values.
    return np.asarray(group.reduce({"sums": mx.array(out)})["sums"])


def cached_reference(
    model: nn.Module,
    logits: RowLogits,
    rows: PairRows,
    batch_size: int,
    folder: Path,
    depends: dict[str, Any],
    group: Group,
) -> Reference:
    """Reference log-probabilities, computed once and kept on rank 0's disk under a hash of all they depend on."""
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode())
    for row in (*rows.chosen, *rows.rejected):
        digest.update(row.ids.tobytes() + b"|" + row.mask.tobytes())
    path = folder / "reference" / f"{digest.hexdigest()[:32]}.npy"
    kept = _kept_reference(path, len(rows.chosen)) if group.rank == 0 else None
    if group.first(lambda: kept is not None):
        own = np.zeros((len(rows.chosen), 2), np.float32) if kept is None else kept
        return np.asarray(group.sync({"kept": mx.array(own)})["kept"])
    values = reference_log_probs(model, logits, rows, batch_size, group)
    if group.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npy")
        np.save(part, values)
        part.replace(path)
    return values


def _kept_reference(path: Path, count: int) -> Reference | None:
    """What was computed before, unless it is damaged."""
    try:
        kept = np.load(path)
    except (ValueError, EOFError, OSError):
        return None
    return np.asarray(kept, np.float32) if kept.shape == (count, 2) else None


class DpoSource:
    """Micro-batches of pairs with their reference, and the frozen evaluation set."""

    def __init__(
        self, train: PairRows, train_ref: Reference, held_out: PairRows, held_out_ref: Reference, config: DpoConfig
    ) -> None:
        self._rows, self._ref = train, train_ref
        self.plan = Plan(train.order, config.batch_size, config.seed)
        self._seed, self._dropout = config.seed, config.dropout > 0
        groups = ordered_batches(held_out.order, max(config.batch_size, 2))
        self._eval = [self._with_reference(held_out, held_out_ref, group) for group in groups]
        self.eval_tokens = 2 * sum(held_out.lengths)

    @staticmethod
    def _with_reference(rows: PairRows, reference: Reference, members: Sequence[int]) -> Batch:
        batch = pair_batch(rows, members)
        batch["reference"] = mx.array(reference[list(members)].T.reshape(-1))
        return batch

    def train_batch(self, number: int, update: int) -> Batch:
        """Micro-batch ``number`` of the endless sequence of epochs."""
        epoch, members = self.plan.micro_batch(number)
        batch = self._with_reference(self._rows, self._ref, members)
        if self._dropout:
            # Both sides of a pair get the same key, so that they differ in nothing but the reply.
            keys = row_keys(self._seed, epoch, update, members)
            batch["rows"] = mx.array(token_keys(keys, batch) if self._rows.shared else np.tile(keys, (2, 1)))
        return batch

    def tokens(self, number: int) -> int:
        """What both sides of its pairs are long."""
        members = self.plan.micro_batch(number)[1]
        return sum(len(self._rows.chosen[i].ids) + len(self._rows.rejected[i].ids) for i in members)

    def eval_batches(self) -> Sequence[Batch]:
        """The same batches in the same order, every time."""
        return self._eval


def dpo(config: DpoConfig) -> TrainResult:
    """Train on preferences and write a run directory.

    Raises:
        PersonaError: bad input, options that do not go with the SFT adapter, a loss that is not finite.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint written.
    """
    with joined() as group:
        return _dpo(config, group)


def _dpo(config: DpoConfig, group: Group) -> TrainResult:
    if config.resume:
        config = resumed_config(config, "dpo", group)
    start, config = _start(config)
    start_spec = adapters.read_spec(start) if start else None
    if start_spec is not None:
        _check_continues(config, start_spec)
    folder = Path(config.pairs)
    if group.first(lambda: not all((folder / f"{split}.jsonl").is_file() for split in ("train", "valid"))):
        _make_missing_pairs(config, start)

    loaded = load_model(config.model)
    system = config.system or (start_spec.system if start_spec else "")
    renderer = Renderer(loaded.tokenizer, system=system)
    hashes = data_hashes(folder, ("train", "valid"))
    logits = row_logits(loaded.model)
    shared = can_share(loaded.model, logits)
    if not shared:
        ui.info("this model reads each prompt twice, once for either reply: its attention takes no shared prompts")
    train, held_out = (replace(rows, shared=shared) for rows in _rows(folder, renderer, config))
    inner = adapters.load_adapter(loaded.model, start, loaded.identity) if start else None
    agree(group, config, {"the SFT adapter": adapter_hash(start) if start else "", "the pairs": hashes})
    # Before a fresh adapter is on: it changes nothing yet, and would cost a third of this pass.
    references = [_reference(loaded, logits, rows, start, config, group) for rows in (train, held_out)]
    spec = _attach(loaded, config, inner, system)
    announce(spec, loaded.model, config.learning_rate)
    source = DpoSource(train, references[0], held_out, references[1], config)
    loop_config = plan(config, source.plan.per_epoch, 2 * sum(train.lengths), source.eval_tokens)
    stacked = config.fresh and start is not None
    planned = _budget(loaded, config, spec, (train, source), loop_config, start_spec)
    info = {
        "stage": "dpo",
        "model": config.model,
        "model_identity": loaded.identity,
        "parent": str(run_of(start) or start) if start else None,
        "data_hashes": hashes,
        "stacked": stacked,
        "planned_updates": loop_config.updates,
    }
    run = open_run(config, info, group)
    mx.reset_peak_memory()
    with guarded(run):
        if start and start != run.path / START and group.rank == 0:
            _keep_start(run, start)
        loop = _loop(config, loaded, logits, source, loop_config, run, spec, group)
        with train_progress("dpo", loop_config.updates, loop.state.update, planned) as hook:
            loop.hooks = [hook]
            result = loop.run()
        return outcome(
            group,
            lambda: finish(
                run, result, _choose(run, loop, result, stacked), _figures(run.events(), result, source), loop.watch
            ),
        )


def _loop(
    config: DpoConfig,
    loaded: LoadedModel,
    logits: RowLogits,
    source: DpoSource,
    loop: LoopConfig,
    run: Run,
    spec: AdapterSpec,
    group: Group,
) -> Loop:
    """The loop, at its start or where the run to resume was."""
    weights = config.label_smoothing, config.nll_weight
    watch = watch_of(config, loop, objectives.each_pair(logits, *weights))
    knobs = {"beta": mx.array(config.beta)}
    made = Loop(
        loaded.model, objectives.dpo(logits, *weights), source, loop, run, spec, knobs, group=group, watch=watch
    )
    if config.resume:
        made.resume()
    return made


def _keep_start(run: Run, start: Path) -> None:
    """Copy the adapter to start from: a resume must start from it too, whatever becomes of the SFT run."""
    with new_folder(run.path / START) as part:
        for name in (adapters.WEIGHTS, adapters.CONFIG):
            (part / name).write_bytes((start / name).read_bytes())


def _budget(
    loaded: LoadedModel,
    config: DpoConfig,
    spec: AdapterSpec,
    data: tuple[PairRows, DpoSource],
    loop: LoopConfig,
    start: AdapterSpec | None,
) -> float | None:
    """The plan of the run, shown, and acted upon; the seconds that it is thought to take."""
    train, source = data
    rows = (*train.chosen, *train.rejected)
    read = (sum(len(row.ids) for row in rows), sum(row.targets for row in rows), source.eval_tokens)
    work = run_work(config, loop, source.plan.per_epoch, read, read[0] // len(rows))
    loads = (pairs_load(train, config.batch_size), batches_load(source.eval_batches()))
    return prepare(loaded, config, spec, loads, loop, work, start.rank if config.fresh and start else 0)


def _start(config: DpoConfig) -> tuple[Path | None, DpoConfig]:
    """The adapter to start from, and the configuration with the model filled in."""
    copied = Path(config.resume) / START
    if config.resume and copied.is_dir():
        return copied, config
    if config.fresh and config.model and not config.adapter:
        return None, config
    start = find_trained(config.adapter, config.model, ("sft",))
    return start.adapter, replace(config, model=start.model, adapter=str(start.adapter))


def _check_continues(config: DpoConfig, spec: AdapterSpec) -> None:
    """Without ``--fresh`` the SFT adapter goes on as it is."""
    if config.fresh:
        return
    asked = {
        "rank": (config.rank, spec.rank),
        "alpha": (config.alpha, spec.rank * spec.scale),
        "dora": (config.dora, spec.dora),
    }
    for name, (wanted, there) in asked.items():
        if wanted is not None and wanted != there:
            raise PersonaError(
                f"dpo continues the SFT adapter, whose {name} is {there}; {name} {wanted} is another one",
                "leave the option out, or add --fresh to train a new adapter on the frozen SFT one",
            )


def _attach(loaded: LoadedModel, config: DpoConfig, inner: AdapterSpec | None, system: str) -> AdapterSpec:
    """The adapter to train: the SFT adapter, which is on already, or a fresh one on top of it."""
    model = loaded.model
    if inner is not None and not config.fresh:
        for _, layer in adapters.adapter_layers(model):
            layer.unfreeze(recurse=False)
            layer.set_dropout(config.dropout)
        return replace(inner, dropout=config.dropout, base=loaded.identity, system=system)
    rank = config.rank or FRESH_RANK
    scale = (config.alpha or 2.0 * rank) / rank
    dora = config.dora if config.dora is not None else (inner.dora if inner else True)
    layers, keys = (inner.num_layers, inner.keys) if inner else (-1, ())
    fresh = AdapterSpec(rank, scale, dora, layers, config.dropout, keys, loaded.identity, system)
    return adapters.attach(model, fresh, config.seed)


def _rows(folder: Path, renderer: Renderer, config: DpoConfig) -> tuple[PairRows, PairRows]:
    """Training and held-out pairs as rows, with a word on what did not fit."""
    train = pair_rows(load_pairs(folder, "train"), renderer, config.max_seq_length)
    pairs = load_pairs(folder, "valid")
    held_out = pair_rows([pairs[i] for i in evenly(len(pairs), config.eval_limit)], renderer, config.max_seq_length)
    if not train.chosen or not held_out.chosen:
        raise PersonaError(f"no pair in {folder} fits in {config.max_seq_length} tokens", "raise --max-seq-length")
    if train.dropped + held_out.dropped:
        ui.info(f"{train.dropped + held_out.dropped} pairs are longer than {config.max_seq_length} tokens: left out")
    ui.info(f"{len(train.chosen)} pairs for training, {len(held_out.chosen)} held out")
    return train, held_out


def _reference(
    loaded: LoadedModel, logits: RowLogits, rows: PairRows, start: Path | None, config: DpoConfig, group: Group
) -> Reference:
    """The reference of these rows under the policy that training starts from."""
    depends = {
        "model": loaded.identity["sha256"],
        "adapter": adapter_hash(start) if start else None,
        "versions": backend.versions(),
        "batch_size": config.batch_size,
        "shared": rows.shared,
    }
    return cached_reference(loaded.model, logits, rows, config.batch_size, Path(config.pairs), depends, group)


def _make_missing_pairs(config: DpoConfig, start: Path | None) -> None:
    """Write the pairs that training needs, no more than it will see."""
    ui.info(f"no pairs in {config.pairs} yet: writing them with the base model")
    wanted = PairsConfig(
        model=config.model,
        data=config.data,
        out=config.pairs,
        adapter=str(start or ""),
        system=config.system,
        max_tokens=min(PairsConfig().max_tokens, config.max_seq_length // 2),
        max_seq_length=config.max_seq_length,
        seed=config.seed,
    )
    if config.updates is not None:
        seen = config.updates * config.grad_accumulation * config.batch_size
        wanted = replace(wanted, n=min(wanted.n, seen))
    make_pairs(wanted)


def _choose(run: Run, loop: Loop, result: LoopResult, stacked: bool) -> Path:
    """The best adapter; a stack is written as the one adapter that it equals."""
    if not stacked:
        return choose_adapter(run, result)
    best = checkpoint_path(run.path, result.state.best_update)
    adapters.load_weights(loop.model, adapters.read_weights(best / adapters.WEIGHTS), best)
    weights, spec = adapters.collapse(loop.model, loop.spec)
    return choose_adapter(run, result, lambda part: adapters.write_adapter(part, weights, spec))


def _figures(events: list[dict[str, Any]], result: LoopResult, source: DpoSource) -> dict[str, Any]:
    """Held-out figures at the best update, beside the reference's chosen loss."""
    best = result.best_metrics
    first = next(e for e in events if e["event"] == "eval" and e["update"] == 0)
    matched = int(sum(float(b["matched"].sum()) for b in source.eval_batches()))
    return {
        **{k: best.get(k) for k in ("accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_loss")},
        "accuracy_length_matched": best.get("accuracy_matched"),
        "pairs_length_matched": matched,
        "reference_chosen_loss": first["chosen_loss"],
    }
