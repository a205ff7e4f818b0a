"""``sweep`` and ``verdicts``."""

from __future__ import annotations

from pathlib import Path

import click

from mlx_persona import ui
from mlx_persona.cli.options import command
from mlx_persona.config import SweepConfig, VerdictsConfig
from mlx_persona.experiments.claims import Verdict
from mlx_persona.experiments.sweep import plan_sweep, spoken, sweep
from mlx_persona.experiments.table import arms_tables, runs_table
from mlx_persona.experiments.verdicts import verdicts
from mlx_persona.planner.estimate import spoken_time


def _sweep(config: SweepConfig, as_json: bool) -> None:
    if config.dry_run:
        _dry_run(config, as_json)
        return
    result = sweep(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    table = result.table
    ui.text_out(f"{table['title']}. {table['about']}")
    for title, rows in arms_tables(table["arms"], table["reference"]).items():
        ui.table_out(title, *rows)
    failed = [record for record in table["runs"] if record["status"] == "failed"]
    if failed:
        ui.table_out("Failed", *runs_table(failed))
    for first, second, same in table["equal"]:
        ui.text_out(f"{first} = {second}, to the last bit: {'yes' if same else 'NO'}")
    for note in table["notes"]:
        ui.text_out(f"note: {note}")
    _say(result.verdicts)
    ui.info(f"as Markdown: {result.path}/table.md")
    ui.text_out(str(result.path))


def _dry_run(config: SweepConfig, as_json: bool) -> None:
    planned = plan_sweep(config, Path(config.out or "runs/sweep"))
    if as_json:
        ui.json_out(planned.to_json())
        return
    each = ", ".join(f"{count:,} {what}" for what, count in planned.length.items())
    title = f"{len(planned.cells)} runs of {planned.design.stage}, {each} each, {planned.blocks} blocks"
    ui.table_out(title, ["arm", "options of its own", "why"], planned.rows())
    ui.text_out(f"seeds: {config.seeds}; options of all: {spoken(planned.shared)}")
    for note in planned.design.notes:
        ui.text_out(f"note: {note}")
    if planned.seconds is not None:
        time = spoken_time(planned.seconds)
        ui.text_out(
            f"training takes {time}, if every run is as fast as {planned.design.reference}; measuring comes on top"
        )


def _verdicts(config: VerdictsConfig, as_json: bool) -> None:
    found = verdicts(config)
    if as_json:
        ui.json_out({"verdicts": [one.to_json() for one in found]})
        return
    _say(found)


def _say(found: list[Verdict]) -> None:
    for verdict in found:
        ui.text_out("\n".join(["", *verdict.lines()]))


_SWEEPS = click.Argument(["sweeps"], nargs=-1, metavar="[SWEEP]...")

commands: dict[str, click.Command] = {
    "sweep": command(
        "sweep",
        SweepConfig,
        _sweep,
        "Train many adapters that differ in one thing each, with the same seeds, and compare them; writes "
        "runs/sweep-<n>/table.json and table.md. Goes on with --resume after a stop, a crash or a failed run.",
    ),
    "verdicts": command(
        "verdicts",
        VerdictsConfig,
        _verdicts,
        "What sweeps say about the claims of phase-aware fine-tuning: confirmed, refuted or undecided, with numbers.",
        [_SWEEPS],
    ),
}
