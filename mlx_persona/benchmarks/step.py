"""Our training step against stock mlx-lm's: one pass over the same rows, each with its own batches, in one process.

    mlx-persona bench --model MODEL --data FOLDER

A row is one user message and the person's answer, which is all that stock mlx-lm trains of a row anyway. The tokens
and the first target of a row are the same on both sides. Stock trains the line break behind a reply and one padding
token per row besides; that is how it is. Each side batches, pads and compiles in its own way: stock with mlx-lm's
ChatDataset, iterate_batches and train, ours with sft's source, plan and loop. Before the timed pass each side meets
every shape of it once. Only the time of whole updates counts, no tokenizing and no compiling.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.optimizers
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
from mlx_lm.tuner.trainer import TrainingArgs, TrainingCallback, iterate_batches, train
from mlx_lm.tuner.utils import linear_to_lora_layers

from mlx_persona import ui
from mlx_persona.benchmarks.flops import machine_rate, useful_flops
from mlx_persona.benchmarks.ours import SCALE, plan_of, run_ours
from mlx_persona.config import BenchConfig, SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters, substitutes
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.load import load_model
from mlx_persona.schema import Message
from mlx_persona.stages.sft import SftSource
from mlx_persona.tokens.batches import Row, make_row
from mlx_persona.tokens.dataset import load_split
from mlx_persona.tokens.render import Renderer
from mlx_persona.tokens.store import Stored
from mlx_persona.training.objectives import Batch

LEARNING_RATE = 1e-4
Figures = dict[str, float]
StockBatch = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class BenchResult:
    """Medians over rounds, by side.

    ``seconds`` of one pass, ``tokens_per_second`` (of the rows, without padding), ``peak_bytes`` (base weights
    included) and ``mfu`` (:func:`~mlx_persona.benchmarks.flops.useful_flops` per second, as a share of what matrix
    products reached just before and after). ``gflops`` is the median of that rate.
    """

    ours: Figures
    stock: Figures
    rows: int
    tokens: int
    supervised: int
    gflops: float

    def ratio(self) -> Figures:
        """Ours / stock, of every figure."""
        return {key: self.ours[key] / self.stock[key] for key in self.ours}

    def to_json(self) -> dict[str, Any]:
        """``ratio``, ``ours`` and ``stock``, and what was passed over."""
        about = {"rows": self.rows, "tokens": self.tokens, "supervised": self.supervised, "gflops": self.gflops}
        return {"ratio": self.ratio(), "ours": self.ours, "stock": self.stock, **about}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people."""
        lines = (
            ("seconds for the pass", "seconds", 1.0, ".1f"),
            ("peak memory (MB)", "peak_bytes", 1e-6, ".0f"),
            ("tokens per second", "tokens_per_second", 1.0, ".1f"),
            ("model FLOPs utilisation", "mfu", 1.0, ".2f"),
        )
        ratio = self.ratio()
        return ["", "ours / stock", "ours", "stock mlx-lm"], [
            [name, f"{ratio[key]:.2f}", *(f"{side[key] * factor:{form}}" for side in (self.ours, self.stock))]
            for name, key, factor, form in lines
        ]


def bench(config: BenchConfig) -> BenchResult:
    """Measure both, alternating, and take medians.

    Raises:
        PersonaError: no data, or too few rows.
    """
    loaded = load_model(config.model)
    chats, rows = single_turns(config, loaded.tokenizer)
    batches = stock_batches(ChatDataset(chats, loaded.tokenizer, mask_prompt=True), config, len(rows))
    tokens, supervised = sum(len(r.ids) - 1 for r in rows), sum(r.targets for r in rows)
    flops = useful_flops(loaded.model, config.rank, tokens, supervised)
    sides: dict[str, Callable[[], float]] = {
        "ours": lambda: _ours(loaded.model, rows, config),
        "stock": lambda: _stock(loaded.model, batches, config),
    }
    found: dict[str, list[Figures]] = {side: [] for side in sides}
    rates = []
    with ui.progress("bench", 2 * config.rounds) as bar:
        for _ in range(config.rounds):
            for side, measure in sides.items():
                before = machine_rate()
                mx.clear_cache()
                mx.reset_peak_memory()
                seconds = measure()
                figures = {"seconds": seconds, "peak_bytes": float(mx.get_peak_memory())}
                rates.append((before + machine_rate()) / 2)
                mfu = flops / seconds / rates[-1]
                found[side].append({**figures, "tokens_per_second": tokens / seconds, "mfu": mfu})
                bar.advance(1, f"{side}: {seconds:.1f} s")
    medians = {side: {key: median(f[key] for f in some) for key in some[0]} for side, some in found.items()}
    return BenchResult(medians["ours"], medians["stock"], len(rows), tokens, supervised, median(rates) / 1e9)


