"""What the phase controller costs: the time spent in it, beside the step's, and what its evaluations take of a run.

Two runs could not show a hundredth of a step on a machine that is busy with other things, so the time within the
controller's calls is taken, in a real run under control.

mlx-persona bench-phase
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mlx_persona import ui
from mlx_persona.benchmarks.ours import SCALE, run_ours
from mlx_persona.config import PhaseBenchConfig, SftConfig
from mlx_persona.config.phases import make_profile
from mlx_persona.errors import PersonaError
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.heads import row_logits
from mlx_persona.models.load import load_model
from mlx_persona.phase.controller import Controller, Knobs
from mlx_persona.stages.sft import SftSource
from mlx_persona.stages.training import plan
from mlx_persona.tokens.batches import evenly
from mlx_persona.tokens.dataset import conversation_rows, load_split
from mlx_persona.tokens.render import Renderer
from mlx_persona.training import objectives
from mlx_persona.training.loop import Loop
from mlx_persona.training.objectives import Each
from mlx_persona.training.watch import PhaseWatch


@dataclass(frozen=True)
class PhaseBenchResult:
    """Seconds, and what they are of a run.

    Attributes:
        updates, evaluations: in the run.
        step_seconds: of an update, median.
        watch_seconds: of the controller's work beside an update, median.
        eval_seconds: of all evaluations, the controller's work with them and its measuring of the noise included.
        total_seconds: of all updates and evaluations.
        phases: the phases that the run went through.
    """

    updates: int
    evaluations: int
    step_seconds: float
    watch_seconds: float
    eval_seconds: float
    total_seconds: float
    phases: tuple[str, ...]

    @property
    def watch_share(self) -> float:
        """The controller's work, as a share of an update."""
        return self.watch_seconds / self.step_seconds

    @property
    def eval_share(self) -> float:
        """Evaluations, as a share of the run."""
        return self.eval_seconds / self.total_seconds

    def to_json(self) -> dict[str, Any]:
        """``ratio`` of both, and the seconds."""
        return {"ratio": {"watch": self.watch_share, "evaluations": self.eval_share}, **asdict(self)}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people."""
        return ["", "", "share"], [
            ["an update", f"{1e3 * self.step_seconds:.1f} ms", ""],
            ["the controller beside it", f"{1e6 * self.watch_seconds:.0f} µs", f"{self.watch_share:.3%} of it"],
            [f"{self.evaluations} evaluations", f"{self.eval_seconds:.1f} s", f"{self.eval_share:.1%} of the run"],
            ["phases", " -> ".join(self.phases), ""],
        ]


class _TimedWatch(PhaseWatch):
    """Notes what it takes beside every update, and to begin."""

    def __init__(self, controller: Controller, each: Each) -> None:
        super().__init__(controller, each)
        self.beside: list[float] = []
        self.begun = self._asked = 0.0

    def begin(self, *args: Any) -> None:
        started = time.perf_counter()
        super().begin(*args)
        self.begun = time.perf_counter() - started

    def knobs(self, update: int) -> Knobs:
        started = time.perf_counter()
        found = super().knobs(update)
        self._asked += time.perf_counter() - started
        return found

    def after_update(self, loss: float, norm: float) -> None:
        started = time.perf_counter()
        super().after_update(loss, norm)
        self.beside.append(self._asked + time.perf_counter() - started)
        self._asked = 0.0


class _TimedLoop(Loop):
    """Notes what updates take, and evaluations with what the controller makes of them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.updates: list[float] = []
        self.evaluations: list[float] = []

    def _update(self, started: float) -> None:
        begun = time.perf_counter()
        super()._update(started)
        self.updates.append(time.perf_counter() - begun)

    def _evaluate(self) -> dict[str, float]:
        begun = time.perf_counter()
        found = super()._evaluate()
        self.evaluations.append(time.perf_counter() - begun)
        return found

    def _observe(self, loss: float) -> None:
        begun = time.perf_counter()
        super()._observe(loss)
        self.evaluations[-1] += time.perf_counter() - begun


def bench_phase(config: PhaseBenchConfig) -> PhaseBenchResult:
    """Train under control for some updates and take the times.

    Raises:
        PersonaError: no data.
    """
    loaded, folder = load_model(config.model), Path(config.data)
    renderer = Renderer(loaded.tokenizer)
    train, valid = (
        conversation_rows(load_split(folder, name), renderer, config.max_seq_length).rows for name in ("train", "valid")
    )
    if not len(train) or not len(valid):
        raise PersonaError(f"no conversation of {config.data} fits in {config.max_seq_length} tokens")
    settings = SftConfig(
        updates=config.updates,
        batch_size=config.batch_size,
        grad_accumulation=1,
        learning_rate=config.learning_rate,
        patience=0,
        phase="control",
        seed=config.seed,
    )
    source = SftSource(train, [valid[i] for i in evenly(len(valid), settings.eval_limit)], settings)
    wanted = plan(settings, source.plan.per_epoch, train.tokens, source.eval_tokens)
    logits = row_logits(loaded.model)
    controller = Controller(make_profile(settings.phase_profile), True, wanted.updates)
    watch, loops, phases = _TimedWatch(controller, objectives.each_row(logits)), [], []

    def timed(*args: Any) -> Loop:
        loops.append(_TimedLoop(*args, watch=watch))
        return loops[-1]

    with ui.progress("bench-phase", config.updates) as bar:

        def hook(event: str, values: dict[str, Any]) -> None:
            if event == "train":
                bar.advance(1, f"loss {values['loss']:.3f}")
            elif event == "phase" and values["phase"] not in phases:
                phases.append(values["phase"])

        run_ours(loaded.model, AdapterSpec(config.rank, SCALE, config.dora), source, wanted, [hook], config.seed, timed)
    updates, evaluations = loops[0].updates, loops[0].evaluations
    judged = sum(evaluations) + watch.begun
    return PhaseBenchResult(
        updates=len(updates),
        evaluations=len(evaluations),
        step_seconds=median(updates),
        watch_seconds=median(watch.beside),
        eval_seconds=judged,
        total_seconds=sum(updates) + judged,
        phases=tuple(phases),
    )
