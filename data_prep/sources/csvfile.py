"""Tables of messages, CSV or TSV: a header line with column names, and one message in each row.

The columns are those that ``--column`` names, or else have usual names; only text and sender are needed. Rows of
several chats may lie in any order. Everything is read twice: once for the place, chat and time of each row, which
are held as numbers, and then chat by chat. Within a chat rows stay in their order if their times never run
backwards; if they only run backwards (newest first) the order is turned round; else rows are sorted by time.
"""

from __future__ import annotations

import csv
import io
import math
import re
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from data_prep.sources.base import QUOTE_CHARS, Bad, Item, RawChat, RawMessage, ReadOptions
from data_prep.sources.head import Head
from data_prep.split import timestamp
from mlx_persona.errors import PersonaError

name = "csv"
by_sender = True
private = True

# Ours -> usual names of columns, without regard to case; spaces and hyphens are like underscores.
_USUAL = {
    "text": ("text", "message", "content", "body", "contents"),
    "sender": ("sender", "from", "author", "name", "user", "username"),
    "time": ("time", "timestamp", "date", "datetime", "sent", "created_at"),
    "chat": ("chat", "conversation", "channel", "thread", "room", "conversation_id"),
    "id": ("id", "message_id"),
    "answers": ("reply_to", "in_reply_to", "answers"),
}
_NEEDED = ("text", "sender")
_DELIMITERS = (",", ";", "\t")
_MOST_CHARS = 16 << 20  # of a field, and of a line
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# 31/12/2023, 14:05 or 12/31/23 2:05 PM or 2023.12.31 14:05
_DATE = re.compile(
    r"(\d{1,4})[./-](\d{1,2})[./-](\d{1,4}),?(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?(?:\s?([ap])\.?m\.?)?)?",
    re.IGNORECASE,
)


