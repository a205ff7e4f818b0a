"""Click options made from the declared configs: an option stands in one place only."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mlx_persona import ui
from mlx_persona.errors import PersonaError
from mlx_persona.settings import OFF, build, field_type

Runner = Callable[..., Any]
_NEGATED = "mlx_persona.negated"


def config_options(config: type) -> list[click.Parameter]:
    """One option per field of a config, in its order."""
    fields = [f for f in dataclasses.fields(config) if not f.metadata["hidden"]]
    options: list[click.Parameter] = []
    for field in fields:
        options.append(_option(config, field))
        if field.metadata["bare"]:
            options.append(_negation(field.name))
    return options


def _negation(name: str) -> click.Option:
    """``--no-name`` for an option whose flag may stand alone."""

    def note(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[_NEGATED] = {**ctx.meta.get(_NEGATED, {}), name: OFF}

    flag = f"--no-{name.replace('_', '-')}"
    return click.Option([flag], is_flag=True, expose_value=False, callback=note, help=f"the same as off: {flag[5:]}")


def _option(config: type, item: dataclasses.Field[Any]) -> click.Option:
    kind, many, _ = field_type(config, item.name)
    flag = item.metadata["flag"] or f"--{item.name.replace('_', '-')}"
    text = item.metadata["help"] + _shown_default(item)
    if kind is bool:
        if "/" not in flag:
            flag = f"{flag}/--no-{flag[2:]}"
        return click.Option([item.name, flag], default=None, help=text)
    choices = item.metadata["choices"]
    if bare := item.metadata["bare"]:
        return click.Option(
            [item.name, flag], is_flag=False, flag_value=bare, default=None, help=text, metavar="[TEXT]", type=str
        )
    shown = click.Choice(choices) if choices else {int: click.INT, float: click.FLOAT}.get(kind, click.STRING)
    metavar = None if choices else {int: "N", float: "X"}.get(kind, "TEXT")
    return click.Option([item.name, flag], type=shown, multiple=many, default=None, help=text, metavar=metavar)


def _shown_default(item: dataclasses.Field[Any]) -> str:
    default = item.default
    if default is None or default == "" or default == () or "default:" in item.metadata["help"]:
        return ""
    if isinstance(default, bool):
        return f" [default: {'on' if default else 'off'}]"
    if isinstance(default, tuple):
        return f" [default: {', '.join(repr(d) for d in default)}]"
    return f" [default: {default:g}]" if isinstance(default, float) else f" [default: {default}]"


def common_options() -> list[click.Parameter]:
    """What every command takes."""
    return [
        click.Option(["directory", "-C"], metavar="DIR", help="work in this directory"),
        click.Option(["config_file", "--config"], metavar="FILE", help="YAML file with options; flags win over it"),
        click.Option(["as_json", "--json"], is_flag=True, help="print one JSON object on stdout, logs on stderr"),
        click.Option(["quiet", "-q", "--quiet"], is_flag=True, help="no logs and no progress"),
    ]


def command(
    name: str, config: type, run: Runner, help: str, arguments: list[click.Parameter] | None = None
) -> click.Command:
    """A command that builds ``config`` from defaults, file and flags and hands it to ``run``.

    Args:
        name: what the user types.
        config: the dataclass that declares the options.
        run: called as ``run(config, as_json, **arguments)``.
        help: shown by ``--help``.
        arguments: positional arguments; those named like a config field go into it.
    """
    extra = arguments or []
    fields = {f.name for f in dataclasses.fields(config)}

    @click.pass_context
    def callback(ctx: click.Context, /, **values: Any) -> None:
        directory, file = values.pop("directory"), values.pop("config_file")
        as_json, quiet = values.pop("as_json"), values.pop("quiet")
        _enter(directory)
        ui.set_quiet(quiet)
        given = {
            k: v for k, v in values.items() if ctx.get_parameter_source(k) is click.core.ParameterSource.COMMANDLINE
        }
        overrides = {**{k: v for k, v in given.items() if k in fields}, **ctx.meta.get(_NEGATED, {})}
        others = {k: v for k, v in values.items() if k not in fields}
        run(build(config, Path(file) if file else None, overrides), as_json, **others)

    return click.Command(
        name, params=[*extra, *config_options(config), *common_options()], callback=callback, help=help
    )


def _enter(directory: str | None) -> None:
    if directory is None:
        return
    try:
        os.chdir(directory)
    except OSError as error:
        raise PersonaError(f"cannot work in {directory}: {error.strerror}") from error
