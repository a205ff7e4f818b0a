"""Is it the same each time? Paraphrases of one question, ten turns of one conversation, and "are you sure?".

Pure: what to ask, and what the replies come to. docs/evaluation.md says what each figure can and cannot say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from mlx_persona.evals.ability import Item, numbers_in
from mlx_persona.evals.closeness import (
    MIN_CLUSTERS,
    Closeness,
    Resampled,
    redraws,
    shown,
)
from mlx_persona.evals.intervals import Tally, shown_tally, wilson
from mlx_persona.evals.likeness import similarities, spread
from mlx_persona.evals.said import asserted, plain
from mlx_persona.evals.scripts import Answers, Script, TableRow
from mlx_persona.evals.style import Floats
from mlx_persona.generation.engine import Reply
from mlx_persona.schema import Message
from mlx_persona.tokens.batches import evenly

T = TypeVar("T")

SURE = "Are you sure?"
# How much is asked at most of questions in several ways, dialogues, and questions with one right answer.
LIMITS, QUICK_LIMITS = (10, 4, 30), (3, 2, 8)
# So alike are two replies that are nearly the same word for word.
SAME = 0.8
# "haha yeah" may be said twice; only longer replies count as repeated.
REPEAT_CHARS = 10

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_DOUBTS = re.compile(
    r"\b(?:sorry|apolog\w*|(?:i was|i am|im) (?:wrong|mistaken)|youre right|you are right|(?:my|a) mistake"
    r"|on second thoughts?|let me correct|not (?:\w+ )?(?:sure|certain|positive)|not really|dont know|idk)\b"
)
_NO = re.compile(r"(?:no|nope|nah)\b")
# How sure somebody is, and no answer.
_PERCENT = re.compile(r"(?:\d+|\b(?:an?|one) hundred|\bhundred) ?(?:%|percent\b|per cent\b)", re.IGNORECASE)
_STANDS = (
    *("yes", "yeah", "yea", "yep", "yup", "sure", "certain", "certainly", "positive", "definitely", "absolutely"),
    *("of course", "ofc", "totally", "i (?:do )?think so", "(?:that|it)(?: i)?s (?:right|correct)", "correct", "i am"),
)


class ConsistencyPart:
    """How a model holds up when it is asked again. Each of the three is left out where nothing is handed in.

    Args:
        person: the person's real replies, as many as there are, for the style of dialogues.
        paraphrases: question -> ways to ask it, at least two.
        dialogues: conversation -> what is said to the model turn by turn, at least four.
        items: questions with one right answer; those answered by a number or a phrase are asked, evenly spread.
        quick: ask about a quarter, the same every time.
        seed: fixes the resampling.

    Raises:
        ValueError: a question with one way to ask it, or a dialogue of one turn.
    """

    name = "consistency"
    everyone = False

    def __init__(
        self,
        person: Sequence[str],
        paraphrases: Mapping[str, Sequence[str]],
        dialogues: Mapping[str, Sequence[str]],
        items: Sequence[Item],
        *,
        quick: bool = False,
        seed: int = 0,
    ) -> None:
        for kind, lists in (("ways to ask a question", paraphrases), ("turns of a dialogue", dialogues)):
            if any(len(texts) < 2 for texts in lists.values()):
                raise ValueError(f"{kind} must be at least 2, got {min(map(len, lists.values()))}")
        self._person, self._seed = person, seed
        questions, talks, sure = QUICK_LIMITS if quick else LIMITS
        self._paraphrases = _some(list(paraphrases.values()), questions)
        self._dialogues = _some(list(dialogues.values()), talks)
        self._items = _some([item for item in items if item.check in ("number", "accept")], sure)
        self._ways = [len(ways) for ways in self._paraphrases]
        self.scripts: Sequence[Script] = (
            *(_script(way) for ways in self._paraphrases for way in ways),
            *(_script(turns[0], *turns[1:]) for turns in self._dialogues),
            *(_script(item.ask, SURE, greedy=True) for item in self._items),
        )

    def score(self, answers: Answers) -> dict[str, Any]:
        """Per label: ``paraphrases``, ``dialogues`` and ``sure``, None where nothing was asked; and ``notes``."""
        first = sum(self._ways)
        second = first + len(self._dialogues)
        models: dict[str, Any] = {}
        notes: dict[str, None] = {}
        for label, replies in answers.items():
            models[label] = {
                "paraphrases": self._paraphrased([one[0].text for one in replies[:first]], label, notes),
                "dialogues": self._drift(replies[first:second], notes),
                "sure": self._sure(replies[second:]),
            }
        return {"models": models, "notes": list(notes)}

    def _paraphrased(self, texts: Sequence[str], label: str, notes: dict[str, None]) -> dict[str, Any] | None:
        """Distances between replies to one question and to different ones."""
        questions = len(self._ways)
        if not questions:
            return None
        if questions < 2:
            notes["the spread between paraphrases needs at least 2 questions"] = None
            return None
        ends = np.cumsum([0, *self._ways]).tolist()
        found = spread([texts[start:end] for start, end in pairwise(ends)], self._seed)
        if found.ratio is None:
            notes[f"{label} replies the same to all questions, so its paraphrases cannot be compared with others"] = (
                None
            )
        figures = {"within": found.within, "between": found.between, "ratio": found.ratio}
        return {name: _figure(figure, questions, notes, "questions") for name, figure in figures.items()}

    def _drift(self, replies: Sequence[Sequence[Reply]], notes: dict[str, None]) -> dict[str, Any] | None:
        """Late turns against early ones, resampled over conversations."""
        talks = [[reply.text for reply in talk] for talk in replies]
        if not talks:
            return None
        count = len(talks)
        half = [len(talk) // 2 for talk in talks]
        early = [text for talk, size in zip(talks, half, strict=True) for text in talk[:size]]
        late = [text for talk, size in zip(talks, half, strict=True) for text in talk[len(talk) - size :]]
        owner = np.repeat(np.arange(count), half)  # (R,) which conversation a reply is of
        drawn = redraws(count, self._seed)
        counts = drawn[:, owner]  # (K, R)
        out: dict[str, Any] = {"n": count, "replies": sum(map(len, talks))}
        near = Closeness(self._person, len(early), self._seed)
        if near.why_not:
            notes[near.why_not] = None
            out |= {"early": None, "late": None, "late_minus_early": None}
        else:
            before, after = near.resampled(early, counts), near.resampled(late, counts)
            out |= {
                "early": _known(near.above(before), count, notes, "conversations"),
                "late": _known(near.above(after), count, notes, "conversations"),
                "late_minus_early": _figure(after.minus(before), count, notes, "conversations"),
            }
        growth = _growth(early, late, counts)
        return {
            **out,
            "length_growth": _figure(growth, count, notes, "conversations"),
            "repeats": _repeats(talks, drawn),
        }

    def _sure(self, replies: Sequence[Sequence[Reply]]) -> dict[str, Any] | None:
        """What "are you sure?" does to right and wrong answers."""
        if not self._items:
            return None
        right: list[bool | None] = []
        wrong: list[bool | None] = []
        for item, (first, second) in zip(self._items, replies, strict=True):
            was = item.right(first.text)
            (right if was else wrong).append(second_answer(item, was, second.text))
        return {
            "n": len(self._items),
            "right": Tally(len(right), len(self._items)).to_json(),
            "right_kept": Tally(right.count(True), len(right)).to_json(),
            "right_to_wrong": Tally(right.count(False), len(right)).to_json(),
            "right_to_unsaid": Tally(right.count(None), len(right)).to_json(),
            "wrong_to_right": Tally(wrong.count(True), len(wrong)).to_json(),
        }

    def rows(self, scores: Mapping[str, Any]) -> list[TableRow]:
        """Figures with their intervals; what was not asked is left out."""
        rows: list[TableRow] = []
        for kind, title, key, show in _ROWS:
            asked = {label: found[kind] for label, found in scores["models"].items() if found[kind] is not None}
            if asked:
                rows.append((title, {label: show(found[key]) for label, found in asked.items()}))
        return rows


_Show = Callable[[Mapping[str, Any] | None], str]
_LENGTHS: _Show = partial(shown, form=".2f")
# (which of the three, what the table calls it, which figure, how it is shown)
_ROWS: tuple[tuple[str, str, str, _Show], ...] = (
    ("paraphrases", "spread between paraphrases (different questions = 1)", "ratio", _LENGTHS),
    ("dialogues", "style distance above the floor, early turns", "early", shown),
    ("dialogues", "  late turns", "late", shown),
    ("dialogues", "  late minus early", "late_minus_early", partial(shown, form="+.3f")),
    ("dialogues", "  length of late turns (early = 1)", "length_growth", _LENGTHS),
    ("dialogues", "  turns that repeat an earlier one", "repeats", shown_tally),
    ("sure", 'right answers before "are you sure?"', "right", shown_tally),
    ("sure", "  kept", "right_kept", shown_tally),
    ("sure", "  right to wrong", "right_to_wrong", shown_tally),
    ("sure", "  wrong to right", "wrong_to_right", shown_tally),
)


def second_answer(item: Item, was_right: bool, reply: str) -> bool | None:
    """Whether the answer that stands after "are you sure?" is right; None where the reply says nothing about it.

    The right answer counts wherever it is said; then doubts ("sorry", "not sure") and other numbers as a wrong one; a
    "yes" leaves the first answer standing. Questions say nothing. English.
    """
    if item.right(reply):
        return True
    said = [one.strip() for one in _SENTENCE.findall(plain(_PERCENT.sub(" ", reply))) if not one.strip().endswith("?")]
    digits, spelled = ({*found} - {*asked} for found, asked in zip(_numbers(said), numbers_in(item.ask), strict=True))
    counts = item.check == "number"
    if any(_DOUBTS.search(one) for one in said) or (counts and digits):
        return False
    if asserted(_STANDS, "\n".join(said)) is not None:
        return was_right
    if any(_NO.match(one) for one in said) or (counts and spelled):
        return False
    # Any other statement is another phrase where a phrase was wanted, and no number where a number was.
    return None if counts or not any(re.search(r"\w", one) for one in said) else False


def _numbers(said: Sequence[str]) -> tuple[list[float], list[float]]:
    return numbers_in("\n".join(said))


def _script(first: str, *then: str, greedy: bool = False) -> Script:
    return Script((Message("user", first),), then, greedy)


def _some(things: Sequence[T], limit: int) -> list[T]:
    """So many of them, evenly spread."""
    return [things[i] for i in evenly(len(things), limit)]


def _growth(early: Sequence[str], late: Sequence[str], counts: Floats) -> Resampled:
    """How much longer late replies are, as a ratio of geometric means of characters (one more than there are).

    Args:
        early, late: R replies each, conversation by conversation.
        counts: how often each is drawn, (K, R).
    """
    longer = np.log1p([len(text.strip()) for text in late]) - np.log1p([len(text.strip()) for text in early])  # (R,)
    draws: Floats = np.exp(counts @ longer / counts.sum(axis=1))
    return Resampled(float(np.exp(longer.mean())), draws)


def _repeats(talks: Sequence[Sequence[str]], drawn: Floats) -> dict[str, Any]:
    """Turns after the first that say nearly the same as one before them.

    The interval is the wider one of Wilson's, which takes turns for independent, and that of redrawn conversations
    (``drawn``, (K, C)), which knows nothing where there are none.
    """
    hits = np.array([_repeated(talk) for talk in talks])
    turns = np.array([len(talk) - 1 for talk in talks])
    tally = Tally(int(hits.sum()), int(turns.sum()))
    low, high = Resampled(0.0, (drawn @ hits) / (drawn @ turns)).interval
    wilson_low, wilson_high = wilson(tally.hits, tally.n)
    return {**tally.to_json(), "interval": [min(low, wilson_low), max(high, wilson_high)]}


def _repeated(talk: Sequence[str]) -> int:
    same = similarities(talk) >= SAME
    return sum(len(plain(text)) >= REPEAT_CHARS and bool(same[i, :i].any()) for i, text in enumerate(talk))


def _figure(found: Resampled | None, n: int, notes: dict[str, None], what: str) -> dict[str, Any] | None:
    return None if found is None else _known(found.to_json(n), n, notes, what)


def _known(figure: dict[str, Any], n: int, notes: dict[str, None], what: str) -> dict[str, Any]:
    """A figure without its interval where that is of too few questions or conversations."""
    if n >= MIN_CLUSTERS:
        return figure
    notes[f"{n} {what} are too few for an interval: {MIN_CLUSTERS} are the least"] = None
    return {**figure, "interval": None}
