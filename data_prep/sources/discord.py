"""Discord: what the tool DiscordChatExporter writes as JSON, and the data package that Discord itself sends.

The tool writes one object per channel, ``{"guild", "channel", ..., "messages": [...]}``, oldest message first
unless it was told otherwise. The data package is a zip, or a folder, with
``messages/c<channel id>/messages.json`` (``.csv`` until 2023), newest message first in most; it holds only what
its owner wrote. Discord translates the names of the package's folders, and not those of its files.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from data_prep.sources.base import (
    ASSISTANT,
    FORWARDED,
    MEDIA,
    QUOTE_CHARS,
    SERVICE,
    Bad,
    Item,
    RawChat,
    RawMessage,
    ReadOptions,
    UnusableError,
    iso_time,
    oldest_first,
    plain_text,
)
from data_prep.sources.head import Head
from data_prep.sources.jsonfile import parsed
from data_prep.sources.jsonstream import JsonStream
from data_prep.sources.tree import Tree, open_tree
from mlx_persona.errors import PersonaError

name = "discord"
by_sender = True
private = True

_EXPORTER = re.compile(r'\{\s*"guild"\s*:\s*\{')
_MESSAGES = re.compile(r'"messages"\s*:\s*\[')
_CHANNEL = re.compile(r"(?P<top>(?:[^/]+/)??)(?P<folder>(?:[^/]+/)?)c?(?P<id>\d{15,20})/messages\.(?:json|csv)")
# 20 and 23 are an app's answers to commands; the tool writes the numbers of types for which it has no name.
_WRITTEN = frozenset({"Default", "Reply", "20", "23"})
_CSV_COLUMNS = {"ID", "Timestamp", "Contents", "Attachments"}
# Messages at the beginning that say whether the oldest come first.
_LOOK = 100


def matches(head: Head) -> bool:
    """The beginning of the tool's object, or a tree with a file of messages in a folder that is a channel's id."""
    if head.tree is not None:
        return bool(head.tree.members(_CHANNEL))
    return bool(_EXPORTER.match(head.text) and _MESSAGES.search(head.text))


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """A chat per channel.

    Raises:
        PersonaError: neither the tool's JSON nor a package with messages.
    """
    tree = open_tree(path)
    return _exported(path) if tree is None else _package(tree)


def _exported(path: Path) -> Iterator[RawChat]:
    guild: object = None
    channel: object = None
    found = False
    with path.open("rb") as file:
        stream = JsonStream(file, str(path))
        for key in stream.members():
            if key == "messages":
                found = True
                messages = parsed(stream, str(path), _exported_message)
                yield RawChat(_chat_id(guild, channel) or path.name, _turned(messages))
            elif key == "guild":
                guild = stream.value()
            elif key == "channel":
                channel = stream.value()
            else:
                stream.value()
        stream.end()
    if not found:
        raise PersonaError(f'{path} must have "messages", a list, as DiscordChatExporter writes it')


def _chat_id(guild: object, channel: object) -> str:
    """Names, and the channel's number since names come twice; empty where there are none."""
    server, room = (value if isinstance(value, dict) else {} for value in (guild, channel))
    named = " / ".join(filter(None, (_usable(server.get("name")), _usable(room.get("name")))))
    number = _usable(room.get("id"))
    return f"{named} [{number}]".lstrip() if number else named


def _usable(value: object) -> str:
    try:
        return plain_text(value, "name")
    except UnusableError:
        return ""


def _turned(found: Iterator[RawMessage | Bad]) -> Iterator[RawMessage | Bad]:
    """As they come, or by time where the newest come first: such a channel is held."""
    begin = list(islice(found, _LOOK))
    times = [m.time for m in begin if isinstance(m, RawMessage) and m.time is not None]
    if times and times[-1] < times[0]:
        # Turned round before they are sorted: those of one time come newest first as well.
        begin = oldest_first(reversed([*begin, *found]))
    yield from begin
    yield from found


