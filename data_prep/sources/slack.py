"""A Slack export: a zip, or a folder, with a folder per channel and in it a file per day.

``<channel's name, or a direct message's id>/<YYYY-MM-DD>.json`` is an array of messages, whose people are ids
of ``users.json`` (``org_users.json`` for a whole organisation). ``channels.json`` and ``groups.json`` name the
channels, ``dms.json`` and ``mpims.json`` who is in a direct message.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_prep.sources.base import (
    DELETED,
    MEDIA,
    SERVICE,
    Bad,
    Item,
    RawChat,
    RawMessage,
    ReadOptions,
    UnusableError,
    oldest_first,
    plain_text,
)
from data_prep.sources.head import Head
from data_prep.sources.jsonfile import parsed
from data_prep.sources.jsonstream import JsonStream
from data_prep.sources.tree import Tree, open_tree
from mlx_persona.errors import PersonaError

name = "slack"
by_sender = True
private = True

_DAY = re.compile(r"(?P<top>(?:[^/]+/)?)(?P<folder>[^/]+)/(?P<day>\d{4}-\d\d-\d\d)\.json")
_USERS = ("users.json", "org_users.json")
_CHANNELS = ("channels.json", "groups.json")
_DIRECT = ("dms.json", "mpims.json")
_WRITTEN = frozenset(
    {"", "bot_message", "file_share", "me_message", "reply_broadcast", "slackbot_response", "thread_broadcast"}
)
_GONE = frozenset({"tombstone", "message_deleted"})
# What a person types for these signs is escaped, so a sign that is left is markup.
_MARKUP = re.compile(r"<([^<>|\n]+)(?:\|([^<>]*))?>")


def matches(head: Head) -> bool:
    """A tree with a file of messages per day, and Slack's lists beside the folders or its fields in a message."""
    days = head.tree.members(_DAY) if head.tree is not None else []
    if head.tree is None or not days:
        return False
    if any(days[0]["top"] + index in head.tree.names for index in _USERS + _CHANNELS + _DIRECT):
        return True
    try:
        first = head.member(days[0].string).records
    except PersonaError:
        return False
    return bool(first) and isinstance(first[0].get("ts"), str) and "type" in first[0]


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """A chat per channel or direct message, in the order of their folders' names.

    Raises:
        PersonaError: no zip or folder with a file per day.
    """
    tree = open_tree(path)
    days = tree.members(_DAY) if tree is not None else []
    if tree is None or not days:
        raise PersonaError(f"{path} must be a zip or folder with CHANNEL/YYYY-MM-DD.json, as Slack exports it")
    names = _Names.of(tree, days[0]["top"])
    for folder, found in groupby(days, key=itemgetter("folder")):
        yield RawChat(names.chats.get(folder, folder), _messages(tree, [day.string for day in found], names))


@dataclass(frozen=True)
class _Names:
    """What ids mean: people, channels, and the folders of chats."""

    shown: dict[str, str]
    people: dict[str, str]  # as shown, and the id too where two are called the same: one of them may be ME
    channels: dict[str, str]
    chats: dict[str, str]

    @classmethod
    def of(cls, tree: Tree, top: str) -> _Names:
        shown = {_text(user, "id"): _shown(user) for user in _listed(tree, top, _USERS)}
        common = Counter(shown.values())
        people = {user: called if common[called] == 1 else f"{called} ({user})" for user, called in shown.items()}
        channels = {_text(c, "id"): _text(c, "name") or _text(c, "id") for c in _listed(tree, top, _CHANNELS)}
        chats = dict(channels)
        for direct in _listed(tree, top, _DIRECT):
            members = direct.get("members")
            listed = members if isinstance(members, list) else []
            called = ", ".join(sorted(people.get(m, m) for m in listed if isinstance(m, str)))
            if called:
                chats |= dict.fromkeys((_text(direct, "id"), _text(direct, "name")), f"dm: {called}")
        return cls(shown, people, channels, chats)

    def plain(self, text: str) -> str:
        """A text as it was typed: mentions and links without their markup, and no escapes."""
        if "<" in text:
            text = _MARKUP.sub(self._replaced, text)
        if "&" in text:
            text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        return text

    def _replaced(self, markup: re.Match[str]) -> str:
        target, label = markup.groups(default="")
        sign, meant = target[0], target[1:]
        if sign == "@":
            return "@" + (self.shown.get(meant) or label or meant)
        if sign == "#":
            return "#" + (label or self.channels.get(meant, meant))
        if sign == "!":
            # here, channel, everyone; subteam^S1|@team; date^1700000000^{date}|Tuesday
            kind = meant.partition("^")[0]
            return label if label and kind in ("subteam", "date") else f"@{meant}"
        if ":" not in target:
            return markup.group()
        # Of what was typed as example.com or anna@example.com Slack makes a link with that label.
        typed = target in (label, f"http://{label}", f"https://{label}", f"mailto:{label}", f"tel:{label}")
        if typed:
            return label
        return f"{label} ({target})" if label else target


