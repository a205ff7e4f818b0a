"""How messages become conversations, and conversations turns: what one side says before the other answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from data_prep.sources.base import ASSISTANT, Bad, RawChat, RawConversation, RawMessage

# A late reply finds what it answers among this many messages of its chat.
REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Turn:
    """A role's text, and how many messages as read it was made of.

    ``aside`` is why a reply is not trained on, or None; ``kind`` is that of a single message (see
    ``RawMessage``), before turns are joined.
    """

    role: str
    text: str
    parts: int = 1
    aside: str | None = None
    kind: str | None = None

    @property
    def trained(self) -> bool:
        """Whether this is a reply to learn from."""
        return self.role == ASSISTANT and self.aside is None


def cut(chat: RawChat, gap: float, own: Callable[[RawMessage], bool]) -> Iterator[RawConversation | Bad]:
    """Cut a chat into conversations where nobody wrote for ``gap`` seconds; messages without a time go on.

    A reply of one's own to a message of an earlier conversation makes a conversation with a copy of that
    message: it was late, but it is an answer. Only the conversation at hand and the latest messages by their
    ids are held in memory.

    Args:
        chat: oldest message first.
        gap: seconds.
        own: whether a message is by the person whose replies are learned.
    """
    held: list[RawMessage] = []
    known: dict[str, RawMessage] = {}
    here: set[str] = set()  # ids in the conversation at hand
    latest: float | None = None
    count = 0

    def made(messages: Iterable[RawMessage]) -> RawConversation:
        nonlocal count
        count += 1
        said = tuple(messages)
        start = next((m.time for m in said if m.time is not None and m.parts), None)
        return RawConversation(f"{chat.id}#{count}", said, start, {"chat": chat.id})

    for message in chat.messages:
        if isinstance(message, Bad):
            yield message
            continue
        if message.time is not None:
            if held and latest is not None and message.time - latest > gap:
                yield made(held)
                held, here = [], set()
            latest = message.time
        asked = known.get(message.answers) if message.answers is not None and message.answers not in here else None
        if asked is not None and asked.kind is None and own(message) and not own(asked):
            yield made((replace(asked, parts=0), message))
        else:
            held.append(message)
            here |= {message.id} if message.id is not None else set()
        if message.id is not None:
            known[message.id] = message
            if len(known) > REMEMBERED:
                del known[next(iter(known))]
    if held:
        yield made(held)


def join_bursts(turns: Iterable[Turn]) -> list[Turn]:
    """Join consecutive turns of one role by newlines. One that was set aside sets the joined one aside."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            last = joined[-1]
            text, parts = f"{last.text}\n{turn.text}", last.parts + turn.parts
            joined[-1] = replace(last, text=text, parts=parts, aside=last.aside or turn.aside)
        else:
            joined.append(turn)
    return joined


def split_openers(turns: list[Turn]) -> tuple[list[Turn], list[Turn]]:
    """``(openers, rest)``: the person's own first turns answer nobody, so there is nothing to learn them from."""
    first = next((i for i, t in enumerate(turns) if t.role != ASSISTANT), len(turns))
    return turns[:first], turns[first:]


def split_tail(turns: list[Turn]) -> tuple[list[Turn], list[Turn]]:
    """``(turns, tail)``: the tail is what follows the last trained reply; no loss ever sees it."""
    end = max((i for i, t in enumerate(turns) if t.trained), default=-1) + 1
    return turns[:end], turns[end:]
