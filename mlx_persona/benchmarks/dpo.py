"""Our DPO against mlx-lm-lora's and against our own with stacked rows: same pairs, targets, adapter shape, dtype, BLAS.

    mlx-persona bench-dpo --pairs FOLDER

Each side passes over all pairs twice, and the second pass is timed. mlx-lm-lora has a second model compute the
reference in every step; ours is computed once, before: the time of that is counted in. Every trainer batches in
its own way: mlx-lm-lora sorts by the chosen side and pads both sides to the longest in the batch.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import mlx.core as mx
import mlx.optimizers
import numpy as np

from mlx_persona import ui
from mlx_persona.benchmarks.ours import SCALE, dpo
from mlx_persona.benchmarks.step import stock_adapter
from mlx_persona.config import DpoBenchConfig, DpoConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.heads import row_logits
from mlx_persona.models.load import load_model
from mlx_persona.models.shared_prefix import can_share
from mlx_persona.runs import Run
from mlx_persona.stages.dpo import DpoSource, reference_log_probs
from mlx_persona.tokens.batches import Row
from mlx_persona.tokens.pairs import PairRows, load_pairs, pair_rows
from mlx_persona.tokens.render import Renderer
from mlx_persona.training.distributed import Group
from mlx_persona.training.loop import Loop, LoopConfig

LEARNING_RATE = 1e-5
PEER = "mlx-lm-lora"
Figures = dict[str, float]


@dataclass(frozen=True)
class DpoBenchResult:
    """Medians over rounds, by side, ours first.

    ``seconds_per_pair`` (with the reference), ``reference_seconds_per_pair`` (what of it is the reference,
    where that is apart), ``peak_bytes`` (weights included) and ``loss``, the mean of the first pass.
    """

    sides: dict[str, Figures]
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """The sides, and ``ratio``: the first side over each other one."""
        ours, *others = self.sides
        keys = ("seconds_per_pair", "peak_bytes")
        ratio = {other: {k: self.sides[ours][k] / self.sides[other][k] for k in keys} for other in others}
        return {"pairs": self.pairs, "sides": self.sides, "ratio": ratio}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people."""
        first = next(iter(self.sides.values()))
        rows = []
        for name, found in self.sides.items():
            ratios = [f"{first[key] / found[key]:.2f}" for key in ("seconds_per_pair", "peak_bytes")]
            figures = [f"{found['seconds_per_pair']:.3f}", f"{found['reference_seconds_per_pair']:.3f}"]
            rows.append([name, *figures, ratios[0], f"{found['peak_bytes'] / 1e6:.0f}", ratios[1]])
        return ["", "seconds per pair", "of it reference", "ours / this", "peak MB", "ours / this"], rows


def bench_dpo(config: DpoBenchConfig) -> DpoBenchResult:
    """Measure all sides, alternating, and take medians.

    Raises:
        PersonaError: no pairs, or fewer than a micro-batch.
    """
    loaded = load_model(config.model)
    model, folder = loaded.model, Path(config.pairs)
    rows = _whole_batches(
        pair_rows(load_pairs(folder, "train"), Renderer(loaded.tokenizer), config.max_seq_length), config
    )
    sides: dict[str, Callable[[], Figures]] = {"ours": lambda: _ours(model, rows, config)}
    if can_share(model, row_logits(model)):
        shared = replace(rows, shared=True)
        sides = {"ours": lambda: _ours(model, shared, config), "ours, prompts read twice": sides["ours"]}
    if peer := _peer_module():
        sides[PEER] = lambda: _peer(peer, model, rows, config)
    else:
        ui.info(f"{PEER} is not installed: ours is measured against itself only (pip install {PEER})")
    found: dict[str, list[Figures]] = {name: [] for name in sides}
    with ui.progress("bench-dpo", config.rounds * len(sides)) as bar:
        for _ in range(config.rounds):
            for name, measure in sides.items():
                mx.clear_cache()
                mx.reset_peak_memory()
                found[name].append({**measure(), "peak_bytes": mx.get_peak_memory()})
                bar.advance(1, name)
    medians = {name: {key: median(f[key] for f in some) for key in some[0]} for name, some in found.items()}
    return DpoBenchResult(medians, len(rows.chosen))


def _whole_batches(rows: PairRows, config: DpoBenchConfig) -> PairRows:
    """The first pairs, as many as fill micro-batches: mlx-lm-lora leaves a rest out."""
    count = min(config.n, len(rows.chosen)) // config.batch_size * config.batch_size
    if not count:
        raise PersonaError(
            f"{config.batch_size} pairs are needed, {config.pairs} has {len(rows.chosen)} "
            f"that fit in {config.max_seq_length} tokens"
        )
    return PairRows(rows.chosen[:count], rows.rejected[:count], 0)


