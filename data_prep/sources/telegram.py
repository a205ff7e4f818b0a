"""Telegram Desktop's `result.json`: one chat, or a whole account.

One chat is ``{"name", "type", "id", "messages": [...]}``, oldest message first. An account is an object with
``"chats": {"about", "list": [chat, ...]}`` and ``"left_chats"`` alike, among contacts, sessions and more. Its
files lie beside it, in folders such as ``photos``; a message's text is a string, or an array of strings and
``{"type", "text"}`` where some of it is bold, a link and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from data_prep.sources.base import (
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
    plain_text,
)
from data_prep.sources.head import Head
from data_prep.sources.jsonfile import parsed
from data_prep.sources.jsonstream import JsonStream
from data_prep.sources.tree import Tree, open_tree
from mlx_persona.errors import PersonaError

name = "telegram"
by_sender = True
private = True

_FILE = "result.json"
_LISTS = ("chats", "left_chats")
# What Telegram itself puts beside its file.
_BESIDE = re.compile(
    "(chats|contacts|css|files|images|js|lists|photos|profile_pictures|round_video_messages|stickers|stories"
    r"|video_files|voice_messages)/.*|[^/]+\.html|result\.json"
)
# An inline bot's words are no more the sender's own than a forwarded message's.
_NOT_OWN = ("forwarded_from", "forwarded_from_id", "via_bot")
_TYPES = ("message", "service", "unsupported")
_CONTROL = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_CUT = (b"\\", b"\\x")
_MOST_DIGITS = 12


def matches(head: Head) -> bool:
    """A file that begins as Telegram's does, a folder with it and with nothing foreign, or any zip with it."""
    if head.tree is None:
        return _is_result(head)
    with suppress(PersonaError):
        return any(_is_result(head.member(found)) for found in _results(head.tree))
    return False


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Every chat, also the saved messages, channels, and chats with bots.

    Raises:
        PersonaError: no JSON, or a folder or zip without a ``result.json``.
    """
    tree = open_tree(path)
    if tree is None:
        tree, found = Tree(path.parent, (path.name,)), [path.name]
    else:
        found = _results(tree)
    if not found:
        raise PersonaError(f"{path} has no {_FILE}", "in Telegram Desktop, choose JSON as the format of the export")
    for member in found:
        with tree.open(member) as file:
            yield from _Export(cast(BinaryIO, _Mended(file)), tree.label(member)).items()


def _results(tree: Tree) -> list[str]:
    """Every ``result.json`` of a zip, or that of a folder. A folder with more in it is left to be searched."""
    if not tree.path.is_dir():
        return [n for n in tree.names if n.rpartition("/")[2] == _FILE]
    return [_FILE] if _FILE in tree.names and all(map(_BESIDE.fullmatch, tree.names)) else []


def _is_result(head: Head) -> bool:
    seen = set()
    with suppress(PersonaError):  # the beginning may end anywhere
        stream = head.stream()
        for key in stream.members():
            seen.add(key)
            if key in _LISTS and stream.peek() == "{":
                return _lists_chats(stream)
            if key == "messages" and stream.peek() == "[":
                for _ in stream.elements():
                    first = stream.value()
                    return isinstance(first, dict) and "id" in first and first.get("type") in _TYPES
            else:
                stream.value()
    # A chat without messages; or so many contacts that the chats come later.
    return {"type", "id", "messages"} <= seen or {"about", "personal_information"} <= seen


def _lists_chats(stream: JsonStream) -> bool:
    for part in stream.members():
        if part == "list":
            return stream.peek() == "["
        stream.value()
    return False


class _Export:
    """A walk through one file; only the message at hand is held."""

    def __init__(self, file: BinaryIO, label: str) -> None:
        self._stream, self._label, self._chats = JsonStream(file, label), label, 0

    def items(self) -> Iterator[Item]:
        yield from self._object(_LISTS)
        self._stream.end()

    def _object(self, lists: tuple[str, ...] = ()) -> Iterator[Item]:
        """A chat, or an account, whose lists of chats are under these keys."""
        known: dict[str, object] = {}
        for key in self._stream.members():
            if key in lists:
                yield from self._listed(key)
            elif key != "messages":
                value = self._stream.value()
                if key in ("name", "type", "id"):
                    known[key] = value
            elif self._stream.peek() == "[":
                self._chats += 1
                messages = parsed(self._stream, self._label, partial(_message, set()))
                yield RawChat(_chat_id(known, self._chats), messages)
                for _ in messages:  # what the reader left, so that the next chat can be found
                    pass
            else:
                yield self._bad('"messages" must be a list')

    def _listed(self, key: str) -> Iterator[Item]:
        if self._stream.peek() != "{":
            yield self._bad(f'"{key}" must be an object')
            return
        for part in self._stream.members():
            if part != "list":
                self._stream.value()
            elif self._stream.peek() != "[":
                yield self._bad(f'"list" of "{key}" must be a list')
            else:
                for _ in self._stream.elements():
                    if self._stream.peek() == "{":
                        yield from self._object()
                    else:
                        yield self._bad("a chat must be an object")

    def _bad(self, reason: str) -> Bad:
        bad = Bad(self._label, self._stream.line, reason, self._stream.quote(QUOTE_CHARS))
        self._stream.value()
        return bad


def _chat_id(known: dict[str, object], number: int) -> str:
    """Name and number, as far as they come before the messages; saved messages have a type and no name."""
    shown = known.get("name") or known.get("type")
    parts = [shown] if isinstance(shown, str) else []
    if isinstance(known.get("id"), str | int):
        parts.append(f"[{known['id']}]")
    return " ".join(parts or ["chat", str(number)]).encode("utf-8", "replace").decode()


def _message(topics: set[str], value: object) -> RawMessage:
    """One element of ``messages``; ``topics`` are the ids, seen so far, that begin a group's topics."""
    if not isinstance(value, dict):
        raise UnusableError(f"a message must be an object, got {type(value).__name__}")
    sort, number = value.get("type"), _number(value.get("id"))
    if sort == "unsupported":  # newer than the program that exported it; nothing is said but its id
        return RawMessage("", id=number, kind=MEDIA)
    if sort == "service":
        if value.get("action") == "topic_created" and number is not None:
            topics.add(number)
        text = _text(value) if "text" in value else ""
        return RawMessage(text, sender=_sender(value, "actor"), time=_time(value), id=number, kind=SERVICE)
    if sort != "message":
        raise UnusableError('a message must have the type "message", "service" or "unsupported"')
    text = _text(value)
    kind = MEDIA if not text else FORWARDED if any(key in value for key in _NOT_OWN) else None
    # Everything in a topic that quotes nothing is a reply to the topic; what is quoted may be of another chat.
    quoted = None if "reply_to_peer_id" in value else _number(value.get("reply_to_message_id"))
    answers = None if quoted in topics else quoted
    return RawMessage(text, sender=_sender(value, "from"), time=_time(value), id=number, answers=answers, kind=kind)


