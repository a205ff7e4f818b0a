"""Measured peaks of real training steps on random weights: what the memory model is fitted to and judged by.

python -m mlx_persona.planner.calibrate [--write]

Every case trains a model of a few blocks with our own loop for two updates. Peaks are taken apart: the
micro-batches, the optimizer's update, an evaluation. Times depend on the machine, peaks hardly do.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_persona.files import write_text
from mlx_persona.models import adapters, substitutes
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.checkpointing import checkpoint_blocks
from mlx_persona.models.cross_entropy import head_losses, slab_rows
from mlx_persona.models.heads import row_logits
from mlx_persona.models.token_chunks import chunk_mlps
from mlx_persona.planner.coefficients import FILE, Coefficients, Head, Kind, Sizes, coefficients
from mlx_persona.planner.memory import Load, Peak, Setup, logits, peak, sizes
from mlx_persona.planner.shapes import FULL, blueprint, shapes
from mlx_persona.runs import Run
from mlx_persona.training import objectives
from mlx_persona.training.loop import Loop, LoopConfig
from mlx_persona.training.objectives import Batch


def llama(blocks: int, width: int, inner: int, heads: int, kv: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    """The config of a llama with heads of ``width / heads``."""
    return {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        **more,
    }


@dataclass(frozen=True)
class Case:
    """One setting to measure: a model, an adapter, and micro-batches of ``rows`` of ``length`` with ``targets``."""

    config: dict[str, Any] = field(hash=False)
    rows: int
    length: int
    targets: int
    rank: int = 8
    dora: bool = True
    num_layers: int = -1
    checkpointed: bool = False
    accumulation: int = 1
    pairs: bool = False
    eval_rows: int = 0
    kl: float = 0.0


@dataclass(frozen=True)
class Peaks:
    """Measured bytes: the base model, and peaks above nothing of the phases of a step."""

    base: int
    step: int
    update: int
    evaluation: int


class _Given:
    """The same batch for ever."""

    def __init__(self, case: Case) -> None:
        self._train, self._eval = _batch(case, case.rows), _batch(case, case.eval_rows or case.rows)
        self._tokens = case.rows * case.length

    def train_batch(self, number: int, update: int) -> Batch:
        return dict(self._train)

    def tokens(self, number: int) -> int:
        return self._tokens

    def eval_batches(self) -> Sequence[Batch]:
        return [self._eval]


def _batch(case: Case, rows: int) -> Batch:
    targets = case.targets * rows // case.rows
    batch = {
        "tokens": mx.random.randint(0, 256, (rows, case.length), key=mx.random.key(1)),
        "positions": mx.arange(targets) * (rows * case.length) // targets,
        "targets": mx.random.randint(0, 256, (targets,), key=mx.random.key(2)),
        "weights": mx.ones((targets,)),
    }
    if case.pairs:
        batch["segments"] = mx.arange(targets) * rows // targets
        batch["reference"] = mx.zeros((rows,))
        batch["matched"] = mx.ones((rows // 2,))
    mx.eval(batch)
    return batch


def measure(case: Case) -> Peaks:
    """Train for two updates and take the peaks of the phases (of the second update, when all states are there)."""
    mx.clear_cache()
    before = mx.get_active_memory()
    model = blueprint(case.config)
    mx.eval(model.parameters())
    model.eval()
    model.freeze()
    substitutes.speed_up(model)
    base = mx.get_active_memory() - before
    rows = row_logits(model)
    spec = adapters.attach(model, AdapterSpec(case.rank, 2.0, case.dora, case.num_layers))
    if case.checkpointed:
        checkpoint_blocks(model)
        chunk_mlps(model)  # as stages/budget.py does
    objective = objectives.dpo(rows, 0.0, 0.0) if case.pairs else objectives.sft(rows, case.kl)
    plan = LoopConfig(2, case.accumulation, 1e-4, 0.0, 1.0, 0.0, 1.0, 2, 0, 1)
    seen: dict[str, int] = {}

    def take(phase: str) -> None:
        seen[phase] = max(seen.get(phase, 0), mx.get_peak_memory() - before)
        mx.reset_peak_memory()

    def hook(event: str, values: dict[str, Any]) -> None:
        if event in ("eval", "train"):
            take("evaluation" if event == "eval" else "update")

    def noting(norm: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            take("step")
            return norm(*arguments)

        return wrapped

    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", {}, {})
        try:
            loop = Loop(model, objective, _Given(case), plan, run, spec, {"beta": mx.array(0.1)}, [hook])
            loop._norm = noting(loop._norm)
            mx.reset_peak_memory()
            loop.run()
        finally:
            run.close()
    return Peaks(base, seen["step"], seen["update"], seen["evaluation"])


# Widths, inner widths, heads, key-value heads; rows and tokens. Small enough to take seconds, large enough that
# products take longer than dispatching them.
_MODELS = ((256, 512, 4, 4), (256, 1408, 4, 1), (512, 2688, 8, 2))
_BATCHES = ((4, 128), (2, 256), (1, 1024))
_FEW, _MORE = 2, 5
_INPUT_ONLY = Sizes(stream=4.0)  # what a checkpointed block saves, by definition


def cases() -> list[Case]:
    """What is measured to fit the coefficients."""
    return [
        Case(llama(blocks, width, inner, heads, kv, 512), rows, length, 64, 8, dora, checkpointed=checkpointed)
        for width, inner, heads, kv in _MODELS
        for rows, length in _BATCHES
        for dora in (True, False)
        for checkpointed in (False, True)
        for blocks in (_FEW, _MORE)
    ]


_HEAD = llama(3, 256, 512, 4, 2, 16384)
# Targets, widths and vocabularies of a loss that is measured alone.
_LOSSES = ((128, 256, 16384), (512, 512, 16384), (1024, 256, 8192), (2048, 256, 8192), (2048, 1024, 8192))


def _losses(training: bool) -> tuple[float, float]:
    """Copies of a slab's logits, and of the gradient by the hidden states: peaks of losses alone, least squares."""
    rows, values = [], []
    for targets, width, vocabulary in _LOSSES:
        head = nn.Linear(width, vocabulary, bias=False)
        hidden = mx.random.normal((targets, width), key=mx.random.key(3))
        aims = mx.zeros((targets,), mx.int32)
        mx.eval(head.parameters(), hidden, aims)

        def loss(hidden: mx.array, head: Any = head, aims: mx.array = aims) -> mx.array:
            return head_losses(hidden, head, aims, training).sum()

        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(mx.grad(loss)(hidden) if training else loss(hidden))
        rows.append((min(vocabulary, slab_rows(targets, 0, True)) * targets * FULL, targets * width * FULL))
        values.append(mx.get_peak_memory() - before)
    x, y = np.array(rows, float), np.array(values, float)
    if not training:
        return round(float((x[:, 0] @ y) / (x[:, 0] @ x[:, 0])), 2), 0.0
    found, *_ = np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)
    return round(max(0.0, float(found[0])), 2), round(max(0.0, float(found[1])), 2)


