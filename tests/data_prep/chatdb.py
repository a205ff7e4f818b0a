"""Databases of Messages as three versions of macOS make them, and archived attributed strings."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from data_prep.sources import imessage
from data_prep.sources.base import Bad, RawChat, RawMessage, ReadOptions

EPOCH = 978307200
NORA, OTTO, PIA = "+15550100111", "otto@example.org", "+4915550100333"
T = 600_000_000  # seconds since 2001: January 2020
Chats = dict[str, list[RawMessage | Bad]]

# Columns in their order; each version of the system appends some.
SIERRA = """
ROWID INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT UNIQUE NOT NULL, text TEXT, replace INTEGER DEFAULT 0,
service_center TEXT, handle_id INTEGER DEFAULT 0, subject TEXT, country TEXT, attributedBody BLOB,
version INTEGER DEFAULT 0, type INTEGER DEFAULT 0, service TEXT, account TEXT, account_guid TEXT,
error INTEGER DEFAULT 0, date INTEGER, date_read INTEGER, date_delivered INTEGER, is_delivered INTEGER DEFAULT 0,
is_finished INTEGER DEFAULT 0, is_emote INTEGER DEFAULT 0, is_from_me INTEGER DEFAULT 0, is_empty INTEGER DEFAULT 0,
is_delayed INTEGER DEFAULT 0, is_auto_reply INTEGER DEFAULT 0, is_prepared INTEGER DEFAULT 0,
is_read INTEGER DEFAULT 0, is_system_message INTEGER DEFAULT 0, is_sent INTEGER DEFAULT 0,
has_dd_results INTEGER DEFAULT 0, is_service_message INTEGER DEFAULT 0, is_forward INTEGER DEFAULT 0,
was_downgraded INTEGER DEFAULT 0, is_archive INTEGER DEFAULT 0, cache_has_attachments INTEGER DEFAULT 0,
cache_roomnames TEXT, was_data_detected INTEGER DEFAULT 0, was_deduplicated INTEGER DEFAULT 0,
is_audio_message INTEGER DEFAULT 0, is_played INTEGER DEFAULT 0, date_played INTEGER, item_type INTEGER DEFAULT 0,
other_handle INTEGER DEFAULT 0, group_title TEXT, group_action_type INTEGER DEFAULT 0,
share_status INTEGER DEFAULT 0, share_direction INTEGER DEFAULT 0, is_expirable INTEGER DEFAULT 0,
expire_state INTEGER DEFAULT 0, message_action_type INTEGER DEFAULT 0, message_source INTEGER DEFAULT 0,
associated_message_guid TEXT DEFAULT NULL, balloon_bundle_id TEXT DEFAULT NULL, payload_data BLOB,
associated_message_type INTEGER DEFAULT 0, expressive_send_style_id TEXT DEFAULT NULL"""
BIG_SUR = (
    SIERRA
    + """,
associated_message_range_location INTEGER DEFAULT 0, associated_message_range_length INTEGER DEFAULT 0,
time_expressive_send_played INTEGER DEFAULT 0, message_summary_info BLOB DEFAULT NULL, ck_sync_state INTEGER DEFAULT 0,
ck_record_id TEXT DEFAULT NULL, destination_caller_id TEXT DEFAULT NULL, is_corrupt INTEGER DEFAULT 0,
reply_to_guid TEXT DEFAULT NULL, sort_id INTEGER DEFAULT 0, is_spam INTEGER DEFAULT 0,
has_unseen_mention INTEGER DEFAULT 0, thread_originator_guid TEXT DEFAULT NULL,
thread_originator_part TEXT DEFAULT NULL"""
)
VENTURA = (
    BIG_SUR
    + """,
