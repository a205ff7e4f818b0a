"""Training steps of a model of Qwen2.5-7B's shape with random 4-bit weights: time, and peak memory part by part.

    mlx-persona bench-blocks
    mlx-persona bench-blocks --blocks 28 --seq 2048 --checkpoint --accumulation 2 --side ours-dora --steps 1
    mlx-persona bench-blocks --blocks 4 --seq 2048 --checkpoint --pair --side ours-dora --steps 1

Ours is the loop that sft runs, on random tokens. Stock is mlx-lm's own trainer, with the same codes; on a CPU its
scales are float32, or it would compute in bfloat16, and what they take is not counted in its peak.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mlx_persona.backend import on_cpu

# isort: split

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.models import qwen2
from numpy.typing import NDArray

from mlx_persona import ui
from mlx_persona.benchmarks.ours import SCALE, Enough, dpo, plan_of, run_ours
from mlx_persona.benchmarks.step import LEARNING_RATE, StockBatch, stock_adapter, stock_train
from mlx_persona.config import BlocksBenchConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import substitutes
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.checkpointing import checkpoint_blocks
from mlx_persona.models.heads import row_logits
from mlx_persona.models.quantized import RESIDENT
from mlx_persona.models.shared_prefix import can_share
from mlx_persona.models.token_chunks import chunk_mlps
from mlx_persona.tokens.batches import Row
from mlx_persona.tokens.pairs import PairRows
from mlx_persona.training import objectives
from mlx_persona.training.loop import Loop
from mlx_persona.training.objectives import Batch

# Qwen2.5-7B, from its config.json.
SHAPE: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 32768,
}
BITS, GROUP = 4, 64
_TINY = 16  # tokens of the evaluation that the loop begins with

Parts = dict[str, int]
Tokens = NDArray[np.int32]


def random_model(blocks: int, vocab: int, seed: int) -> Any:
    """That shape with random 4-bit weights (group size 64), frozen; no weight is ever dense.

    It is held as :func:`~mlx_persona.models.load.load_model` holds a quantized model: computing in float32 from
    bfloat16 scales on the CPU, in bfloat16 elsewhere. The weights are even, with a variance of about 1 / inputs.
    """
    arguments = {**SHAPE, "num_hidden_layers": blocks, "vocab_size": vocab}
    model = qwen2.Model(qwen2.ModelArgs.from_dict(arguments))
    if not on_cpu():
        model.set_dtype(mx.bfloat16)
    for number, (name, module) in enumerate(list(model.named_modules())):
        if isinstance(module, nn.Linear | nn.Embedding):
            layer = _random_layer(module, mx.random.key(seed + number))
            mx.eval(layer.parameters())
            model.update_modules(tree_unflatten([(name, layer)]))
    if on_cpu():
        substitutes.speed_up(model)
    mx.eval(model.parameters())
    model.eval()
    return model.freeze()


def _random_layer(module: Any, key: mx.array) -> Any:
    """A quantized layer in the place of a dense one, whose weight was never made."""
    out, inner = module.weight.shape
    if isinstance(module, nn.Embedding):
        layer = nn.QuantizedEmbedding(out, inner, GROUP, BITS)
    else:
        layer = nn.QuantizedLinear(inner, out, "bias" in module, GROUP, BITS)
    low, high = mx.random.split(key)
    shape = (out, inner * BITS // 32)
    halves = [mx.random.randint(0, 2**16, shape, key=half).astype(mx.uint32) for half in (low, high)]
    layer.weight = halves[0] + 2**16 * halves[1]
    step = 1 / (inner**0.5 * 4.6)  # 0..15 has a standard deviation of 4.6
    layer.scales = mx.full((out, inner // GROUP), step, dtype=mx.bfloat16)
    layer.biases = mx.full((out, inner // GROUP), -7.5 * step, dtype=mx.bfloat16)
    if "bias" in layer:
        layer.bias = mx.zeros((out,), module.bias.dtype)
    if on_cpu():
        layer.__class__ = RESIDENT[type(layer)]
    return layer


@dataclass(frozen=True)
class BlocksBenchResult:
    """By side, medians over rounds: ``seconds`` of an update, ``peak_bytes``; and ``parts``, each part's own peak."""

    sides: dict[str, dict[str, float]]
    parts: dict[str, Parts]
    held_bytes: int

    def ratio(self) -> dict[str, float]:
        """What was measured of: seconds DoRA / LoRA of each trainer, and ours / stock of both figures."""
        out = {}
        for name, key, above, below in (
            ("ours_dora_over_lora_seconds", "seconds", "ours-dora", "ours-lora"),
            ("stock_dora_over_lora_seconds", "seconds", "stock-dora", "stock-lora"),
            ("dora_seconds", "seconds", "ours-dora", "stock-dora"),
            ("dora_peak_bytes", "peak_bytes", "ours-dora", "stock-dora"),
            ("lora_seconds", "seconds", "ours-lora", "stock-lora"),
            ("lora_peak_bytes", "peak_bytes", "ours-lora", "stock-lora"),
        ):
            if above in self.sides and below in self.sides:
                out[name] = self.sides[above][key] / self.sides[below][key]
        return out

    def to_json(self) -> dict[str, Any]:
        """``ratio``, ``sides``, the peaks of ours by ``parts``, and what the bare model holds."""
        return {"ratio": self.ratio(), "sides": self.sides, "parts": self.parts, "held_bytes": self.held_bytes}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people."""
        rows = [[name.replace("_", " "), f"{value:.2f}", ""] for name, value in self.ratio().items()]
        rows += [[name, f"{f['seconds']:.2f}", f"{f['peak_bytes'] / 1e6:.0f}"] for name, f in self.sides.items()]
        return ["", "seconds per update", "peak MB"], [*rows, ["bare model", "", f"{self.held_bytes / 1e6:.0f}"]]


def bench_blocks(config: BlocksBenchConfig) -> BlocksBenchResult:
    """Measure the sides that were asked for, alternating, and take medians.

    Raises:
        PersonaError: a pair for a trainer that has no DPO.
    """
    if config.pair and any(side.startswith("stock") for side in config.side):
        raise PersonaError("stock mlx-lm has no DPO", "leave --pair out, or measure ours-dora and ours-lora only")
    model = random_model(config.blocks, config.vocab, config.seed)
    mx.clear_cache()
    held = mx.get_active_memory()
    ui.info(f"{config.blocks} blocks are held in {held / 1e6:.0f} MB")
    found: dict[str, list[dict[str, float]]] = {side: [] for side in config.side}
    parts: dict[str, Parts] = {}
    with ui.progress("bench-blocks", config.rounds * len(found)) as bar:
        for _ in range(config.rounds):
            for side in found:
                mx.clear_cache()
                mx.reset_peak_memory()
                dora = side.endswith("-dora")
                with _classes_kept(model):
                    if side.startswith("ours"):
                        seconds, parts[side] = _ours(model, dora, config)
                        peak = max(parts[side].values())
                    else:
                        seconds, peak = _stock(model, dora, config)
                found[side].append({"seconds": seconds, "peak_bytes": float(peak)})
                bar.advance(1, f"{side}: {seconds:.1f} s")
    sides = {side: {key: median(f[key] for f in some) for key in some[0]} for side, some in found.items()}
    return BlocksBenchResult(sides, parts, held)


@contextlib.contextmanager
def _classes_kept(model: Any) -> Iterator[None]:
    """Whatever classes the modules are given meanwhile, they get theirs back."""
    before = [(module, type(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, kind in before:
            module.__class__ = kind


def _tokens(config: BlocksBenchConfig, number: int) -> Tokens:
    """The random tokens of micro-batch ``number``, one more than inputs: (seq + 1,)."""
    rng = np.random.default_rng((config.seed, number))
    return rng.integers(0, config.vocab, config.seq + 1).astype(np.int32)


class _Random:
    """A source of random sequences, whose second halves are targets."""

    def __init__(self, config: BlocksBenchConfig, began: Callable[[str], None]) -> None:
        self._config, self._began = config, began

    def train_batch(self, number: int, update: int) -> Batch:
        self._began(f"micro-batch {number % self._config.accumulation + 1}")
        return self._batch(_tokens(self._config, number))

    def _batch(self, tokens: Tokens) -> Batch:
        length = len(tokens) - 1
        positions = mx.arange(length // 2, length)
        return {
            "tokens": mx.array(tokens[None, :-1]),
            "positions": positions,
            "targets": mx.array(tokens[1:])[positions],
            "weights": mx.ones(positions.shape),
        }

    def tokens(self, number: int) -> int:
        return self._config.seq

    def eval_batches(self) -> Sequence[Batch]:
        """A few tokens: the loop begins with an evaluation, which is not what is measured."""
        return [self._batch(_tokens(self._config, 0)[: _TINY + 1])]


class _RandomPairs(_Random):
    """A source of single pairs, in the layout that ``dpo`` takes for the model."""

    def __init__(self, config: BlocksBenchConfig, began: Callable[[str], None], shared: bool) -> None:
        super().__init__(config, began)
        self._shared = shared

    def _batch(self, tokens: Tokens) -> Batch:
        quarter = len(tokens) // 4
        prompt, *replies = (tokens[start : start + quarter] for start in (0, quarter, 2 * quarter))
        mask = np.arange(2 * quarter) >= quarter
        sides = [Row(np.concatenate([prompt, reply]), mask) for reply in replies]
        rows = PairRows((sides[0],), (sides[1],), 0, self._shared)
        return {**{name: mx.array(value) for name, value in rows.batch([0]).items()}, "reference": mx.zeros((2,))}


class _Peaks:
    """The highest peak of each part; a part ends where the next begins."""

    def __init__(self) -> None:
        self.parts: Parts = {}
        self._part = "attaching"

    def begin(self, part: str) -> None:
        """The part that was is over."""
        peak = max(mx.get_peak_memory(), mx.get_active_memory())
        self.parts[self._part] = max(peak, self.parts.get(self._part, 0))
        self._part = part
        mx.reset_peak_memory()
        ui.info(f"{peak / 1e6:.0f} MB at most until: {part}")


def _ours(model: Any, dora: bool, config: BlocksBenchConfig) -> tuple[float, Parts]:
    """Seconds of an update of our loop (the median, without the first where there are more), and its peaks."""
    if config.checkpoint:
        checkpoint_blocks(model)
        chunk_mlps(model)
    peaks, stamps = _Peaks(), []

    class Watched(Loop):
        """The loop, which says when it is done with the micro-batches of an update."""

        def _compile(self) -> None:
            super()._compile()
            norm = self._norm

            def watched(*values: Any) -> Any:
                peaks.begin("update and norms")
                return norm(*values)

            self._norm = watched
            peaks.begin("evaluation")

    def hook(event: str, values: dict[str, Any]) -> None:
        if event == "train":
            peaks.begin("between updates")
        stamps.append(time.perf_counter())  # the first is of the evaluation that the loop begins with
        if len(stamps) > config.steps:
            raise Enough

    spec = AdapterSpec(config.rank, SCALE, dora)
    plan = plan_of(config.steps, LEARNING_RATE, grad_accumulation=config.accumulation, optimizer=config.optimizer)
    source = _Random(config, peaks.begin)
    if config.pair:
        source = _RandomPairs(config, peaks.begin, can_share(model, row_logits(model)))
    run_ours(model, spec, source, plan, [hook], config.seed, Watched, dpo if config.pair else objectives.sft)
    return _per_update(stamps), peaks.parts


def _per_update(stamps: Sequence[float]) -> float:
    """The median of the times between, without the first where there are more."""
    every = np.diff(stamps)
    return float(np.median(every[1:] if len(every) > 1 else every))


@contextlib.contextmanager
def _as_loaded(model: Any) -> Iterator[int]:
    """Meanwhile the layers are mlx-lm's own, with float32 scales on the CPU; gives the bytes that those take."""
    ours = {mine: theirs for theirs, mine in RESIDENT.items()}
    kept = [(m, m.scales, m.biases) for m in model.modules() if type(m) in ours]
    extra = 0
    for layer, scales, biases in kept:
        layer.__class__ = ours[type(layer)]
        layer.scales, layer.biases = scales.astype(mx.float32), biases.astype(mx.float32)
        mx.eval(layer.scales, layer.biases)
        extra += layer.scales.nbytes + layer.biases.nbytes
    try:
        yield extra
    finally:
        for layer, layer.scales, layer.biases in kept:
            layer.__class__ = RESIDENT[type(layer)]


