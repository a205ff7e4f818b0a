"""Time to a held-out loss: one measure for both sides, stock as it comes, and an honest end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import pytest
from mlx_lm.tuner.datasets import ChatDataset
from mlx_lm.tuner.trainer import default_loss

from mlx_persona.benchmarks import loss as bench
from mlx_persona.benchmarks.loss import LastReplies, bench_loss, held_out_loss, stock_targets
from mlx_persona.benchmarks.step import stock_adapter, stock_batches, stock_train
from mlx_persona.config import LossBenchConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models.heads import row_logits
from mlx_persona.models.load import LoadedModel, load_model
from mlx_persona.stages.sft import to_mx
from mlx_persona.tokens.batches import Plan
from mlx_persona.tokens.dataset import Rows, conversation_rows, load_split
from mlx_persona.tokens.render import Renderer
from mlx_persona.training import objectives


def config(folder: Path, **options: Any) -> LossBenchConfig:
    quick: dict[str, Any] = {"rank": 2, "steps": 4, "updates": 6, "eval_every": 2, "max_seq_length": 512}
    return LossBenchConfig(model=str(folder / "model"), data=str(folder / "data"), **{**quick, **options})


def loaded_rows(folder: Path) -> tuple[LoadedModel, Rows]:
    loaded = load_model(str(folder / "model"))
    return loaded, conversation_rows(load_split(folder / "data", "train"), Renderer(loaded.tokenizer), 512)


def test_ours_stops_where_it_is_as_good_as_stock(folder: Path) -> None:
    result = bench_loss(config(folder, learning_rate=1e-2, stock_learning_rate=1e-6))
    out = json.loads(json.dumps(result.to_json()))
    assert next(iter(out)) == "ratio"
    assert out["reached"]
    assert out["ratio"]["seconds"] == pytest.approx(out["ours"]["seconds"] / out["stock"]["seconds"])
    assert [point["steps"] for point in out["stock"]["curve"]] == [1, 2, 3, 4]
    assert [point["steps"] for point in out["ours"]["curve"]] == [2]
    assert out["ours"]["curve"][-1]["loss"] <= out["target"] <= out["base"]
    rows = loaded_rows(folder)[1].rows
    plan = Plan(rows.lengths, 4, 0)
    every_reply = sum(rows[i].targets for number in (0, 1) for i in plan.micro_batch(number)[1])
    assert out["ours"]["supervised"] == every_reply
    assert result.table()[1][0][1] != "not reached"


def test_what_is_not_reached_is_not_given_a_ratio(folder: Path) -> None:
    result = bench_loss(config(folder, learning_rate=1e-6, stock_learning_rate=1e-2, stock_rows="whole"))
    assert not result.reached
    assert result.to_json()["ratio"]["seconds"] is None
    assert [point["steps"] for point in result.ours.curve] == [2, 4, 6]
    assert result.table()[1][0][1] == "not reached"


def test_stock_forgets_its_warm_up(folder: Path) -> None:
    """Its loss in the end is that of a plain training over the same micro-batches."""
    loaded, rows = loaded_rows(folder)
    settings = config(folder, stock_learning_rate=1e-2)
    batches = stock_batches(LastReplies(rows.rows), settings, 16)
    objective, held_out = objectives.sft(row_logits(loaded.model)), [to_mx([rows.rows[i] for i in range(4)])]

    def evaluate(model: Any) -> float:
        return held_out_loss(model, objective, held_out)

    before = evaluate(loaded.model)
    found = bench._stock(loaded.model, batches, settings, evaluate)
    mx.random.seed(settings.seed)
    with stock_adapter(loaded.model, 2, 2.0, True):
        optimizer = mlx.optimizers.Adam(learning_rate=1e-2)
        stock_train(loaded.model, optimizer, batches, lambda *_: None, batch_size=4)
        expected = evaluate(loaded.model)
    assert found.curve[-1]["loss"] == pytest.approx(expected, rel=1e-6)
    assert expected < before - 0.1
    assert evaluate(loaded.model) == before


def test_a_stock_loss_that_is_no_number_is_an_error(folder: Path) -> None:
    """A micro-batch of a row whose reply stock cuts off: 0 / 0."""
    with pytest.raises(PersonaError, match=r"stock's loss is not finite in step \d"):
        bench_loss(config(folder, max_seq_length=80, stock_rows="whole", batch_size=1, steps=12))


def test_the_held_out_loss_is_the_mean_over_supervised_tokens(folder: Path) -> None:
    loaded, rows = loaded_rows(folder)
    some = [rows.rows[i] for i in (0, 5, 2)]
    total = count = 0.0
    for row in some:
        ids, mask = mx.array(row.ids[None]), mx.array(row.mask[1:].astype("float32"))
        losses = nn.losses.cross_entropy(loaded.model(ids[:, :-1])[0], ids[0, 1:])
        total, count = total + float((losses * mask).sum()), count + float(mask.sum())
    objective = objectives.sft(row_logits(loaded.model))
    found = held_out_loss(loaded.model, objective, [to_mx(some[:2]), to_mx(some[2:])])
    assert found == pytest.approx(total / count, rel=1e-5)


def test_our_rows_reach_stock_as_its_own_dataset_would_give_them(folder: Path) -> None:
    loaded, rows = loaded_rows(folder)
    given = LastReplies(rows.rows)
    theirs = ChatDataset(bench._chats(load_split(folder / "data", "train")), loaded.tokenizer, mask_prompt=True)
    assert len(given) == len(theirs) == 12  # the toy's conversations all fit
    for i in range(12):
        assert given.process(given[i]) == theirs.process(theirs[i])
        assert len(given[i]) == len(theirs[i])


def test_stocks_targets_are_counted_as_its_loss_counts_them(folder: Path) -> None:
    loaded, rows = loaded_rows(folder)
    for batch in stock_batches(LastReplies(rows.rows), config(folder, max_seq_length=64), 12):
        assert stock_targets(batch) == default_loss(loaded.model, *batch)[1].item()
