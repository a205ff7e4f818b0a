"""Finding a trained adapter and the base model that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_persona.errors import PersonaError
from mlx_persona.models.adapters import AdapterSpec, read_spec
from mlx_persona.runs import newest, read_info, resolve_adapter, run_of


@dataclass(frozen=True)
class Trained:
    """An adapter, the run that made it (if any), and its base model as the user names it."""

    adapter: Path
    run: Path | None
    info: dict[str, Any]
    spec: AdapterSpec
    model: str


def find_trained(adapter: str, model: str, stages: tuple[str, ...]) -> Trained:
    """The adapter that the user means, and the base model to load with it.

    Args:
        adapter: an adapter's folder or a run; empty: the newest finished run of ``stages``.
        model: the base model; empty: the one that the run was started with, else the one in the adapter.
        stages: the runs to look among.

    Raises:
        PersonaError: no such adapter, no run, or nothing says which model it was made for.
    """
    named = adapter or str(newest(stages) or "")
    if not named:
        raise PersonaError(
            f"no finished {' or '.join(s.upper() for s in stages)} run in runs/",
            "train one with: mlx-persona sft, or name one with --adapter or --model",
        )
    folder = resolve_adapter(named)
    run = run_of(folder)
    info = (read_info(run) if run else None) or {}
    spec = read_spec(folder)
    base = model or str(info.get("model") or spec.base.get("name", ""))
    if not base:
        raise PersonaError(f"{folder} does not say which model it was made for", "name it with --model")
    return Trained(folder, run, info, spec, base)
