"""Facebook Messenger and Instagram: the JSON of "Download your information", and Messenger's encrypted chats.

A download has ``.../messages/inbox/<thread>/message_1.json``, ``message_2.json`` and so on, at most 10,000
messages in each, the newest first in ``message_1.json``. Every string in it is UTF-8 that was read as Latin-1:
``\\u00c3\\u00a9`` for é. Messenger's end-to-end encrypted chats are another download, ``<name>_<n>.json`` with one
chat in each, other keys and sound strings. What the apps themselves say in a chat looks like a message of
somebody's: it is known by what the JSON marks, and else by the English sentences.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.sources.base import (
    DELETED,
    MEDIA,
    QUOTE_CHARS,
    REACTION,
    SERVICE,
    Bad,
    Item,
    RawChat,
    RawMessage,
    ReadOptions,
    UnusableError,
    plain_text,
)
from data_prep.sources.head import Head
from data_prep.sources.jsonfile import parsed
from data_prep.sources.jsonstream import JsonStream
from data_prep.sources.tree import Tree, open_tree
from mlx_persona.errors import PersonaError

name = "meta"
by_sender = True
private = True

# `message.json` without a number is of 2018.
_THREAD = re.compile(r"(?P<folder>(?:.*/)?)message(?:_(?P<part>[0-9]{1,9}))?\.json", re.DOTALL)
_ENCRYPTED = re.compile(r"(?P<folder>(?:.*/)?)(?P<chat>[^/]+_[0-9]+)\.json", re.DOTALL)
_LATEST_TIME = 1e15  # milliseconds; a number beyond is no time
_TRIED = 3  # threads whose beginnings are looked at
_FILES = frozenset(["audio", "files", "gifs", "media", "photos", "stickers_used", "videos"])

# Who does something in the apps' own sentences, besides the people of the chat.
_ANYBODY: tuple[str, ...] = ("You ", "A contact ", "A Messenger user ", "Facebook user ", "Instagram user ", "Someone ")
_WHOM = ("you", "each other", "the group")
# The longest sentence of theirs is a poll's; longer texts are not looked at.
_LONGEST = 600
_MOST_PEOPLE = 500  # of a chat, to whom such sentences are put down
_SERVICES = ("Call", "Subscribe", "Unsubscribe")  # types of messages in downloads of 2022 and before
_ALONE = re.compile(
    r"(?:The (?:audio |video |voice |group )?|Audio |Video |Voice |Group )(?:call|chat) ended\.?"
    r"|Missed (?:audio|video|voice) (?:call|chat)(?: .+)?\.?"
    r"|This poll is no longer available\."
    r"|You are now connected on Messenger\.?"
    r"|Say hi to your new Facebook friend, .+"
    r"|You can now (?:message and )?call each other .+"
    r"|Messages and calls are (?:secured|protected) with end-to-end encryption\..*",
    re.DOTALL,
)
_ALONE_BEGIN = ("The ", "Audio ", "Video ", "Voice ", "Group ", "Missed ", "This poll ", "You ", "Say hi ", "Messages ")
_REACTED = re.compile(
    r"(?:[Rr]eacted [^A-Za-z]{1,40} to (?:your|a|the|their|his|her)|[Ll]iked (?:a|your)) message\.?\s*"
)
_SENT = re.compile(
    r"(?:sent|shared) (?:an?|your|their|his|her|\d+) (?:live )?(?:attachment|photo|video|voice message|voice clip"
    r"|audio clip|sticker|GIF|link|location|file|post|story|reel|profile|contact|event)s?\."
)
_ATTACHED = " sent an attachment."
_UNSENT = re.compile(r"(?:unsent|removed) a message\.?")
_HAPPENED = re.compile(
    r"(?:called|waved at|waved hello to) (?P<whom>.+)[.!]"
    r"|missed (?:your|an?) (?:audio |video |voice )?(?:call|chat)(?: (?:from|with) .+)?\."
    r"|(?:started|joined|left|ended) (?:an?|the|your) (?:audio |video |voice |group )?(?:call|chat|video chat)\.?"
    r"|(?:started|stopped) sharing (?:video|location|live location|(?:your|their|his|her) (?:screen|video))\."
    r"|(?:left|joined|created) the group\."
    r"|named the group .+"
    r"|(?:changed|removed) the (?:group (?:name|photo|description)|chat (?:theme|colou?rs?)|theme|emoji)(?: to .+)?\.?"
    r"|(?:set|cleared|changed|removed) (?:the|your|his own|her own|their own|his|her|their) nickname(?: .+)?\.?"
    r"|set the (?:emoji|quick reaction|theme) to .+"
    r"|(?:set|removed) .+ word effect.*"
    r"|added .+ to the (?:group|poll)\."
    r"|removed .+ from the (?:group|poll)\."
    r"|created a (?:poll: .+|(?:poll|plan|event)\.)"
    r"|(?:voted for|changed (?:their|his|her|your) vote|responded|removed (?:their|his|her|your) vote).* the poll\b.*"
    r"|(?:pinned|unpinned) a message\."
    r"|turned (?:on|off) (?:member approval|disappearing messages|vanish mode|message requests?|link sharing)\b.*"
    r"|(?:made .+ (?:a group |an )admin|(?:added|removed) .+ as (?:a |an )?(?:group )?admin)\."
    r"|wasn['’]t notified about this message .+"
    r"|upgraded the security of this chat\."
    r"|made an update\."
    r"|joined Messenger.*",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Thread:
    """A chat's name, its folder (with "/" at its end), and its files, that with the oldest messages first."""

    id: str
    folder: str
    files: tuple[str, ...]