def _heads(fitted: Coefficients) -> Coefficients:
    """What is alive at the loss: its own arrays, measured alone, and a share of a block's work beside them."""
    model = shapes(_HEAD)
    trained, evaluated = _losses(True), _losses(False)
    found: dict[str, Head] = {}
    for checkpointed in (False, True):
        case = Case(_HEAD, 4, 256, 1024, checkpointed=checkpointed)
        peaks, load, setup = measure(case), Load(case.rows, case.length, case.targets), _setup(case)
        size, kind = _sizes(case), fitted.dora
        saved = size.times(_INPUT_ONLY if checkpointed else kind.saved) * len(model.blocks)
        base = peaks.base + _held(case)
        forward, work = size.times(fitted.forward), size.times(kind.recompute)
        slab, gradient = logits(model, load, setup), load.targets * model.width * FULL
        own = trained[0] * slab + trained[1] * gradient
        name, work = ("retrained", work) if checkpointed else ("trained", forward)
        found[name] = Head(*trained, _share(peaks.step - base - saved - own, work))
        found["evaluated"] = Head(*evaluated, _share(peaks.evaluation - base - evaluated[0] * slab, forward))
    return replace(fitted, evaluated=found["evaluated"], trained=found["trained"], retrained=found["retrained"])


def _share(value: float, work: float) -> float:
    return round(min(1.0, max(0.0, value / work)), 2)


# What is fitted. Attention's widths and those of gate and up are, or nearly are, multiples of these in every case.
# Fitted too, they take what belongs to the stream, and a sequence of 2048 tokens is 14 % too small (docs/planner.md).
_SAVED = ("stream", "gated", "probabilities", "biases")
_WORK = ("stream", "gated", "scores", "biases")
# Not fitted, as the cases are dense: four copies of a piece while it is made dense (models/quantized.py), and four of
# the gradient by the input, which is summed up piece by piece: what two, four and 28 blocks of a 7B model took more.
_DEQUANTIZED, _SUMMED = 16.0, 16.0
# Nor are mixtures among the cases. Two copies are saved, the tokens sorted by expert and what the experts made of them;
# the others were chosen to agree with three blocks of 8 experts of 2 and of 32 of 8 (docs/planner.md).
_ROUTED = {"saved": 8.0, "working": 12.0, "recompute": 16.0, "forward": 12.0}


def _fit(rows: Sequence[Sizes], values: Sequence[float], weights: Sequence[float], of: Sequence[str]) -> Sizes:
    """Non-negative factors of the sizes named ``of``, by least squares on relative errors."""
    names = list(of)
    y = np.asarray(values) / np.asarray(weights)
    while True:
        x = np.array([[getattr(row, name) for name in names] for row in rows]) / np.asarray(weights)[:, None]
        found, *_ = np.linalg.lstsq(x, y, rcond=None)
        if (found >= 0).all():
            return Sizes(**{name: round(float(value), 3) for name, value in zip(names, found, strict=True)})
        names.pop(int(found.argmin()))


