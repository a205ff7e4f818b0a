"""What every importer shares: raw messages and conversations, bad lines, and reading JSON in its three shapes.

The shapes are one object per line, one array of objects, and one object (its members are the
conversations, or it is a single conversation). Each record keeps the line where it starts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from mlx_persona.errors import PersonaError

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
HEAD_BYTES = 1 << 20
HEAD_RECORDS = 20
QUOTE_CHARS = 200

_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class RawMessage:
    """One message as it was read.

    ``role`` is system, user, assistant or tool, or None where the export knows only ``sender``.
    ``train`` is false where the export itself says that the reply is not to be learned.
    """

    text: str
    role: str | None = None
    sender: str | None = None
    train: bool = True


@dataclass(frozen=True, slots=True)
class RawConversation:
    """One conversation as it was read; ``start`` is an ISO date or Unix seconds, or None."""

    id: str
    messages: tuple[RawMessage, ...]
    start: str | float | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that could not be read: where it is, why, and its first characters."""

    file: str
    line: int
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON value of a file, the line where it starts, its first characters, and its key in an object."""

    line: int
    value: object
    text: str
    key: str = ""


class UnusableError(ValueError):
    """A record that is JSON but holds no conversation; the importer's word for a bad line."""


@dataclass(frozen=True)
class Head:
    """The beginning of a file, by which its format is told."""

    path: Path
    text: str

    @classmethod
    def of(cls, path: Path) -> Head:
        """The first mebibyte of a file, up to the end of its line; raises PersonaError if it cannot be read."""
        try:
            with path.open("rb") as file:
                data = file.read(HEAD_BYTES) + file.readline()
        except OSError as error:
            raise PersonaError(f"cannot read {path}: {error.strerror}") from error
        return cls(path, data.decode("utf-8-sig", errors="replace").strip())

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


class Source(Protocol):
    """An importer: a module with these four names. To add one, write the module and list it in ``SOURCES``."""

    @property
    def name(self) -> str:
        """What ``--source`` calls it."""

    @property
    def by_sender(self) -> bool:
        """Whether messages carry senders and no roles, so that ``--me`` is needed."""

    def matches(self, head: Head) -> bool:
        """Whether a file that begins like this is of this format."""

    def read(self, path: Path) -> Iterator[RawConversation | Bad]:
        """Every conversation of a file, in its order."""


def _decode_at(text: str, position: int) -> object | None:
    try:
        start = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        value: object = _DECODER.raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None
    return value


def plain_text(value: object, name: str) -> str:
    """A string that can be written as UTF-8.

    Raises:
        UnusableError: not a string, or half of a surrogate pair in it.
    """
    if not isinstance(value, str):
        raise UnusableError(f"{name} must be text, got {type(value).__name__}")
    if _SURROGATE.search(value):
        raise UnusableError(f"{name} is not valid Unicode (half of a surrogate pair)")
    return value


def turns_of(record: Record, key: str) -> tuple[dict[str, Any], list[Any]]:
    """A record that is an object, and the non-empty list under ``key`` that holds its turns; or UnusableError."""
    value = record.value
    turns = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(turns, list) or not turns:
        raise UnusableError(f'a record must be an object with a non-empty "{key}" list')
    return value, turns


def conversation_id(found: object, path: Path, record: Record) -> str:
    """The id that the export gives, or else the file's name and line."""
    return plain_text(found, "id") if isinstance(found, str) else f"{path.name}:{record.line}"


def conversations(
    path: Path, parse: Callable[[Record], RawConversation], *, members: bool = False
) -> Iterator[RawConversation | Bad]:
    """Read a file's records and parse each one; what ``parse`` finds unusable becomes a bad line.

    Args:
        path: the file.
        parse: makes a conversation of a record, or raises UnusableError.
        members: the file is one JSON object whose values are the records.

    Raises:
        PersonaError: a whole-file JSON that does not parse, named as file:line:column.
    """
    for record in _whole_file(path, "{") if members else _records(path):
        if isinstance(record, Bad):
            yield record
            continue
        try:
            yield parse(record)
        except UnusableError as error:
            yield Bad(str(path), record.line, str(error), record.text)


def _records(path: Path) -> Iterator[Record | Bad]:
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        first = file.readline() if start.startswith(b"{") and path.suffix == ".json" else b"{}"
    if start.startswith(b"["):
        return _whole_file(path, "[")
    # A .json file is one object unless its first line is complete, as in JSON Lines.
    if _decode_at(first.decode("utf-8-sig", errors="replace"), 0) is None:
        return _whole_file(path, "")
    return _lines(path)


def _lines(path: Path) -> Iterator[Record | Bad]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    yield Record(number, json.loads(text), text[:QUOTE_CHARS])
            except (ValueError, RecursionError) as error:
                quote = line.decode("utf-8", errors="replace").strip()[:QUOTE_CHARS]
                yield Bad(str(path), number, _why(error), quote)


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start + 1})"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg})"
    return "not JSON (nested too deeply)" if isinstance(error, RecursionError) else f"not JSON ({error})"


def _whole_file(path: Path, opening: str) -> Iterator[Record]:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PersonaError(f"{path}:{line}: not UTF-8") from error
    try:
        yield from _members(text, opening)
    except json.JSONDecodeError as error:
        raise PersonaError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise PersonaError(f"{path}: {_why(error)}") from error


def _members(text: str, opening: str) -> Iterator[Record]:
    """The elements of an array ('['), the members of an object ('{'), or the one value ('')."""
    line, counted = 1, 0

    def skip(position: int) -> int:
        return _SPACE.match(text, position).end()  # type: ignore[union-attr]

    def expect(mark: str, position: int) -> int:
        if not text.startswith(mark, position):
            raise json.JSONDecodeError(f"Expecting '{mark}'", text, position)
        return skip(position + len(mark))

    position, closing = expect(opening, skip(0)), {"[": "]", "{": "}", "": ""}[opening]
    more = not closing or not text.startswith(closing, position)
    while more:
        line, counted, key = line + text.count("\n", counted, position), position, ""
        if opening == "{":
            expect('"', position)
            key, end = _DECODER.raw_decode(text, position)
            position = expect(":", skip(end))
        value, end = _DECODER.raw_decode(text, position)
        yield Record(line, value, text[position : position + QUOTE_CHARS], key)
        position = skip(end)
        more = bool(closing) and text.startswith(",", position)
        position = expect(",", position) if more else position
    position = expect(closing, position)
    if position != len(text):
        raise json.JSONDecodeError("Extra data", text, position)
