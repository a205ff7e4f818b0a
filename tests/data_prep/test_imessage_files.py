"""Messages' database: nothing lost, nothing written and nothing but errors for the user, whatever is in the file."""

from __future__ import annotations

import sqlite3
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_prep.sources import imessage
from data_prep.sources.base import USER, Bad, RawMessage, ReadOptions
from data_prep.sources.head import Head
from mlx_persona.errors import PersonaError
from tests.data_prep.chatdb import EPOCH, NORA, SCHEMAS, SIERRA, ChatDb, T, archived, only, read, small, texts

COMMON = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def db(tmp_path: Path) -> Callable[..., ChatDb]:
    def make(version: str = "ventura", **options: Any) -> ChatDb:
        return ChatDb(tmp_path / "chat.db", version, **options)

    return make


@pytest.fixture
def nora(tmp_path: Path) -> Path:
    """A small chat with one person."""
    return small(tmp_path / "chat.db")


@pytest.mark.parametrize(
    ("columns", "reason", "quote"),
    [
        ({"text": b"a blob \xff"}, "text must be text, got bytes", "a blob \ufffd"),
        ({"text": 12345}, "text must be text, got int", "12345"),
        ({"text": 0.5}, "text must be text, got float", "0.5"),
        ({"attributedBody": "words"}, "attributedBody must be bytes, got str", "words"),
        ({"attributedBody": b"\x04\x0bnonsense"}, "attributedBody is not readable", "\x04\x0bnonsense"),
        ({"attributedBody": archived("cut off").partition(b"cut")[0]}, "attributedBody is not readable", None),
        ({"attributedBody": archived("cut off").partition(b"off")[0]}, "attributedBody is not readable", None),
        ({"attributedBody": archived("cut off").partition(b"\x07cut")[0]}, "attributedBody is not readable", None),
        ({"attributedBody": archived("\ufffe").replace(b"\xef\xbf\xbe", b"\xed\xa0\x80")}, "not readable", None),
        ({"attributedBody": archived("x").replace(b"AttributedString", b"AttributedThings")}, "no attributed", None),
        ({"attributedBody": b"\x04\x0bstreamtyped\x81\xe8\x03\x84\x0d[2000000000!]"}, "no attributed", None),
        ({"attributedBody": b"\x04\x0bstreamtyped\x81\xe8\x03\x84\x81\xff\x7f" + b"{" * 0x7FFF}, "not readable", None),
        ({"date": "yesterday"}, "date must be a number, got str", "hi"),
        ({"date": b"\0"}, "date must be a number, got bytes", "hi"),
        ({"date": 1e300}, "date must be a number, got float", "hi"),
        ({"handle_id": "me"}, "handle_id must be a number, got str", "hi"),
        ({"is_from_me": "yes"}, "is_from_me must be a number, got str", "hi"),
        ({"item_type": b""}, "item_type must be a number, got bytes", "hi"),
        ({"associated_message_type": "2000x"}, "associated_message_type must be a number, got str", "hi"),
    ],
)
def test_wrong_values_are_bad_lines(
    db: Callable[..., ChatDb], columns: dict[str, Any], reason: str, quote: str | None
) -> None:
    """The columns have no types here, so that SQLite converts nothing. The line is the row's number."""
    columns = {"text": None if "attributedBody" in columns else "hi", "attributedBody": None} | columns
    with db("big_sur", message="ROWID INTEGER PRIMARY KEY, guid, " + _untyped()) as made:
        chat = made.chat(made.handle(NORA))
        made.message(chat, "good", date=T)
        made.message(chat, **{"date": T + 1} | columns)
    good, bad = sorted(only(made.path), key=lambda item: isinstance(item, Bad))
    assert isinstance(good, RawMessage)
    assert isinstance(bad, Bad)
    assert (good.text, bad.file, bad.line) == ("good", str(made.path), 2)
    assert reason in bad.reason
    assert bad.text == quote or quote is None
    assert len(bad.text) <= 200


def _untyped() -> str:
    return ", ".join(c.split()[0] for c in SCHEMAS["ventura"].split(",") if c.split()[0] not in ("ROWID", "guid"))


def test_text_that_is_not_utf8_is_a_bad_line(db: Callable[..., ChatDb]) -> None:
    with db("big_sur") as made:
        chat = made.chat(made.handle(NORA))
        for data in (b"half \xed\xa0\x80", b"latin \xe9", b"x" * 500 + b"\xff"):
            made.message(chat, "t", date=T)
            made.sql.execute("UPDATE message SET text = CAST(? AS TEXT) WHERE ROWID = ?", (data, made.messages))
        made.sql.execute("INSERT INTO handle (id, service) VALUES (CAST(? AS TEXT), 'SMS')", (b"\xff",))
        made.sql.execute("INSERT INTO handle (id, service) VALUES (?, 'SMS')", (b"\0\1",))
        made.message(chat, "nobody known", date=T + 1, handle_id=2)
        made.message(chat, "nor here", date=T + 2, handle_id=3)
    *bad, first, second = only(made.path)
    assert all(isinstance(b, Bad) and "not valid Unicode" in b.reason for b in bad)
    assert [b.text for b in bad] == ["half \ufffd\ufffd\ufffd", "latin \ufffd", "x" * 200]
    assert first == RawMessage("nobody known", USER, time=T + EPOCH + 1, id="G-4")
    assert second == RawMessage("nor here", USER, time=T + EPOCH + 2, id="G-5")