def _text(value: dict[str, Any]) -> str:
    found = value["text"] if "text" in value else value.get("text_entities")
    if isinstance(found, list):
        found = "".join(_part(part) for part in found)
    return plain_text(found, "text")


def _part(part: object) -> str:
    found = part.get("text") if isinstance(part, dict) else part
    if not isinstance(found, str):
        raise UnusableError('a part of "text" must be text')
    return found


def _sender(value: dict[str, Any], key: str) -> str | None:
    """A name, or the id of an account that is deleted; a number in the exports of 2019 and before."""
    found = value.get(key) or value.get(f"{key}_id")
    return _number(found) or (plain_text(found, key) if found is not None else None)


def _number(value: object) -> str | None:
    return str(value) if type(value) is int else None


def _time(value: dict[str, Any]) -> float | None:
    seconds = value.get("date_unixtime")
    if isinstance(seconds, str) and seconds.isdecimal() and len(seconds) <= _MOST_DIGITS:
        return float(seconds)
    # Exports of 2021 and before have only the local time.
    return iso_time(value["date"], "date") if "date" in value else None


class _Mended:
    """Telegram's file as JSON: it writes control characters as ``\\x1F``, which JSON spells ``\\u001F``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._rest = file, b""

    def read(self, size: int) -> bytes:
        """Some bytes, not exactly so many; none at the end."""
        while more := self._file.read(size):
            data = self._rest + more
            cut = _cut(data)
            data, self._rest = data[:cut], data[cut:]
            if b"\\x" in data:
                data = _CONTROL.sub(_mend, data)
            if data:
                return data
        data, self._rest = self._rest, b""
        return data


def _mend(found: re.Match[bytes]) -> bytes:
    return b"\\u00" + found[1][1:] if len(found[1]) == 3 else found[0]


def _cut(data: bytes) -> int:
    """Where an escape begins that the end of the data may have cut, or the end."""
    at = data.rfind(b"\\", -3)
    if at < 0 or not (data[at:] in _CUT or data[at:-1] == b"\\x"):
        return len(data)
    before = data[: at + 1]
    return at if (len(before) - len(before.rstrip(b"\\"))) % 2 else len(data)
