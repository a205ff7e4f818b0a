"""Who is judged: the base model, what was trained on it, and controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlx_persona import ui
from mlx_persona.config import EvalConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.panel import BASE, Candidate
from mlx_persona.models.adapters import read_spec
from mlx_persona.models.load import identity, resolve_model
from mlx_persona.models.trained import find_trained
from mlx_persona.runs import adapter_hash, find_adapter, newest, newest_fused, read_info, run_of, sorted_checkpoints
from mlx_persona.stages.sides import Side, base_side, named_side

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
    trained = [_trained(config, stage, run) for stage, run in _newest_line(root)]
    # What SFT made is asked everything only where no DPO came after it; a fused model is what was fused.
    candidates = [replace(one, whole=one is trained[-1]) for one in trained]
    if fused := _fused_from(candidates, root):
        candidates.append(Candidate("fused", str(fused), None, trained[-1].system, whole=False))
    return [Candidate(BASE, trained[0].model, None, trained[0].system), *candidates]


def _newest_line(root: Path) -> list[tuple[str, Path]]:
    """The newest training run, and before it the SFT run that it came from."""
    run = newest(("dpo", "sft"), root)
    if run is None:
        raise PersonaError(f"no training run in {root}/ to judge", "train one with: mlx-persona sft")
    info = read_info(run) or {}
    line = [(str(info.get("stage") or "sft"), run)]
    parent = root / Path(str(info.get("parent") or "")).name
    if info.get("parent") and find_adapter(parent) is not None:
        line.insert(0, ("sft", parent))
    return line


def _fused_from(candidates: Sequence[Candidate], root: Path) -> Path | None:
    """The newest fused model, if it was fused from one of these."""
    fused = newest_fused(root)
    made_of = (read_info(fused) or {}).get("adapter_sha256") if fused else None
    hashes = [adapter_hash(one.adapter) for one in candidates if one.adapter is not None]
    return fused if made_of in hashes else None


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


def _trained(config: EvalConfig, label: str, run: Path) -> Candidate:
    found = find_trained(str(run), config.model, ())
    return Candidate(label, found.model, found.adapter, found.spec.system)


def _named(config: EvalConfig) -> list[Candidate]:
    """What the user names; runs of one name in two folders keep the folder's name."""
    if BASE in config.runs:
        raise PersonaError("base stands in the table anyway", "name runs, adapters or other models")
    sides = [named_side(name, config.model) for name in config.runs]
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
    """The checkpoints of one run that are still there, labelled by their updates; some of them where there are many."""
    named = Path(config.runs[0]) if config.runs else newest(("dpo", "sft"), root)
    if named is None:
        raise PersonaError(f"no training run in {root}/ to judge", "train one with: mlx-persona sft")
    info = read_info(named)
    if info is None:
        raise PersonaError(f"no such run: {named}", "name a folder of runs/")
    folders = sorted_checkpoints(named)
    if info.get("stacked"):
        raise PersonaError(f"the checkpoints of {named} hold only half of an adapter (it was trained with --fresh)")
    if not folders:
        raise PersonaError(f"no checkpoints in {named}", "keep them while training: mlx-persona sft --keep-last 100")
    places = set(np.linspace(0, len(folders) - 1, min(CHECKPOINTS, len(folders))).round().astype(int).tolist())
    places |= {i for i, folder in enumerate(folders) if int(folder.name) == info.get("best_update")}
    chosen = [folders[i] for i in sorted(places)]
    ui.info(
        f"{len(chosen)} of {len(folders)} checkpoints that are still there: updates "
        f"{', '.join(str(int(folder.name)) for folder in chosen)} (sft keeps more of them with --keep-last)"
    )
    spec = read_spec(chosen[0])
    model = config.model or str(info.get("model") or spec.base.get("name", ""))
    return [
        Candidate(BASE, model, None, spec.system),
        *(Candidate(str(int(folder.name)), model, folder, spec.system) for folder in chosen),
    ]
