"""What SFT and DPO share: the plan in updates, the run directory, progress, and the result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlx_persona import backend, ui
from mlx_persona.awake import awake
from mlx_persona.config import DpoConfig, SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.files import new_folder
from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.planner.estimate import spoken_time
from mlx_persona.runs import (
    ADAPTER,
    Elsewhere,
    Run,
    claim,
    closing,
    file_hash,
    git_revision,
    read_info,
    recorded_config,
)
from mlx_persona.settings import build, plain
from mlx_persona.stages.budget import anchored
from mlx_persona.stages.phases import PhaseNote, by_phase, record
from mlx_persona.training.checkpoint import checkpoint_path
from mlx_persona.training.distributed import Group
from mlx_persona.training.loop import Hook, LoopConfig, LoopResult
from mlx_persona.training.watch import PhaseWatch

Config = TypeVar("Config", SftConfig, DpoConfig)
EVAL_SHARE = 0.1
# As many evaluations as show the phases of a run, where they do not take more than that share of it.
EVALUATIONS = 50
# Options that name files, and the versions that must not differ between ranks. What the files hold is compared itself.
_FILES = ("model", "data", "extra", "pairs", "adapter", "out", "resume")
_VERSIONS = ("mlx", "mlx-lm", "numpy", "mlx-persona")
# The plan's time is corrected after so many updates, if it is off by more than this factor.
_JUDGED_FROM, _FAR_OFF = 4, 1.25


@dataclass(frozen=True)
class TrainResult:
    """What a training stage returns; ``to_json`` has the contract's keys."""

    run: Path
    adapter: Path
    best_update: int
    eval_loss: float
    base_eval_loss: float
    tokens_per_second: float
    peak_bytes: int
    phases: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "run": str(self.run),
            "adapter": str(self.adapter),
            "best_update": self.best_update,
            "eval_loss": self.eval_loss,
            "base_eval_loss": self.base_eval_loss,
            "tokens_per_second": self.tokens_per_second,
            "peak_bytes": self.peak_bytes,
            "phases": self.phases,
            **self.extra,
        }


def updates_of(config: SftConfig | DpoConfig, per_epoch: int, train_tokens: int) -> int:
    """The updates of a run whose epochs have so many micro-batches and tokens."""
    accumulate = config.grad_accumulation
    if config.tokens is not None:
        return max(1, math.ceil(config.tokens * per_epoch / (train_tokens * accumulate)))
    if config.updates is not None:
        return config.updates
    if config.iters is not None:
        updates = max(1, round(config.iters / accumulate))
        ui.info(f"{config.iters} iterations of {accumulate} micro-batches per update are {updates} updates")
        return updates
    return max(1, math.ceil(config.epochs * per_epoch / accumulate))


def plan(
    config: SftConfig | DpoConfig, per_epoch: int, train_tokens: int, eval_tokens: int, micro_batch: str = ""
) -> LoopConfig:
    """The run in updates, shown to the user.

    Args:
        config: the stage's options.
        per_epoch: micro-batches in one pass over the data.
        train_tokens: tokens of one pass.
        eval_tokens: tokens of one evaluation.
        micro_batch: what a micro-batch is, in words; default: ``batch_size`` rows.
    """
    accumulate, updates = config.grad_accumulation, updates_of(config, per_epoch, train_tokens)
    # A forward pass costs about a third of a training pass; with an anchor either has one of the base besides.
    share = 1 / 2 if anchored(config) else 1 / 3
    tokens = train_tokens * updates * accumulate / per_epoch
    affordable = max(1, int(EVAL_SHARE * tokens / max(1.0, eval_tokens * share)))
    every = config.eval_every or max(math.ceil(updates / EVALUATIONS), math.ceil(updates / affordable))
    # Any checkpoint may be chosen in the end.
    every_one = isinstance(config, SftConfig) and config.select == "style"
    of_what = f"{accumulate} x {micro_batch or f'{config.batch_size} rows'}"
    ui.info(
        f"{updates} updates of {of_what}, {updates * accumulate / per_epoch:.2f} epochs, "
        f"about {tokens:,.0f} tokens; evaluation every {every} updates"
    )
    return LoopConfig(
        updates=updates,
        grad_accumulation=accumulate,
        learning_rate=config.learning_rate,
        warmup=config.warmup,
        final_lr=config.final_lr,
        weight_decay=config.weight_decay,
        clip=config.clip,
        eval_every=every,
        patience=config.patience,
        keep_last=math.ceil(updates / every) if every_one else config.keep_last,
        optimizer=config.optimizer,
        tokens=config.tokens,
        by_phase=by_phase(config),
    )


