"""The quick report card of a workspace: base, newest SFT, DPO and fused, side by side.

mlx-persona eval
"""

from __future__ import annotations

from pathlib import Path

from mlx_persona.config import CardConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.card import Candidate, Card, report_card
from mlx_persona.models.adapters import read_spec
from mlx_persona.runs import RUNS, find_adapter, newest, newest_fused, next_free, read_info


def make_card(config: CardConfig, root: Path = RUNS) -> tuple[Card, Path]:
    """Judge what is in ``root`` and write ``scores.json`` and ``replies.jsonl``.

    Returns:
        The card, and the folder that it was written to.

    Raises:
        PersonaError: no training run yet, or no held-out data.
    """
    runs = {stage: newest((stage,), root) for stage in ("sft", "dpo")}
    found = {stage: run for stage, run in runs.items() if run is not None}
    if not found:
        raise PersonaError(f"no training run in {root}/ to judge", "train one with: mlx-persona sft")
    candidates: list[Candidate] = []
    system = ""
    for stage, run in found.items():
        model = (read_info(run) or {})["model"]
        adapter = find_adapter(run)
        assert adapter is not None  # newest() returns only runs that have one
        system = read_spec(adapter).system
        if not candidates:
            candidates.append(Candidate("base", model))
        candidates.append(Candidate(stage, model, adapter))
    if fused := newest_fused(root):
        candidates.append(Candidate("fused", str(fused)))
    card = report_card(config, candidates, system)
    folder = Path(config.out) if config.out else next_free("eval", root)
    card.write(folder)
    return card, folder
