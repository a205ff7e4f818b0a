"""A blind comparison as pure logic: items in random order, answers key by key, undo.

Two sides, ``a`` and ``b``, answered the same prompts. Whoever knows the person sees both replies as 1 and 2 and
presses a key; which side stands first is drawn before. A session is a value: a key makes a new one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_persona.errors import PersonaError
from mlx_persona.schema import Message

A, B = "a", "b"
SIDES = (A, B)
TIE = "tie"
CHOICE = "choice"
CHOICE_KEYS = ("1", "2", "t")
SKIP = "s"
RATING_KEYS = ("1", "2", "3", "4", "5", SKIP)


@dataclass(frozen=True)
class Item:
    """One prompt with both replies.

    Attributes:
        before: what was said before the reply.
        replies: side -> its reply.
        cut: side -> whether its reply reached the token limit and does not end by itself.
        first: the side that is shown as 1.
    """

    before: tuple[Message, ...]
    replies: dict[str, str]
    cut: dict[str, bool]
    first: str

    @property
    def shown(self) -> tuple[str, str]:
        """The sides in the order in which they are shown."""
        return (A, B) if self.first == A else (B, A)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this item."""
        return {
            "before": [message.to_json() for message in self.before],
            "replies": self.replies,
            "cut": self.cut,
            "first": self.first,
        }

    @classmethod
    def from_json(cls, value: object) -> Item:
        """Parse one item; raises PersonaError."""
        try:
            given: dict[str, Any] = dict(value)  # type: ignore[call-overload]
            before = tuple(Message.from_json(message) for message in given["before"])
            item = cls(before, dict(given["replies"]), dict(given["cut"]), given["first"])
        except (KeyError, TypeError, ValueError) as error:
            raise PersonaError(f"an item must hold before, replies, cut and first ({error!r})") from error
        texts, flags = item.replies, item.cut
        if item.first not in SIDES or not texts.keys() == flags.keys() == set(SIDES):
            raise PersonaError("an item's replies, cut and first must be of the sides a and b")
        if not all(isinstance(text, str) and isinstance(flags[side], bool) for side, text in texts.items()):
            raise PersonaError("an item's replies must be text, and cut true or false")
        return item


def first_sides(n: int, seed: int) -> list[str]:
    """Which side is shown first in each of ``n`` items: each in half of them (one more for ``a``), shuffled."""
    order = [SIDES[i % 2] for i in range(n)]
    random.Random(f"first-{seed}").shuffle(order)
    return order


@dataclass(frozen=True)
class Step:
    """One question: which reply of an item is better (``ask`` is ``choice``), or how good one ``side`` of it is."""

    item: int
    ask: str
    side: str = ""


@dataclass(frozen=True)
class Answer:
    """What was answered: a side or ``tie`` to a choice, 1 to 5 to a rating, None to one that was skipped."""

    step: Step
    value: str | int | None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this answer."""
        side = {"side": self.step.side} if self.step.side else {}
        return {"item": self.step.item, "ask": self.step.ask, **side, "value": self.value}


@dataclass(frozen=True)
class Session:
    """A comparison as far as it has come.

    Attributes:
        items: what is asked about, in order.
        rubric: after each choice both replies are rated by these, in order; no two alike.
        answers: the answers so far, one per step.
    """

    items: tuple[Item, ...]
    rubric: tuple[str, ...] = ()
    answers: tuple[Answer, ...] = field(default=())

    @property
    def steps(self) -> int:
        """How many questions there are in all."""
        return len(self.items) * self._per_item

    @property
    def items_done(self) -> int:
        """How many items are answered with all their ratings."""
        return len(self.answers) // self._per_item

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask."""
        return len(self.answers) == self.steps

    @property
    def current(self) -> Step | None:
        """The question to ask now; None at the end."""
        return None if self.done else self.step(len(self.answers))

    @property
    def _per_item(self) -> int:
        return 1 + 2 * len(self.rubric)

    def step(self, number: int) -> Step:
        """The question with this number, from 0: an item's choice, then by each measure the first reply, the second."""
        index, within = divmod(number, self._per_item)
        if within == 0:
            return Step(index, CHOICE)
        measure, place = divmod(within - 1, 2)
        return Step(index, self.rubric[measure], self.items[index].shown[place])

    def chosen(self, index: int) -> str | None:
        """What was chosen in an item, a side or ``tie``; None where it was not asked yet."""
        number = index * self._per_item
        return str(self.answers[number].value) if number < len(self.answers) else None

    def pressed(self, key: str) -> Session:
        """The session after a key: 1, 2 or t to a choice, 1 to 5 or s (skip) to a rating.

        Raises:
            PersonaError: the end is reached, or the key means nothing here.
        """
        step = self.current
        if step is None:
            raise PersonaError("every question is answered already")
        keys = CHOICE_KEYS if step.ask == CHOICE else RATING_KEYS
        if key not in keys:
            raise PersonaError(f"the key must be one of {', '.join(keys)}, got {key!r}")
        if step.ask == CHOICE:
            value: str | int | None = TIE if key == "t" else self.items[step.item].shown[int(key) - 1]
        else:
            value = None if key == SKIP else int(key)
        return replace(self, answers=(*self.answers, Answer(step, value)))

    def undone(self) -> Session:
        """The session without its last answer; the same where there is none."""
        return replace(self, answers=self.answers[:-1])

    def resumed(self, answers: Sequence[object]) -> Session:
        """The session with the answers of an earlier sitting, as :meth:`Answer.to_json` wrote them.

        Raises:
            PersonaError: they are not answers to these questions.
        """
        session = replace(self, answers=())
        for number, value in enumerate(answers):
            step = session.current
            answer = Answer(step, value.get("value")) if step and isinstance(value, dict) else None
            if answer is None or answer.to_json() != value or not _allowed(answer):
                raise PersonaError(f"answer {number + 1} does not belong to this comparison: {value!r}")
            session = replace(session, answers=(*session.answers, answer))
        return session


def _allowed(answer: Answer) -> bool:
    value = answer.value
    if answer.step.ask == CHOICE:
        return value in (*SIDES, TIE)
    return value is None or (type(value) is int and 1 <= value <= 5)
