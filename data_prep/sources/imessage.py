"""Messages on a Mac: ``~/Library/Messages/chat.db``, a copy of it, or an iPhone backup's ``sms.db``.

SQLite tables: ``message`` (one row each), ``handle`` (a phone number or address for one service), ``chat``, and
the two join tables. Columns came with the years, so those that are missing read as NULL. Since macOS 13 ``text``
is mostly NULL, and the words are in ``attributedBody``, an archived NSAttributedString.

In a bad line, the line is the message's ROWID.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.sources.base import (
    ASSISTANT,
    DELETED,
    GROUP,
    MEDIA,
    QUOTE_CHARS,
    REACTION,
    SERVICE,
    USER,
    Bad,
    Item,
    RawChat,
    RawMessage,
    ReadOptions,
    UnusableError,
    plain_text,
)
from data_prep.sources.head import Head
from data_prep.sources.tree import denied
from mlx_persona.errors import PersonaError

name = "imessage"
by_sender = False
private = True

_MAGIC = "SQLite format 3\0"
_WAL_MODE = b"\2\2"  # bytes 18 and 19 of the file
_FAILURES = (sqlite3.Error, UnicodeDecodeError)  # the latter where SQLite quotes a damaged file
_PATIENCE_S = 3.0  # for a lock to go
_TABLES = frozenset({"message", "handle", "chat", "chat_message_join", "chat_handle_join"})
_RECENTLY_DELETED = "chat_recoverable_message_join"
_NEEDED = frozenset({"text", "handle_id", "date", "is_from_me"})
_TEXTS = ("guid", "thread_originator_guid", "balloon_bundle_id", "text", "attributedBody")
_NUMBERS = (
    "handle_id",
    "date",
    "is_from_me",
    "associated_message_type",
    "item_type",
    "is_system_message",
    "is_auto_reply",
    "date_retracted",
    "date_edited",
    "cache_has_attachments",
)

_NUMBER_OR_NULL = frozenset((int, type(None)))
_GROUP_STYLE = 43
_REACTIONS = range(2000, 4000)  # 2000 to 2007 give one, 3000 to 3007 take it back
_ATTACHMENT, _APP = "\ufffc", "\ufffd"  # what stands in a text where a picture or an app's bubble is
_EPOCH = 978307200  # 2001-01-01 in Unix time
# Dates are seconds up to macOS 10.12 and nanoseconds since; this is the year 5170 or the first two minutes of 2001.
_MOST_SECONDS = 10**11
# The words are the first string of an archive, some 13 events from its beginning.
_EVENTS = 40
# How nearly all archives begin: the classes' names, up to the length of the words.
_BEGIN = b"\x04\x0bstreamtyped\x81\xe8\x03\x84\x01@\x84\x84\x84"
_BEGINNINGS = (
    _BEGIN + b"\x12NSAttributedString\0\x84\x84\x08NSObject\0\x85\x92\x84\x84\x84\x08NSString\1\x94\x84\1+",
    _BEGIN + b"\x19NSMutableAttributedString\0\x84\x84\x12NSAttributedString\0\x84\x84\x08NSObject\0\x85"
    b"\x92\x84\x84\x84\x0fNSMutableString\1\x84\x84\x08NSString\1\x95\x84\1+",
)
_SHORT = 0x80  # a length below this is one byte
_END = 0x86  # of an object


def matches(head: Head) -> bool:
    """An SQLite database with the tables of Messages; or one called chat.db, if it cannot be looked into now."""
    if not head.text.startswith(_MAGIC):
        return False
    try:
        with _opened(head.path) as database:
            return _tables(database) >= _TABLES
    except PersonaError:
        return head.path.name == "chat.db"  # reading it will say why


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """One chat per person or group, whatever services they used; groups as messages left out, unless asked for.

    Raises:
        PersonaError: a file that macOS guards, that is locked or damaged, or that is no such database.
    """
    with _opened(path) as database:
        if lacking := _TABLES - _tables(database):
            raise PersonaError(f"{path} is no database of Messages: it has no table {', '.join(sorted(lacking))}")
        have = _columns(database)
        if lacking := _NEEDED - have:
            raise PersonaError(f"{path} is no database of Messages: messages have no {', '.join(sorted(lacking))}")
        threads = _Threads(database)
        _place(database, have, threads)
        fields = ", ".join(f"m.{c}" if c in have else "NULL" for c in _TEXTS + _NUMBERS)
        query = (
            f"SELECT m.ROWID, p.gone, {fields} FROM place p CROSS JOIN message m ON m.ROWID = p.id "
            "WHERE p.thread = ? ORDER BY p.time, p.id"
        )
        for (number,) in database.execute("SELECT DISTINCT thread FROM place ORDER BY thread").fetchall():
            left_out = threads.is_group[number] and not options.groups
            rows = database.execute(query, (number,))
            yield RawChat(f"chat {number + 1}", _messages(rows, path, threads.handles, left_out))


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, read-only and as it is at this moment; raises PersonaError for whatever SQLite finds wrong."""
    try:
        real = path.resolve()
        with real.open("rb") as file:
            mode = file.read(20)[18:]
        # Without its -wal, a database in WAL mode is complete, but SQLite would make a new one beside it.
        # A database that is open elsewhere has one.
        alone = mode == _WAL_MODE and not Path(f"{real}-wal").exists()
        uri = f"{real.as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S, isolation_level=None)) as database:
            database.text_factory = _lenient
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("BEGIN")
            yield database
    except PermissionError as error:
        raise denied(path, error.strerror) from error
    except OSError as error:
        raise PersonaError(f"cannot read {path}: {error.strerror}") from error
    except _FAILURES as error:
        raise _problem(path, error) from error


