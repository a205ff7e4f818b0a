"""Sets of texts that users can edit: the shipped ones of ``sets/``, or a YAML file or a text file of somebody's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mlx_persona.errors import PersonaError
from mlx_persona.evals.probes import shipped
from mlx_persona.settings import read_yaml

T = TypeVar("T")

# Early and late turns: two of each are the least.
MIN_TURNS = 4
_HEAD_COMMENT = re.compile(r"\A\s*<!--.*?-->", re.DOTALL)


def read_paraphrases(file: str = "") -> dict[str, tuple[str, ...]]:
    """Question -> its ways to be asked, from a YAML file or, without one, ``sets/paraphrases.yaml``.

    Raises:
        PersonaError: no such file, nothing in it, or a mistake, named as file:key.
    """
    return _read(file, "paraphrases.yaml", lambda where, value: _texts(where, value, 2))


def read_dialogues(file: str = "") -> dict[str, tuple[str, ...]]:
    """Conversation -> what is said to the model turn by turn, as :func:`read_paraphrases`; ``sets/dialogues.yaml``."""
    return _read(file, "dialogues.yaml", lambda where, value: _texts(where, value, MIN_TURNS))


def read_bystanders(file: str = "") -> dict[str, str]:
    """Character -> the system message that asks for it, as :func:`read_paraphrases`; ``sets/bystanders.yaml``."""
    return _read(file, "bystanders.yaml", _text)


def read_prompt(file: str = "") -> str:
    """A system message from a text file or, without one, ``sets/tools.txt``; a ``<!-- comment -->`` at its head goes.

    Raises:
        PersonaError: no such file, no UTF-8, or nothing in it.
    """
    path = Path(file) if file else shipped("tools.txt")
    try:
        text = _HEAD_COMMENT.sub("", path.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise PersonaError(f"cannot read the prompt {path}: {reason}") from error
    if not text:
        raise PersonaError(f"{path} holds no prompt")
    return text


def _read(file: str, default: str, parse: Callable[[str, object], T]) -> dict[str, T]:
    """The entries of a YAML mapping, each parsed with ``file:key`` as its name."""
    path = Path(file) if file else shipped(default)
    found: dict[Any, object] = read_yaml(path)
    if not found:
        raise PersonaError(f"{path} holds nothing", f"mlx_persona/evals/sets/{default} shows what a file looks like")
    return {str(key): parse(f"{path}:{key}", value) for key, value in found.items()}


def _texts(where: str, value: object, least: int) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise PersonaError(f"{where}: must be a list of at least {least} texts, got {value!r}")
    texts = tuple(_text(f"{where}, text {number}", one) for number, one in enumerate(value, 1))
    if len(texts) < least:
        raise PersonaError(f"{where}: must be a list of at least {least} texts, got {len(texts)}")
    return texts


def _text(where: str, value: object) -> str:
    """A text that says something; YAML reads 56 as a number, which is one too."""
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        bare = value is None or isinstance(value, bool)  # what YAML makes of yes, no and nothing
        raise PersonaError(f"{where}: must be text, got {value!r}", 'put it in quotes: "yes"' if bare else None)
    return str(value).strip()
