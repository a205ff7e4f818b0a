"""The beginning of a file, zip or folder, by which its format is told."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_prep.sources.jsonstream import JsonStream
from data_prep.sources.tree import Tree, denied, open_tree
from mlx_persona.errors import PersonaError

HEAD_BYTES = 1 << 20
HEAD_RECORDS = 20

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Head:
    """The first mebibyte of a file as text, or the names in a zip or folder.

    Attributes:
        path: what the user named or what was found.
        text: the beginning of a file, up to the end of a line; empty for a zip or folder.
        tree: the files of a zip or folder, or None.
    """

    path: Path
    text: str = ""
    tree: Tree | None = None

    @classmethod
    def of(cls, path: Path) -> Head:
        """Look at a file, zip or folder; raises PersonaError if it cannot be read."""
        tree = open_tree(path)
        if tree is not None:
            return cls(path, tree=tree)
        try:
            with path.open("rb") as file:
                data = file.read(HEAD_BYTES) + file.readline(HEAD_BYTES)
        except PermissionError as error:
            raise denied(path, error.strerror) from error
        except OSError as error:
            raise PersonaError(f"cannot read {path}: {error.strerror}") from error
        return cls(path, _text(data))

    def member(self, name: str) -> Head:
        """The beginning of a file of the zip or folder."""
        assert self.tree is not None
        with self.tree.open(name) as file:
            return Head(self.path / name, _text(file.read(HEAD_BYTES)))

    def stream(self) -> JsonStream:
        """A cursor at the beginning of the text, for JSON too long to be whole in it: PersonaError where it ends."""
        return JsonStream(io.BytesIO(self.text.encode()), str(self.path))

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The first few JSON objects: lines that are one, or the first of an array, or the only one."""
        if self.text.startswith("["):
            values = [_decode_at(self.text, 1)]
        else:
            lines = self.text.split("\n")[:HEAD_RECORDS]
            values = [_decode_at(line, 0) for line in lines if line.startswith("{")]
            if not any(values):
                values = [_decode_at(self.text, 0)]
        return [v for v in values if isinstance(v, dict)]

    @property
    def first_member(self) -> object:
        """The value of an object's first key, or None."""
        key = re.match(r'\{\s*"(?:[^"\\]|\\.)*"\s*:', self.text)
        return _decode_at(self.text, key.end()) if key else None


def is_json(text: str) -> bool:
    """Whether a text begins with a complete JSON value."""
    return _decode_at(text, 0) is not None


def _text(data: bytes) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return data.decode(encoding, errors="replace").strip()


def _decode_at(text: str, position: int) -> object | None:
    try:
        start = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        value: object = _DECODER.raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None
    return value
