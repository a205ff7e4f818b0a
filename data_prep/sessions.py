"""Turns: what one side says before the other answers, and how messages become them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from data_prep.sources.base import ASSISTANT


@dataclass(frozen=True, slots=True)
class Turn:
    """A role's text, and how many messages as read it was made of.

    ``aside`` is why a reply is not trained on, or None.
    """

    role: str
    text: str
    parts: int = 1
    aside: str | None = None

    @property
    def trained(self) -> bool:
        """Whether this is a reply to learn from."""
        return self.role == ASSISTANT and self.aside is None


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
