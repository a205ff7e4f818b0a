"""Our training step against stock mlx-lm's: same rows, targets, adapter shape, dtype and BLAS, in one process.

    mlx-persona bench --model MODEL

Each row trains its last reply only, which is all that stock mlx-lm can mask. Stock also trains one
padding token per row; that is how it is, and it costs nothing.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.optimizers
from mlx.utils import tree_unflatten
from mlx_lm.tuner.trainer import TrainingArgs, TrainingCallback, train
from mlx_lm.tuner.utils import linear_to_lora_layers

from mlx_persona import ui
from mlx_persona.config import BenchConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters, substitutes
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.heads import row_logits
from mlx_persona.models.load import load_model
from mlx_persona.runs import Run
from mlx_persona.stages.sft import to_mx
from mlx_persona.tokens.batches import LENGTH_STEP, Row
from mlx_persona.tokens.dataset import conversation_rows, load_split
from mlx_persona.tokens.render import Renderer
from mlx_persona.training import objectives
from mlx_persona.training.loop import Loop, LoopConfig
from mlx_persona.training.objectives import Batch

LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class BenchResult:
    """Medians over rounds of tokens per second and of peak bytes, base weights included."""

    ours: dict[str, float]
    stock: dict[str, float]
    rows: int
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """``ours``, ``stock`` and ``ratio`` (ours / stock) of both figures."""
        ratio = {key: self.ours[key] / self.stock[key] for key in self.ours}
        return {"ours": self.ours, "stock": self.stock, "ratio": ratio, "rows": self.rows, "tokens": self.tokens}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people."""
        ratio = self.to_json()["ratio"]
        speed = [f"{side['tokens_per_second']:.1f}" for side in (self.ours, self.stock)]
        memory = [f"{side['peak_bytes'] / 1e6:.0f}" for side in (self.ours, self.stock)]
        return ["", "ours", "stock mlx-lm", "ours / stock"], [
            ["tokens per second", *speed, f"{ratio['tokens_per_second']:.2f}"],
            ["peak memory (MB)", *memory, f"{ratio['peak_bytes']:.2f}"],
        ]


def bench(config: BenchConfig) -> BenchResult:
    """Measure both, alternating, and take medians.

    Raises:
        PersonaError: no data, or too few rows.
    """
    loaded = load_model(config.model)
    renderer = Renderer(loaded.tokenizer)
    conversations = load_split(Path(config.data), "train")
    rows = [_last_reply_only(r) for r in conversation_rows(conversations, renderer, config.max_seq_length).rows]
    needed = config.batch_size * config.steps
    if len(rows) < needed:
        raise PersonaError(f"{needed} rows are needed for {config.steps} steps, {config.data} has {len(rows)}")
    rows = rows[:needed]
    batches = [rows[i : i + config.batch_size] for i in range(0, needed, config.batch_size)]
    tokens = sum(len(r.ids) - 1 for r in rows)
    figures: dict[str, list[dict[str, float]]] = {"ours": [], "stock": []}
    with ui.progress("bench", 2 * config.rounds) as bar:
        for _ in range(config.rounds):
            for side, measure in (("ours", _ours), ("stock", _stock)):
                mx.clear_cache()
                mx.reset_peak_memory()
                seconds = measure(loaded.model, batches, config)
                figures[side].append({"tokens_per_second": tokens / seconds, "peak_bytes": mx.get_peak_memory()})
                bar.advance(1, side)
    medians = {
        side: {key: median(f[key] for f in found) for key in ("tokens_per_second", "peak_bytes")}
        for side, found in figures.items()
    }
    return BenchResult(medians["ours"], medians["stock"], len(rows), tokens)


def _last_reply_only(row: Row) -> Row:
    """A row whose only targets are its last run of trained tokens, as stock mlx-lm masks it."""
    mask = row.mask.copy()
    gaps = [i for i in range(len(mask)) if not mask[i]]
    last = max((i for i in gaps if i < int(mask.nonzero()[0][-1])), default=0)
    mask[: last + 1] = False
    return replace(row, mask=mask)