def announce(spec: AdapterSpec, model: nn.Module, learning_rate: float) -> None:
    """Show what will be trained, and the scale that really acts."""
    count = sum(v.size for v in adapters.trainable(model).values())
    ui.info(
        f"{adapters.describe(spec)}: {count / 1e6:.1f} M parameters; "
        f"learning rate {learning_rate:g}, times scale {learning_rate * spec.scale:g}"
    )


def resumed_config(config: Config, stage: str, group: Group) -> Config:
    """The recorded configuration of the run that ``config.resume`` names on rank 0's machine.

    Raises:
        PersonaError: no such run, one of another stage, a finished one, or an option that differs from it.
    """
    return build(type(config), None, group.first(lambda: plain(_recorded(config, stage))))


def _recorded(config: Config, stage: str) -> Config:
    info = read_info(Path(config.resume)) or {}
    if info.get("stage") == stage and info.get("status") == "done":
        raise PersonaError(f"{config.resume} is finished already", "start a new run without --resume")
    return recorded_config(config, stage)


def agree(group: Group, config: Any, facts: dict[str, Any]) -> None:
    """Check that all ranks were given the same options and ``facts``, and run the same versions; raises PersonaError.

    What does not stop a rank from taking part may differ: its chip, its paths, its threads.
    """
    options = {k: v for k, v in plain(config).items() if k not in _FILES}
    versions = {k: v for k, v in backend.versions().items() if k in _VERSIONS}
    group.agree({**options, **facts, **{f"the version of {k}": v for k, v in versions.items()}})


def open_run(config: SftConfig | DpoConfig, info: dict[str, Any], group: Group) -> Run:
    """The run directory: a new one, or the one to resume, with a warning where it cannot be bit-identical.

    Rank 0 opens it once all ranks agree on what they are about to do; the others know its name.
    """
    agree(group, config, {"the data": info["data_hashes"], "the model": info["model_identity"]["sha256"]})
    if group.size > config.grad_accumulation:
        idle = (
            f"{group.size} ranks share {config.grad_accumulation} micro-batches per update, so some have nothing to do"
        )
        ui.warn(f"{idle}; raise --grad-accumulation, and lower --batch-size")
    elif group.size > 1:
        ui.info(f"{group.size} ranks share the {config.grad_accumulation} micro-batches of every update")
    if group.rank == 0:
        run = _open_run(config, info)
        group.first(lambda: str(run.path))
        return run
    return Elsewhere(Path(group.first(lambda: None)))


def _open_run(config: SftConfig | DpoConfig, info: dict[str, Any]) -> Run:
    versions = backend.versions()
    out = Path(config.out) if config.out else claim(info["stage"])
    if not config.resume:
        recorded = plain(replace(config, out=str(out), resume=""))
        started = {"versions": versions, "git": git_revision(), "device": backend.device_name(), "started": time.time()}
        return Run.create(out, recorded, {**info, **started})
    run = Run.reopen(out)
    then = run.info.get("versions", {})
    changed = [f"{k} {then.get(k)} -> {v}" for k, v in versions.items() if then.get(k) != v]
    if changed:
        ui.warn(f"this machine changed since the run began ({', '.join(changed)}): metrics may differ in the last bits")
    for key in ("data_hashes", "model_identity"):
        if run.info.get(key) != info.get(key):
            what = "data" if key == "data_hashes" else "model"
            run.close()
            raise PersonaError(f"the {what} changed since {out} began, so it cannot be resumed", "start a new run")
    run.update_info(status="running")
    return run