syndication_ranges TEXT DEFAULT NULL, was_delivered_quietly INTEGER DEFAULT 0, did_notify_recipient INTEGER DEFAULT 0,
date_retracted INTEGER DEFAULT 0, date_edited INTEGER DEFAULT 0, was_detonated INTEGER DEFAULT 0, part_count INTEGER"""
)
SCHEMAS = {"sierra": SIERRA, "big_sur": BIG_SUR, "ventura": VENTURA}

REST = """
CREATE TABLE chat (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT UNIQUE NOT NULL, style INTEGER, state INTEGER,
  account_id TEXT, properties BLOB, chat_identifier TEXT, service_name TEXT, room_name TEXT, account_login TEXT,
  is_archived INTEGER DEFAULT 0, last_addressed_handle TEXT, display_name TEXT);
CREATE TABLE handle (ROWID INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, id TEXT NOT NULL, country TEXT,
  service TEXT NOT NULL, uncanonicalized_id TEXT, UNIQUE (id, service));
CREATE TABLE chat_handle_join (chat_id INTEGER REFERENCES chat (ROWID) ON DELETE CASCADE,
  handle_id INTEGER REFERENCES handle (ROWID) ON DELETE CASCADE, UNIQUE(chat_id, handle_id));
CREATE TABLE attachment (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT UNIQUE NOT NULL, filename TEXT);
CREATE TABLE message_attachment_join (message_id INTEGER, attachment_id INTEGER, UNIQUE(message_id, attachment_id));
"""
JOIN = """(chat_id INTEGER REFERENCES chat (ROWID) ON DELETE CASCADE,
  message_id INTEGER REFERENCES message (ROWID) ON DELETE CASCADE, {} PRIMARY KEY (chat_id, message_id));