def _ours(model: Any, rows: PairRows, config: DpoBenchConfig) -> Figures:
    """One reference and one pass of our loop on a fresh adapter, after a pass to warm up."""
    logits, count = row_logits(model), len(rows.chosen)
    steps = count // config.batch_size
    plan = LoopConfig(2 * steps, 1, LEARNING_RATE, 0.0, 1.0, 0.0, 0.0, 2 * steps, 0, 1)
    events: dict[int, dict[str, Any]] = {}

    def hook(event: str, values: dict[str, Any]) -> None:
        if event == "train":
            events[values["update"]] = values

    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", {}, {})
        try:
            started = time.perf_counter()
            reference = reference_log_probs(model, logits, rows, config.batch_size, Group())
            apart = time.perf_counter() - started
            spec = adapters.attach(model, AdapterSpec(config.rank, SCALE, config.dora), config.seed)
            settings = DpoConfig(batch_size=config.batch_size, seed=config.seed)
            first = PairRows(rows.chosen[:1], rows.rejected[:1], 0, rows.shared)
            source = DpoSource(rows, reference, first, reference[:1], settings)
            knobs = {"beta": mx.array(config.beta)}
            Loop(model, dpo(logits), source, plan, run, spec, knobs, [hook]).run()
        finally:
            run.close()
            adapters.detach(model)
            model.freeze()
    seconds = events[2 * steps]["seconds"] - events[steps]["seconds"]
    loss = sum(events[i + 1]["loss"] for i in range(steps)) / steps
    return {"seconds_per_pair": (seconds + apart) / count, "reference_seconds_per_pair": apart / count, "loss": loss}


def _peer_module() -> Any:
    """mlx-lm-lora's DPO trainer, or None where it is not installed."""
    try:
        return importlib.import_module("mlx_lm_lora.trainer.dpo_trainer")
    except ImportError:
        return None


def _peer(trainer: Any, model: Any, rows: PairRows, config: DpoBenchConfig) -> Figures:
    """The second of two passes of mlx-lm-lora's trainer, with a second model for the reference, as its command has."""
    examples = [_peer_example(c, r) for c, r in zip(rows.chosen, rows.rejected, strict=True)]
    count, batch_size = len(examples), config.batch_size
    steps = count // batch_size
    in_order = list(trainer.iterate_dpo_batches(examples, batch_size, config.max_seq_length))
    batches = itertools.cycle(in_order)
    reports: list[tuple[float, float]] = []

    class Callback:
        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            reports.append((time.perf_counter(), train_info["train_loss"]))

    with (
        tempfile.TemporaryDirectory() as folder,
        stock_adapter(model, config.rank, SCALE, config.dora),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        # Its own order draws micro-batches at random, some twice in a pass and some not at all.
        mock.patch.object(trainer, "iterate_dpo_batches", side_effect=lambda **_: batches),
        _wired_limit_as_there(),
    ):
        arguments = trainer.DPOTrainingArgs(
            batch_size=batch_size,
            iters=2 * steps,
            steps_per_report=1,
            steps_per_save=10**9,
            max_seq_length=config.max_seq_length,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
            beta=config.beta,
        )
        reference = load_model(config.model).model.freeze()
        optimizer = mlx.optimizers.AdamW(learning_rate=LEARNING_RATE)
        trainer.train_dpo(model, reference, optimizer, examples, None, arguments, training_callback=Callback())
    seconds = reports[2 * steps - 1][0] - reports[steps - 1][0]
    loss = sum(loss for _, loss in reports[:steps]) / steps
    return {"seconds_per_pair": seconds / count, "reference_seconds_per_pair": 0.0, "loss": loss}


def _peer_example(chosen: Row, rejected: Row) -> dict[str, Any]:
    """A pair as mlx-lm-lora's data sets give it; what follows the last target is cut off, since it would count."""
    out: dict[str, Any] = {}
    for name, row in (("chosen", chosen), ("rejected", rejected)):
        targets = np.flatnonzero(row.mask)
        out[name] = row.ids[: targets[-1] + 1].tolist()
        out[f"{name}_prompt_length"] = int(targets[0])
    return out


@contextlib.contextmanager
def _wired_limit_as_there() -> Iterator[None]:
    """On the CPU, where a device has no such limit, the trainer gets 0 when it asks for one."""
    known = dict(mx.device_info())
    known.setdefault("max_recommended_working_set_size", 0)
    with mock.patch.object(mx, "device_info", return_value=known):
        yield