def fit(measured: Sequence[tuple[Case, Peaks]]) -> Coefficients:
    """Coefficients from pairs of cases that differ in nothing but their number of blocks.

    What a block saves is the difference of two cases; what it works with is what is left.
    """
    kinds: dict[bool, dict[str, Sizes]] = {True: {}, False: {}}
    for dora in (True, False):
        for checkpointed in (False, True):
            found = [(c, p) for c, p in measured if (c.dora, c.checkpointed) == (dora, checkpointed)]
            saved, rest = _halves(found)
            if checkpointed:
                kinds[dora]["recompute"] = _packed(_fit(*rest, _WORK), "recompute")
            else:
                kinds[dora]["saved"] = replace(_fit(*saved, _SAVED), low=4.0, routed=_ROUTED["saved"])
                kinds[dora]["working"] = _packed(_fit(*rest, _WORK), "working")
    plain = [(c, p) for c, p in measured if c.config["num_hidden_layers"] == _MORE]
    forward = replace(
        _fit(
            [_sizes(c) for c, _ in plain],
            [p.evaluation - p.base - _held(c) for c, p in plain],
            [p.evaluation for _, p in plain],
            _WORK,
        ),
        weight=_DEQUANTIZED,
        routed=_ROUTED["forward"],
    )
    nothing = Head(0.0, 0.0, 0.0)
    kind = {dora: Kind(**parts) for dora, parts in kinds.items()}
    return Coefficients("CPU, float32", kind[False], kind[True], _INPUT_ONLY, forward, nothing, nothing, nothing)


def _packed(found: Sizes, phase: str) -> Sizes:
    """With what is not fitted: a quantized weight that is made dense piece by piece, and the tokens of experts."""
    return replace(found, weight=_DEQUANTIZED, pieces=_SUMMED, routed=_ROUTED[phase])


def _sizes(case: Case) -> Sizes:
    model = shapes(case.config)
    return sizes(model, model.blocks[0], Load(case.rows, case.length, case.targets), _setup(case))


def _setup(case: Case) -> Setup:
    count = int(case.config["num_hidden_layers"]) if case.checkpointed else 0
    return Setup(case.rank, case.dora, case.num_layers, count, case.accumulation, anchored=case.kl > 0)


def _held(case: Case) -> int:
    """Bytes of the adapter, its norms and the optimizer's states."""
    model = shapes(case.config)
    nothing = Load(1, 1, 1)
    parts = peak(model, _setup(case), nothing, nothing).parts
    return parts["adapter"] + parts["optimizer"]


Half = tuple[list[Sizes], list[float], list[float]]


def _halves(found: Sequence[tuple[Case, Peaks]]) -> tuple[Half, Half]:
    """What a block more costs, and what is there besides: sizes, bytes, weights for the fit."""
    slope: Half = ([], [], [])
    rest: Half = ([], [], [])
    for (few, low), (more, high) in zip(found[::2], found[1::2], strict=True):
        size, step = _sizes(few), _MORE - _FEW
        low_rank = 4.0 * size.low  # saved once each, by definition
        a, b = (p.step - p.base - _held(c) for c, p in ((few, low), (more, high)))
        each = size.times(_INPUT_ONLY) if few.checkpointed else (b - a) / step
        kept = low_rank if not few.checkpointed else 0.0
        for half, value, weight in ((slope, each - kept, each), (rest, b - _MORE * each, float(high.step))):
            half[0].append(size)
            half[1].append(value)
            half[2].append(weight)
    return slope, rest


def predicted(case: Case) -> Peak:
    """What the planner says of a case."""
    load = Load(case.rows, case.length, case.targets)
    rows = case.eval_rows or case.rows
    evaluation = Load(rows, case.length, case.targets * rows // case.rows)
    return peak(shapes(case.config), _setup(case), load, evaluation)


def errors(measured: Sequence[tuple[Case, Peaks]]) -> list[float]:
    """Relative errors of the predicted peak of each case."""
    return [predicted(case).bytes / max(p.step, p.update, p.evaluation) - 1 for case, p in measured]


if __name__ == "__main__":
    taken = []
    for number, case in enumerate(cases(), 1):
        taken.append((case, measure(case)))
        print(f"{number} {taken[-1][1]}", file=sys.stderr)
    fitted = _heads(fit(taken))
    if "--write" in sys.argv:
        known = json.loads(FILE.read_text(encoding="utf-8"))
        write_text(FILE, json.dumps({**known, "cpu": fitted.to_json()}, indent=2) + "\n")
        coefficients.cache_clear()
    print(json.dumps(fitted.to_json(), indent=2))
    off = errors(taken)
    print(f"largest error {max(map(abs, off)):.1%}, mean {sum(map(abs, off)) / len(off):.1%}")
