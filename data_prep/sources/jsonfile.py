"""JSON files of conversations: one object per line, one array of objects, or one object.

The members of that one object are the conversations, or it is a single conversation. Each record keeps
the line where it starts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data_prep.sources.base import QUOTE_CHARS, Bad, RawConversation, UnusableError, plain_text
from data_prep.sources.head import is_json
from data_prep.sources.jsonstream import JsonStream

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON value of a file, the line where it starts, its first characters, and its key in an object."""

    line: int
    value: object
    text: str
    key: str = ""


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
    for record in _members(path) if members else records(path):
        if isinstance(record, Bad):
            yield record
            continue
        try:
            yield parse(record)
        except UnusableError as error:
            yield Bad(str(path), record.line, str(error), record.text)


def records(path: Path) -> Iterator[Record | Bad]:
    """Every record of a file: its lines, the elements of its array, or its one object."""
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        first = file.readline() if start.startswith(b"{") and path.suffix == ".json" else b"{}"
    if start.startswith(b"["):
        return _elements(path)
    # A .json file is one object unless its first line is complete, as in JSON Lines.
    if not is_json(first.decode("utf-8-sig", errors="replace")):
        return _only(path)
    return _lines(path)


def parsed(stream: JsonStream, file: str, parse: Callable[[object], Parsed]) -> Iterator[Parsed | Bad]:
    """The elements of the array that comes next, each parsed; what ``parse`` finds unusable becomes a bad line.

    Args:
        stream: stands before the array.
        file: what to call it in bad lines.
        parse: makes something of an element, or raises UnusableError.
    """
    for _ in stream.elements():
        record = _record(stream)
        try:
            yield parse(record.value)
        except UnusableError as error:
            yield Bad(file, record.line, str(error), record.text)


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


def _record(stream: JsonStream, key: str = "") -> Record:
    line, text = stream.line, stream.quote(QUOTE_CHARS)
    return Record(line, stream.value(), text, key)


def _elements(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        stream = JsonStream(file, str(path))
        for _ in stream.elements():
            yield _record(stream)
        stream.end()


def _members(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        stream = JsonStream(file, str(path))
        for key in stream.members():
            yield _record(stream, key)
        stream.end()


def _only(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        stream = JsonStream(file, str(path))
        yield _record(stream)
        stream.end()
