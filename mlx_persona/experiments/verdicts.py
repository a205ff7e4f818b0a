"""What sweeps say about the claims of phase-aware fine-tuning (source 000): confirmed, refuted or undecided.

    mlx-persona verdicts runs/sweep-1 runs/sweep-2

Each verdict names what would refute the claim, the figures with their intervals, of how many runs, and what a sample
of that size could have seen. Undecided is an answer: the sweep was too small, or the figures contradict one another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mlx_persona.config import VerdictsConfig
from mlx_persona.errors import PersonaError
from mlx_persona.experiments.claims import Table, Verdict
from mlx_persona.experiments.claims_of_phases import calming, phases
from mlx_persona.experiments.claims_of_quality import identity, interventions, rank
from mlx_persona.runs import RUNS, newest_begun

_CLAIMS: tuple[Callable[[Sequence[Table], int], Verdict | None], ...] = (phases, rank, identity, calming, interventions)


def judge(tables: Sequence[Table], seed: int = 0) -> list[Verdict]:
    """What tables of sweeps (as in ``table.json``) say about each claim; one that they say nothing of is left out.

    Args:
        tables: of sweeps of the same model on the same data; those of dpo are passed over: the claims are not of it.
        seed: fixes the resampling.

    Raises:
        PersonaError: they are of different models or data, and so cannot be compared.
    """
    if len({json.dumps([t["model_identity"]["sha256"], t["data_hashes"]], sort_keys=True) for t in tables}) > 1:
        raise PersonaError("the sweeps are of different models or data", "judge them one by one")
    training = [table for table in tables if table["stage"] == "sft"]
    return [found for claim in _CLAIMS if training and (found := claim(training, seed)) is not None]


def verdicts(config: VerdictsConfig) -> list[Verdict]:
    """The verdicts of sweeps' folders.

    Raises:
        PersonaError: no sweep there, one without a run that ended, or sweeps that cannot be compared.
    """
    names = config.sweeps or tuple(str(path) for path in (newest_begun(("sweep",), RUNS),) if path)
    if not names:
        raise PersonaError("no sweep in runs/", "make one with: mlx-persona sweep --preset ranks")
    return judge([_read(Path(name)) for name in names], config.seed)


def _read(folder: Path) -> Table:
    path = folder / "table.json" if folder.is_dir() else folder
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise PersonaError(f"no table of a sweep in {folder}", "name the folder of a sweep: runs/sweep-<n>") from error
    if not isinstance(value, dict) or not {"runs", "options", "model_identity", "stage"} <= value.keys():
        raise PersonaError(f"{path} is no table of a sweep", "name the folder of a sweep: runs/sweep-<n>")
    return value


def markdown(found: Sequence[Verdict]) -> str:
    """Verdicts as a section of a Markdown page."""
    parts = ["## Verdicts\n"] if found else []
    for one in found:
        facts = "".join(f"- {line}\n" for line in (*one.findings, *one.notes))
        parts.append(f"**{one.claim}: {one.outcome}.** {one.says}\n\nRefuted if: {one.refuted_if}\n\n{facts}")
    return "\n".join(parts)
