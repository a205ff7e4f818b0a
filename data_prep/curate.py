"""Steps that look at all conversations together: duplicates, the same reply to everybody, caps and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from data_prep import filters
from data_prep.catchphrases import Catchphrases
from data_prep.duplicates import Boilerplate, NearDuplicates
from data_prep.sessions import Turn
from data_prep.sources.base import ASSISTANT
from data_prep.split import timestamp
from data_prep.tags import BUCKETS, Rules, Tagger
from mlx_persona.errors import PersonaError

SECONDS_PER_DAY = 86_400.0


@dataclass(slots=True)
class Draft:
    """A conversation on its way: its turns, where it is from, and when it began.

    Attributes:
        turns: without a system prompt, bursts joined.
        source: the importer's name.
        id: the conversation's name in the output.
        contact: the chat it is from, for the cap and for boilerplate; None where the export has no chats.
        start: an ISO date or Unix seconds, or None.
        meta: what goes into the output's ``meta`` besides.
        weight: how often training draws it, by age and tiers; None where neither was asked for.
    """

    turns: list[Turn]
    source: str
    id: str
    contact: str | None
    start: str | float | None
    meta: dict[str, Any] = field(default_factory=dict)
    weight: float | None = None

    @property
    def time(self) -> float | None:
        """Unix seconds, where they are known."""
        return timestamp(self.start)

    def set_aside(self, place: int, reason: str) -> None:
        """Keep a reply as context only."""
        self.turns[place] = replace(self.turns[place], aside=reason)


def trained(draft: Draft) -> list[tuple[int, Turn]]:
    """``(place, turn)`` of every reply that is to be learned."""
    return [(i, turn) for i, turn in enumerate(draft.turns) if turn.role == ASSISTANT and turn.aside is None]


def ordered(drafts: Iterable[Draft]) -> list[Draft]:
    """By time; those without one first, in their order, so that they are trained on and not tested with."""
    return sorted(drafts, key=lambda d: (d.time is not None, d.time or 0.0))


def without_copies(drafts: Iterable[Draft]) -> tuple[list[Draft], list[Draft]]:
    """``(kept, copies)``: of conversations that are the same in every word, the first is kept."""
    seen: set[bytes] = set()
    kept: list[Draft] = []
    copies: list[Draft] = []
    for draft in drafts:
        key = filters.content_key(draft.turns)
        (copies if key in seen else kept).append(draft)
        seen.add(key)
    return kept, copies


def set_boilerplate_aside(drafts: Sequence[Draft]) -> None:
    """The same long reply to everybody ("boilerplate") is written by habit or by a machine."""
    seen = Boilerplate()
    for draft in drafts:
        for _, turn in trained(draft):
            seen.add(turn.text, draft.contact or draft.id)
    if not seen.any():
        return
    for draft in drafts:
        for place, turn in trained(draft):
            if seen.is_boilerplate(turn.text):
                draft.set_aside(place, "boilerplate")


def set_near_duplicates_aside(drafts: Sequence[Draft], threshold: float) -> None:
    """A reply that is nearly an earlier one ("near_duplicate") is not learned twice, nor held out and learned."""
    seen = NearDuplicates(threshold)
    for draft in drafts:
        for place, turn in trained(draft):
            if seen.seen(turn.text):
                draft.set_aside(place, "near_duplicate")


def cap_contacts(drafts: Sequence[Draft], most: int) -> None:
    """Of each contact, only the latest ``most`` replies are learned; earlier ones are "over_cap"."""
    count: Counter[str] = Counter()
    for draft in reversed(drafts):
        if draft.contact is None:
            continue
        for place, _ in reversed(trained(draft)):
            count[draft.contact] += 1
            if count[draft.contact] > most:
                draft.set_aside(place, "over_cap")


def weigh_by_age(drafts: Sequence[Draft], half_life_days: float) -> None:
    """A conversation weighs half as much for every ``half_life_days`` before the latest one."""
    times = [draft.time for draft in drafts if draft.time is not None]
    if not times:
        raise PersonaError("--half-life-days needs dates, and this export has none", "leave the option out")
    latest = max(times)
    for draft in drafts:
        if draft.time is not None:
            age = (latest - draft.time) / SECONDS_PER_DAY
            draft.weight = 0.5 ** (age / half_life_days)


def tag(drafts: Sequence[Draft], rules: Rules) -> None:
    """``meta["tags"]`` for every reply to be learned, and the mean of their tiers' weights for the conversation.

    A bucket that was given by hand (``meta["tags_by_hand"]``) stands.
    """
    phrases = Catchphrases()
    for draft in drafts:
        for place, turn in trained(draft):
            phrases.add(draft.turns[place - 1].text, turn.text)
    tagger, buckets = Tagger(rules, phrases.habits()), tuple(BUCKETS)
    for draft in drafts:
        by_hand = draft.meta.pop("tags_by_hand", {})
        found, weights = [], []
        for place, turn in trained(draft):
            made = tagger.tag(draft.turns[place - 1].text, turn.text)
            if str(place) in by_hand:
                made = replace(made, bucket=buckets[by_hand[str(place)]])
            found.append({"turn": place, **asdict(made)})
            weights.append(rules.weight(made))
        draft.meta["tags"] = found
        draft.weight = (1.0 if draft.weight is None else draft.weight) * sum(weights) / len(weights)


def lopsided(drafts: Sequence[Draft]) -> str | None:
    """A note when one contact of several gives more than half of the replies."""
    count = Counter(draft.contact for draft in drafts for _ in trained(draft))
    contact, most = max(count.items(), key=lambda pair: pair[1], default=(None, 0))
    if contact is None or len(count) < 2 or most <= count.total() / 2:
        return None
    return f"{contact} gives {most / count.total():.0%} of the replies; --max-per-contact N keeps the latest N of each"


@dataclass(frozen=True, slots=True)
class Window:
    """Dates that conversations must begin in: Unix seconds, ``since`` included and ``until`` not."""

    since: float | None
    until: float | None

    @classmethod
    def of(cls, since: str, until: str) -> Window:
        """From dates as the user writes them; a day without an hour is meant whole.

        Raises:
            PersonaError: no date, or an end before the beginning.
        """
        first, last = _date("since", since), _date("until", until)
        if last is not None and len(until.strip()) <= len("2024-01-31"):
            last += SECONDS_PER_DAY
        if first is not None and last is not None and first >= last:
            raise PersonaError(f"--since must be before --until, got {since} and {until}")
        return cls(first, last)

    @property
    def open(self) -> bool:
        """Whether nothing is left out."""
        return self.since is None and self.until is None

    def holds(self, time: float | None) -> bool:
        """Whether a conversation that began then is wanted; one without a date only if all are."""
        if time is None:
            return self.open
        return (self.since is None or time >= self.since) and (self.until is None or time < self.until)


def _date(name: str, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        raise PersonaError(f"--{name} must be a date such as 2024-01-31, got {text!r}") from None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
