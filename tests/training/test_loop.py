"""The step loop: what an update is, what is logged, what is kept, and how a run ends."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.heads import row_logits
from mlx_persona.runs import Run, sorted_checkpoints
from mlx_persona.stages.sft import to_mx
from mlx_persona.tokens.batches import Plan, Row, make_row, row_keys
from mlx_persona.training import objectives
from mlx_persona.training.loop import Loop, LoopConfig, LoopResult
from mlx_persona.training.objectives import Batch
from mlx_persona.training.optim import learning_rate
from tests.toy import events

VOCAB = 61
POISON = 60
ARGS = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "tie_word_embeddings": True,
}
CONFIG = LoopConfig(
    updates=6,
    grad_accumulation=2,
    learning_rate=5e-3,
    warmup=0.34,
    final_lr=0.1,
    weight_decay=0.01,
    clip=1.0,
    eval_every=2,
    patience=0,
    keep_last=2,
)
TRAIN_KEYS = {
    "event",
    "update",
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens",
    "padded_tokens",
    "supervised_tokens",
    "seconds",
    "peak_bytes",
}


def make_rows(count: int, seed: int) -> list[Row]:
    """Rows of 6 to 17 tokens, of which an uneven part is trained on."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        length = 6 + 3 * (i % 4) + i % 3
        ids = rng.integers(0, 9, length).tolist()
        rows.append(make_row(ids, [False] * (2 + i % 3) + [True] * (length - 2 - i % 3)))
    return rows


class Toy:
    """A source of random rows; ``poison`` is a micro-batch whose loss is not finite."""

    def __init__(self, batch_size: int = 2, dropout: bool = False, poison: int | None = None) -> None:
        self.rows, held_out = make_rows(8, 1), make_rows(5, 2)
        self.plan = Plan(tuple(len(r.ids) for r in self.rows), batch_size, seed=7)
        self._eval = [to_mx(held_out[:3]), to_mx(held_out[3:])]
        self._dropout, self._poison = dropout, poison

    def train_batch(self, number: int, update: int) -> Batch:
        """The rows of one micro-batch, or poison."""
        epoch, members = self.plan.micro_batch(number)
        batch = to_mx([self.rows[i] for i in members])
        if self._dropout:
            batch["rows"] = mx.array(row_keys(3, epoch, update, members))
        if number == self._poison:
            batch["tokens"] = mx.full(batch["tokens"].shape, POISON)
        return batch

    def tokens(self, number: int) -> int:
        """How long its rows are."""
        return sum(self.plan.lengths[i] for i in self.plan.micro_batch(number)[1])

    def eval_batches(self) -> Sequence[Batch]:
        """Two batches."""
        return self._eval


def poisonable(rows: Any) -> objectives.Objective:
    """The loss of SFT, infinite where the poison is read."""
    inner = objectives.sft(rows)

    def objective(model: Any, batch: Batch, knobs: Any) -> Any:
        loss, weight, metrics = inner(model, batch, knobs)
        return loss + mx.where((batch["tokens"] == POISON).any(), float("inf"), 0.0), weight, metrics

    return objective


class Fixed(Toy):
    """Micro-batches of the given rows, over and over."""

    def __init__(self, batches: list[list[int]]) -> None:
        super().__init__()
        self._batches = batches

    def train_batch(self, number: int, update: int) -> Batch:
        """The next of them."""
        return to_mx([self.rows[i] for i in self._batches[number % len(self._batches)]])


def make_loop(
    path: Path,
    config: LoopConfig = CONFIG,
    source: Toy | None = None,
    *,
    dora: bool = True,
    dropout: float = 0.0,
    objective: Callable[[Any], Any] = objectives.sft,
) -> Loop:
    """A loop over a random model; everything is the same on every call."""
    model = llama.Model(llama.ModelArgs.from_dict(ARGS))
    shapes = dict(tree_flatten(model.parameters()))
    names = sorted(shapes)
    weights = [(n, 0.3 * mx.random.normal(shapes[n].shape, key=mx.random.key(i))) for i, n in enumerate(names)]
    model.load_weights([(n, 1 + 0.1 * w if "norm" in n else w) for n, w in weights])
    model.freeze()
    rows = row_logits(model)
    spec = adapters.attach(model, AdapterSpec(4, 2.0, dora, dropout=dropout))
    run = Run.create(path, {}, {"stage": "sft"})
    return Loop(model, objective(rows), source or Toy(dropout=dropout > 0), config, run, spec, knobs={})


def run_loop(loop: Loop) -> LoopResult:
    """Run it and let go of its directory."""
    try:
        return loop.run()
    finally:
        loop.run_dir.close()


def weights_of(loop: Loop) -> dict[str, mx.array]:
    return dict(adapters.trainable(loop.model))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_two_equal_runs_log_the_same_figures_bit_for_bit(tmp_path: Path, dropout: float) -> None:
    loops = [make_loop(tmp_path / name, dropout=dropout) for name in ("a", "b")]
    for loop in loops:
        run_loop(loop)
    first, second = (events(tmp_path / name) for name in ("a", "b"))
    assert first == second
    assert all(mx.array_equal(w, weights_of(loops[1])[name]) for name, w in weights_of(loops[0]).items())


