"""``demo``."""

from __future__ import annotations

import click

from mlx_persona import ui
from mlx_persona.cli.options import command
from mlx_persona.config import DemoConfig
from mlx_persona.demo import demo


def _demo(config: DemoConfig, as_json: bool) -> None:
    result = demo(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    for prompt, replies in result.examples():
        ui.text_out(f"\n> {ui.visible(prompt)}")
        for label, reply in replies:
            ui.text_out(f"  {label:>8}: {ui.visible(reply)}")
    ui.text_out("")
    for title, table in result.tables().items():
        ui.table_out(title.capitalize(), *table)
    for line in result.lines():
        ui.text_out(line)


commands: dict[str, click.Command] = {
    "demo": command(
        "demo", DemoConfig, _demo, "From nothing to a persona, on an embedded model and real conversations."
    ),
}
