"""One run of a sweep: an ordinary sft or dpo run, begun, continued or left as it is, and what it came to."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.experiments.arms import STAGES, Arm, folder_name
from mlx_persona.files import write_text
from mlx_persona.runs import ADAPTER, ADAPTER_FILES, read_info
from mlx_persona.stages.dpo import dpo
from mlx_persona.stages.sft import sft

# Found begun and not ended so many times, a run is what kills the process.
DEATHS = 3
Measure = Callable[[str, Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
        arm: what is tried.
        seed: of this run.
        stage: ``sft`` or ``dpo``.
        shared: options that the sweep gives every run (model, data, length).
        root: the sweep's folder.
    """

    arm: Arm
    seed: int
    stage: str
    shared: Mapping[str, Any]
    root: Path

    @property
    def name(self) -> str:
        """Its folder's name."""
        return folder_name(self.arm.name, self.seed)

    @property
    def run(self) -> Path:
        """Its run directory."""
        return self.root / "cells" / self.name

    @property
    def record(self) -> Path:
        """The file with what it came to; not there before its end."""
        return self.root / "measured" / self.name / "cell.json"

    @property
    def _begun(self) -> Path:
        return self.record.with_name("begun")

    def recorded(self) -> dict[str, Any] | None:
        """What it came to, or None where it is not ended."""
        try:
            value = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None
        return value if isinstance(value, dict) else None

    def make(self, measure: Measure, keep_checkpoints: bool) -> dict[str, Any]:
        """Train, as far as that is not done yet, measure, and record; an error is recorded too.

        Returns:
            The record: ``arm``, ``seed``, ``run``, ``status`` (``done``, ``stopped`` early, ``failed``), and figures
            or ``error`` and ``hint``.

        Raises:
            Interrupted: after SIGINT or SIGTERM; what was done stays done.
        """
        started = time.perf_counter()
        known = {"arm": self.arm.name, "seed": self.seed, "run": f"cells/{self.name}"}
        deaths = self._deaths()
        try:
            if deaths >= DEATHS:
                raise PersonaError(f"the process ended without a word in this run, {deaths} times", "out of memory?")
            write_text(self._begun, str(deaths + 1))
            self._train()
            figures = {"status": (read_info(self.run) or {})["status"], **run_figures(self.run)}
            mx.clear_cache()
            figures |= measure(self.name, self.run)
            if not keep_checkpoints:
                shutil.rmtree(self.run / "checkpoints", ignore_errors=True)
        except PersonaError as error:
            figures = {"status": "failed", "error": error.message, "hint": error.hint}
        except (Interrupted, KeyboardInterrupt):
            self._begun.unlink(missing_ok=True)
            raise
        except (OSError, RuntimeError, ValueError) as error:  # mlx has no errors of its own
            figures = {"status": "failed", "error": f"{type(error).__name__}: {error}", "hint": None}
        record = {**known, **figures, "wall_seconds": round(time.perf_counter() - started, 1)}
        write_text(self.record, json.dumps(record, ensure_ascii=False) + "\n")
        self._begun.unlink(missing_ok=True)
        return record

    def _deaths(self) -> int:
        try:
            return int(self._begun.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0

    def _train(self) -> None:
        """Begin the run, go on with it, or leave it where it is finished."""
        info = read_info(self.run)
        if info is not None and finished(self.run, info):
            return
        stage, train = STAGES[self.stage], {"sft": sft, "dpo": dpo}[self.stage]
        if info is not None:
            train(stage(resume=str(self.run)))  # type: ignore[operator]
            return
        shutil.rmtree(self.run, ignore_errors=True)  # killed before it was a run
        options = {**self.shared, **self.arm.options, "seed": self.seed, "out": str(self.run)}
        train(stage(**options))  # type: ignore[operator]


def finished(run: Path, info: Mapping[str, Any]) -> bool:
    """Whether a training run came to its end: a stop by hand has no chosen adapter."""
    chosen = all((run / ADAPTER / name).is_file() for name in ADAPTER_FILES)
    return info.get("status") in ("done", "stopped") and "best_update" in info and chosen


def run_figures(run: Path) -> dict[str, Any]:
    """What a finished run's own files say.

    Returns:
        ``eval_loss`` (of the chosen checkpoint), ``base_eval_loss``, ``lowest_loss``, ``best_update``, ``updates``,
        ``tokens``, ``supervised_tokens``, ``seconds``, ``peak_bytes``; ``evals``: [update, tokens so far, loss] of
        every evaluation; ``rates``: learning rate of every update; ``onset`` (S0 -> S1) and ``commitment``
        (S1 -> S2): {``update``, ``tokens``, ``by``} or None; ``calming``: the three ratios; ``phase_mode``.
    """
    info = read_info(run) or {}
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    tokens, total, supervised = {0: 0}, 0, 0
    rates: list[float] = []
    for event in (e for e in events if e["event"] == "train"):
        total += event["tokens"]
        tokens[event["update"]] = total
        supervised += event["supervised_tokens"]
        rates.append(event["learning_rate"])
    evals = [[e["update"], tokens[e["update"]], e["loss"]] for e in events if e["event"] == "eval"]
    phase = info.get("phase") or {}
    found = {key: info.get(key) for key in ("eval_loss", "base_eval_loss", "best_update", "peak_bytes", "updates")}
    found |= {key: info[key] for key in ("accuracy", "margin", "chosen_loss", "kl") if key in info}
    return {
        **found,
        "lowest_loss": min(loss for _, _, loss in evals),
        "tokens": total,
        "supervised_tokens": supervised,
        "seconds": info.get("seconds"),
        "evals": evals,
        "rates": rates,
        "onset": _entered(phase, "S1", tokens),
        "commitment": _entered(phase, "S2", tokens),
        "calming": phase.get("calming"),
        "phase_mode": phase.get("mode", "off"),
        "phases": [[one["phase"], one["from"], one["to"]] for one in phase.get("phases", [])],
    }


def _entered(phase: Mapping[str, Any], name: str, tokens: Mapping[int, int]) -> dict[str, Any] | None:
    """When a phase began, in updates and in tokens, and what decided it (``signal`` or ``guard``)."""
    for one in phase.get("phases", []):
        if one["phase"] == name:
            return {"update": one["from"], "tokens": tokens.get(one["from"], 0), "by": one.get("decided_by", "")}
    return None