def _exported_message(value: object) -> RawMessage:
    if not isinstance(value, dict):
        raise UnusableError(f"a message must be an object, got {type(value).__name__}")
    kind = plain_text(value.get("type"), "type")
    text = plain_text(value.get("content"), "content")
    author, reference, forwarded = value.get("author"), value.get("reference"), value.get("forwardedMessage")
    if not isinstance(author, dict):
        raise UnusableError(f"author must be an object, got {type(author).__name__}")
    refers = reference if isinstance(reference, dict) else {}
    answers = refers.get("messageId") if kind == "Reply" else None
    what = None
    if kind not in _WRITTEN:
        what = SERVICE
    elif isinstance(forwarded, dict) or refers.get("type") == "Forward":
        what = FORWARDED
        if isinstance(forwarded, dict) and not text:
            text = plain_text(forwarded.get("content"), "content")
    elif not text.strip() and (value.get("attachments") or value.get("stickers") or value.get("embeds")):
        what = MEDIA
    return RawMessage(
        text,
        sender=plain_text(author.get("name"), "author.name"),
        time=iso_time(value.get("timestamp"), "timestamp"),
        id=plain_text(value.get("id"), "id"),
        answers=None if answers is None else plain_text(answers, "messageId"),
        kind=what,
    )


def _package(tree: Tree) -> Iterator[RawChat]:
    channels = tree.members(_CHANNEL)
    if not channels:
        raise PersonaError(f"{tree.path} must have messages/c<channel id>/messages.json, as Discord's data package has")
    top, folder = channels[0]["top"], channels[0]["folder"]
    names = _strings(tree, f"{top}{folder}index.json")
    users = (n for n in tree.names if re.fullmatch(r"[^/]+/user\.json", n[len(top) :]))
    owner = _strings(tree, next(users, "")).get("username")
    for channel in channels:
        number = channel["id"]
        title = f"{names[number]} [{number}]" if number in names else f"[{number}]"
        yield RawChat(title, _own_messages(tree, channel.string, owner))


def _strings(tree: Tree, name: str) -> dict[str, str]:
    """The members of a file's object that are text; none without the file. A deleted channel's name is null."""
    if name not in tree.names:
        return {}
    with tree.open(name) as file:
        stream = JsonStream(file, tree.label(name))
        found = {key: text for key in stream.members() if (text := _usable(stream.value()))}
        stream.end()
    return found


def _own_messages(tree: Tree, name: str, owner: str | None) -> Iterator[RawMessage | Bad]:
    label = tree.label(name)
    with tree.open(name) as file:
        if name.endswith(".csv"):
            held = oldest_first(_turned(_csv_messages(file, label, owner)))
        else:
            stream = JsonStream(file, label)
            held = oldest_first(_turned(parsed(stream, label, partial(_own_message, owner=owner))))
            stream.end()
    yield from held


def _csv_messages(file: BinaryIO, label: str, owner: str | None) -> Iterator[RawMessage | Bad]:
    # What is no UTF-8 becomes a surrogate, and so one bad line and not the end.
    with io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.DictReader(lines)
        try:
            columns = rows.fieldnames
        except csv.Error as error:
            raise PersonaError(f"{label}:1: not CSV ({error})") from error
        if columns is not None and not _CSV_COLUMNS.issubset(columns):
            raise PersonaError(f"{label}:1: the columns must be {', '.join(sorted(_CSV_COLUMNS))}")
        row: dict[str, str] = {}
        while True:
            try:
                row = next(rows)
                yield _own_message(row, owner)
            except StopIteration:
                return
            except (UnusableError, csv.Error) as error:
                held = row.values() if isinstance(error, UnusableError) else ()
                quote = ",".join(str(value or "") for value in held)[:QUOTE_CHARS].encode(errors="replace").decode()
                yield Bad(label, rows.reader.line_num, str(error), quote)


def _own_message(value: object, owner: str | None) -> RawMessage:
    if not isinstance(value, dict):
        raise UnusableError(f"a message must be an object, got {type(value).__name__}")
    number = value.get("ID")
    text = plain_text(value.get("Contents"), "Contents")
    return RawMessage(
        text,
        role=ASSISTANT,
        sender=owner,
        time=iso_time(value.get("Timestamp"), "Timestamp"),
        id=str(number) if isinstance(number, int) else plain_text(number, "ID"),
        kind=MEDIA if value.get("Attachments") and not text.strip() else None,
    )