def data_hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the data files of a run."""
    return {name: file_hash(folder / f"{name}.jsonl") for name in names if (folder / f"{name}.jsonl").is_file()}


@contextmanager
def guarded(run: Run) -> Iterator[None]:
    """Leave ``run.json`` with a true status, whatever ends the block; meanwhile the machine stays awake."""
    with closing(run), awake():
        yield


def _correct(planned: float, likely: float) -> None:
    """Say how long the run will take after all, if the plan was far off."""
    if not 1 / _FAR_OFF < likely / planned < _FAR_OFF:
        ui.info(f"at this speed the run takes {spoken_time(likely)}; planned: {spoken_time(planned)}")


@contextmanager
def train_progress(title: str, updates: int, done: int, planned: float | None = None) -> Iterator[Hook]:
    """A progress hook: loss, speed, memory; evaluations as lines of their own.

    After a few updates the time that was ``planned`` (in seconds) is corrected, if it was far off.
    """
    with ui.progress(title, updates, done) as bar:
        last = {"seconds": None, "eval": ""}
        phase = PhaseNote()
        first: list[float] = []

        def hook(event: str, values: dict[str, Any]) -> None:
            if event == "train":
                before = last["seconds"]
                speed = values["tokens"] / (values["seconds"] - before) if before is not None else 0.0
                last["seconds"] = values["seconds"]
                first.append(values["seconds"])
                if planned is not None and len(first) == _JUDGED_FROM:
                    _correct(planned, (first[-1] - first[0]) / (len(first) - 1) * updates)
                anchor = f"  kl {values['kl']:.3f}" if "kl" in values else ""
                note = f"loss {values['loss']:.3f}{anchor}{last['eval']}  {values['peak_bytes'] / 1e9:.1f} GB"
                note += phase.at(values["update"])
                bar.advance(1, f"{note}  {speed:.0f} tokens/s" if speed else note)
            elif event == "phase":
                phase.event(values)
            elif event == "eval":
                last["eval"] = f"  eval {values['loss']:.3f}"
                more = "".join(f", {k} {v:.3f}" for k, v in values.items() if k in ("accuracy", "margin", "kl"))
                ui.info(f"update {values['update']}: evaluation loss {values['loss']:.4f}{more}")
            elif event == "early_stop":
                ui.info(f"stopped early: {values['reason']}")

        yield hook


def choose_adapter(run: Run, result: LoopResult, write: Callable[[Path], None] | None = None) -> Path:
    """Copy the best checkpoint's adapter to ``adapter/``; ``write`` fills the folder in its stead."""
    best = checkpoint_path(run.path, result.state.best_update)
    target = run.path / ADAPTER
    with new_folder(target) as part:
        if write is not None:
            write(part)
        else:
            for name in (adapters.WEIGHTS, adapters.CONFIG):
                (part / name).write_bytes((best / name).read_bytes())
    return target


def outcome(group: Group, make: Callable[[], TrainResult]) -> TrainResult:
    """Rank 0's result, on every rank."""

    def values() -> dict[str, Any]:
        result = make()
        return {**asdict(result), "run": str(result.run), "adapter": str(result.adapter)}

    shared = group.first(values)
    return TrainResult(**{**shared, "run": Path(shared["run"]), "adapter": Path(shared["adapter"])})


def finish(run: Run, result: LoopResult, adapter: Path, extra: dict[str, Any], watch: PhaseWatch | None) -> TrainResult:
    """Record the outcome in ``run.json`` and return it."""
    state = result.state
    train = [e for e in run.events() if e["event"] == "train"]
    assert state.best_loss is not None
    assert state.base_loss is not None
    outcome = TrainResult(
        run=run.path,
        adapter=adapter,
        best_update=state.best_update,
        eval_loss=state.best_loss,
        base_eval_loss=state.base_loss,
        tokens_per_second=round(state.tokens / max(state.seconds, 1e-9), 1),
        peak_bytes=max((e["peak_bytes"] for e in train), default=mx.get_peak_memory()),
        phases=record(run, result, watch),
        extra=extra,
    )
    kept = {k: v for k, v in outcome.to_json().items() if k not in ("run", "adapter")}
    run.update_info(
        status=result.status, finished=time.time(), seconds=round(state.seconds, 1), updates=state.update, **kept
    )
    return outcome
