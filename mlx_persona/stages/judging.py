"""A judge for a blind comparison: the server that the user named rates the replies that they compared.

mlx-persona compare --resume runs/compare-1 --judge http://127.0.0.1:8080/v1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mlx_persona import ui
from mlx_persona.errors import Interrupted
from mlx_persona.evals.blind.judged import Ratings, meanings
from mlx_persona.evals.blind.score import REAL
from mlx_persona.evals.blind.session import SIDES
from mlx_persona.evals.judge import Judge
from mlx_persona.evals.probes import SETS, read_probes
from mlx_persona.schema import Message
from mlx_persona.stages.compare import Comparison


class _Question(NamedTuple):
    """How good the reply of a side of an item is on a dimension."""

    item: int
    side: str
    dimension: str


def shipped_rubric() -> Mapping[str, str]:
    """The dimensions of the shipped probes, with what each means."""
    return read_probes(SETS[0]).rubric


def rate_replies(comparison: Comparison, judge: Judge) -> None:
    """Ask a judge what is missing about all replies, and keep what it says in the comparison.

    It rates by the user's rubric, or by the shipped dimensions where they rated by none.

    Raises:
        PersonaError: it does not answer, refuses, or answers no digit. What it said so far is kept.
        Interrupted: after KeyboardInterrupt; the same.
    """
    session, go_on = comparison.session, f"go on with: {comparison.again}"
    rubric = meanings(session.rubric, shipped_rubric())
    judge.keep_in(comparison.path, go_on)

    def put(question: _Question) -> tuple[str, str, Sequence[Message], str]:
        item = session.items[question.item]
        return question.dimension, rubric[question.dimension], item.before, item.replies[question.side]

    items = range(len(session.items))
    every = [_Question(i, side, name) for i in items for side in SIDES for name in rubric]
    missing = [question for question in every if not judge.knows(*put(question))]
    if missing:
        _say_what_is_sent(comparison, judge, len(missing), len(every))
    done = len(every) - len(missing)
    try:
        with ui.progress("judge", len(every), done) as bar:
            for question in missing:
                judge.rate(*put(question))
                done += 1
                bar.advance()
    except KeyboardInterrupt:
        kept = f"{done} of {len(every)} questions to the judge are answered and kept"
        raise Interrupted(f"stopped: {kept}", go_on) from None
    said = {question: judge.rate(*put(question)) for question in every}  # all known now
    scores = tuple(
        {side: {name: said[_Question(i, side, name)].score for name in rubric} for side in SIDES} for i in items
    )
    by_probability = sum(rating.by == "probabilities" for rating in said.values())
    comparison.take_ratings(Ratings(judge.url, judge.model, rubric, scores, by_probability))


def _say_what_is_sent(comparison: Comparison, judge: Judge, missing: int, every: int) -> None:
    """Before anything is sent: what, to whom, and in how many questions."""
    real = "; one side is what the person really wrote" if REAL in comparison.labels.values() else ""
    known = f" ({every - missing} are answered already)" if missing < every else ""
    replies = f"{len(SIDES) * len(comparison.session.items)} replies{real}"
    before = "what was said before them in the held-out conversations"
    sent = f"sending to {judge.url}: {replies}, and {before}, in {missing} questions{known}"
    if judge.here:
        ui.info(sent)
    else:
        ui.warn(f"{sent}; this is another machine")
