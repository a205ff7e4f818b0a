"""How soon our training is as good as so many steps of stock mlx-lm's, from the same base model, in one process.

    mlx-persona bench-loss --model MODEL --data FOLDER

Both learn from the same conversations with an adapter of the same kind, rank and scale. Stock trains as
``mlx_lm.lora --mask-prompt`` does: its own data handling, which trains the last reply of a row, its optimizer (Adam),
a constant rate. Ours trains every reply of the person, with sft's plan, loop and schedule. One function measures the
held-out loss of both, on the same rows: all of the person's replies in them. Only training counts as time: no
evaluation, no compiling (stock meets every shape once before, and forgets what it learnt from that), no tokenizing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.datasets import ChatDataset

from mlx_persona import ui
from mlx_persona.benchmarks.ours import SCALE, Enough, plan_of, run_ours
from mlx_persona.benchmarks.step import StockBatch, behind_shapes, stock_adapter, stock_batches, stock_train
from mlx_persona.config import LossBenchConfig, SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.heads import row_logits
from mlx_persona.models.load import load_model
from mlx_persona.schema import Conversation
from mlx_persona.stages.sft import SftSource
from mlx_persona.tokens.batches import Row, evenly
from mlx_persona.tokens.dataset import conversation_rows, load_split
from mlx_persona.tokens.render import Renderer
from mlx_persona.tokens.store import RowSequence
from mlx_persona.training import objectives
from mlx_persona.training.distributed import overwrite
from mlx_persona.training.objectives import Batch

# Evaluations of stock on its way, for the curve.
STOCK_EVALUATIONS = 4
Evaluate = Callable[[Any], float]


@dataclass
class Training:
    """One side as it goes: seconds of training, apart from those of evaluations, and what was seen and reached."""

    seconds: float = 0.0
    eval_seconds: float = 0.0
    steps: int = 0
    supervised: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    since: float = 0.0

    def start(self) -> None:
        """From now on time counts."""
        self.since = time.perf_counter()

    def step(self, supervised: int) -> None:
        """A step has ended."""
        self.seconds += time.perf_counter() - self.since
        self.steps += 1
        self.supervised += supervised
        self.start()

    def judge(self, model: Any, evaluate: Evaluate) -> float:
        """The held-out loss now, noted in the curve; its time does not count."""
        begun = time.perf_counter()
        loss = evaluate(model)
        figures = {"steps": self.steps, "seconds": self.seconds, "supervised": self.supervised, "loss": loss}
        self.curve.append(figures)
        self.eval_seconds += time.perf_counter() - begun
        self.start()
        return loss

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return {k: v for k, v in asdict(self).items() if k != "since"}


@dataclass(frozen=True)
class LossBenchResult:
    """Both sides' training; ``base`` is the held-out loss before it, ``target`` stock's after its last step."""

    ours: Training
    stock: Training
    base: float
    eval_tokens: int

    @property
    def target(self) -> float:
        """The held-out loss to reach."""
        return self.stock.curve[-1]["loss"]

    @property
    def reached(self) -> bool:
        """Whether ours got there within its plan."""
        return self.ours.curve[-1]["loss"] <= self.target

    def to_json(self) -> dict[str, Any]:
        """``ratio`` of the seconds (null where ours did not get there), and both sides with their curves."""
        return {
            "ratio": {"seconds": self.ours.seconds / self.stock.seconds if self.reached else None},
            "reached": self.reached,
            "target": self.target,
            "base": self.base,
            "eval_tokens": self.eval_tokens,
            "ours": self.ours.to_json(),
            "stock": self.stock.to_json(),
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people."""
        ratio = self.to_json()["ratio"]["seconds"]
        sides = (self.ours, self.stock)
        return ["", "ours", "stock mlx-lm"], [
            ["ours / stock, seconds", "not reached" if ratio is None else f"{ratio:.2f}", ""],
            ["seconds of training", *(f"{s.seconds:.1f}" for s in sides)],
            ["held-out loss", *(f"{s.curve[-1]['loss']:.4f}" for s in sides)],
            ["loss before", f"{self.base:.4f}", f"{self.base:.4f}"],
            ["steps", *(str(s.steps) for s in sides)],
            ["supervised tokens seen", *(f"{s.supervised:,}" for s in sides)],
            ["seconds of evaluations", *(f"{s.eval_seconds:.1f}" for s in sides)],
        ]


def bench_loss(config: LossBenchConfig) -> LossBenchResult:
    """Train stock, then ours until its held-out loss is at most stock's.

    Raises:
        PersonaError: no data, or stock's loss is not finite.
    """
    loaded = load_model(config.model)
    model, folder = loaded.model, Path(config.data)
    renderer, conversations = Renderer(loaded.tokenizer), load_split(folder, "train")
    rows = conversation_rows(conversations, renderer, config.max_seq_length).rows
    valid = conversation_rows(load_split(folder, "valid"), renderer, config.max_seq_length).rows
    held_out = [valid[i] for i in evenly(len(valid), config.eval_limit)]
    size = 1 if config.batch_tokens else config.batch_size
    settings = SftConfig(batch_size=size, batch_tokens=config.batch_tokens, seed=config.seed)
    evaluation = SftSource(rows, held_out, settings).eval_batches()
    objective = objectives.sft(row_logits(model))

    def evaluate(model: Any) -> float:
        return held_out_loss(model, objective, evaluation)

    data = ChatDataset(_chats(conversations), loaded.tokenizer, mask_prompt=True)
    given = data if config.stock_rows == "whole" else LastReplies(rows)
    base = evaluate(model)
    ui.info(f"held-out loss of the base model: {base:.4f}")
    stock = _stock(model, stock_batches(given, config, config.steps * config.batch_size), config, evaluate)
    source = SftSource(rows, held_out[:1], settings)
    _warm_up(model, source, config)
    ours = _ours(model, source, config, evaluate, stock.curve[-1]["loss"])
    return LossBenchResult(ours, stock, base, sum(r.targets for r in held_out))