def _problem(path: Path, error: Exception) -> PersonaError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    guarded = path.resolve().parent.parts[-2:] == ("Library", "Messages")
    if code in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_PERM) or (code == sqlite3.SQLITE_CANTOPEN and guarded):
        return denied(path, str(error))
    both = f"{path.name} and, if there is one, {path.name}-wal"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return PersonaError(
            f"cannot read {path}: another program holds it locked", f"copy {both} to another folder, and read the copy"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return PersonaError(f"cannot read {path}: {error}", f"copy {both} to a folder that you can write to")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT):
        return PersonaError(
            f"cannot read {path}: it is damaged ({error})", f"copy {both} anew, while Messages is closed"
        )
    return PersonaError(f"cannot read {path}: {error}")


def _lenient(data: bytes) -> str:
    """Text of the database; what is not UTF-8 becomes surrogates, by which ``plain_text`` finds it."""
    return data.decode("utf-8", errors="surrogateescape")


def _tables(database: sqlite3.Connection) -> set[str]:
    return {table for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _columns(database: sqlite3.Connection) -> set[str]:
    return {row[1] for row in database.execute("PRAGMA table_info(message)")}


class _Threads:
    """Who talks with whom: chats with the same people are one thread, and so is what one person wrote in no chat.

    Attributes:
        handles: ROWID -> phone number or address.
        is_group: of each thread, by its number.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self.handles: dict[Hashable, str] = {}
        self.is_group: list[bool] = []
        self._numbers: dict[Hashable, int] = {}
        self._of_chat: dict[Hashable, int] = {}
        for number, handle in database.execute("SELECT ROWID, id FROM handle"):
            if isinstance(handle, str) and handle and handle.isprintable():
                self.handles[number] = handle
        people: dict[Hashable, set[Hashable]] = defaultdict(set)
        for chat, handle in database.execute("SELECT chat_id, handle_id FROM chat_handle_join"):
            people[chat].add(self.handles.get(handle, handle))
        rows = database.execute("SELECT ROWID, style, chat_identifier FROM chat ORDER BY ROWID")
        for chat, style, identifier in rows:
            # Notes to oneself have nobody in them, and neither have groups that everybody left.
            who = people[chat] or {identifier or ("chat", chat)}
            self._of_chat[chat] = self._number(style == _GROUP_STYLE or len(who) > 1, frozenset(who))

    def number(self, chat: Hashable, handle: Hashable, room: Hashable) -> int:
        """The thread of a message: by its chat, or else by the group's name on it, or else by its handle."""
        known = self._of_chat.get(chat)
        if known is not None:
            return known
        return self._number(True, room) if room else self._number(False, frozenset((self.handles.get(handle, handle),)))

    def _number(self, group: bool, who: Hashable) -> int:
        number = self._numbers.setdefault((group, who), len(self.is_group))
        if number == len(self.is_group):
            self.is_group.append(group)
        return number


def _place(database: sqlite3.Connection, have: set[str], threads: _Threads) -> None:
    """Make the temporary table ``place``: for every message its thread, its time, and whether it was deleted."""
    database.execute(
        "CREATE TEMP TABLE place (thread INTEGER, time REAL, id INTEGER, gone INTEGER, "
        "PRIMARY KEY (thread, time, id)) WITHOUT ROWID"
    )
    joined = "(SELECT message_id, MIN(chat_id) AS chat FROM {} GROUP BY message_id)"
    deleted = joined.format(_RECENTLY_DELETED) if _RECENTLY_DELETED in _tables(database) else "(SELECT NULL, NULL)"
    room = "m.cache_roomnames" if "cache_roomnames" in have else "NULL"
    # What somebody deleted stays for a month, in another join table.
    rows = database.execute(
        f"WITH live(id, chat) AS {joined.format('chat_message_join')}, deleted(id, chat) AS {deleted} "
        f"SELECT m.ROWID, COALESCE(live.chat, deleted.chat), m.handle_id, {room}, m.date, "
        "live.id IS NULL AND deleted.id IS NOT NULL "
        "FROM message m LEFT JOIN live ON live.id = m.ROWID LEFT JOIN deleted ON deleted.id = m.ROWID"
    )
    database.executemany(
        "INSERT INTO place VALUES (?, ?, ?, ?)",
        ((threads.number(chat, who, room), _unix(date) or 0.0, id_, gone) for id_, chat, who, room, date, gone in rows),
    )


def _messages(
    rows: Iterator[tuple[Any, ...]], path: Path, handles: dict[Hashable, str], left_out: bool
) -> Iterator[RawMessage | Bad]:
    try:
        for id_, gone, *row in rows:
            try:
                yield _left_out(row) if left_out else _message(row, handles, gone)
            except UnusableError as error:
                yield Bad(str(path), id_, str(error), _quote(row))
    except _FAILURES as error:
        raise _problem(path, error) from error


def _left_out(row: list[Any]) -> RawMessage:
    date, mine = row[len(_TEXTS) + 1 : len(_TEXTS) + 3]
    return RawMessage("", ASSISTANT if mine else USER, time=_unix(date), kind=GROUP)


def _message(row: list[Any], handles: dict[Hashable, str], gone: int) -> RawMessage:
    types = [*map(type, row[len(_TEXTS) :])]
    if not _NUMBER_OR_NULL.issuperset(types):
        column, found = next(pair for pair in zip(_NUMBERS, types, strict=True) if pair[1] not in _NUMBER_OR_NULL)
        raise UnusableError(f"{column} must be a number, got {found.__name__}")
    guid, origin, balloon, text, body, handle, date, mine, associated, *service, retracted, edited, attachments = row
    words, kind = "", None
    if gone or retracted:
        kind = DELETED
    elif associated in _REACTIONS:
        kind = REACTION
    elif any(service):  # in this order: people come and go, the system says so, "I am driving"
        kind = SERVICE
    else:
        words = _words(text, body)
        if not words and edited:
            kind = DELETED  # all of its parts were taken back
        elif _ATTACHMENT in words or _APP in words or attachments or balloon:
            # Every part of a message has a bubble of its own.
            words = "\n".join(part for part in words.split(_ATTACHMENT) if part)
            if not words.replace(_APP, "").strip():
                words, kind = "", MEDIA
    return RawMessage(
        words,
        ASSISTANT if mine else USER,
        sender=None if mine else handles.get(handle),
        time=_unix(date),
        id=guid if isinstance(guid, str) else None,
        answers=origin if isinstance(origin, str) else None,
        kind=kind,
    )


def _words(text: object, body: object) -> str:
    if text is not None and text != "":
        return plain_text(text, "text")
    if body is None or body == b"":
        return ""
    if not isinstance(body, bytes):
        raise UnusableError(f"attributedBody must be bytes, got {type(body).__name__}")
    return _archived(body)


def _archived(body: bytes) -> str:
    """The words of an archived NSAttributedString, without what marks them."""
    classes: list[bytes] = []
    try:
        # The library needs 45 microseconds, and most messages are short and begin alike.
        for beginning in _BEGINNINGS:
            if body.startswith(beginning) and (length := body[len(beginning)]) < _SHORT:
                start = len(beginning) + 1
                if body[start + length] == _END:
                    return body[start : start + length].decode("utf-8")
        stream = _typedstream()
        with stream.TypedStreamReader(BytesIO(body), close=True) as events:
            for event in islice(events, _EVENTS):
                if isinstance(event, stream.SingleClass):
                    classes.append(event.name)
                elif isinstance(event, bytes):
                    if b"NSAttributedString" in classes[:2] and b"NSString" in classes[-2:]:
                        return event.decode("utf-8")
                    break
    except PersonaError:
        raise
    except Exception as error:  # the library promises nothing about what it raises for bytes that are no archive
        raise UnusableError(f"attributedBody is not readable ({error})") from error
    raise UnusableError("attributedBody holds no attributed string")


def _typedstream() -> Any:
    try:
        from typedstream import stream  # type: ignore[import-untyped]
    except ImportError:
        raise PersonaError("reading Messages needs pytypedstream", "pip install 'mlx-persona[data]'") from None
    return stream


def _unix(date: object) -> float | None:
    """Unix seconds of a date column; None for no date."""
    if type(date) is not int or not date:
        return None
    return date / 1e9 + _EPOCH if abs(date) > _MOST_SECONDS else float(date + _EPOCH)


def _quote(row: list[Any]) -> str:
    """The first characters of what should have been a text."""
    text, body = row[_TEXTS.index("text")], row[_TEXTS.index("attributedBody")]
    found = text if text is not None and text != "" else body
    data = found if isinstance(found, bytes) else str(found).encode("utf-8", errors="surrogateescape")
    return data[: 4 * QUOTE_CHARS].decode("utf-8", errors="replace")[:QUOTE_CHARS]
