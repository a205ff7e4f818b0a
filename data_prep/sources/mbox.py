"""Mail in mbox files: Google Takeout, Apple Mail's ``X.mbox`` folders, Thunderbird's files without a suffix.

A sender is an address in lower case: names in mail change, and one person writes from several addresses, so
``--me`` is given once for each of one's own. A thread is one conversation, however many days it takes: mails are
joined by Message-ID, In-Reply-To and References, and never by subject. A folder or zip of several mailboxes is
one export, so that what was received and what was sent meet in their threads.

Everything is read twice: once for the headers, of which a few numbers for each mail are kept, and then thread by
thread. A second copy of a mail (same Message-ID and date, as in two folders) is the same mail, and is passed over.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from email.utils import mktime_tz, parsedate_tz
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from data_prep.sources.base import (
    DELETED,
    FORWARDED,
    MEDIA,
    QUOTE_CHARS,
    SERVICE,
    SUFFIXES,
    Bad,
    Item,
    RawConversation,
    RawMessage,
    ReadOptions,
)
from data_prep.sources.head import Head
from data_prep.sources.mailtext import body, is_forward, own_words
from data_prep.sources.tree import Tree, open_tree
from mlx_persona.errors import PersonaError

name = "mbox"
by_sender = True
private = True

_CHUNK = 4 << 20
_SEPARATOR_BYTES = 1024  # no separator with the header line after it is longer
_HEADER_BYTES = 1 << 18
_FIRST_BYTES = 1 << 14  # most headers fit
_MOST_BYTES = 10 << 20  # of a mail; more is cut off
_PROBED = 20
_EXPUNGED = 0x0008  # in Thunderbird's X-Mozilla-Status: deleted, or moved to another folder
# Other exports, which would be hidden if a folder that has them were taken for a folder of mail.
_OTHER_EXPORTS = tuple(suffix for suffix in SUFFIXES if suffix != ".mbox")

# "From ", with or without an address (or "-", or a number) and a time, and a header line under it.
_SEPARATOR = re.compile(
    rb"From (?:[^\r\n]{0,200}?\d:\d\d(?::\d\d)?[^\r\n]{0,60}?\d{4}[^\r\n]{0,60}|-?[ ]?)\r?\n(?=[!-9;-~]{1,100}[ \t]*:)"
)
_FIELD = re.compile(
    rb"^(message-id|in-reply-to|references|date|from|subject|list-unsubscribe|precedence|auto-submitted"
    rb"|x-mozilla-status)[ \t]*:([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)",
    re.IGNORECASE | re.MULTILINE,
)
_HEADER_END = re.compile(rb"\n\r?\n")
_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)
_ID = re.compile(r"<([^<>\s]+)>")
_BRACKETED = re.compile(r"<\s*([^<>\s]+@[^<>\s]+)\s*>")
_ADDRESS = re.compile(r"([^\s<>(),;:\"]+@[^\s<>(),;:\"]+)")


def matches(head: Head) -> bool:
    """A file that begins with "From " and a header; a zip with a mailbox, or a folder with nothing else."""
    tree = head.tree
    if tree is None:
        return _begins(head.text[:_SEPARATOR_BYTES].encode("utf-8", "replace"))
    if tree.path.is_dir() and any(n.lower().endswith(_OTHER_EXPORTS) for n in tree.names):
        return False
    return any(_begins(_first(tree, box)) for box in _boxes(tree)[:_PROBED])


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Every thread of the export, the oldest mail of each first."""
    with ExitStack() as stack:
        store = _Store(path, stack)
        index = _Index()
        for box in range(len(store.labels)):
            yield from _scan(store, box, index)
        if not index.at:
            raise PersonaError(f"{path} has no mail in it", "an mbox file begins with a line such as: From - Mon Jan 1")
        for thread in index.threads():
            yield from _thread(store, index, thread)


def _begins(data: bytes) -> bool:
    return _SEPARATOR.match(data.lstrip()) is not None


def _boxes(tree: Tree) -> list[str]:
    """The mailboxes of a tree by their names; Thunderbird's have an index file beside them."""
    names = set(tree.names)
    return [
        n for n in tree.names if n.rpartition("/")[2] == "mbox" or n.lower().endswith(".mbox") or f"{n}.msf" in names
    ]


def _first(tree: Tree, member: str) -> bytes:
    with suppress(PersonaError), tree.open(member) as file:
        return file.read(_SEPARATOR_BYTES)
    return b""


