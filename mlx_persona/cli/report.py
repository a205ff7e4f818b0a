"""``report`` and ``charts``."""

from __future__ import annotations

import click

from mlx_persona import ui
from mlx_persona.cli.options import command
from mlx_persona.config import ChartsConfig, ReportConfig
from mlx_persona.report.files import make_charts
from mlx_persona.report.make import make_report


def _report(config: ReportConfig, as_json: bool) -> None:
    result = make_report(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    ui.text_out(str(result.path))


def _charts(config: ChartsConfig, as_json: bool) -> None:
    result = make_charts(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    for path in result.files:
        ui.text_out(str(path))


_RUNS = click.Argument(["runs"], nargs=-1, metavar="[RUN]...")

commands: dict[str, click.Command] = {
    "report": command(
        "report",
        ReportConfig,
        _report,
        "Write a run as one HTML page that needs nothing else: what happened, charts, report card, replies, cost. "
        "Several runs are compared.",
        [_RUNS],
    ),
    "charts": command(
        "charts",
        ChartsConfig,
        _charts,
        "Write the charts of a run as SVG or PNG files, one for each: loss and learning rate with the phases, "
        "the phase signal, gradient norms, ... Several runs are compared; of a sweep, its arms are.",
        [_RUNS],
    ),
}
