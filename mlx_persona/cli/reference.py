"""Writes what is generated from the code: ``docs/cli.md`` and ``configs/*.yaml``.

python -m mlx_persona.cli.reference [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mlx_persona import config
from mlx_persona.cli import main
from mlx_persona.files import write_text
from mlx_persona.settings import commented_yaml

CONFIGS = {
    "clean": (config.CleanConfig, "mlx-persona clean"),
    "augment": (config.AugmentConfig, "mlx-persona augment"),
    "plan": (config.PlanConfig, "mlx-persona plan"),
    "sft": (config.SftConfig, "mlx-persona sft"),
    "pairs": (config.PairsConfig, "mlx-persona pairs"),
    "dpo": (config.DpoConfig, "mlx-persona dpo"),
    "fuse": (config.FuseConfig, "mlx-persona fuse"),
    "generate": (config.GenerateConfig, "mlx-persona chat and mlx-persona generate"),
    "eval": (config.EvalConfig, "mlx-persona eval"),
    "compare": (config.CompareConfig, "mlx-persona compare"),
    "report": (config.ReportConfig, "mlx-persona report"),
    "watch": (config.WatchConfig, "mlx-persona watch"),
    "canaries": (config.CanariesConfig, "mlx-persona canaries"),
    "sweep": (config.SweepConfig, "mlx-persona sweep"),
    "bench": (config.BenchConfig, "mlx-persona bench"),
    "bench-loss": (config.LossBenchConfig, "mlx-persona bench-loss"),
    "bench-phase": (config.PhaseBenchConfig, "mlx-persona bench-phase"),
    "bench-blocks": (config.BlocksBenchConfig, "mlx-persona bench-blocks"),
    "bench-dpo": (config.DpoBenchConfig, "mlx-persona bench-dpo"),
    "bench-generate": (config.GenerateBenchConfig, "mlx-persona bench-generate"),
    "bench-clean": (config.CleanBenchConfig, "mlx-persona bench-clean"),
}
WIDTH = 100


def help_of(command: click.Command, name: str, parent: click.Context | None = None) -> list[str]:
    """Markdown sections for a command and its subcommands."""
    settings = {**main.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    sections = [f"## {context.command_path}\n\n```text\n{command.get_help(context).strip()}\n```\n"]
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            assert found is not None
            sections += help_of(found, sub, context)
    return sections


def generated() -> dict[Path, str]:
    """Every generated file and its text."""
    head = "# Commands\n\nGenerated from `--help` by `make docs`.\n"
    files = {Path("docs/cli.md"): "\n".join([head, *help_of(main, "mlx-persona")])}
    for name, (kind, title) in CONFIGS.items():
        files[Path(f"configs/{name}.yaml")] = commented_yaml(kind, title)
    return files


def stale() -> list[Path]:
    """Generated files that do not say what the code says."""
    return [p for p, text in generated().items() if not p.is_file() or p.read_text(encoding="utf-8") != text]


if __name__ == "__main__":
    if "--check" in sys.argv:
        if old := stale():
            sys.exit(f"error: stale: {', '.join(map(str, old))}; hint: make docs")
    else:
        for path, text in generated().items():
            write_text(path, text)