@settings(COMMON, max_examples=20)
@given(bodies=st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=20), cut=st.integers(0, 300))
def test_any_archive_is_words_or_a_bad_line(tmp_path: Path, bodies: list[bytes], cut: int) -> None:
    """Random bytes, as they are and written over a true archive."""
    path, true = tmp_path / "chat.db", archived("some words")
    path.unlink(missing_ok=True)
    with ChatDb(path) as db:
        chat = db.chat(db.handle(NORA))
        for body in bodies:
            db.message(chat, None, attributedBody=body)
            db.message(chat, None, attributedBody=true[:cut] + body + true[cut + len(body) :])
    found = only(path)
    assert len(found) == 2 * len(bodies)
    for item in found:
        item.text.encode()


def _consume(path: Path) -> int | None:
    """Messages read, or None for a PersonaError; anything else is a failure."""
    try:
        imessage.matches(Head.of(path))
        return sum(map(len, read(path, groups=True).values()))
    except PersonaError:
        return None


@COMMON
@given(st.binary(max_size=5000))
@example(b"")
@example(b"SQLite format 3\0")
@example(b"SQLite format 3\0" + b"\xff" * 4080)
def test_any_file_is_an_error_at_most(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "chat.db"
    path.write_bytes(data)
    assert not _consume(path)


@settings(COMMON, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=30)), min_size=1, max_size=4))
def test_damaged_database_is_an_error_or_bad_lines(nora: Path, damage: list[tuple[int, bytes]]) -> None:
    whole = nora.read_bytes()
    data = bytearray(whole)
    for at, new in damage:
        at %= len(data)
        data[at : at + len(new)] = new
    nora.write_bytes(data)
    _consume(nora)
    nora.write_bytes(whole)


def test_truncated_database_is_an_error(nora: Path) -> None:
    """Or nothing was lost: its last pages are empty tables."""
    whole = nora.read_bytes()
    found = []
    for size in range(0, len(whole), 509):
        nora.write_bytes(whole[:size])
        found.append(_consume(nora))
    cut = found.index(6)
    assert cut > 20
    assert (set(found[:cut]), set(found[cut:])) == ({None}, {6})
    nora.write_bytes(whole[:5000])
    with pytest.raises(PersonaError, match=r"it is damaged .*malformed") as caught:
        read(nora)
    assert caught.value.hint == "copy chat.db and, if there is one, chat.db-wal anew, while Messages is closed"


