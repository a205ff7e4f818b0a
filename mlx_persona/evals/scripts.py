"""What an evaluation asks, and the form that each of its parts has.

A part knows what to ask (:class:`Script`) and what the answers come to. Who is asked, and that every model gets the
same questions with the same random keys, is :mod:`mlx_persona.evals.panel`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlx_persona.generation.engine import Reply
from mlx_persona.schema import Message

# label of a model -> script by script, its reply to each of the script's user turns
Answers = Mapping[str, Sequence[Sequence[Reply]]]
# (what is measured, one cell per label)
TableRow = tuple[str, Mapping[str, str]]


@dataclass(frozen=True)
class Script:
    """What one model is asked, in one conversation.

    Attributes:
        before: what was said before the first reply, a user's turn last. Without a system message of its own the
            one that the model was trained with is used; an empty one (``Message("system", "")``) means none.
        then: further turns of the user, each said after the model's reply to the one before it.
        greedy: take the likeliest token each time, as a question with one right answer should be asked.
        max_prompt: longest prompt in tokens, longer ones lose their oldest turns; None: as long as it is. A model with
            a longer system message than the first one's gets so much more.
    """

    before: tuple[Message, ...]
    then: tuple[str, ...] = ()
    greedy: bool = False
    max_prompt: int | None = None

    @property
    def replies(self) -> int:
        """How many replies it takes."""
        return 1 + len(self.then)


class Part(Protocol):
    """One part of an evaluation. ``name`` is its key in ``scores.json``; ``everyone`` says whom it asks.

    A part that is not for ``everyone`` asks the base model and what was trained on it, not the controls.
    """

    name: str
    everyone: bool

    @property
    def scripts(self) -> Sequence[Script]:
        """What is asked."""
        ...

    def score(self, answers: Answers) -> dict[str, Any]:
        """What the answers come to, as plain JSON values; the first label is the base model's."""
        ...

    def rows(self, scores: Mapping[str, Any]) -> list[TableRow]:
        """The same for people: figures with their intervals, in the labels' columns."""
        ...
