"""Who is in an export, who of them is ME, and what that makes of every message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from data_prep.sessions import Turn
from data_prep.sources import Bad, Item, RawConversation, RawMessage, Source
from data_prep.sources.base import ASSISTANT, FORWARDED, SERVICE, SYSTEM, TOOL, USER
from mlx_persona.errors import PersonaError
from mlx_persona.settings import nearest

LISTED = 10
PREFIX_CHARS = 3


def count(items: Iterable[tuple[Source, Item]]) -> dict[str, int]:
    """Messages per sender, most first, then by name."""
    people = Counter(
        m.sender
        for _, item in items
        if not isinstance(item, Bad)
        for m in item.messages
        if not isinstance(m, Bad) and m.sender is not None and m.kind != SERVICE
    )
    return dict(sorted(people.items(), key=lambda pair: (-pair[1], pair[0])))


def resolve(me: Iterable[str], people: dict[str, int]) -> frozenset[str]:
    """The names in the export that ``--me`` means.

    Each is taken as it stands, else without regard to case, else as the beginning of one name.

    Raises:
        PersonaError: a name that nobody has, or that several have; it lists who there is.
    """
    return frozenset(_resolve_one(name.strip(), people) for name in me)


def _resolve_one(wanted: str, people: dict[str, int]) -> str:
    if wanted in people:
        return wanted
    folded = wanted.casefold()
    same = [p for p in people if p.casefold() == folded]
    begin = [p for p in people if len(folded) >= PREFIX_CHARS and p.casefold().startswith(folded)]
    for found in (same, begin):
        if len(found) == 1:
            return found[0]
        if found:
            raise PersonaError(
                f"--me {wanted!r} fits {len(found)} people: {listing({p: people[p] for p in found})}",
                "give the whole name as it is written there",
            )
    beginnings = [p[: len(wanted)] for p in people] if len(wanted) >= PREFIX_CHARS else []
    raise PersonaError(
        f"nobody in the export is called {wanted!r}; there are {listing(people)}",
        nearest(wanted, list(people) + beginnings) or "--list-people shows everybody",
    )


def need_me(people: dict[str, int]) -> PersonaError:
    """The error for an export that has senders, when ``--me`` was not given."""
    return PersonaError(
        f"whose replies are to be learned? The export has messages by {listing(people)}", 'name one with --me "NAME"'
    )


def listing(people: dict[str, int]) -> str:
    """The first ten people with their counts, and how many more there are."""
    shown = ", ".join(f"{name} ({n} messages)" for name, n in list(people.items())[:LISTED])
    more = len(people) - LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def assign(raw: RawConversation, names: frozenset[str]) -> list[Turn] | None:
    """The messages as turns with roles: ME is the assistant and everybody else the user.

    Roles that the export gives are taken as they are, unless ``names`` are known and a message carries a name.

    Returns:
        One turn per message, or None when senders decide and none of them is ME.
    """
    by_sender = any(m.role is None or (names and m.sender is not None) for m in raw.messages)
    if by_sender and not any(m.sender in names for m in raw.messages):
        return None
    turns = []
    for m in raw.messages:
        role = m.role if m.role is not None else USER
        if by_sender and role not in (SYSTEM, TOOL):
            role = ASSISTANT if m.sender in names else USER
        turns.append(Turn(role, m.text.strip(), m.parts, _aside(m) if role == ASSISTANT else None, m.kind))
    return turns


def is_own(message: RawMessage, names: frozenset[str]) -> bool:
    """Whether a message of a chat is by the person: by name, or, without names, by its role."""
    return message.sender in names if names else message.role == ASSISTANT


def _aside(message: RawMessage) -> str | None:
    if message.kind == FORWARDED:
        return FORWARDED
    return None if message.train else "marked"