def matches(head: Head) -> bool:
    """A header line in which text and sender are found, and a row with as many fields under it."""
    if head.tree is not None:
        return False
    csv.field_size_limit(_MOST_CHARS)
    with suppress(csv.Error, StopIteration):
        # Only "\n" ends a line, as when the file is read.
        lines = io.StringIO(head.text, newline="\n")
        rows = csv.reader(lines, delimiter=_delimiter(head.text.partition("\n")[0]), strict=True)
        header = next(rows)
        first = next(row for row in rows if row)
        found = _guess(header, {})
        return all(ours in found for ours in _NEEDED) and len(first) == len(header)
    return False


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Every chat of the table, or one chat if there is no such column; bad rows come first.

    Raises:
        PersonaError: no column for the text or the sender, or one that was named and is not there.
    """
    csv.field_size_limit(_MOST_CHARS)
    with _utf8(path) as file:
        table = _Table(file, path, options.columns)
        yield from table.scan()
        for chat in table.chats:
            yield RawChat(chat, table.messages(chat))


@contextmanager
def _utf8(path: Path) -> Iterator[BinaryIO]:
    """A file as UTF-8; one in UTF-16 is written anew, since only bytes can be read at any place."""
    try:
        with path.open("rb") as file:
            if file.read(2) not in _UTF16:
                file.seek(3 if (file.seek(0) or file.read(3)) == _BOM else 0)
                yield file
                return
        with tempfile.TemporaryFile() as copy, path.open(encoding="utf-16", errors="replace", newline="") as text:
            while piece := text.read(1 << 20):
                copy.write(piece.encode("utf-8", "replace"))
            copy.seek(0)
            yield copy
    except OSError as error:
        raise PersonaError(f"cannot read {path}: {error.strerror}") from error


def _writable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _delimiter(line: str) -> str:
    """What parts a header line into most columns."""
    return max(_DELIMITERS, key=lambda d: len(next(csv.reader([line], delimiter=d), [])))


def _guess(header: list[str], named: dict[str, int]) -> dict[str, int]:
    """The columns by our names: those that are known, and those with usual names."""
    folded = [_fold(column) for column in header]
    found = dict(named)
    for ours, usual in _USUAL.items():
        places = (folded.index(theirs) for theirs in usual if theirs in folded)
        place = next((p for p in places if p not in found.values()), None)
        if ours not in found and place is not None:
            found[ours] = place
    return found


def _fold(column: str) -> str:
    return re.sub(r"[ -]+", "_", column.strip().casefold())


def _columns(header: list[str], named: Mapping[str, str], path: Path) -> dict[str, int]:
    """Where the columns are; raises PersonaError where one is missing."""
    there = f"its columns are {', '.join(header) or '(none)'}"
    places: dict[str, int] = {}
    for ours, theirs in named.items():
        if ours not in _USUAL:
            raise PersonaError(f"--column must name one of {', '.join(_USUAL)}, got {ours!r}")
        same = [i for i, column in enumerate(header) if column == theirs]
        same += [i for i, column in enumerate(header) if _fold(column) == _fold(theirs)]
        if not same:
            raise PersonaError(f"{path} has no column {theirs!r}; {there}")
        places[ours] = same[0]
    found = _guess(header, places)
    for ours in _NEEDED:
        if ours not in found:
            hint = f"say which it is with --column {ours}=NAME"
            raise PersonaError(f"{path} has no column that I know for the {ours}; {there}", hint)
    return found


class _Records:
    """The records of a CSV file, from any place on, each with where it begins."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._at, self._line = file.tell(), 1
        self._lines = 0  # of the record at hand
        self._quote = ""  # its beginning
        self._second = (0, 0)  # the place of its second line
        while (first := file.readline(_MOST_CHARS)) and not first.strip():
            self._at, self._line = self._at + len(first), self._line + 1
        file.seek(self._at)
        try:
            # Else a quotation mark that is out of place would join rows, and nobody would know.
            self._reader = csv.reader(self, delimiter=_delimiter(first.decode("utf-8", "replace")), strict=True)
            self.header = [_writable(column) for column in next(self._reader, [])]
        except csv.Error as error:
            raise PersonaError(f"{path} has no header line that can be read ({error})") from error

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next line, for the reader."""
        line = self._file.readline(_MOST_CHARS)
        if not line:
            raise StopIteration
        # Bytes that are no UTF-8 become lone surrogates, by which they are found.
        text = line.decode("utf-8", "surrogateescape")
        self._at, self._line, self._lines = self._at + len(line), self._line + line.endswith(b"\n"), self._lines + 1
        if self._lines == 1:
            self._second, self._quote = (self._at, self._line), text
        return text

    def rest(self) -> Iterator[tuple[int, list[str] | Bad]]:
        """All records from here on. After a bad one of several lines it goes on with its second line.

        So a quotation mark that is never closed takes one row away, and not all that follow.
        """
        while True:
            at, line = self._at, self._line
            self._lines = 0
            try:
                row = next(self._reader)
                why = self._problem(row) if row else None
            except StopIteration:
                return
            except csv.Error as error:
                row, why = [], f"not CSV ({error})"
            if why is not None:
                if self._lines > 1:
                    self._at, self._line = self._second
                    self._file.seek(self._at)
                yield at, Bad(str(self._path), line, why, _writable(self._quote.rstrip("\r\n")[:QUOTE_CHARS]))
            elif row:
                yield at, row

    def record(self, at: int) -> list[str]:
        """A record that is known to be good."""
        if at != self._at:
            self._file.seek(at)
            self._at = at
        return next(self._reader)

    def _problem(self, row: list[str]) -> str | None:
        if len(row) != len(self.header):
            return f"a row must have {len(self.header)} fields, got {len(row)}"
        joined = "".join(row)
        if "\0" in joined:
            return "it has a NUL in it"
        try:
            joined.encode()
        except UnicodeEncodeError:
            return "not UTF-8"
        return None


class _Table:
    """Where every row is and when it was written, by chat."""

    def __init__(self, file: BinaryIO, path: Path, named: Mapping[str, str]) -> None:
        self._records, self._name = _Records(file, path), path.name
        self._column = _columns(self._records.header, named, path)
        self._at = array("Q")
        self._times, self._month_first = array("d"), array("d")  # nan: unknown; days come first, or months
        self.chats: dict[str, array[int]] = {}  # id -> its rows, as numbers

    def scan(self) -> Iterator[Bad]:
        """Find all rows, giving out the bad ones."""
        for at, row in self._records.rest():
            if isinstance(row, Bad):
                yield row
                continue
            chat = self._value(row, "chat") or self._name
            self.chats.setdefault(chat, array("Q")).append(len(self._at))
            self._at.append(at)
            day_first, month_first = _when(self._value(row, "time") or "")
            self._times.append(day_first)
            self._month_first.append(month_first)
        if self._disorder(self._month_first) < self._disorder(self._times):
            self._times = self._month_first

    def messages(self, chat: str) -> Iterator[RawMessage]:
        """The messages of a chat, oldest first."""
        for row in self._ordered(self.chats[chat]):
            fields, time = self._records.record(self._at[row]), self._times[row]
            yield RawMessage(
                fields[self._column["text"]],
                sender=self._value(fields, "sender"),
                time=None if math.isnan(time) else time,
                id=self._value(fields, "id"),
                answers=self._value(fields, "answers"),
            )

    def _value(self, row: list[str], ours: str) -> str | None:
        place = self._column.get(ours)
        return None if place is None else row[place].strip() or None

    def _ordered(self, rows: array[int]) -> list[int]:
        times = self._filled(self._times, rows)
        forward, backward = _steps(times)
        if not backward:
            return list(rows)
        if not forward:  # newest first; rows of one minute are turned round too
            return list(reversed(rows))
        return [row for _, row in sorted(zip(times, rows, strict=True))]

    def _disorder(self, times: array[float]) -> tuple[int, int]:
        """How badly a way to read dates fits: dates that there are not, and then steps against the order."""
        unknown = sum(map(math.isnan, times))
        return unknown, sum(min(_steps(self._filled(times, rows))) for rows in self.chats.values())

    @staticmethod
    def _filled(times: array[float], rows: array[int]) -> list[float]:
        """The times of rows; one that has none takes that of the row before."""
        filled, last = [], -math.inf
        for row in rows:
            last = last if math.isnan(times[row]) else times[row]
            filled.append(last)
        return filled


def _steps(times: list[float]) -> tuple[int, int]:
    """How many times go forward, and how many backward."""
    return sum(a < b for a, b in pairwise(times)), sum(a > b for a, b in pairwise(times))


def _when(text: str) -> tuple[float, float]:
    """Unix seconds of a time, with the day or the month first where that is open; nan for what is no time."""
    if text.replace(".", "", 1).isdecimal() and len(text) != 8:  # eight digits are a date, 20231231
        found = timestamp(float(text))
    else:
        found = timestamp(text.removesuffix(" UTC"))
    if found is not None:
        return found, found
    match = _DATE.fullmatch(text)
    if match is None:
        return math.nan, math.nan
    one, two, three = (int(part) for part in match.group(1, 2, 3))
    hour, minute, second = (int(part or 0) for part in match.group(4, 5, 6))
    if match[7]:
        hour = hour % 12 + 12 * (match[7] in "pP")
    if len(match[1]) == 4:
        return (_moment(one, two, three, hour, minute, second),) * 2
    year = three + 2000 if three < 100 else three
    return _moment(year, two, one, hour, minute, second), _moment(year, one, two, hour, minute, second)


def _moment(year: int, month: int, day: int, hour: int, minute: int, second: int) -> float:
    """Unix seconds, without a zone as everywhere taken as UTC; nan for no date."""
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        return math.nan
