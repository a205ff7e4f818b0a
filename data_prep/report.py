"""The account of a cleaning: every message that was read ends in exactly one place."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from data_prep import stats
from data_prep.sessions import Turn
from data_prep.sources import Bad
from mlx_persona.schema import Conversation

EXAMPLES = 3
EXAMPLE_CHARS = 120
# As much of an example is held: its personal data is hidden before it is cut, for half a number looks like none.
_HELD_CHARS = 1200


@dataclass(frozen=True)
class CleanReport:
    """What came of a cleaning. Counts are of messages as read, before bursts were joined.

    ``read == kept + context + sum(dropped) + quarantined``: ``kept`` are in replies that are trained on,
    ``context`` is everything else in the output, a quarantined line counts as one message.
    """

    read: int
    kept: int
    context: int
    dropped: dict[str, int]
    quarantined: int
    splits: dict[str, dict[str, int]]  # name -> conversations, messages (joined), replies, trained_replies
    out: str
    sources: dict[str, int]  # importer -> files
    person: dict[str, Any]  # names, replies (joined turns judged), short_share (under min_chars)
    set_aside: dict[str, int]  # reason -> own messages that stay as context
    examples: dict[str, list[str]]  # reason -> the beginnings of a few messages
    leaked: int | None  # held-out replies that are nearly one that is trained on; None where nobody looked
    stats: dict[str, Any]  # what was written, in numbers: see data_prep.stats.summary
    notes: list[str]
    redacted: dict[str, int] = field(default_factory=dict)  # type -> replacements
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The JSON object: one key per field."""
        return dataclasses.asdict(self)


@dataclass
class Ledger:
    """Counts while the messages pass. ``hide`` takes the personal data out of the examples, where that is wanted."""

    read: int = 0
    kept: int = 0
    context: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    bad: list[Bad] = field(default_factory=list)
    replies: int = 0
    short: int = 0
    hide: Callable[[str], str] | None = None

    def quarantine(self, bad: Bad) -> None:
        """A line that cannot be read."""
        self.read += 1
        self.bad.append(bad)

    def count_replies(self, own: Iterable[Turn], min_chars: int) -> None:
        """The person's turns, and how many of them are short."""
        for turn in own:
            self.replies += 1
            self.short += len(turn.text) < min_chars

    def drop(self, reason: str, turns: Iterable[Turn]) -> None:
        """Turns that go, for one reason."""
        for turn in turns:
            self.dropped[reason] += turn.parts
            if len(self.examples[reason]) < EXAMPLES:
                self.examples[reason].append(turn.text[:_HELD_CHARS])

    def sift(self, turns: Iterable[Turn], reason: Callable[[Turn], str | None]) -> list[Turn]:
        """The turns without a reason to go; the others are dropped."""
        stay: list[Turn] = []
        for turn in turns:
            why = reason(turn)
            if why is None:
                stay.append(turn)
            else:
                self.drop(why, [turn])
        return stay

    def keep(self, turns: Iterable[Turn]) -> None:
        """Turns that are in the output."""
        for turn in turns:
            if turn.trained:
                self.kept += turn.parts
            else:
                self.context += turn.parts
                if turn.aside:
                    self.set_aside[turn.aside] += turn.parts

    def by_reason(self) -> dict[str, int]:
        """What was dropped, the commonest reason first."""
        return _sorted(self.dropped)

    def check(self) -> None:
        """Raise RuntimeError unless every message that was read is accounted for."""
        placed = self.kept + self.context + self.dropped.total() + len(self.bad)
        if placed != self.read:
            raise RuntimeError(f"the cleaning lost count: {self.read} messages read, {placed} accounted for")

    def report(
        self,
        splits: dict[str, list[Conversation]],
        *,
        out: str,
        sources: dict[str, int],
        names: list[str],
        leaked: int | None,
        notes: list[str],
        count_tokens: stats.CountTokens | None = None,
    ) -> CleanReport:
        """The report, after the last message."""
        return CleanReport(
            read=self.read,
            kept=self.kept,
            context=self.context,
            dropped=self.by_reason(),
            quarantined=len(self.bad),
            splits={name: _sizes(conversations) for name, conversations in splits.items()},
            leaked=leaked,
            out=out,
            sources=sources,
            person={
                "names": names,
                "replies": self.replies,
                "short_share": round(self.short / max(self.replies, 1), 4),
            },
            set_aside=_sorted(self.set_aside),
            examples={reason: [self._shown(text) for text in self.examples[reason]] for reason in self.by_reason()},
            stats=stats.summary(splits, count_tokens),
            notes=notes,
        )

    def _shown(self, text: str) -> str:
        """The beginning of an example, as it may be shown."""
        text = self.hide(text) if self.hide else text
        return text if len(text) <= EXAMPLE_CHARS else text[:EXAMPLE_CHARS] + "..."


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _sizes(conversations: list[Conversation]) -> dict[str, int]:
    return {
        "conversations": len(conversations),
        "messages": sum(len(c.messages) for c in conversations),
        "replies": sum(m.role == "assistant" for c in conversations for m in c.messages),
        "trained_replies": sum(c.trained_replies for c in conversations),
    }
