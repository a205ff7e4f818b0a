"""Write the charts of a run, of several runs or of a sweep as files.

mlx-persona charts runs/sft-1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_persona import ui
from mlx_persona.config import ChartsConfig
from mlx_persona.errors import PersonaError
from mlx_persona.files import write_bytes
from mlx_persona.report.canvas import check_extra
from mlx_persona.report.make import beside, named_runs
from mlx_persona.report.plots import Chart
from mlx_persona.report.reading import read_run
from mlx_persona.report.sheets import chart_file
from mlx_persona.report.views import compare, view

FOLDER = "charts"


@dataclass(frozen=True)
class ChartsResult:
    """Where the charts are, each one's file, of which runs, and what could not be read."""

    path: Path
    files: list[Path]
    runs: list[str]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {**self.__dict__, "path": str(self.path), "files": [str(file) for file in self.files]}


def make_charts(config: ChartsConfig) -> ChartsResult:
    """Write every chart of the report as a file of its own: ``charts/loss.svg`` in the run, and so on.

    Raises:
        PersonaError: no such run, nothing of a run in its folder, nothing in it to draw, or a missing extra.
    """
    check_extra()
    runs = [read_run(Path(name)) for name in named_runs(config.runs, "charts", "draw")]
    charts: Sequence[Chart]
    if len(runs) == 1:
        shown = view(runs[0])
        charts, notes = [*shown.charts, *shown.phase_charts, *shown.arm_charts, *shown.card_charts], runs[0].notes
    else:
        several = compare(runs)
        charts, notes = several.charts, tuple(several.notes)
    if not charts:
        names = ", ".join(str(run.path) for run in runs)
        raise PersonaError(f"there is nothing to draw in {names}", "name a run that has trained, or an evaluation")
    folder = Path(config.out).expanduser() if config.out else beside(runs) / FOLDER
    files = [folder / f"{chart.name}.{config.format}" for chart in charts]
    for chart, path in zip(charts, files, strict=True):
        write_bytes(path, (chart_file(chart, config.format, config.dark),))
    for note in notes:
        ui.warn(note)
    return ChartsResult(folder, files, [str(run.path) for run in runs], list(notes))
