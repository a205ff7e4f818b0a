"""The only step loop. SFT and DPO differ in the objective and the batches that they hand to it.

An update is ``grad_accumulation`` micro-batches: gradients are added up as sums and divided once
by the summed weight, so N micro-batches equal one big batch. Schedules, evaluations and the end
are counted in updates and fixed when the run starts.

Ranks that train together (:mod:`mlx_persona.training.distributed`) share out the micro-batches of every update and
evaluation; what decides anything are sums over all ranks, so that all decide the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mlx_persona import backend, heap
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.phase.controller import Knobs as Pulse
from mlx_persona.runs import Run, sorted_checkpoints
from mlx_persona.training import checkpoint, optim
from mlx_persona.training.checkpoint import LoopState
from mlx_persona.training.distributed import Group, PeerLost, overwrite
from mlx_persona.training.interrupt import Stop, catch_signals
from mlx_persona.training.objectives import Batch, Knobs, Objective
from mlx_persona.training.watch import PhaseWatch

Hook = Callable[[str, dict[str, Any]], None]

# On the CPU, compiling costs half a minute of the C++ compiler and saves a tenth of each step
# (docs/lab-notes.md), so it is left out of runs that are too short to earn it back.
COMPILE_FROM = 400


class Source(Protocol):
    """Where batches come from. Micro-batches are numbered over all epochs."""

    def train_batch(self, number: int, update: int) -> Batch:
        """Micro-batch ``number``, with the row keys of ``update``."""

    def tokens(self, number: int) -> int:
        """Tokens of micro-batch ``number``, without padding."""

    def eval_batches(self) -> Sequence[Batch]:
        """The frozen, ordered evaluation set."""


@dataclass(frozen=True)
class LoopConfig:
    """The plan of a run, in updates."""

    updates: int
    grad_accumulation: int
    learning_rate: float
    warmup: float
    final_lr: float
    weight_decay: float
    clip: float
    eval_every: int
    patience: int
    keep_last: int
    optimizer: str = "adamw"
    compiled: bool | None = None  # None: where it pays
    tokens: int | None = None  # the run ends after so many; ``updates`` is what they come to without a larger batch
    by_phase: bool = False  # an eligible checkpoint goes before the one with the lowest loss


@dataclass(frozen=True)
class LoopResult:
    """What a run came to.

    ``status`` is ``done`` or ``stopped`` (early, by patience or by the phase controller); ``chosen_by`` is what the
    best update is the best by: ``loss``, or ``phase`` where it is the eligible one with the lowest.
    """

    status: str
    state: LoopState
    best_metrics: dict[str, float]
    chosen_by: str = "loss"


def _as_is(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
    """Stands in for ``mx.compile`` where nothing is compiled."""
    return function


def _means(sums: dict[str, mx.array]) -> dict[str, float]:
    """[sum, weight] -> mean; what has no weight has no mean (no length-matched pair in a batch)."""
    pairs = {name: (float(pair[0]), float(pair[1])) for name, pair in sums.items()}
    return {name: total / weight for name, (total, weight) in pairs.items() if weight}


def _add(total: Any, part: dict[str, Any], counts: bool) -> Any:
    """A micro-batch's sums added to those before, computed now; what does not count is zeros, and is not computed.

    Both are emptied: while the sums are computed, nothing else may hold the arrays that they are made of.
    """
    added = optim.add(total, part if counts else tree_map(mx.zeros_like, part))
    for used in (total, part):
        if used is not None and used is not added:
            used.clear()
    mx.eval(added)
    return added


class Loop:
    """Trains the adapter that is attached to a model; see :meth:`run`."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        source: Source,
        config: LoopConfig,
        run: Run,
        spec: AdapterSpec,
        knobs: Knobs,
        hooks: Sequence[Hook] = (),
        group: Group | None = None,
        watch: PhaseWatch | None = None,
    ) -> None:
        self.model, self.source, self.config, self.run_dir, self.watch = model, source, config, run, watch
        self.spec, self.knobs, self.hooks = spec, knobs, hooks
        self.state, self.group, self._stop = LoopState(), group or Group(), Stop()
        self.optimizer = optim.make_optimizer(config.optimizer, config.weight_decay)
        self.optimizer.init(model.trainable_parameters())
        mx.eval(self.optimizer.state)  # what does not fit with it fails now, and not in the second update
        self._objective = objective
        self._compile()

    def _compile(self) -> None:
        model, optimizer, objective, clip = self.model, self.optimizer, self._objective, self.config.clip
        short = self.config.updates * self.config.grad_accumulation < COMPILE_FROM
        pays = not (backend.on_cpu() and short)
        wanted = pays if self.config.compiled is None else self.config.compiled
        compile_ = mx.compile if wanted else _as_is
        reads, writes = [model.state], [model.state, optimizer.state]

        def with_aux(batch: Batch, knobs: Knobs) -> Any:
            loss, weight, metrics = objective(model, batch, knobs)
            return loss, weight, metrics

        value_and_grad = nn.value_and_grad(model, with_aux)

        @partial(compile_, inputs=reads)
        def gradients(batch: Batch, knobs: Knobs) -> Any:
            parameters = model.trainable_parameters()
            out = value_and_grad(batch, knobs)
            model.update(parameters)  # value_and_grad leaves its tracers in the model
            return out

        @partial(compile_, inputs=reads)
        def losses(batch: Batch, knobs: Knobs) -> Any:
            return objective(model, batch, knobs)

        def norm(grad_sum: Any, weight: mx.array) -> Any:
            return optim.factor_and_norm(grad_sum, weight, clip)

        @partial(compile_, inputs=writes, outputs=writes)
        def apply(grad_sum: Any, factor: mx.array) -> None:
            optimizer.update(model, optim.scaled(grad_sum, factor))

        self._gradients, self._losses, self._norm, self._apply = gradients, losses, compile_(norm), apply

    def resume(self) -> None:
        """Go back to the newest checkpoint of the run directory, which only rank 0 needs to have."""
        if self.group.rank == 0:
            self.state = checkpoint.restore(self.run_dir, self.model, self.optimizer)
        self.state = LoopState(**self.group.first(lambda: asdict(self.state)))
        if self.state.update and not self.state.controller:
            self.watch = None  # a run that began without one goes on without one
        elif self.watch and self.state.update:
            self.watch.restore(self.state.controller)
        self._compile()  # the optimizer's state is another object now

    def run(self) -> LoopResult:
        """Train to the planned end.

        Raises:
            Interrupted: after SIGINT, SIGTERM or SIGHUP, on any rank, with a checkpoint written.
            PersonaError: the loss is not finite, the disk is full, or another rank is lost; earlier checkpoints stay.
        """
        with catch_signals(self._stop):
            try:
                status = self._train()
            except PeerLost as lost:
                raise self._cut_off(lost) from lost
            finally:
                heap.give_back()
        self.model.eval()
        eligible = self.watch.chosen if self.watch and self.config.by_phase else None
        if eligible:
            self.state.best_update, self.state.best_loss = eligible
        return LoopResult(status, self.state, self._best_metrics(), "phase" if eligible else "loss")

    def _train(self) -> str:
        """All updates; returns the status of the run."""
        config, state = self.config, self.state
        started = time.perf_counter() - state.seconds
        self._align()
        self.model.train()
        if state.update == 0:
            state.base_loss = self._evaluate()["loss"]
            if self.watch:
                self.model.eval()
                self.watch.begin(self.model, self.source.eval_batches(), self.knobs, self.group)
                self.model.train()
            self._observe(state.base_loss)
        while not self._done():
            if reason := self._why_stop():
                self._emit("early_stop", reason=reason)
                return "stopped"
            try:
                self._update(started)
            except PeerLost:
                self._save()  # the update was not made: all is as the one before left it
                raise
            due = state.update % config.eval_every == 0 or self._done()
            if due:
                self._align()
                self._judge()
                self._emit("checkpoint", best_update=state.best_update)
            stopping = self.group.stopping(self._stop.asked)
            if due or stopping:
                # Not an event where it was not planned: a resumed run's metrics equal an uninterrupted one's.
                self._save()
            if stopping:
                self.group.gather(None)  # nobody goes before the checkpoint is whole
                raise Interrupted(f"stopped after update {state.update}", f"continue with --resume {self.run_dir.path}")
        return "done"

    def _done(self) -> bool:
        """Whether the run is at its planned end."""
        planned, state = self.config, self.state
        return state.update >= planned.updates if planned.tokens is None else state.tokens >= planned.tokens

    def _why_stop(self) -> str:
        """Why the run must end before that; empty where it need not."""
        if self.watch and self.watch.stop:
            return self.watch.stop
        worse = self.state.worse
        return f"no better evaluation loss in {worse} evaluations" if 0 < self.config.patience <= worse else ""

    def _observe(self, loss: float) -> None:
        """Show an evaluation to the phase controller, if there is one, and log what it says."""
        if self.watch:
            self._emit("phase", **self.watch.after_eval(self.state.update, loss))

    def _save(self) -> None:
        """Write a checkpoint of the newest update, on rank 0, if there is one."""
        if self.watch:
            self.state.controller = self.watch.saved()
        if self.group.rank == 0 and self.state.update:
            checkpoint.save(self.run_dir, self.model, self.spec, self.optimizer, self.state, self.config.keep_last)

    def _align(self) -> None:
        """Rank 0's weights and optimizer state on all ranks: other chips round otherwise, and only rank 0 resumes."""
        if self.group.size == 1:
            return
        self.model.update(self.group.sync(self.model.trainable_parameters()))
        overwrite(self.optimizer.state, self.group.sync(self.optimizer.state))
        mx.eval(self.model.state, self.optimizer.state)
        adapters.refresh(self.model)

    def _update(self, started: float) -> None:
        """One optimizer update, logged."""
        config, state = self.config, self.state
        update = state.update + 1
        pulse = self.watch.knobs(update) if self.watch else Pulse()
        rate = pulse.lr * self._scheduled(update)
        numbers = range(state.cursor, state.cursor + pulse.batch * config.grad_accumulation)
        total = None
        for number, counts in self.group.share(numbers):
            total = _add(total, self._micro_batch(number, update), counts)
        total = self.group.reduce(total, self._stop.asked)
        figures = _means(total["sums"])
        factor, norm = self._norm(total["grads"], total["sums"]["loss"][1])
        grad_norm = float(norm)
        if not (math.isfinite(figures["loss"]) and math.isfinite(grad_norm)):
            raise self._not_finite(f"loss ({figures['loss']}) or gradient norm ({grad_norm})", update)
        self.optimizer.learning_rate = mx.array(rate, mx.float32)
        self._apply(total["grads"], factor)
        mx.eval(self.model.state, self.optimizer.state)
        adapters.refresh(self.model)
        tokens, supervised = sum(self.source.tokens(number) for number in numbers), int(total["supervised"])
        state.update, state.cursor = update, numbers.stop
        state.tokens, state.supervised = state.tokens + tokens, state.supervised + supervised
        state.seconds = time.perf_counter() - started
        self._emit(
            "train",
            **figures,
            learning_rate=rate,
            grad_norm=grad_norm,
            tokens=tokens,
            padded_tokens=int(total["padded"]),
            supervised_tokens=supervised,
            seconds=round(state.seconds, 3),
            peak_bytes=mx.get_peak_memory(),
        )
        if self.watch:
            self.watch.after_update(figures["loss"], grad_norm)

    def _scheduled(self, update: int) -> float:
        """The schedule's learning rate; where the run ends by tokens, it goes by tokens."""
        config = self.config
        place = update if config.tokens is None else 1 + config.updates * self.state.tokens / config.tokens
        return optim.learning_rate(place, config.updates, config.learning_rate, config.warmup, config.final_lr)

    def _micro_batch(self, number: int, update: int) -> dict[str, Any]:
        """The summed gradients and figures of one micro-batch, still to be computed."""
        batch = self.source.train_batch(number, update)
        if "rows" in batch:
            adapters.set_row_keys(self.model, batch.pop("rows"))
        (loss, weight, metrics), grads = self._gradients(batch, self.knobs)
        return {
            "grads": grads,
            "sums": {"loss": mx.stack([loss, weight]), **metrics},
            "supervised": batch["weights"].sum(),
            "padded": mx.array(float(batch["tokens"].size)),
        }

    def _evaluate(self) -> dict[str, float]:
        """Loss and metrics on the whole frozen evaluation set, logged."""
        self.model.eval()
        total = None
        for batch, counts in self.group.share(self.source.eval_batches()):
            loss, weight, metrics = self._losses(batch, self.knobs)
            sums = {"loss": mx.stack([loss, weight]), **metrics}
            total = _add(total, {"sums": sums, "tokens": batch["weights"].sum()}, counts)
        total = self.group.reduce(total, self._stop.asked)
        figures = _means(total["sums"])
        if not math.isfinite(figures["loss"]):
            raise self._not_finite(f"evaluation loss ({figures['loss']})", self.state.update)
        self._emit("eval", **figures, tokens=int(total["tokens"]))
        self.model.train()
        return figures

    def _judge(self) -> None:
        """Evaluate, and remember the best and how long it is ago."""
        state = self.state
        loss = self._evaluate()["loss"]
        if state.best_loss is None or loss < state.best_loss:
            state.best_loss, state.best_update, state.worse = loss, state.update, 0
        else:
            state.worse += 1
        self._observe(loss)

    def _cut_off(self, lost: PeerLost) -> PeerLost:
        """The error that ends a run whose other ranks are lost; the checkpoints are on rank 0's machine."""
        kept = sorted_checkpoints(self.run_dir.path)
        left = f"the last good checkpoint is {kept[-1]}" if kept else f"it was at update {self.state.update}"
        return PeerLost(f"{lost.message}; {left}", f"continue with --resume {self.run_dir.path}, on all ranks")

    def _not_finite(self, what: str, update: int) -> PersonaError:
        """The error that ends a run whose figures blew up; it names what is left."""
        kept = sorted_checkpoints(self.run_dir.path)
        left = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        hint = "try a smaller --learning-rate" if update else "the base model itself gives it on this data"
        return PersonaError(f"the {what} is not finite at update {update}; {left}", hint)

    def _best_metrics(self) -> dict[str, float]:
        """The evaluation figures at the best update."""
        evals = [e for e in self.run_dir.events() if e["event"] == "eval" and e["update"] == self.state.best_update]
        return {k: v for k, v in evals[-1].items() if k not in ("event", "update", "tokens")} if evals else {}

    def _emit(self, event: str, **values: Any) -> None:
        values = {"update": self.state.update, **values}
        self.run_dir.log(event, **values)
        for hook in self.hooks:
            hook(event, values)
