"""One importer per export format. To add one: write the module, and list it in ``SOURCES`` (and `--source`)."""

from __future__ import annotations

from data_prep.sources import (
    agent,
    chitchat,
    completion,
    csvfile,
    discord,
    imessage,
    mbox,
    messages,
    meta,
    sharegpt,
    slack,
    telegram,
    whatsapp,
)
from data_prep.sources.base import Bad, Item, RawChat, RawConversation, RawMessage, ReadOptions, Source
from data_prep.sources.head import Head

__all__ = [
    "SOURCES",
    "Bad",
    "Head",
    "Item",
    "RawChat",
    "RawConversation",
    "RawMessage",
    "ReadOptions",
    "Source",
    "by_name",
    "detect",
]

# In the order in which they are tried: what looks at little of a file, or is sure of itself, goes first.
SOURCES: tuple[Source, ...] = (
    *(imessage, chitchat, discord, telegram, meta, slack),
    *(messages, sharegpt, completion, agent, whatsapp, mbox, csvfile),
)


def by_name(name: str) -> Source:
    """The importer that ``--source`` calls by this name."""
    return next(source for source in SOURCES if source.name == name)


def detect(head: Head) -> Source | None:
    """The first importer that a file's beginning fits, or None."""
    return next((source for source in SOURCES if source.matches(head)), None)