def test_dropout_changes_training_and_no_evaluation_of_the_same_weights(tmp_path: Path) -> None:
    for name, dropout in (("without", 0.0), ("with", 0.3)):
        # An adapter that starts at zero does not show its dropout before the second update.
        run_loop(make_loop(tmp_path / name, replace(CONFIG, updates=2), dropout=dropout))
    without, some = (events(tmp_path / name) for name in ("without", "with"))
    assert without[0] == some[0]
    assert [e["event"] for e in without] == [e["event"] for e in some]
    assert without[2]["loss"] != some[2]["loss"]


def test_a_run_logs_the_events_of_the_contract_in_order(tmp_path: Path) -> None:
    run_loop(make_loop(tmp_path / "run"))
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    order = [(e["event"], e["update"]) for e in logged]
    block = [[("train", u - 1), ("train", u), ("eval", u), ("checkpoint", u)] for u in (2, 4, 6)]
    assert order == [("eval", 0), *(e for part in block for e in part)]
    assert all(e.keys() == TRAIN_KEYS for e in logged if e["event"] == "train")
    assert all(e.keys() == {"event", "update", "loss", "tokens"} for e in logged if e["event"] == "eval")
    seconds = [e["seconds"] for e in logged if e["event"] == "train"]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert all(e["peak_bytes"] > 0 for e in logged if e["event"] == "train")


def test_tokens_are_counted_without_padding(tmp_path: Path) -> None:
    source = Toy()
    run_loop(make_loop(tmp_path / "run", source=source))
    for i, event in enumerate(events(tmp_path / "run", "train")):
        rows = [source.rows[r] for n in (2 * i, 2 * i + 1) for r in source.plan.micro_batch(n)[1]]
        assert event["tokens"] == sum(len(r.ids) for r in rows)
        assert event["supervised_tokens"] == sum(r.targets for r in rows)
    assert {e["tokens"] for e in events(tmp_path / "run", "eval")} == {sum(r.targets for r in make_rows(5, 2))}


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine_in_updates(tmp_path: Path) -> None:
    """Six updates, a third of them warm-up: half, peak, then 0.1 + 0.9 (1 + cos(pi k/4)) / 2 for k = 1..4."""
    run_loop(make_loop(tmp_path / "run"))
    rates = [e["learning_rate"] for e in events(tmp_path / "run", "train")]
    expected = [0.5, 1.0, 0.868198, 0.55, 0.231802, 0.1]
    assert rates == pytest.approx([5e-3 * share for share in expected], rel=1e-5)
    assert [learning_rate(u, 4, 1.0, 0.0, 1.0) for u in (1, 2, 3, 4)] == [1.0, 1.0, 1.0, 1.0]


def test_micro_batches_of_one_row_equal_one_batch_of_all(tmp_path: Path) -> None:
    members = [0, 3, 5, 6]
    whole = make_loop(tmp_path / "whole", replace(CONFIG, grad_accumulation=1, updates=4), Fixed([members]))
    single = make_loop(
        tmp_path / "single", replace(CONFIG, grad_accumulation=4, updates=4), Fixed([[m] for m in members])
    )
    for loop in (whole, single):
        run_loop(loop)
    for kind in ("train", "eval"):
        one, four = (events(tmp_path / name, kind) for name in ("whole", "single"))
        assert [e["loss"] for e in one] == pytest.approx([e["loss"] for e in four], rel=1e-5)
    for one, four in zip(*(events(tmp_path / name, "train") for name in ("whole", "single")), strict=True):
        assert one["grad_norm"] == pytest.approx(four["grad_norm"], rel=1e-4)
        assert one["supervised_tokens"] == four["supervised_tokens"]
    # Adam divides by the gradient's size, so where that is about zero, rounding shows: compare as a whole.
    ours, theirs = weights_of(whole), weights_of(single)
    far = sum(float(mx.square(ours[n] - theirs[n]).sum()) for n in ours) ** 0.5
    moved = sum(float(mx.square(ours[n]).sum()) for n in ours if n.endswith("lora_b")) ** 0.5
    assert moved > 0.1
    assert far < 1e-3 * moved


def test_the_evaluation_set_is_the_same_every_time(tmp_path: Path) -> None:
    """Without a learning rate nothing changes, so every evaluation gives the same loss to the last bit."""
    run_loop(make_loop(tmp_path / "run", replace(CONFIG, learning_rate=1e-30)))
    losses = {e["loss"] for e in events(tmp_path / "run", "eval")}
    assert len(losses) == 1


