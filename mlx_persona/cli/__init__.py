"""The command line: read options, call one function, print. No logic."""

from __future__ import annotations

import errno
import sys
from importlib import import_module

import click

from mlx_persona import ui
from mlx_persona.errors import Interrupted, PersonaError

# Imported when asked for, so that --help and clean do not wait for MLX.
COMMANDS = {
    "clean": "data",
    "data": "data",
    "review": "review",
    "augment": "train",
    "plan": "train",
    "sft": "train",
    "pairs": "train",
    "dpo": "train",
    "fuse": "train",
    "chat": "talk",
    "generate": "talk",
    "eval": "measure",
    "compare": "compare",
    "report": "report",
    "charts": "report",
    "watch": "watch",
    "canaries": "data",
    "sweep": "experiments",
    "verdicts": "experiments",
    "bench": "measure",
    "bench-loss": "measure",
    "bench-phase": "measure",
    "bench-blocks": "measure",
    "bench-dpo": "measure",
    "bench-generate": "measure",
    "bench-clean": "measure",
    "bench-data": "measure",
    "doctor": "measure",
    "demo": "show",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"mlx_persona.cli.{COMMANDS[name]}")
        found: click.Command = module.commands[name]
        return found


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mlx-persona")
def main() -> None:
    """Turn your chats into a model that talks like you, on your own laptop.

    \b
    mlx-persona clean EXPORT --me NAME    chats -> data/clean
    mlx-persona sft                       -> runs/sft-1
    mlx-persona dpo                       -> data/pairs, runs/dpo-1
    mlx-persona fuse                      -> runs/fused-1
    mlx-persona chat                      talk to it
    """


def run(args: list[str] | None = None) -> None:
    """The entry point: exit status 0 done, 1 an error to mend, 2 wrong usage, 130 interrupted."""
    sys.exit(_status(args))


def _status(args: list[str] | None) -> int:
    try:
        # 0 from --help; a command returns nothing.
        return main.main(args=args, prog_name="mlx-persona", standalone_mode=False) or 0
    except PersonaError as error:
        ui.error(error.message, error.hint)
        return 1
    except Interrupted as stop:
        ui.notice(stop.message, stop.hint)
        return 130
    except (KeyboardInterrupt, click.Abort):
        ui.notice("interrupted")
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nothing is left to say
        return 1
    except OSError as error:
        hint = "free some disk space" if error.errno == errno.ENOSPC else None
        ui.error(f"{error.filename or 'system'}: {error.strerror or error}", hint)
        return 1
