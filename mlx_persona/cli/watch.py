"""``watch``."""

from __future__ import annotations

import click

from mlx_persona import ui
from mlx_persona.cli.options import command
from mlx_persona.config import WatchConfig


def _watch(config: WatchConfig, as_json: bool) -> None:
    from mlx_persona.web.watch import watch

    result = watch(config)
    if as_json:
        ui.json_out(result.to_json())


_RUN = click.Argument(["run"], required=False, metavar="[RUN]")

commands: dict[str, click.Command] = {
    "watch": command(
        "watch",
        WatchConfig,
        _watch,
        "Watch a run in the browser while it trains: the page of report, drawn anew as the run goes on. RUN may be "
        "one that is not there yet. Ctrl-C ends it; the training goes on.",
        [_RUN],
    ),
}