def test_training_lowers_the_loss_and_the_best_checkpoint_is_the_lowest(tmp_path: Path) -> None:
    result = run_loop(make_loop(tmp_path / "run", replace(CONFIG, updates=8)))
    evals = {e["update"]: e["loss"] for e in events(tmp_path / "run", "eval")}
    del evals[0]
    assert result.state.best_loss == min(evals.values()) == evals[result.state.best_update]
    assert result.best_metrics == {"loss": result.state.best_loss}
    train = [e["loss"] for e in events(tmp_path / "run", "train")]
    assert sum(train[4:]) < sum(train[:4])
    assert result.status == "done"


def scripted(loop: Loop, losses: Sequence[float]) -> None:
    """Let evaluations (the one before training first) give these losses."""
    script = iter(losses)

    def evaluate() -> dict[str, float]:
        figures = {"loss": next(script)}
        loop._emit("eval", **figures, tokens=1)
        return figures

    loop._evaluate = evaluate  # type: ignore[method-assign]


def test_it_stops_after_so_many_evaluations_without_a_better_loss(tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run", replace(CONFIG, updates=20, eval_every=1, patience=3, keep_last=1))
    scripted(loop, [9.0, 5.0, 4.0, 4.5, 4.0, 4.2, 0.0])
    result = run_loop(loop)
    assert (result.status, result.state.update, result.state.best_update) == ("stopped", 5, 2)
    last = events(tmp_path / "run")[-1]
    assert (last["event"], last["update"]) == ("early_stop", 5)
    assert "3 evaluations" in last["reason"]
    assert [p.name for p in sorted_checkpoints(tmp_path / "run")] == ["000002", "000005"]


def test_resuming_a_run_that_stopped_early_adds_no_update(tmp_path: Path) -> None:
    config = replace(CONFIG, updates=20, eval_every=1, patience=2)
    loop = make_loop(tmp_path / "run", config)
    scripted(loop, [9.0, 4.0, 4.5, 4.0])
    run_loop(loop)
    before = events(tmp_path / "run")
    again = make_loop(tmp_path / "other", config)
    again.run_dir.close()
    again.run_dir = Run.reopen(tmp_path / "run")
    again.resume()
    result = run_loop(again)
    assert (result.status, result.state.update) == ("stopped", 3)
    assert events(tmp_path / "run") == before


def test_only_the_best_and_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run", replace(CONFIG, updates=6, eval_every=1))
    scripted(loop, [9.0, 5.0, 1.0, 3.0, 3.0, 3.0, 3.0])
    run_loop(loop)
    kept = sorted_checkpoints(tmp_path / "run")
    assert [p.name for p in kept] == ["000002", "000005", "000006"]
    assert [(p / "optimizer.safetensors").is_file() for p in kept] == [False, False, True]
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


def test_a_poisoned_batch_ends_the_run_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run", source=Toy(poison=7), objective=poisonable)
    with pytest.raises(PersonaError, match=r"not finite at update 4; the last good checkpoint is .*000002") as caught:
        run_loop(loop)
    assert caught.value.hint == "try a smaller --learning-rate"
    assert [e["update"] for e in events(tmp_path / "run", "train")] == [1, 2, 3]
    kept = adapters.read_weights(sorted_checkpoints(tmp_path / "run")[-1] / adapters.WEIGHTS)
    assert all(bool(mx.isfinite(w).all()) for w in kept.values())
    assert "NaN" not in (tmp_path / "run/metrics.jsonl").read_text()


def test_weights_that_blew_up_never_reach_a_checkpoint(tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run", replace(CONFIG, learning_rate=1e30, eval_every=1), dora=False)
    with pytest.raises(PersonaError, match=r"evaluation loss .* is not finite at update 1; there is no checkpoint yet"):
        run_loop(loop)
    assert sorted_checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_update_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    loop = make_loop(tmp_path / "run")
    before = signal.getsignal(number)

    def send(event: str, values: dict[str, Any]) -> None:
        if event == "train" and values["update"] == 3:
            os.kill(os.getpid(), number)

    loop.hooks = [send]
    with pytest.raises(Interrupted, match="stopped after update 3") as caught:
        run_loop(loop)
    assert caught.value.hint == f"continue with --resume {tmp_path / 'run'}"
    assert [p.name for p in sorted_checkpoints(tmp_path / "run")] == ["000002", "000003"]
    assert signal.getsignal(number) is before


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run")

    def send(event: str, values: dict[str, Any]) -> None:
        if event == "train" and values["update"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    loop.hooks = [send]
    with pytest.raises(KeyboardInterrupt):
        run_loop(loop)
    assert [p.name for p in sorted_checkpoints(tmp_path / "run")] == ["000002"]


def test_the_gradient_is_clipped_and_its_norm_is_logged_before_that(tmp_path: Path) -> None:
    """Two first updates that differ in the clip only: the norm is that of the data, the step that of Adam."""
    for name, clip in (("off", 0.0), ("on", 1e-3)):
        run_loop(make_loop(tmp_path / name, replace(CONFIG, updates=1, clip=clip)))
    norms = [events(tmp_path / name, "train")[0]["grad_norm"] for name in ("off", "on")]
    assert norms[0] == norms[1] > 1e-2