def matches(head: Head) -> bool:
    """A thread's file, a folder with threads and nothing foreign, or any zip with threads."""
    if head.tree is None:
        return _is_thread(head)
    tree, threads = head.tree, _threads(head.tree)
    if tree.path.is_dir() and not _owned(tree, threads):
        return False
    with suppress(PersonaError):
        return any(_is_thread(head.member(thread.files[-1])) for thread in threads[:_TRIED])
    return False


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Every thread as a chat; the messages of one file at a time are in memory.

    Raises:
        PersonaError: no JSON, or a folder or zip without threads.
    """
    tree = open_tree(path)
    if tree is None:
        tree = Tree(path.parent, (path.name,))
        named_by = path.resolve().parent.name if _THREAD.fullmatch(path.name) else path.stem
        threads = [_Thread(named_by, "", (path.name,))]
    else:
        threads = _threads(tree)
    if not threads:
        raise PersonaError(f"{path} has no message_1.json of a chat", "ask Meta for the download as JSON, not HTML")
    for thread in threads:
        yield RawChat(thread.id.encode("utf-8", "replace").decode(), _messages(tree, thread.files))


def _threads(tree: Tree) -> list[_Thread]:
    parts: dict[str, dict[int, str]] = defaultdict(dict)
    for found in filter(None, map(_THREAD.fullmatch, tree.names)):
        parts[found["folder"]][int(found["part"] or 0)] = found[0]
    if not parts:
        encrypted = filter(None, map(_ENCRYPTED.fullmatch, tree.names))
        return [_Thread(found["chat"], found["folder"], (found[0],)) for found in encrypted]
    return [
        # The end of "your_facebook_activity/messages/inbox/anna_1/", or a thread's own folder was named.
        _Thread(
            "/".join(folder.split("/")[-3:-1]) or tree.path.name, folder, tuple(files[n] for n in sorted(files)[::-1])
        )
        for folder, files in parts.items()
    ]


def _owned(tree: Tree, threads: list[_Thread]) -> bool:
    """Whether all files of a folder belong to the threads: others may be chats too, and are left to be searched."""
    files = {file for thread in threads for file in thread.files}
    folders = {thread.folder for thread in threads}

    def own(file: str) -> bool:
        folder = file[: file.rfind("/") + 1]
        above, _, last = folder[:-1].rpartition("/")
        above += "/" if above else ""
        return (
            file in files
            or folder.endswith("messages/")  # what else there is about messages, and no message
            or (last in _FILES and (above in folders or above.endswith("messages/")))
        )

    return all(map(own, tree.names))


def _is_thread(head: Head) -> bool:
    seen = set()
    with suppress(PersonaError):  # the beginning may end anywhere
        stream = head.stream()
        for key in stream.members():
            seen.add(key)
            if key == "messages" and stream.peek() == "[":
                for _ in stream.elements():
                    first = stream.value()
                    return isinstance(first, dict) and (
                        "timestamp_ms" in first or {"senderName", "timestamp"} <= first.keys()
                    )
            else:
                stream.value()
    return {"participants", "messages"} <= seen and not seen.isdisjoint(("thread_path", "threadName"))


def _messages(tree: Tree, files: tuple[str, ...]) -> Iterator[RawMessage | Bad]:
    for file in files:
        with tree.open(file) as opened:
            found = _file(JsonStream(opened, tree.label(file)), tree.label(file))
        times = [m.time for m in found if isinstance(m, RawMessage) and m.time is not None]
        # Nobody documents the order, so that the file's own two ends decide.
        yield from found if times and times[0] < times[-1] else reversed(found)


def _file(stream: JsonStream, label: str) -> list[RawMessage | Bad]:
    """The messages of one file in its order."""
    people = _People()
    found: list[RawMessage | Bad] = []
    for key in stream.members():
        if key == "messages" and stream.peek() != "[":
            found.append(Bad(label, stream.line, '"messages" must be a list', stream.quote(QUOTE_CHARS)))
            stream.value()
        elif key == "messages":
            found += parsed(stream, label, partial(_message, people))
        else:
            value = stream.value()
            if key == "participants" and isinstance(value, list):
                people.join(value)
    stream.end()
    return found


class _People:
    """The people of a chat, and what the apps say about them."""

    def __init__(self) -> None:
        self._repaired: dict[str, str] = {}
        self._names: set[str] = set()
        self._subjects = _ANYBODY
        self._longest = max(map(len, _ANYBODY))

    def join(self, participants: list[Any]) -> None:
        """Make participants known: objects with mended names, or, of encrypted chats, names."""
        for one in participants:
            named = one.get("name") if isinstance(one, dict) else one
            if isinstance(named, str):
                self._add(_repair(named) if isinstance(one, dict) else named)

    def sender(self, value: object, *, repair: bool) -> str | None:
        """A message's sender; deleted accounts may have no name."""
        if value is None:
            return None
        raw = plain_text(value, "sender")
        named = self._repaired.get(raw)
        if named is None:
            named = self._repaired[raw] = _repair(raw) if repair else raw
            self._add(named)
        return named

    def kind(self, text: str) -> str | None:
        """What a text is if nobody wrote it: SERVICE, MEDIA, REACTION or DELETED."""
        if len(text) > _LONGEST:
            return None
        if text.startswith(_ALONE_BEGIN) and _ALONE.fullmatch(text):
            return SERVICE
        if text.startswith(("Reacted ", "Liked ")) and _REACTED.fullmatch(text):
            return REACTION
        if text.startswith(self._subjects):
            space = text.find(" ")
            while 0 < space <= self._longest:
                known = text[:space] in self._names or text[: space + 1] in _ANYBODY
                if known and (kind := self._event(text[space + 1 :])):
                    return kind
                space = text.find(" ", space + 1)
        return None

    def _event(self, done: str) -> str | None:
        for kind, pattern in ((MEDIA, _SENT), (REACTION, _REACTED), (DELETED, _UNSENT)):
            if pattern.fullmatch(done):
                return kind
        found = _HAPPENED.fullmatch(done)
        if found is None:
            return None
        # "You called me." may be a person's own words.
        whom = found["whom"]
        return SERVICE if whom is None or whom in self._names or whom in _WHOM else None

    def _add(self, named: str) -> None:
        if named and named not in self._names and len(self._names) < _MOST_PEOPLE:
            # The apps write the whole name or the first.
            self._names |= {named, named.split(" ")[0]}
            self._subjects = _ANYBODY + tuple(f"{one} " for one in self._names)
            self._longest = max(map(len, self._subjects))