def test_other_databases_are_not_taken_for_messages(tmp_path: Path, nora: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as sql:
        sql.execute("CREATE TABLE message (text)")
    (tmp_path / "notes.txt").write_text("SQLite format 3 is a format")
    (tmp_path / "empty.db").touch()
    assert not any(imessage.matches(Head.of(tmp_path / n)) for n in ("other.db", "notes.txt", "empty.db"))
    assert not imessage.matches(Head.of(tmp_path))
    with pytest.raises(PersonaError, match=r"is no database of Messages: it has no table chat, chat_handle_join"):
        read(other)
    with closing(sqlite3.connect(nora)) as sql:
        sql.execute("ALTER TABLE message DROP COLUMN date")
    with pytest.raises(PersonaError, match="is no database of Messages: messages have no date"):
        read(nora)


def test_view_in_place_of_a_table_is_never_run(nora: Path) -> None:
    """Else a file could keep the reader busy for ever."""
    with closing(sqlite3.connect(nora, isolation_level=None)) as sql:
        sql.execute("DROP TABLE message")
        sql.execute("CREATE VIEW message AS WITH n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT x AS ROWID FROM n")
    assert not imessage.matches(Head.of(nora))
    with pytest.raises(PersonaError, match="it has no table message"):
        read(nora)


def test_locked_database_is_waited_for_and_then_an_error(nora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imessage, "_PATIENCE_S", 0.05)
    head, began = Head.of(nora), time.monotonic()
    with closing(sqlite3.connect(nora, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert imessage.matches(head)  # it is called chat.db
        with pytest.raises(PersonaError, match="another program holds it locked") as caught:
            read(nora)
        assert caught.value.hint == (
            "copy chat.db and, if there is one, chat.db-wal to another folder, and read the copy"
        )
        assert 0.1 < time.monotonic() - began < 3
        other.execute("COMMIT")
    assert len(only(nora)) == 6


def test_newest_messages_are_read_from_the_wal(nora: Path) -> None:
    """Messages is running: most of what is new is not in chat.db itself."""
    with closing(sqlite3.connect(nora, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("UPDATE message SET text = 'new ' || ROWID")
        assert texts(only(nora)) == [f"new {n}" for n in range(1, 7)]
        other.execute("UPDATE message SET text = 'newer'")


def test_nothing_is_written(nora: Path) -> None:
    """Not even the files that SQLite makes beside a database in WAL mode."""
    with closing(sqlite3.connect(nora, isolation_level=None)) as sql:
        sql.execute("PRAGMA journal_mode = WAL")
    before = nora.read_bytes()
    assert before[18:20] == b"\2\2"
    assert imessage.matches(Head.of(nora))
    assert len(only(nora)) == 6
    assert (nora.read_bytes(), list(nora.parent.iterdir())) == (before, [nora])


def test_any_name_will_do(nora: Path) -> None:
    path = nora.rename(nora.with_name("a b?mode=rwc#%41&é.db"))
    assert imessage.matches(Head.of(path))
    assert len(only(path)) == 6


def _refuse(*_: object, **__: object) -> Any:
    raise PermissionError(1, "Operation not permitted")


FULL_DISK_ACCESS = r"System Settings > Privacy & Security > Full Disk Access"


def test_database_that_macos_guards_says_where_to_give_access(nora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", _refuse)
    for look in (Head.of, read):
        with pytest.raises(PersonaError, match=r"cannot read .*chat\.db: Operation not permitted") as caught:
            look(nora)
        assert FULL_DISK_ACCESS in (caught.value.hint or "")
    with pytest.raises(PersonaError) as caught:
        Head.of(nora.with_name("chats.jsonl"))
    assert caught.value.hint is None


def test_folder_that_macos_guards_says_where_to_give_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "Library" / "Messages"
    folder.mkdir(parents=True)
    monkeypatch.setattr(Path, "iterdir", _refuse)
    with pytest.raises(PersonaError, match=r"cannot read .*Library/Messages: Operation not permitted") as caught:
        Head.of(folder)
    assert FULL_DISK_ACCESS in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("folder", "code", "says"),
    [
        ("Library/Messages", sqlite3.SQLITE_CANTOPEN, FULL_DISK_ACCESS),
        ("Library/Messages", sqlite3.SQLITE_AUTH, FULL_DISK_ACCESS),
        ("copies", sqlite3.SQLITE_AUTH, FULL_DISK_ACCESS),
        ("copies", sqlite3.SQLITE_CANTOPEN, "a folder that you can write to"),
        ("copies", sqlite3.SQLITE_READONLY_DIRECTORY, "a folder that you can write to"),
        ("copies", sqlite3.SQLITE_IOERR_READ, None),
    ],
)
def test_what_sqlite_may_not_open_has_a_hint(
    nora: Path, monkeypatch: pytest.MonkeyPatch, folder: str, code: int, says: str | None
) -> None:
    place = nora.parent / folder
    place.mkdir(parents=True)
    path = nora.rename(place / "chat.db")

    def connect(*_: object, **__: object) -> Any:
        error = sqlite3.OperationalError("the reason")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(PersonaError, match=r"chat\.db: the reason") as caught:
        read(path)
    assert (caught.value.hint is None) if says is None else (says in (caught.value.hint or ""))


def test_library_that_is_missing_is_named(db: Callable[..., ChatDb], monkeypatch: pytest.MonkeyPatch) -> None:
    with db() as made:
        made.message(made.chat(made.handle(NORA)), "long " * 40)
    monkeypatch.setitem(sys.modules, "typedstream", None)
    with pytest.raises(PersonaError, match="needs pytypedstream") as caught:
        read(made.path)
    assert caught.value.hint == "pip install 'mlx-persona[data]'"


def test_database_without_archives_needs_no_library(db: Callable[..., ChatDb], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typedstream", None)
    with db("sierra", message=SIERRA.replace("attributedBody BLOB,", "")) as made:
        made.message(made.chat(made.handle(NORA)), "hi")
    assert texts(only(made.path)) == ["hi"]


def test_one_message_is_held_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with ChatDb(path) as db:
        chat = db.chat(db.handle(NORA))
        for n in range(300):
            db.message(chat, "x" * 100_000, date=T + n)
    tracemalloc.start()
    assert sum(len(m.text) for item in imessage.read(path, ReadOptions()) for m in item.messages) == 30_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_line_of_a_megabyte(db: Callable[..., ChatDb]) -> None:
    with db() as made:
        chat = made.chat(made.handle(NORA))
        made.message(chat, "y" * (1 << 20), date=T)
        made.message(chat, "", attributedBody=b"z" * (1 << 20), date=T + 1)
    good, bad = only(made.path)
    assert (good.text, bad.text) == ("y" * (1 << 20), "z" * 200)


def test_what_marks_the_words_may_be_anything(db: Callable[..., ChatDb]) -> None:
    body = archived("words").partition(b"words")
    with db() as made:
        made.message(made.chat(made.handle(NORA)), "", attributedBody=body[0] + body[1] + b"\xff" * 9)
    assert texts(only(made.path)) == ["words"]
