"""Write the page of a run, or of several side by side.

mlx-persona report runs/sft-1
"""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_persona import ui
from mlx_persona.config import ReportConfig
from mlx_persona.errors import PersonaError
from mlx_persona.files import write_text
from mlx_persona.report.card import card_of
from mlx_persona.report.html import comparison_page, run_page
from mlx_persona.report.reading import Record, read_run
from mlx_persona.report.views import compare, view
from mlx_persona.runs import newest

PAGE = "report.html"


@dataclass(frozen=True)
class ReportResult:
    """Where the page is, of which runs, the evaluation whose card it shows, and what could not be read."""

    path: Path
    runs: list[str]
    eval: str | None
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {**self.__dict__, "path": str(self.path)}


def make_report(config: ReportConfig) -> ReportResult:
    """Write one self-contained HTML page, and open it if that is asked for.

    Raises:
        PersonaError: no such run, nothing of a run in its folder, an evaluation without scores, or a missing extra.
    """
    runs = [read_run(Path(name)) for name in named_runs(config.runs, "report", "report on")]
    judged_by = read_run(Path(config.eval)) if config.eval else None
    if judged_by is not None:
        card_of(judged_by)
    if len(runs) == 1:
        shown = view(runs[0], judged_by)
        text, notes = run_page(shown), list(runs[0].notes)
        scored = str(shown.card.run.path) if shown.card else None
    else:
        several = compare(runs, judged_by)
        text, notes, scored = comparison_page(several), list(several.notes), config.eval or None
    path = _out(config, runs)
    write_text(path, text)
    for note in notes:
        ui.warn(note)
    ui.info("the page quotes private messages: think before you share it, or the folder that it is in")
    if config.open and not webbrowser.open(path.resolve().as_uri()):
        ui.warn(f"no browser to open it in: open {path} yourself")
    return ReportResult(path, [str(run.path) for run in runs], scored, notes)


def named_runs(names: Sequence[str], command: str, what: str) -> Sequence[str]:
    """The runs that are named, or else the newest training run; raises PersonaError where there is none."""
    if names:
        return names
    found = newest(("dpo", "sft"))
    if found is None:
        raise PersonaError(f"no training run in runs/ to {what}", f"name one: mlx-persona {command} RUN")
    return (str(found),)


def _out(config: ReportConfig, runs: list[Record]) -> Path:
    """Where the page goes."""
    if config.out:
        out = Path(config.out).expanduser()
        return out / PAGE if out.is_dir() else out
    return beside(runs) / PAGE


def beside(runs: Sequence[Record]) -> Path:
    """Where what is made of runs goes: into the run, or beside the runs that are compared."""
    return runs[0].path if len(runs) == 1 else runs[0].path.resolve().parent
