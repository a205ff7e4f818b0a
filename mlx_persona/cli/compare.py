"""``compare``."""

from __future__ import annotations

import click

from mlx_persona import ui
from mlx_persona.cli.options import command
from mlx_persona.config import CompareConfig


def _compare(config: CompareConfig, as_json: bool) -> None:
    from mlx_persona.web.compare import compare

    result, folder = compare(config)
    if as_json:
        ui.json_out({"path": folder, **result.to_json()})
        return
    ui.table_out(f"{result.labels['a']} against {result.labels['b']}", ["", ""], result.rows())
    ui.text_out(result.headline())
    ui.text_out(folder)


_SIDES: list[click.Parameter] = [click.Argument([name], required=False, metavar=name.upper()) for name in ("a", "b")]

commands: dict[str, click.Command] = {
    "compare": command(
        "compare",
        CompareConfig,
        _compare,
        "Compare two sides blindly, in a page on this machine: each of A and B is a run, an adapter, a model, base, "
        "or real (the person's own reply). Whoever knows the person chooses with the keys 1, 2 and t.",
        _SIDES,
    ),
}