def _stock(model: Any, dora: bool, config: BlocksBenchConfig) -> tuple[float, int]:
    """Seconds of an update of mlx-lm's trainer, and its peak, as if its scales were as ours are."""
    stamps: list[float] = []

    def after(number: int, _: float) -> None:
        if number % config.accumulation == 0:
            stamps.append(time.perf_counter())

    spans = mx.array([[config.seq // 2 + 1, config.seq]])
    batches: list[StockBatch] = [
        (mx.array(_tokens(config, number)[None]), spans) for number in range(config.steps * config.accumulation)
    ]
    with _as_loaded(model) as extra, stock_adapter(model, config.rank, SCALE, dora), _class_as_it_is(model):
        mx.reset_peak_memory()
        stamps.append(time.perf_counter())
        stock_train(
            model,
            mlx.optimizers.AdamW(learning_rate=LEARNING_RATE),
            batches,
            after,
            batch_size=1,
            grad_accumulation_steps=config.accumulation,
            grad_checkpoint=config.checkpoint,
        )
        return _per_update(stamps), mx.get_peak_memory() - extra


@contextlib.contextmanager
def _class_as_it_is(model: Any) -> Iterator[None]:
    """Takes back what mlx-lm's checkpointing does to the class of the blocks."""
    kind: Any = type(model.layers[0])
    call = kind.__call__
    try:
        yield
    finally:
        kind.__call__ = call