def single_turns(config: BenchConfig, tokenizer: Any) -> tuple[list[dict[str, Any]], list[Row]]:
    """Random exchanges of the training data, as stock takes them and as our rows.

    Left out is what is longer than ``max_seq_length``, and the few where our rows and mlx-lm's tokens differ (a reply
    that begins with a blank).

    Raises:
        PersonaError: there are too few.
    """
    pairs = [
        (Message("user", asked.content), Message("assistant", reply.content))
        for conversation in load_split(Path(config.data), "train")
        for asked, reply in itertools.pairwise(conversation.messages)
        if asked.role == "user" and reply.role == "assistant" and reply.train
    ]
    wanted = config.batch_size * (config.steps or config.rows // config.batch_size)
    renderer, theirs = Renderer(tokenizer), ChatDataset([], tokenizer, mask_prompt=True)
    chats: list[dict[str, Any]] = []
    rows: list[Row] = []
    for index in np.random.default_rng(config.seed).permutation(len(pairs)):
        if len(rows) == wanted:
            break
        rendered = renderer.render(pairs[index])
        assert rendered is not None  # only a limit makes it None
        row = make_row(rendered.ids, rendered.mask)
        chat = _same_chat(pairs[index], row, theirs) if len(row.ids) <= config.max_seq_length else None
        if chat is not None:
            chats.append(chat)
            rows.append(row)
    if len(rows) < wanted or not wanted:
        raise PersonaError(
            f"{max(wanted, config.batch_size)} rows are needed, {config.data} has {len(rows)} "
            f"of at most {config.max_seq_length} tokens",
            "lower --rows, or raise --max-seq-length",
        )
    return chats, rows


def _same_chat(messages: Sequence[Message], row: Row, theirs: ChatDataset) -> dict[str, Any] | None:
    """Messages for mlx-lm that come to a row's tokens and first target; None where none do.

    Some templates write a system message of their own where there is none, which our rows leave out: an empty one.
    """
    turns = [{"role": m.role, "content": m.content} for m in messages]
    for head in ([], [{"role": "system", "content": ""}]):
        chat = {"messages": [*head, *turns]}
        ids, offset = theirs.process(chat)
        if list(ids) == row.ids.tolist() and row.targets and int(row.mask.argmax()) == offset:
            return chat
    return None


class _Pass:
    """A source's first epoch, behind one micro-batch of every shape that occurs in it."""

    def __init__(self, source: SftSource) -> None:
        self._source = source
        shapes: dict[Any, int] = {}
        for number in range(source.plan.per_epoch):
            batch = source.train_batch(number, 0)
            shapes.setdefault((batch["tokens"].shape, batch["positions"].shape), number)
        self.numbers = [*shapes.values(), *range(source.plan.per_epoch)]
        self.warm = len(shapes)

    def train_batch(self, number: int, update: int) -> Batch:
        return self._source.train_batch(self.numbers[number], update)

    def tokens(self, number: int) -> int:
        return self._source.tokens(self.numbers[number])

    def eval_batches(self) -> Sequence[Batch]:
        return self._source.eval_batches()


def _ours(model: Any, rows: Sequence[Row], config: BenchConfig) -> float:
    """Seconds of a pass of our loop over the rows."""
    size = 1 if config.batch_tokens else config.batch_size
    settings = SftConfig(batch_size=size, batch_tokens=config.batch_tokens, seed=config.seed)
    source = _Pass(SftSource(Stored.of(rows), rows[:1], settings))
    stamps: list[float] = []

    def hook(event: str, values: dict[str, Any]) -> None:
        if event == "train":
            stamps.append(time.perf_counter())

    spec = AdapterSpec(config.rank, SCALE, config.dora)
    plan = plan_of(len(source.numbers), LEARNING_RATE, compiled=config.compiled or None)
    run_ours(model, spec, source, plan, [hook], config.seed)
    return stamps[-1] - stamps[source.warm - 1]


@contextlib.contextmanager
def stock_adapter(model: Any, rank: int, scale: float, dora: bool) -> Iterator[None]:
    """Meanwhile the model has a trainable adapter of stock mlx-lm's, and stock's activations and attention."""
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


def stock_batches(data: Any, config: Any, count: int) -> list[StockBatch]:
    """The first ``count`` rows that stock mlx-lm would train on, in its micro-batches; an epoch follows the other.

    Args:
        data: one of mlx-lm's datasets, or what looks like one.
        config: has ``batch_size``, ``max_seq_length`` and ``seed``.
        count: a multiple of the batch size.

    Raises:
        PersonaError: there are fewer than a micro-batch.
    """
    if len(data) < config.batch_size:
        raise PersonaError(f"{config.batch_size} rows are needed, {config.data} has {len(data)}", "lower --batch-size")
    quiet = contextlib.redirect_stdout(io.StringIO())  # it warns about every row that it cuts
    with quiet:
        drawn = iterate_batches(CacheDataset(data), config.batch_size, config.max_seq_length, True, config.seed)
        return list(itertools.islice(drawn, count // config.batch_size))


def behind_shapes(batches: Sequence[StockBatch]) -> tuple[int, list[StockBatch]]:
    """How many shapes occur, and the micro-batches behind one of each shape."""
    shapes = {batch[0].shape: batch for batch in reversed(batches)}
    return len(shapes), [*shapes.values(), *batches]


def stock_train(
    model: Any, optimizer: Any, batches: Sequence[StockBatch], after: Callable[[int, float], None], **arguments: Any
) -> None:
    """mlx-lm's own training over these micro-batches; ``after`` is called with the number (from 1) and loss of each."""

    class Callback(TrainingCallback):
        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            after(train_info["iteration"], train_info["train_loss"])

    optimizer.init(model.trainable_parameters())  # else its second step is compiled anew
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = TrainingArgs(
            iters=len(batches),
            steps_per_report=1,
            steps_per_save=10**9,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
            **arguments,
        )
        train(
            model,
            optimizer,
            None,
            None,
            settings,
            iterate_batches=lambda **_: iter(batches),
            training_callback=Callback(),
        )


def _stock(model: Any, batches: Sequence[StockBatch], config: BenchConfig) -> float:
    """Seconds of a pass of stock mlx-lm's trainer over its micro-batches."""
    warm, run = behind_shapes(batches)
    stamps: list[float] = []
    optimizer = mlx.optimizers.AdamW(learning_rate=LEARNING_RATE)
    with stock_adapter(model, config.rank, SCALE, config.dora):
        stock_train(model, optimizer, run, lambda *_: stamps.append(time.perf_counter()), batch_size=config.batch_size)
    return stamps[-1] - stamps[warm - 1]
