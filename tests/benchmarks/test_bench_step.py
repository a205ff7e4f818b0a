"""The benchmark of the training step: same tokens on both sides, every row once, and a formula for the work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlx_persona import backend  # a fast BLAS comes before mlx

# isort: split

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import activations, base, llama
from mlx_lm.tuner.datasets import ChatDataset

from mlx_persona.benchmarks import flops, step
from mlx_persona.benchmarks.step import behind_shapes, bench, single_turns, stock_batches
from mlx_persona.config import BenchConfig, SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.load import load_model
from mlx_persona.stages.sft import SftSource
from mlx_persona.tokens.batches import make_row
from mlx_persona.tokens.store import Stored
from mlx_persona.training.loop import LoopConfig
from tests.toy import TEMPLATE, write_model

BLOCK = 4 * 32 * 32 + 3 * 32 * 64  # tests.toy.MODEL: four projections of its attention, three of its MLP


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "RATE_SECONDS", 0.001)


def config(folder: Path, **options: Any) -> BenchConfig:
    quick: dict[str, Any] = {"rows": 12, "rank": 2, "rounds": 1}
    return BenchConfig(model=str(folder / "model"), data=str(folder / "data"), **{**quick, **options})


def test_the_benchmarks_load_the_fast_blas_before_mlx() -> None:
    script = "import sys; import mlx_persona.benchmarks as b; sys.exit(b.backend.BLAS != __import__('os').environ['B'])"
    known = backend.BLAS or ""
    done = subprocess.run([sys.executable, "-c", script], env={"B": known}, capture_output=True, check=False)
    assert done.returncode == (0 if known else 1)


@pytest.mark.parametrize("options", [{}, {"dora": False, "batch_tokens": 256}])
def test_a_pass_is_measured_on_both_sides(folder: Path, options: dict[str, Any]) -> None:
    result = bench(config(folder, **options))
    out = json.loads(json.dumps(result.to_json()))
    assert next(iter(out)) == "ratio"
    assert out["rows"] == 12
    for key in ("tokens_per_second", "peak_bytes", "seconds", "mfu"):
        assert out["ours"][key] > 0
        assert out["ratio"][key] == pytest.approx(out["ours"][key] / out["stock"][key])
    assert out["tokens"] == pytest.approx(out["stock"]["seconds"] * out["stock"]["tokens_per_second"])
    assert len(result.table()[1]) == 4


@pytest.mark.parametrize("compiled", [False, True])
def test_our_step_is_compiled_where_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    plans: list[LoopConfig] = []
    monkeypatch.setattr(step, "run_ours", lambda model, spec, source, plan, *_: plans.append(plan))
    with pytest.raises(IndexError):  # nothing ran, so there is no time to take
        bench(config(folder, compiled=compiled))
    assert plans[0].compiled is (True if compiled else None)


def test_steps_are_a_shorter_pass_over_the_first_of_the_rows(folder: Path) -> None:
    tokenizer = load_model(str(folder / "model")).tokenizer
    chats, rows = single_turns(config(folder), tokenizer)
    fewer, some = single_turns(config(folder, steps=2), tokenizer)
    assert fewer == chats[:8]
    assert [r.ids.tolist() for r in some] == [r.ids.tolist() for r in rows[:8]]


@pytest.mark.parametrize(
    "default", ["", "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind<|im_end|>\n{% endif %}"]
)
def test_both_sides_have_the_same_tokens_and_first_targets(folder: Path, tmp_path: Path, default: str) -> None:
    """Also where the template has a system message of its own for stock, which our rows leave out."""
    model = write_model(tmp_path / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": default + TEMPLATE}))
    tokenizer = load_model(str(model)).tokenizer
    chats, rows = single_turns(config(folder), tokenizer)
    theirs = ChatDataset(chats, tokenizer, mask_prompt=True)
    for chat, row in zip(chats, rows, strict=True):
        ids, offset = theirs.process(chat)
        assert ids == row.ids.tolist()
        assert offset == row.mask.argmax()
        assert [m["role"] for m in chat["messages"]] == [*(["system"] if default else []), "user", "assistant"]


def test_the_timed_pass_has_every_row_once_behind_one_micro_batch_of_every_shape(folder: Path) -> None:
    tokenizer = load_model(str(folder / "model")).tokenizer
    settings = config(folder)
    chats, rows = single_turns(settings, tokenizer)
    rows = [
        make_row([*r.ids.tolist(), *[7] * (40 * (i % 3))], [*r.mask.tolist(), *[False] * (40 * (i % 3))])
        for i, r in enumerate(rows)
    ]
    source = SftSource(Stored.of(rows), rows[:1], SftConfig(batch_size=4))
    ours = step._Pass(source)
    timed = [i for number in ours.numbers[ours.warm :] for i in source.plan.micro_batch(number)[1]]
    assert sorted(timed) == list(range(12))
    shapes = [ours.train_batch(i, 0)["tokens"].shape for i in range(len(ours.numbers))]
    assert set(shapes[: ours.warm]) == set(shapes[ours.warm :])

    batches = stock_batches(ChatDataset(chats, tokenizer, mask_prompt=True), settings, 12)
    seen = [
        row[: int(last)]
        for tokens, spans in batches
        for row, (_, last) in zip(tokens.tolist(), spans.tolist(), strict=True)
    ]
    expected = [ids for ids, _ in map(ChatDataset(chats, tokenizer, mask_prompt=True).process, chats)]
    assert sorted(seen) == sorted(expected)
    warm, run = behind_shapes(batches)
    assert [b[0].shape for b in run[:warm]] == list(dict.fromkeys(b[0].shape for b in run[:warm]))
    assert run[warm:] == batches


def test_stock_runs_as_it_comes_and_leaves_no_trace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own SwiGLU and attention while it is measured; the model is bare and frozen afterwards."""
    loaded, settings = load_model(str(folder / "model")), config(folder)
    chats, rows = single_turns(settings, loaded.tokenizer)
    batches = stock_batches(ChatDataset(chats, loaded.tokenizer, mask_prompt=True), settings, len(rows))
    seen, original = [], step.train

    def spy(model: Any, *args: Any, **kwargs: Any) -> None:
        stock = llama.swiglu is activations.swiglu
        seen.append(stock and llama.scaled_dot_product_attention is base.scaled_dot_product_attention)
        original(model, *args, **kwargs)

    monkeypatch.setattr(step, "train", spy)
    before = loaded.model(mx.array([[1, 2, 3]]))
    assert step._stock(loaded.model, batches, settings) > 0
    assert step._ours(loaded.model, rows, settings) > 0
    assert seen == [True]
    assert mx.array_equal(loaded.model(mx.array([[1, 2, 3]])), before)
    assert not adapters.trainable(loaded.model)


def test_the_formula_counts_frozen_blocks_four_times_and_adapters_six(folder: Path) -> None:
    model = load_model(str(folder / "model")).model
    linear = flops.useful_flops(model, 0, 10, 3)
    assert linear == 4 * 2 * BLOCK * 10 + 4 * 259 * 32 * 3
    adapters.attach(model, AdapterSpec(2, 2.0, dora=False))
    count = sum(v.size for v in adapters.trainable(model).values())
    adapters.detach(model)
    assert flops.useful_flops(model, 2, 10, 3) == linear + 6 * count * 10
    nn.quantize(model, 32, 4, class_predicate=lambda name, m: isinstance(m, nn.Linear))
    assert flops.useful_flops(model, 0, 10, 3) == linear


def test_too_few_rows_are_an_error(folder: Path) -> None:
    with pytest.raises(PersonaError, match=r"400 rows are needed, .* has \d+ of at most 512 tokens"):
        bench(config(folder, rows=400))
    with pytest.raises(PersonaError, match="4 rows are needed"):
        bench(config(folder, rows=3))