def _listed(tree: Tree, top: str, files: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The objects with an id in the arrays of these files, as far as the export has them."""
    for file in files:
        if top + file not in tree.names:
            continue
        with tree.open(top + file) as opened:
            stream = JsonStream(opened, tree.label(top + file))
            for _ in stream.elements():
                value = stream.value()
                if isinstance(value, dict) and _text(value, "id"):
                    yield value
            stream.end()


def _text(value: dict[str, Any], key: str) -> str:
    """A member that is text, without white space around it; else nothing."""
    try:
        return plain_text(value.get(key), key).strip()
    except UnusableError:
        return ""


def _optional(value: dict[str, Any], key: str) -> str:
    """A member that must be text where there is one."""
    found = value.get(key)
    return "" if found is None else plain_text(found, key)


def _shown(user: dict[str, Any]) -> str:
    """The name under which a user is seen."""
    profile = user.get("profile")
    profile = profile if isinstance(profile, dict) else {}
    seen = _text(profile, "display_name") or _text(profile, "real_name")
    return seen or _text(user, "real_name") or _text(user, "name") or _text(user, "id")


def _messages(tree: Tree, days: list[str], names: _Names) -> Iterator[RawMessage | Bad]:
    for day in days:
        label = tree.label(day)
        with tree.open(day) as file:
            stream = JsonStream(file, label)
            held = oldest_first(parsed(stream, label, partial(_message, names=names)))
            stream.end()
        yield from held


def _message(value: object, names: _Names) -> RawMessage:
    if not isinstance(value, dict):
        raise UnusableError(f"a message must be an object, got {type(value).__name__}")
    subtype = _optional(value, "subtype")
    text = names.plain(_optional(value, "text"))
    stamp = plain_text(value.get("ts"), "ts")
    thread = value.get("thread_ts")
    kind = None
    if subtype in _GONE:
        kind = DELETED
    elif subtype not in _WRITTEN or value.get("type", "message") != "message":
        kind = SERVICE
    elif not text.strip() and (value.get("files") or value.get("attachments") or value.get("blocks")):
        kind = MEDIA
    return RawMessage(
        text,
        sender=_sender(value, subtype, names),
        time=_seconds(stamp),
        id=stamp,
        answers=plain_text(thread, "thread_ts") if thread is not None and thread != stamp else None,
        kind=kind,
    )


def _seconds(stamp: str) -> float:
    try:
        seconds = float(stamp)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise UnusableError(f"ts must be Unix seconds, got {stamp[:40]!r}")
    return seconds


def _sender(value: dict[str, Any], subtype: str, names: _Names) -> str | None:
    """The user's name. An app has none, or writes as a bot_message under a name of its own."""
    user, username = _optional(value, "user"), _optional(value, "username")
    if username and (subtype == "bot_message" or not user):
        return username
    if user:
        return names.people.get(user, user)
    return _optional(value, "bot_id") or None