class _Given:
    """A source of given batches, each once."""

    def __init__(self, batches: Sequence[Sequence[Row]]) -> None:
        self._batches = [to_mx(b) for b in batches]
        self._tokens = [sum(len(r.ids) for r in b) for b in batches]

    def train_batch(self, number: int, update: int) -> Batch:
        return self._batches[number % len(self._batches)]

    def tokens(self, number: int) -> int:
        return self._tokens[number % len(self._tokens)]

    def eval_batches(self) -> Sequence[Batch]:
        return self._batches[:1]


def _ours(model: Any, batches: Sequence[Sequence[Row]], config: BenchConfig) -> float:
    """Seconds that our loop takes for all batches, after a warm-up round over the same shapes."""
    spec = adapters.attach(model, AdapterSpec(config.rank, 2.0, config.dora), config.seed)
    steps = len(batches)
    plan = LoopConfig(2 * steps, 1, LEARNING_RATE, 0.0, 1.0, 0.0, 1.0, 2 * steps, 0, 1)
    stamps: dict[int, float] = {}

    def hook(event: str, values: dict[str, Any]) -> None:
        if event == "train":
            stamps[values["update"]] = values["seconds"]

    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", {}, {})
        try:
            Loop(model, objectives.sft(row_logits(model)), _Given(batches), plan, run, spec, {}, [hook]).run()
        finally:
            run.close()
            adapters.detach(model)
            model.freeze()
    return stamps[2 * steps] - stamps[steps]


@contextlib.contextmanager
def stock_adapter(model: Any, rank: int, scale: float, dora: bool) -> Iterator[None]:
    """Meanwhile the model has a trainable adapter of stock mlx-lm's and stock's activations."""
    before = [(name, m) for name, m in model.named_modules() if hasattr(m, "weight")]
    keys = list(adapters.target_keys(model))
    linear_to_lora_layers(model, -1, {"rank": rank, "scale": scale, "dropout": 0.0, "keys": keys}, dora)
    try:
        with substitutes.as_in_mlx_lm(model):
            yield
    finally:
        model.update_modules(tree_unflatten(before))
        model.freeze()
        model.eval()


def _stock(model: Any, batches: Sequence[Sequence[Row]], config: BenchConfig) -> float:
    """Seconds that stock mlx-lm's trainer takes for all batches, after the same warm-up."""
    stamps: list[float] = []

    class Callback(TrainingCallback):
        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            stamps.append(time.perf_counter())

    def given(**_: Any) -> Iterator[tuple[mx.array, mx.array]]:
        while True:
            yield from (_stock_batch(b) for b in batches)

    optimizer = mlx.optimizers.AdamW(learning_rate=LEARNING_RATE)
    quiet = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, stock_adapter(model, config.rank, 2.0, config.dora), quiet:
        args = TrainingArgs(
            batch_size=config.batch_size,
            iters=2 * len(batches),
            steps_per_report=1,
            steps_per_save=10**9,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
        )
        train(model, optimizer, None, None, args, iterate_batches=given, training_callback=Callback())
    return stamps[2 * len(batches) - 1] - stamps[len(batches) - 1]


def _stock_batch(rows: Sequence[Row]) -> tuple[mx.array, mx.array]:
    """Tokens padded as stock pads them, and (first, last) target of each row."""
    width = 1 + LENGTH_STEP * -(-(max(len(r.ids) for r in rows) - 1) // LENGTH_STEP)
    tokens = [[*r.ids.tolist(), *[0] * (width - len(r.ids))] for r in rows]
    spans = [[int(r.mask[1:].nonzero()[0][0]) + 1, len(r.ids) - 1] for r in rows]
    return mx.array(tokens), mx.array(spans)
