"""How a stage's settings are declared, checked, read from YAML and overridden.

An option is declared once, as a dataclass field made by :func:`option`. The command line, the
commented YAML files in ``configs/`` and the checks all come from that one declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from mlx_persona.errors import PersonaError

C = TypeVar("C")
OFF = "off"


def option(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    hidden: bool = False,
    bare: str = "",
) -> Any:
    """A dataclass field that is also a command-line option and a commented YAML line.

    Args:
        default: the one place where the default stands.
        help: one line, with the unit.
        flag: the option's spelling if it is not ``--field-name`` (``--dora/--lora`` for a pair).
        choices: the allowed strings.
        minimum, above, maximum: bounds for numbers (``>=``, ``>``, ``<=``).
        hidden: settable from YAML and Python, but no command-line option.
        bare: what text the flag means when it stands without a value; ``--no-flag`` means ``off``.
    """
    metadata = {
        "help": help,
        "flag": flag,
        "choices": choices,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "hidden": hidden,
        "bare": bare,
    }
    if isinstance(default, list | dict):
        raise TypeError("an option's default must be immutable")
    return dataclasses.field(default=default, metadata=metadata)


def field_type(config: type, name: str) -> tuple[type, bool, bool]:
    """``(scalar type, is a tuple of it, may be None)`` of a config's field."""
    hint = get_type_hints(config)[name]
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        arms = [a for a in get_args(hint) if a is not type(None)]
        optional, hint = True, arms[0]
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True, optional
    return hint, False, optional


def check(config: Any) -> None:
    """Check every field of a config against its declaration; called from ``__post_init__``.

    Raises:
        PersonaError: naming the field, the requirement and the value.
    """
    for item in dataclasses.fields(config):
        value, meta = getattr(config, item.name), item.metadata
        kind, many, optional = field_type(type(config), item.name)
        if value is None and optional:
            continue
        values = value if many and isinstance(value, tuple) else (value,)
        for one in values:
            _check_one(item.name, one, kind, meta)


def _check_one(name: str, value: object, kind: type, meta: Any) -> None:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise PersonaError(f"{name} must be {_spoken(kind)}, got {value!r}")
    if meta["choices"] and value not in meta["choices"]:
        raise PersonaError(f"{name} must be one of {', '.join(meta['choices'])}, got {value!r}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise PersonaError(f"{name} must be finite, got {value}")
        for ok, sign, bound in (
            (meta["minimum"] is None or value >= meta["minimum"], ">=", meta["minimum"]),
            (meta["above"] is None or value > meta["above"], ">", meta["above"]),
            (meta["maximum"] is None or value <= meta["maximum"], "<=", meta["maximum"]),
        ):
            if not ok:
                raise PersonaError(f"{name} must be {sign} {bound}, got {value}")


def _spoken(kind: type) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(kind, kind.__name__)


def nearest(word: str, known: list[str]) -> str | None:
    """A hint that names the nearest known word, or None."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file (empty for an empty file).

    Raises:
        PersonaError: no such file, not YAML, not a mapping.
    """
    if not path.is_file():
        raise PersonaError(f"no such config file: {path}")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # an impossible date; brackets without end
        raise PersonaError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PersonaError(f"{path} must hold a mapping of options, got {type(value).__name__}")
    return value


def build(config: type[C], file: Path | None, overrides: dict[str, Any]) -> C:
    """Defaults < YAML file < overrides, checked.

    Raises:
        PersonaError: unknown key (with the nearest known one), wrong type, out of bounds.
    """
    values = read_yaml(file) if file else {}
    known = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            hint = nearest(str(key), known) or f"known keys: {', '.join(known)}"
            raise PersonaError(f"unknown key {key!r} in {file}", hint)
    merged = {**values, **overrides}
    metadata = {f.name: f.metadata for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    defaults = {f.name: f.default for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    for key, value in merged.items():
        kind, many, _ = field_type(config, key)
        if metadata[key]["bare"] and (value is None or isinstance(value, bool)):
            # YAML 1.1 reads on and off as true and false; nothing is the default.
            merged[key] = defaults[key] if value is None else metadata[key]["bare"] if value else OFF
        elif many:
            items = value if isinstance(value, list | tuple) else [value]
            # A name may look like a number: a phone's.
            merged[key] = tuple(str(i) if kind is str and type(i) is int else i for i in items)
        elif kind is float and isinstance(value, str):
            # YAML 1.1 reads 2e-4 as text.
            try:
                merged[key] = float(value)
            except ValueError as error:
                raise PersonaError(f"{key} must be a number, got {value!r}") from error
        elif kind is str and isinstance(value, int) and not isinstance(value, bool):
            merged[key] = str(value)
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            merged[key] = float(value)
    return config(**merged)


def plain(config: Any) -> dict[str, Any]:
    """The config as a plain mapping, tuples as lists, for YAML and JSON."""
    out = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in out.items()}


def commented_yaml(config: type, title: str) -> str:
    """The defaults of a config as a commented YAML file (what ``configs/`` holds)."""
    lines = [
        f"# {title}",
        "# Generated from the defaults in the code by `make docs`; copy it and change what you need.",
    ]
    for item in dataclasses.fields(config):
        extra = f" ({' | '.join(item.metadata['choices'])})" if item.metadata["choices"] else ""
        default = list(item.default) if isinstance(item.default, tuple) else item.default
        if isinstance(default, float):
            value = repr(default)
        else:
            value = yaml.safe_dump(default, default_flow_style=True, allow_unicode=True)
            value = value.replace("\n...", "").strip()
        lines += ["", f"# {item.metadata['help']}{extra}", f"{item.name}: {value}"]
    return "\n".join(lines) + "\n"
