"""What the tests of an evaluation's parts share: made-up replies, and what every part's scores must be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_persona.evals.attribution import Share
from mlx_persona.evals.scripts import Answers, Part
from mlx_persona.generation.engine import Reply

# Ten replies of somebody who types fast, and ten of an assistant.
PERSON = (
    *("haha yeah im in", "nope not today", "ok ill be there at 6", "lol same here", "soo tired today"),
    *("what about you?", "haha no way", "yeah ok", "idk maybe tmrw", "thats so cool haha"),
)
ASSISTANT = (
    "I would be happy to help you with that. Please let me know what you need!",
    "That is a great question. There are several factors to consider:\n1. Time\n2. Cost",
    "Certainly! Here is an overview of the most important points.",
    "I'm sorry to hear that. It's important to take care of yourself.",
    "As an assistant, I don't have personal experiences, but I can offer suggestions.",
    "Thank you for sharing. Could you tell me more about the situation?",
    "There are many options available, depending on your preferences.",
    "Of course! The best approach is to begin with a clear plan.",
    "It depends on a number of factors, such as your budget and your goals.",
    "I understand that this can be frustrating. Let me explain the steps.",
)
HOSTILE = ("", "   ", "\n\n", "🎉🎉🎉", "\u200b", "…", "👨‍👩‍👧", "a", "ÄÖÜ" * 400, "\ufeff?!")


class LowerCase:
    """Stands for the classifier: a text is the person's if it has no capital and says something."""

    def share(self, texts: Sequence[str]) -> Share:
        """As the real one: an empty text is nobody's."""
        return Share.of(sum(bool(text.strip()) and text == text.lower() for text in texts), len(texts))


def single(texts: Sequence[str]) -> list[tuple[Reply]]:
    """The replies to scripts of one turn."""
    return [(Reply(text, cut=False),) for text in texts]


def turns(texts: Sequence[str]) -> tuple[Reply, ...]:
    """The replies of one conversation."""
    return tuple(Reply(text, cut=False) for text in texts)


def scored(part: Part, answers: Answers) -> dict[str, Any]:
    """The scores as they are read back from a file; the same twice, with rows of texts in the labels' columns."""
    for replies in answers.values():
        assert [len(one) for one in replies] == [script.replies for script in part.scripts]
    scores = part.score(answers)
    text = json.dumps(scores, allow_nan=False)
    assert json.dumps(part.score(answers), allow_nan=False) == text
    for figure in _figures(scores):
        assert figure.keys() >= {"n", "interval"}
        if figure["interval"] is not None:
            low, high = figure["interval"]
            assert low <= high
    back: dict[str, Any] = json.loads(text)
    for title, cells in part.rows(back):
        assert title.strip()
        assert cells.keys() <= answers.keys()
        assert all(isinstance(cell, str) and cell for cell in cells.values())
    return back


def _figures(value: object) -> Iterator[Mapping[str, Any]]:
    """Every figure in some scores: what has a value or a share."""
    if isinstance(value, Mapping):
        if "value" in value or "share" in value:
            yield value
        for one in value.values():
            yield from _figures(one)