def _message(people: _People, value: object) -> RawMessage:
    if not isinstance(value, dict):
        raise UnusableError(f"a message must be an object, got {type(value).__name__}")
    if "sender_name" in value or "timestamp_ms" in value:
        text = _repair(_text(value.get("content"), "content"))
        sender, time = people.sender(value.get("sender_name"), repair=True), _time(value.get("timestamp_ms"))
        if value.get("is_unsent") is True:
            return RawMessage(text, sender=sender, time=time, kind=DELETED)
        if "call_duration" in value or value.get("users") or value.get("type") in _SERVICES:
            return RawMessage(text, sender=sender, time=time, kind=SERVICE)
        if "share" in value and text.endswith(_ATTACHED):  # Instagram may begin it with a name that is nowhere else
            return RawMessage(text, sender=sender, time=time, kind=MEDIA)
    elif "senderName" in value or "timestamp" in value:
        text = _text(value.get("text"), "text")
        sender, time = people.sender(value.get("senderName"), repair=False), _time(value.get("timestamp"))
        if value.get("isUnsent") is True or value.get("type") == "placeholder":
            return RawMessage(text, sender=sender, time=time, kind=DELETED)
    else:
        raise UnusableError("a message must have a sender or a time")
    return RawMessage(text, sender=sender, time=time, kind=people.kind(text) if text else MEDIA)


def _text(value: object, key: str) -> str:
    return "" if value is None else plain_text(value, key)


def _time(value: object) -> float | None:
    if type(value) in (int, float) and abs(value) < _LATEST_TIME:  # type: ignore[arg-type]
        return value / 1000  # type: ignore[operator]
    return None


def _repair(text: str) -> str:
    """The text, if its characters are the bytes of a text in UTF-8; one that is sound stays."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text