"""


class ChatDb:
    """A database to fill; row numbers are given from 1 on."""

    def __init__(self, path: Path, version: str = "ventura", message: str | None = None) -> None:
        self.path, self.version = path, version
        self.sql = sqlite3.connect(path, isolation_level=None)
        self.sql.executescript("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY")
        self.sql.execute(f"CREATE TABLE message ({message or SCHEMAS[version]})")
        self.sql.executescript(REST)
        date = "" if version == "sierra" else "message_date INTEGER DEFAULT 0,"
        self.sql.executescript("CREATE TABLE chat_message_join " + JOIN.format(date))
        if version == "ventura":
            self.sql.executescript("CREATE TABLE chat_recoverable_message_join " + JOIN.format("delete_date INTEGER,"))
        self.sql.execute("BEGIN")
        self.messages = 0

    def __enter__(self) -> ChatDb:
        return self

    def __exit__(self, *_: object) -> None:
        with closing(self.sql):
            self.sql.execute("COMMIT")

    def handle(self, who: Any, service: str = "iMessage") -> int:
        """Somebody's number or address for one service."""
        cursor = self.sql.execute("INSERT INTO handle (id, country, service) VALUES (?, 'us', ?)", (who, service))
        return cursor.lastrowid or 0

    def chat(self, *handles: int, style: int | None = None, identifier: str = "", service: str = "iMessage") -> int:
        """A chat with these people; its style is that of a group if they are several."""
        style = style or (43 if len(handles) > 1 else 45)
        cursor = self.sql.execute(
            "INSERT INTO chat (guid, style, chat_identifier, service_name) "
            "SELECT printf('%s;-;%s;%d', ?3, ?2, count(*)), ?1, ?2, ?3 FROM chat",
            (style, identifier, service),
        )
        chat = cursor.lastrowid or 0
        self.sql.executemany("INSERT INTO chat_handle_join VALUES (?, ?)", [(chat, h) for h in handles])
        return chat

    def message(
        self, chat: int | None, text: object, *, mine: object = 0, date: object = None, **columns: object
    ) -> int:
        """One message; ventura puts its words into attributedBody, sierra counts in seconds."""
        self.messages += 1
        row = {"guid": f"G-{self.messages}", "text": text, "is_from_me": mine, "date": date, **columns}
        if self.version == "ventura" and isinstance(text, str) and text and "attributedBody" not in columns:
            row |= {"text": None, "attributedBody": archived(text, mutable=self.messages % 2 == 0)}
        if isinstance(date, int) and date and self.version != "sierra":
            row["date"] = date * 10**9
        marks = ", ".join("?" * len(row))
        cursor = self.sql.execute(f"INSERT INTO message ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
        number = cursor.lastrowid or 0
        if chat is not None:
            self.join(chat, number)
        return number

    def join(self, chat: object, message: object, table: str = "chat_message_join") -> None:
        """Put a message into a chat."""
        self.sql.execute(f"INSERT INTO {table} (chat_id, message_id) VALUES (?, ?)", (chat, message))


class _Archive:
    """Writes a typedstream. Strings and objects are numbered, and written once; later ones name the number."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x04\x0bstreamtyped\x81\xe8\x03")
        self._strings: list[bytes] = []
        self._objects: list[object] = []

    def number(self, value: int) -> None:
        if value < 0x80:
            self.out.append(value)
        else:
            self.out += (
                b"\x81" + value.to_bytes(2, "little") if value < 1 << 16 else b"\x82" + value.to_bytes(4, "little")
            )

    def string(self, value: bytes) -> None:
        """One that is shared: a type or a class's name."""
        if value in self._strings:
            self.out.append(0x92 + self._strings.index(value))
        else:
            self._strings.append(value)
            self.out.append(0x84)
            self.data(value)

    def data(self, value: bytes) -> None:
        self.number(len(value))
        self.out += value

    def begin(self, *classes: tuple[bytes, int]) -> None:
        """An object, its class and the classes above that."""
        self.string(b"@")
        self._objects.append(object())
        self.out.append(0x84)
        for one in classes:
            if one in self._objects:
                self.out.append(0x92 + self._objects.index(one))
                return
            self._objects.append(one)
            self.out.append(0x84)
            self.string(one[0])
            self.number(one[1])
        self.out.append(0x85)

    def end(self) -> None:
        self.out.append(0x86)

    def text(self, value: bytes, *classes: tuple[bytes, int]) -> None:
        self.begin(*classes)
        self.string(b"+")
        self.data(value)
        self.end()

    def integer(self, value: int) -> None:
        self.begin((b"NSNumber", 0), (b"NSValue", 0), (b"NSObject", 0))
        self.string(b"*")
        self._objects.append("a C string")
        self.out.append(0x84)
        self.string(b"i")
        self.string(b"i")
        self.number(value)
        self.end()


def archived(text: str, mutable: bool = True) -> bytes:
    """``text`` as Messages archives it: with the attribute that it is the message's first part."""
    base, string = (b"NSObject", 0), (b"NSString", 1)
    archive = _Archive()
    if mutable:
        archive.begin((b"NSMutableAttributedString", 0), (b"NSAttributedString", 0), base)
        archive.text(text.encode(), (b"NSMutableString", 1), string, base)
    else:
        archive.begin((b"NSAttributedString", 0), base)
        archive.text(text.encode(), string, base)
    archive.string(b"iI")
    archive.number(1)
    archive.number(len(text.encode("utf-16-le")) // 2)
    archive.begin((b"NSDictionary", 0), base)
    archive.string(b"i")
    archive.number(1)
    archive.text(b"__kIMMessagePartAttributeName", string, base)
    archive.integer(0)
    archive.end()
    archive.end()
    return bytes(archive.out)


def read(path: Path, *, groups: bool = False) -> Chats:
    """What the importer finds, by chat."""
    found: Chats = {}
    for item in imessage.read(path, ReadOptions(groups=groups)):
        assert isinstance(item, RawChat)
        assert item.id not in found
        found[item.id] = list(item.messages)
    return found


def only(path: Path, *, groups: bool = False) -> list[RawMessage | Bad]:
    """The messages of a database with one chat."""
    (messages,) = read(path, groups=groups).values()
    return messages


def texts(messages: list[RawMessage | Bad]) -> list[str]:
    """What they say; bad lines by their quotes."""
    return [m.text for m in messages]


def small(path: Path) -> Path:
    """A database of six messages with one person."""
    with ChatDb(path) as db:
        chat = db.chat(db.handle(NORA), identifier=NORA)
        for n in range(6):
            db.message(chat, f"message {n}", mine=n % 2, date=T + n, handle_id=1)
    return path
