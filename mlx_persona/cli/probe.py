"""``probe`` and ``canaries``."""

from __future__ import annotations

from dataclasses import replace

import click

from mlx_persona import ui
from mlx_persona.cli.options import command
from mlx_persona.config import CanariesConfig, ProbeConfig
from mlx_persona.errors import PersonaError


def _probe(config: ProbeConfig, as_json: bool, run: str | None) -> None:
    from mlx_persona.stages.probe import probe

    if run is not None:
        if config.adapter:
            raise PersonaError(f"name one adapter or run, got {run} and {config.adapter}")
        config = replace(config, adapter=run)
    card, folder = probe(config)
    if as_json:
        ui.json_out({"path": str(folder), **card.to_json()})
        return
    ui.table_out("Probes" + (" (a fifth of them)" if config.quick else ""), *card.table())
    ui.text_out(str(folder))


def _canaries(config: CanariesConfig, as_json: bool) -> None:
    from mlx_persona.stages.canaries import plant_canaries

    planted = plant_canaries(config)
    if as_json:
        ui.json_out({"path": config.out, "n": len(planted)})
        return
    ui.info(f"next: mlx-persona sft --extra {config.out}, then mlx-persona probe --canaries {config.out}")
    ui.text_out(config.out)


_RUN = click.Argument(["run"], required=False)

commands: dict[str, click.Command] = {
    "probe": command(
        "probe",
        ProbeConfig,
        _probe,
        "Ask a trained model and its base probes of character and questions of knowledge, and score what rules can.",
        [_RUN],
    ),
    "canaries": command(
        "canaries",
        CanariesConfig,
        _canaries,
        "Make up secrets to train on, for which probe asks the trained model.",
    ),
}
