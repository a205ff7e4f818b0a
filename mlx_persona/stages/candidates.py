"""Who is judged: the base model, what was trained on it, and controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_persona import ui
from mlx_persona.config import EvalConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.panel import BASE, Candidate
from mlx_persona.models.adapters import read_spec
from mlx_persona.models.load import identity, resolve_model
from mlx_persona.runs import adapter_hash, find_adapter, newest, newest_fused, read_info, run_of, sorted_checkpoints
from mlx_persona.stages.sides import Side, base_side, named_side
from mlx_persona.tokens.batches import evenly

# Checkpoints that are judged at most: more say little more.
CHECKPOINTS = 12


def find_candidates(config: EvalConfig, root: Path) -> list[Candidate]:
    """The base model first, and then the runs named, the newest ones, or the checkpoints of one.

    Raises:
        PersonaError: a name that means nothing, or no run that could be judged.
    """
    if config.checkpoints:
        return _checkpoints(config, root)
    if config.runs:
        return _named(config)
    found = {stage: run for stage in ("sft", "dpo") if (run := newest((stage,), root)) is not None}
    if not found:
        raise PersonaError(f"no training run in {root}/ to judge", "train one with: mlx-persona sft")
    trained = [_trained(stage, run) for stage, run in found.items()]
    # What SFT made is asked everything only where no DPO came after it; a fused model is what was fused.
    candidates = [replace(one, whole=one is trained[-1]) for one in trained]
    if fused := newest_fused(root):
        candidates.append(Candidate("fused", str(fused), None, trained[-1].system, whole=False))
    first = trained[0]
    return [Candidate(BASE, config.model or first.model, None, first.system), *candidates]


def judged(candidates: Sequence[Candidate]) -> dict[str, dict[str, str]]:
    """Label -> which run or model it is and the SHA-256 of its adapter or weights, of all but the controls."""
    found = {}
    for one in candidates:
        if one.adapter is not None:
            run = run_of(one.adapter)
            found[one.label] = {"run": str(run or one.adapter), "sha256": adapter_hash(one.adapter)}
        elif one.model != candidates[0].model:
            found[one.label] = {"run": one.model, "sha256": identity(resolve_model(one.model))["sha256"]}
    return found


def _trained(label: str, run: Path) -> Candidate:
    info: dict[str, Any] = read_info(run) or {}
    adapter = find_adapter(run)
    assert adapter is not None  # newest() returns only runs that have one
    return Candidate(label, info["model"], adapter, read_spec(adapter).system)


def _named(config: EvalConfig) -> list[Candidate]:
    """What the user names; runs of one name in two folders keep the folder's name."""
    sides = [named_side(name) for name in config.runs]
    labels = [side.label for side in sides]
    sides = [
        replace(side, label=name if labels.count(side.label) > 1 else side.label)
        for side, name in zip(sides, config.runs, strict=True)
    ]
    if not config.model and not any(side.base for side in sides):  # plain models: the first is what the others are to
        return [_candidate(side) for side in sides]
    return [_candidate(side) for side in (base_side(config.model, sides), *sides)]


def _candidate(side: Side) -> Candidate:
    if not side.model:
        raise PersonaError(f"{side.label} is nothing to judge: the person stands in the table anyway")
    return Candidate(side.label, side.model, side.adapter, side.system or "")


def _checkpoints(config: EvalConfig, root: Path) -> list[Candidate]:
    """Every checkpoint of one run, labelled by its update; evenly spread where there are very many."""
    named = config.runs[0] if config.runs else newest(("dpo", "sft"), root)
    if named is None:
        raise PersonaError(f"no training run in {root}/ to judge", "train one with: mlx-persona sft")
    run = Path(named)
    info = read_info(run) or {}
    folders = sorted_checkpoints(run)
    if info.get("stacked"):
        raise PersonaError(f"the checkpoints of {run} hold only half of an adapter (it was trained with --fresh)")
    if not folders:
        raise PersonaError(f"no checkpoints in {run}", "keep them while training: mlx-persona sft --keep-last 100")
    chosen = [folders[i] for i in evenly(len(folders), CHECKPOINTS)]
    if len(chosen) < len(folders):
        ui.info(f"{len(chosen)} of {len(folders)} checkpoints, evenly spread")
    system = read_spec(chosen[0]).system
    model = config.model or str(info.get("model") or read_spec(chosen[0]).base.get("name", ""))
    return [
        Candidate(BASE, model, None, system),
        *(Candidate(str(int(folder.name)), model, folder, system) for folder in chosen),
    ]
