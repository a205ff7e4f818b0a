"""What every importer shares: raw messages, conversations and chats, bad lines, and the importer's protocol."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from data_prep.sources.head import Head

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
# Why a message is nothing that somebody wrote; FORWARDED is what somebody else wrote; GROUP is what an importer
# leaves out, with everything else in a group, unless asked for it.
SERVICE, DELETED, MEDIA, REACTION, FORWARDED = "service", "deleted", "media", "reaction", "forwarded"
GROUP = "group"
QUOTE_CHARS = 200
# What exports are called; other files of a folder are passed over.
SUFFIXES = (".jsonl", ".json", ".txt", ".zip", ".db", ".mbox", ".csv", ".tsv")

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class RawMessage:
    """One message as it was read.

    Attributes:
        text: what it says, with the white space that the export has; empty where there is none.
        role: system, user, assistant or tool, or None where the export knows only ``sender``.
        sender: the name or id by which ``--me`` can mean its author.
        train: false where the export itself says that the reply is not to be learned.
        time: Unix seconds, or None where the export has no clock.
        id: by which other messages of the same chat may answer it.
        answers: the ``id`` of the message that this one quotes, or under which it is threaded.
        kind: None for what somebody wrote, else SERVICE, DELETED, MEDIA (and no words with it), REACTION,
            FORWARDED or GROUP.
        parts: 1, or 0 for a copy of a message that is counted in another place.
    """

    text: str
    role: str | None = None
    sender: str | None = None
    train: bool = True
    time: float | None = None
    id: str | None = None
    answers: str | None = None
    kind: str | None = None
    parts: int = 1


@dataclass(frozen=True, slots=True)
class RawConversation:
    """One conversation as it was read; ``start`` is an ISO date or Unix seconds, or None."""

    id: str
    messages: tuple[RawMessage, ...]
    start: str | float | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RawChat:
    """A chat that goes on for years, oldest message first; ``sessions`` cuts it into conversations.

    Attributes:
        id: tells this chat (with one person, or of one group) from the others of the export.
        messages: to be read once, before the next chat is asked for; bad lines lie between them.
    """

    id: str
    messages: Iterator[RawMessage | Bad]


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that could not be read: where it is, why, and its first characters."""

    file: str
    line: int
    reason: str
    text: str


Item = RawConversation | RawChat | Bad


class UnusableError(ValueError):
    """A record that is well-formed but holds no message or conversation; the importer's word for a bad line."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the user says about reading.

    Attributes:
        groups: read group chats too, where an importer leaves them out by itself.
        columns: of a CSV file: ``text``, ``sender``, ``time``, ``chat``, ``id``, ``answers`` -> column name.
    """

    groups: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """An importer: a module with these names. To add one, write the module and list it in ``SOURCES``."""

    @property
    def name(self) -> str:
        """What ``--source`` calls it."""

    @property
    def by_sender(self) -> bool:
        """Whether messages carry senders and no roles, so that ``--me`` is needed."""

    @property
    def private(self) -> bool:
        """Whether such an export is full of personal data, so that it is redacted unless the user says no."""

    def matches(self, head: Head) -> bool:
        """Whether a file, zip or folder that begins like this is of this format. Reads little, never fails."""

    def read(self, path: Path, options: ReadOptions) -> Iterator[Item]:
        """Everything in a file, zip or folder, in its order, with as little in memory as can be.

        Whatever the bytes: what cannot be used is a ``Bad``, and what makes going on senseless a PersonaError.
        """


def plain_text(value: object, name: str) -> str:
    """A string that can be written as UTF-8.

    Raises:
        UnusableError: not a string, or half of a surrogate pair in it.
    """
    if not isinstance(value, str):
        raise UnusableError(f"{name} must be text, got {type(value).__name__}")
    if _SURROGATE.search(value):
        raise UnusableError(f"{name} is not valid Unicode (half of a surrogate pair)")
    return value


def oldest_first(found: Iterable[RawMessage | Bad]) -> list[RawMessage | Bad]:
    """Messages by their times, in their order where these are equal; what has no time comes first."""

    def time(item: RawMessage | Bad) -> float:
        return item.time if isinstance(item, RawMessage) and item.time is not None else -math.inf

    return sorted(found, key=time)


def iso_time(value: object, name: str) -> float:
    """Unix seconds of an ISO 8601 date and time. Without a zone it is UTC: only differences matter.

    Raises:
        UnusableError: not a string, or no such date.
    """
    text = plain_text(value, name)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UnusableError(f"{name} must be an ISO 8601 time, got {text[:40]!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