def held_out_loss(model: Any, objective: objectives.Objective, batches: Sequence[Batch]) -> float:
    """Mean loss per supervised token, in nats, with whatever adapter the model has; its mode stays as it is."""
    training = model.training
    model.eval()
    total = weights = 0.0
    for batch in batches:
        loss, weight, _ = objective(model, batch, {})
        total, weights = total + float(loss), weights + float(weight)
    model.train(training)
    return total / weights


def _chats(conversations: Sequence[Conversation]) -> list[dict[str, Any]]:
    return [{"messages": [{"role": m.role, "content": m.content} for m in c.messages]} for c in conversations]


class LastReplies:
    """Our rows as mlx-lm's ChatDataset would give them, with a masked prompt: only the last reply is trained on.

    As there, an item is a dict of one key, whose length mlx-lm's CacheDataset takes for the row's.
    """

    def __init__(self, rows: RowSequence) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Row]:
        return {"row": self._rows[index]}

    def process(self, item: dict[str, Row]) -> tuple[list[int], int]:
        """Tokens and the index of the first that is trained on."""
        row = item["row"]
        last = int(row.mask.nonzero()[0][-1])
        before = (~row.mask[:last]).nonzero()[0]
        return row.ids.tolist(), int(before[-1]) + 1 if len(before) else 0


def stock_targets(batch: StockBatch) -> int:
    """How many tokens of a micro-batch stock's loss counts: from each row's offset to its length, in its targets."""
    tokens, spans = batch
    first, last = np.asarray(spans).T
    counted = np.minimum(last, tokens.shape[1] - 1) - np.maximum(first, 1) + 1
    return int(np.maximum(counted, 0).sum())


def _stock(model: Any, batches: Sequence[StockBatch], config: LossBenchConfig, evaluate: Evaluate) -> Training:
    """Stock's training over these micro-batches, with a few evaluations on the way and one at its end."""
    warm, run = behind_shapes(batches)
    done, count = Training(), len(batches)
    marks = {round(count * i / STOCK_EVALUATIONS) for i in range(1, STOCK_EVALUATIONS)} | {count}
    mx.random.seed(config.seed)  # as mlx_lm.lora does: its adapter is drawn from there
    optimizer = mlx.optimizers.Adam(learning_rate=config.stock_learning_rate or config.learning_rate)

    with stock_adapter(model, config.rank, SCALE, config.dora), ui.progress("stock", count) as bar:
        optimizer.init(model.trainable_parameters())
        fresh = _copied(model.trainable_parameters()), _copied(optimizer.state)

        def after(number: int, loss: float) -> None:
            if number > warm:
                if not math.isfinite(loss):
                    hint = "use --stock-rows cut, or raise --max-seq-length"
                    raise PersonaError(f"stock's loss is not finite in step {done.steps + 1}", hint)
                done.step(stock_targets(run[number - 1]))
                bar.advance(1, f"loss {loss:.3f}")
                if done.steps in marks:
                    ui.info(f"stock, step {done.steps}: held-out loss {done.judge(model, evaluate):.4f}")
            elif number == warm:
                model.update(_copied(fresh[0]))
                overwrite(optimizer.state, fresh[1])
                mx.eval(model.state, optimizer.state)
                done.start()

        stock_train(model, optimizer, run, after, batch_size=config.batch_size)
    return done


def _copied(tree: Any) -> Any:
    """The same arrays in containers of their own."""
    return tree_unflatten(tree_flatten(tree))


def _warm_up(model: Any, source: SftSource, config: LossBenchConfig) -> None:
    """Two updates that are forgotten, so that the kernels are there. A long plan's compiled step is still timed."""
    spec = AdapterSpec(config.rank, SCALE, config.dora)
    run_ours(model, spec, source, plan_of(2, config.learning_rate), [], config.seed)


def _ours(model: Any, source: SftSource, config: LossBenchConfig, evaluate: Evaluate, target: float) -> Training:
    """Our training until an evaluation is at most ``target``, or to its planned end."""
    done = Training()
    plan = plan_of(
        config.updates,
        config.learning_rate,
        grad_accumulation=config.grad_accumulation,
        warmup=config.warmup,
        final_lr=config.final_lr,
    )
    with ui.progress("ours", config.updates) as bar:

        def hook(event: str, values: dict[str, Any]) -> None:
            if event != "train":
                done.start()  # the loop's own evaluation of the base model is over
                return
            done.step(values["supervised_tokens"])
            bar.advance(1, f"loss {values['loss']:.3f}")
            if done.steps % config.eval_every == 0 or done.steps == config.updates:
                loss = done.judge(model, evaluate)
                ui.info(f"ours, update {done.steps}: held-out loss {loss:.4f} after {done.seconds:.1f} s")
                if loss <= target:
                    raise Enough

        run_ours(model, AdapterSpec(config.rank, SCALE, config.dora), source, plan, [hook], config.seed)
    return done