class _Store:
    """The mailboxes of an export, to be read at any place.

    Those of a zip are unpacked into a temporary file without a name, since nothing else can be read at any place.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        tree = open_tree(path)
        names = [""] if tree is None else _boxes(tree)
        self.labels = [str(path) if tree is None else tree.label(n) for n in names]
        # What comes from several boxes must be told apart.
        self.names = [f"{path.name}/{n}" if n else path.name for n in names]
        self._files = [path / n for n in names]
        self._begins = [0] * len(names)
        self.sizes: list[int] = []
        self._spool: BinaryIO | None = None
        self._open: tuple[int, BinaryIO] | None = None
        stack.callback(self._close)
        if tree is None or path.is_dir():
            try:
                self.sizes = [file.stat().st_size for file in self._files]
            except OSError as error:
                raise PersonaError(f"cannot read {path}: {error.strerror}") from error
            return
        self._spool = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        for i, n in enumerate(names):
            self._begins[i] = self._spool.tell()
            with tree.open(n) as file:
                shutil.copyfileobj(file, self._spool, _CHUNK)
            self.sizes.append(self._spool.tell() - self._begins[i])

    def read(self, box: int, at: int, size: int) -> bytes:
        """So many bytes of a mailbox, or fewer at its end."""
        try:
            file = self._spool or self._file(box)
            file.seek(self._begins[box] + at)
            return file.read(min(size, self.sizes[box] - at))
        except OSError as error:
            raise PersonaError(f"cannot read {self.labels[box]}: {error.strerror}") from error

    def _file(self, box: int) -> BinaryIO:
        """One file at a time is open: a profile has hundreds."""
        if self._open is None or self._open[0] != box:
            self._close()
            self._open = box, self._files[box].open("rb")
        return self._open[1]

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


class _Index:
    """Where every mail lies and when it was written, and which belong together."""

    def __init__(self) -> None:
        self.box, self.line = array("L"), array("Q")
        self.at, self.size = array("Q"), array("Q")
        self.time = array("d")  # of a mail without one: infinite, so that it comes last
        self._node = array("Q")  # of each mail
        self._parent = array("Q")  # of each node: a Message-ID, or a mail that has none
        # By hashes: the ids themselves would fill the memory.
        self._nodes: dict[int, int] = {}  # of Message-IDs
        self._seen: set[int] = set()  # Message-IDs with times

    def add(self, box: int, line: int, at: int, size: int, header: bytes) -> None:
        """Take up a mail by its separator and header, unless it is a copy of one that is there."""
        fields = _fields(header)
        time = _time(fields.get("date", ""))
        if time is None:  # that of the separator, after an address or a number
            time = _time(header.partition(b"\n")[0].decode("utf-8", "replace").removeprefix("From ").partition(" ")[2])
        when = math.inf if time is None else time
        own = _ID.search(fields.get("message-id", ""))
        node = self._named(own[1]) if own else self._new()
        if not _is_expunged(fields):  # what was moved has its living copy elsewhere
            seen = hash((node, when))
            if seen in self._seen:
                return
            self._seen.add(seen)
        for other in _ID.findall(fields.get("references", "") + fields.get("in-reply-to", "")):
            self._join(node, self._named(other))
        self._node.append(node)
        self.time.append(when)
        for numbers, number in ((self.box, box), (self.line, line), (self.at, at), (self.size, size)):
            numbers.append(number)

    def threads(self) -> Iterator[list[int]]:
        """The mails of each thread by time, those without one last; threads as they begin in the export."""
        found: dict[int, list[int]] = {}
        for mail, node in enumerate(self._node):
            found.setdefault(self._root(node), []).append(mail)
        for mails in found.values():
            yield sorted(mails, key=self.time.__getitem__)

    def _named(self, mail_id: str) -> int:
        key = hash(mail_id)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = self._new()
        return node

    def _new(self) -> int:
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def _root(self, node: int) -> int:
        parent = self._parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def _join(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        self._parent[max(one, other)] = min(one, other)


def _scan(store: _Store, box: int, index: _Index) -> Iterator[Bad]:
    """Take up every mail of a mailbox; a bad line for what lies before the first."""
    begin: tuple[int, int] | None = None
    for at, line in chain(_separators(store, box), [(store.sizes[box], 0)]):
        if begin is not None:
            header = store.read(box, begin[0], min(_FIRST_BYTES, at - begin[0]))
            if not _HEADER_END.search(header):
                header = store.read(box, begin[0], min(_HEADER_BYTES, at - begin[0]))
            index.add(box, begin[1], begin[0], at - begin[0], header)
        elif junk := store.read(box, 0, min(_FIRST_BYTES, at)).strip():
            quote = junk.decode("utf-8", "replace")[:QUOTE_CHARS]
            yield Bad(store.labels[box], 1, 'there is no line "From ..." of an mbox file before it', quote)
        begin = at, line


def _separators(store: _Store, box: int) -> Iterator[tuple[int, int]]:
    """Where each mail begins, and its line: at "From " after an empty line."""
    buffer = b"\n\n" + store.read(box, 0, _CHUNK)  # as if there were an empty line before the first
    begin, line, counted, at = -2, -1, 0, 0  # line: at the place in the buffer up to which lines are counted
    while True:
        more = len(buffer) >= _CHUNK
        # What lies at the end is looked at together with what follows it.
        end = len(buffer) - _SEPARATOR_BYTES if more else len(buffer)
        while 0 <= (at := buffer.find(b"\nFrom ", at)) < end:
            at += 1
            if buffer.endswith((b"\n\n", b"\n\r\n"), 0, at) and _SEPARATOR.match(buffer, at):
                line += buffer.count(b"\n", counted, at)
                counted = at
                yield begin + at, line
        if not more:
            return
        step = end - 3  # the empty line before a separator is needed again
        line += buffer.count(b"\n", counted, step)
        begin, counted, at = begin + step, max(0, counted - step), 3
        buffer = store.read(box, begin, _CHUNK)


def _thread(store: _Store, index: _Index, mails: list[int]) -> Iterator[RawConversation | Bad]:
    messages = []
    for mail in mails:
        message = _message(store, index, mail)
        if isinstance(message, Bad):
            yield message
        else:
            messages.append(message)
    if messages:
        start = next((m.time for m in messages if m.time is not None), None)
        yield RawConversation(f"{store.names[index.box[mails[0]]]}:{index.line[mails[0]]}", tuple(messages), start)


def _message(store: _Store, index: _Index, mail: int) -> RawMessage | Bad:
    box = index.box[mail]
    data = store.read(box, index.at[mail], min(index.size[mail], _MOST_BYTES)).partition(b"\n")[2]
    fields = _fields(data)
    sender = _sender(fields.get("from", ""))
    time = index.time[mail] if index.time[mail] < math.inf else None
    if _is_expunged(fields) or _is_automatic(fields):
        # Most mail is automatic, and its text is never used.
        return RawMessage("", sender=sender, time=time, kind=DELETED if _is_expunged(fields) else SERVICE)
    if b">From " in data:
        data = _QUOTED_FROM.sub(rb"\1", data)
    try:
        text, attached = body(data)
    except Exception as error:  # the email package raises about anything when a mail is broken enough
        quote = data[: 4 * QUOTE_CHARS].decode("utf-8", "replace")[:QUOTE_CHARS]
        return Bad(store.labels[box], index.line[mail], f"a mail that cannot be read ({type(error).__name__})", quote)
    own = own_words(text)
    if own or not (attached or text.strip()):
        return RawMessage(own, sender=sender, time=time)
    if is_forward(fields.get("subject", "")):
        return RawMessage(text.strip(), sender=sender, time=time, kind=FORWARDED)
    return RawMessage("", sender=sender, time=time, kind=MEDIA if attached else None)


def _fields(data: bytes) -> dict[str, str]:
    """The header fields that matter, by their names in lower case, each without its line breaks."""
    end = _HEADER_END.search(data, 0, _HEADER_BYTES)
    fields: dict[str, str] = {}
    for found in _FIELD.finditer(data, 0, end.start() if end else _HEADER_BYTES):
        value = b" ".join(found[2].split())
        fields.setdefault(found[1].decode().lower(), value.decode("utf-8", "replace"))
    return fields


def _sender(value: str) -> str | None:
    """The address in a From field in lower case, or the whole of it where there is none."""
    value = value[:_SEPARATOR_BYTES].lower()
    found = _BRACKETED.search(value) or _ADDRESS.search(value)
    return (found[1] if found else value) or None


def _is_expunged(fields: dict[str, str]) -> bool:
    try:
        return bool(int(fields.get("x-mozilla-status", "0"), 16) & _EXPUNGED)
    except ValueError:
        return False


def _is_automatic(fields: dict[str, str]) -> bool:
    """Newsletters, notifications and answering machines."""
    automatic = fields.get("auto-submitted", "no").lower() not in ("", "no")
    return automatic or "list-unsubscribe" in fields or fields.get("precedence", "").lower() in ("bulk", "junk")


def _time(date: str) -> float | None:
    """Unix seconds of a mail's date; without a zone it is taken as UTC."""
    # Numbers that are far off, such as a year of ten digits.
    with suppress(ValueError, OverflowError, IndexError, TypeError):
        parsed = parsedate_tz(date)
        return float(mktime_tz(parsed)) if parsed else None
    return None
