"""The written conversations in numbers: how long the replies are, with whom, when, and in which languages.

``summary(splits)`` is what ``report.json`` has under ``stats``. A reply here is one that is trained on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

from data_prep import languages
from data_prep.split import timestamp
from data_prep.tags import BUCKETS, TIERS, Tag, mix
from mlx_persona.errors import PersonaError
from mlx_persona.schema import Conversation

# The least value of each bin; the last one is open.
CHAR_BINS = (0, 10, 20, 40, 80, 160, 320, 640, 1280)
WORD_BINS = (0, 2, 4, 8, 16, 32, 64, 128)
TOKEN_BINS = (0, 2, 4, 8, 16, 32, 64, 128, 256)
# So many replies are looked at for their languages: that takes half a second.
SAMPLE = 500

_BUCKETS = tuple(BUCKETS)
# How many tokens each text has: what knows a model's tokenizer is handed in, for nothing here does.
CountTokens = Callable[[Sequence[str]], list[int]]


def summary(splits: Mapping[str, Sequence[Conversation]], count_tokens: CountTokens | None = None) -> dict[str, Any]:
    """All numbers, ready for JSON.

    Keys: ``replies``, ``chars``, ``words`` and ``tokens`` (see :func:`lengths`; the last is empty without a counter),
    ``several_lines`` (share of the replies), ``turns`` (per conversation, see :func:`spread`), ``contacts``, ``time``,
    ``tags``, ``languages`` (code -> share of a sample) and ``notes`` (what could not be found out).
    """
    conversations = [c for part in splits.values() for c in part]
    replies = [m.content for c in conversations for m in c.messages if m.train and m.role == "assistant"]
    spoken, notes = _languages(replies)
    return {
        "replies": len(replies),
        "chars": lengths(map(len, replies), CHAR_BINS),
        "words": lengths((len(text.split()) for text in replies), WORD_BINS),
        "tokens": lengths(count_tokens(replies), TOKEN_BINS) if count_tokens else {},
        "several_lines": _share(sum("\n" in text for text in replies), len(replies)),
        "turns": spread(Counter(sum(m.role != "system" for m in c.messages) for c in conversations)),
        "contacts": contacts(conversations),
        "time": time_span(conversations),
        "tags": tag_mix(conversations),
        "languages": spoken,
        "notes": notes,
    }


def lengths(sizes: Iterable[int], edges: Sequence[int]) -> dict[str, Any]:
    """The :func:`spread` of some sizes, and their ``histogram``: ``from``, ``to`` (None in the last) and ``count``."""
    counts = Counter(sizes)
    bins = [0] * len(edges)
    for size, n in counts.items():
        bins[bisect_right(edges, size) - 1] += n
    tops = [*(edge - 1 for edge in edges[1:]), None]
    shown = [{"from": low, "to": top, "count": n} for low, top, n in zip(edges, tops, bins, strict=True)]
    return {**spread(counts), "histogram": shown}


def spread(counts: Counter[int]) -> dict[str, float]:
    """``min``, ``p10``, ``median``, ``mean``, ``p90`` and ``max`` of values with their counts; empty for none.

    A percentile is the least value that so many percent of the values do not exceed.
    """
    n = counts.total()
    if not n:
        return {}
    values = sorted(counts)
    ends = list(accumulate(counts[value] for value in values))

    def percentile(percent: int) -> int:
        return values[bisect_left(ends, -(-percent * n // 100))]

    mean = sum(value * times for value, times in counts.items()) / n
    return {
        "min": values[0],
        "p10": percentile(10),
        "median": percentile(50),
        "mean": round(mean, 1),
        "p90": percentile(90),
        "max": values[-1],
    }


def contacts(conversations: Iterable[Conversation]) -> dict[str, Any]:
    """``count`` of the chats, the ``largest`` one's share of the replies, and ``named``: whether there are chats.

    A conversation of an export without chats counts as one.
    """
    replies: Counter[str | int] = Counter()
    named = False
    for number, conversation in enumerate(conversations):
        chat, own = conversation.meta.get("chat"), conversation.meta.get("id")
        named = named or isinstance(chat, str)
        replies[next((name for name in (chat, own) if isinstance(name, str)), number)] += conversation.trained_replies
    largest = max(replies.values(), default=0)
    return {"count": len(replies), "largest": _share(largest, replies.total()), "named": named}


def time_span(conversations: Iterable[Conversation]) -> dict[str, Any]:
    """The ``first`` and ``last`` day (UTC; None without dates), ``months`` -> conversations, and the ``undated``."""
    days: list[datetime] = []
    undated = 0
    for conversation in conversations:
        day = _day(conversation.meta.get("start"))
        if day is None:
            undated += 1
        else:
            days.append(day)
    months = Counter(f"{day.year:04}-{day.month:02}" for day in days)
    return {
        "first": min(days).date().isoformat() if days else None,
        "last": max(days).date().isoformat() if days else None,
        "months": dict(sorted(months.items())),
        "undated": undated,
    }


def tag_mix(conversations: Iterable[Conversation]) -> dict[str, Any]:
    """What :func:`data_prep.tags.mix` says about the replies that have a tag; empty without any."""
    found = [
        Tag(tag["bucket"], tag["tier"], tag.get("performative") is True)
        for conversation in conversations
        if isinstance(listed := conversation.meta.get("tags"), list)
        for tag in listed
        if isinstance(tag, dict) and tag.get("bucket") in _BUCKETS and tag.get("tier") in TIERS
    ]
    return mix(found) if found else {}


def _languages(replies: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """The languages of an evenly spread sample, and a note when the library is missing."""
    looked = min(SAMPLE, len(replies))
    sample = [replies[i * len(replies) // looked] for i in range(looked)]
    try:
        return {code: round(share, 4) for code, share in languages.shares(sample).items()}, []
    except PersonaError as error:
        return {}, [f"languages were not looked for: {error.message}; {error.hint}"]


def _day(start: object) -> datetime | None:
    """The day of a date that a calendar has."""
    time = timestamp(start)
    try:
        return None if time is None else datetime.fromtimestamp(time, UTC)
    except (OverflowError, OSError, ValueError):  # before year 1 or after year 9999
        return None


def _share(part: int, whole: int) -> float:
    return round(part / max(whole, 1), 4)
