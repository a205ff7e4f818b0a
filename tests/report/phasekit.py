"""Runs with phases, written by hand: 40 updates, an evaluation after every second, S0 -> S1 -> S2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

EVERY, UPDATES = 2, 40
# Phase -> the update from which it is seen.
STARTS = {"S0": 0, "S1": 8, "S2": 22}
PROFILE = {"signal": "eval", "units": "noise", "onset": 2.0, "commit": 0.5, "spread": 0.25, "spread_as": "deviation"}
REASONS = {"S1": "δL -0.0800 is below -0.05, 2 evaluations running", "S2": "|δL| 0.0100 is below 0.0125"}
STORY = "Updates 0 to 8: before anything moved fast (S0). The adapter is that of update 34 (S2)."


def phase_at(update: int, starts: dict[str, int]) -> str:
    """The phase that the evaluation after an update saw."""
    return [name for name, start in starts.items() if start <= update][-1]


def event_lines(starts: dict[str, int], until: int = UPDATES) -> list[dict[str, Any]]:
    """The log of such a run."""
    out: list[dict[str, Any]] = []
    for update in range(until + 1):
        phase, loss = phase_at(update, starts), 4.0 - 1.2 * min(1.0, max(0, update - 4) / 20)
        if update:
            figures = {"learning_rate": 1e-4 * (1.1 if phase == "S1" else 1), "grad_norm": 2.0 + (phase == "S1")}
            sizes = {"tokens": 100, "padded_tokens": 128, "supervised_tokens": 50, "peak_bytes": 10**9}
            train = {"update": update, "loss": loss + 0.01 * (update % 3), **figures, **sizes, "seconds": update / 2}
            out.append({"event": "train", **train})
        if update % EVERY == 0:
            out.append({"event": "eval", "update": update, "loss": loss, "tokens": 500})
            begins = update == starts[phase] and update > 0
            signal = {"delta": None if update == 0 else {"S1": -0.08}.get(phase, -0.01), "entropy": 0.3}
            signal |= {"deviation": None if update < 4 else 0.02 if phase == "S1" else 0.004}
            knobs = {"lr_factor": 1.1 if phase == "S1" else 1.0, "batch_factor": 1, "eligible": phase == "S2"}
            why = {"reason": REASONS.get(phase, "x") if begins else "", "decided_by": "signal" if begins else ""}
            out.append({"event": "phase", "update": update, "phase": phase, **signal, **knobs, **why})
    return out


def phase_object(starts: dict[str, int], until: int = UPDATES) -> dict[str, Any]:
    """What ``run.json`` says of it."""
    ends = [*list(starts.values())[1:], until]
    stretches = [
        {
            "phase": name,
            **{"from": start, "to": end, "updates": end - start, "tokens": 100 * (end - start)},
            "decided_by": "guard" if name == "S2" else "signal" if name == "S1" else "",
            "reason": REASONS.get(name, ""),
            "grad_norm": {"n": end - start, "mean": 2.5, "variance": 0.1, "peak": 3.5, "median": 2.4, "p95": 3.1},
        }
        for (name, start), end in zip(starts.items(), ends, strict=True)
    ]
    ratios = {"variance": 0.25, "mean_to_peak": 0.625, "median_to_p95": None}
    chosen = {"update": 34, "phase": "S2", "eligible": True}
    told = {"mode": "control", "profile": PROFILE, "noise": 0.025, "phases": stretches}
    return {**told, "calming": ratios, "chosen": chosen, "story": STORY}


def write_run(
    folder: Path,
    starts: dict[str, int] | None = None,
    *,
    until: int = UPDATES,
    events: Sequence[dict[str, Any]] | None = None,
    told: bool = True,
    **info: Any,
) -> Path:
    """A run directory.

    Args:
        folder: where.
        starts: as ``STARTS``.
        until: the last update.
        events: instead of :func:`event_lines`.
        told: whether ``run.json`` tells of phases, as it does once a run has ended.
        info: further keys of ``run.json``.
    """
    starts = STARTS if starts is None else starts
    folder.mkdir(parents=True)
    config = {"model": "toys/model", "rank": 4, "dora": False, "phase": "control", "phase_profile": "noise"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    values = {"stage": "sft", "status": "done", "model": "toys/model", "updates": until, "seconds": 20.0}
    values |= {"eval_loss": 2.8, "base_eval_loss": 4.0, "best_update": 34, "planned_updates": UPDATES}
    values |= ({"phase": phase_object(starts, until)} if told else {}) | info
    (folder / "run.json").write_text(json.dumps(values))
    lines = event_lines(starts, until) if events is None else events
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_sweep(folder: Path, arms: Sequence[str] = ("rank 8", "rank 16", "rank 32")) -> Path:
    """A sweep's directory: three seeds of each arm, the first of which is the reference."""
    runs, lines = [], []
    for i, arm in enumerate(arms):
        losses = [3.40 + 0.02 * i + 0.01 * seed for seed in range(3)]
        onsets = [8.0 + 2 * i, 8.0 + 2 * i, 8.0 + 2 * i]
        for seed, (loss, onset) in enumerate(zip(losses, onsets, strict=True)):
            phases = {"onset": {"update": onset, "tokens": 100 * onset}, "commitment": None}
            runs.append({"arm": arm, "seed": seed, "status": "done", "held_out_loss": loss, **phases})
        figures = {"held_out_loss": {"mean": sum(losses) / 3, "sd": 0.01, "n": 3}}
        figures["onset_update"] = {"mean": onsets[0], "sd": 0.0, "n": 3}
        by = {"value": 0.02 * i, "interval": [0.02 * i - 0.01, 0.02 * i + 0.015], "n": 40}
        narrow = {"value": 0.02 * i, "interval": [0.02 * i, 0.02 * i], "n": 3, "detectable": 0.01, "by_both": by}
        differences = {"held_out_loss": narrow} if i else {}
        lines.append({"arm": arm, "runs": 3, "failed": 0, "figures": figures, "differences": differences})
    folder.mkdir(parents=True)
    info = {"stage": "sweep", "status": "done", "model_identity": {"name": "model"}}
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "config.yaml").write_text(yaml.safe_dump({"preset": "ranks"}))
    table = {"title": "Sweep: ranks", "reference": arms[0], "arms": lines, "runs": runs, "notes": ["few seeds"]}
    (folder / "table.json").write_text(json.dumps(table))
    return folder
