"""The quick report card of a workspace: base, newest SFT, DPO and fused, side by side.

mlx-persona eval
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import yaml

from mlx_persona import backend
from mlx_persona.config import CardConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.card import Candidate, Card, report_card
from mlx_persona.files import write_text
from mlx_persona.models.adapters import read_spec
from mlx_persona.runs import (
    RUNS,
    adapter_hash,
    find_adapter,
    git_revision,
    newest,
    newest_fused,
    next_free,
    read_info,
)
from mlx_persona.settings import plain


def make_card(config: CardConfig, root: Path = RUNS) -> tuple[Card, Path]:
    """Judge what is in ``root`` and write a run: ``scores.json``, ``replies.jsonl`` and what was judged.

    Returns:
        The card, and the folder that it was written to.

    Raises:
        PersonaError: no training run yet, or no held-out data.
    """
    runs = {stage: newest((stage,), root) for stage in ("sft", "dpo")}
    found = {stage: run for stage, run in runs.items() if run is not None}
    if not found:
        raise PersonaError(f"no training run in {root}/ to judge", "train one with: mlx-persona sft")
    started = time.time()
    mx.reset_peak_memory()
    candidates: list[Candidate] = []
    judged: dict[str, dict[str, str]] = {}
    system = ""
    for stage, run in found.items():
        model = (read_info(run) or {})["model"]
        adapter = find_adapter(run)
        assert adapter is not None  # newest() returns only runs that have one
        system = read_spec(adapter).system
        if not candidates:
            candidates.append(Candidate("base", model))
        candidates.append(Candidate(stage, model, adapter))
        judged[stage] = {"run": str(run), "sha256": adapter_hash(adapter)}
    if fused := newest_fused(root):
        candidates.append(Candidate("fused", str(fused)))
        judged["fused"] = {"run": str(fused), "sha256": (read_info(fused) or {})["identity"]["sha256"]}
    card = report_card(config, candidates, system)
    folder = Path(config.out) if config.out else next_free("eval", root)
    card.write(folder)
    _describe(folder, config, {"model": candidates[0].model, "judged": judged, "started": started})
    return card, folder


def _describe(folder: Path, config: CardConfig, facts: dict[str, Any]) -> None:
    """``config.yaml`` and ``run.json``: which adapters and models these scores are of, known by their hashes."""
    resolved = plain(replace(config, out=str(folder)))
    write_text(folder / "config.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
    finished = time.time()
    info = {
        "stage": "eval",
        **facts,
        "versions": backend.versions(),
        "git": git_revision(),
        "device": backend.device_name(),
        "finished": finished,
        "seconds": round(finished - facts["started"], 1),
        "peak_bytes": mx.get_peak_memory(),
        "status": "done",
    }
    write_text(folder / "run.json", json.dumps(info, indent=2, ensure_ascii=False) + "\n")
