"""What the answers of a blind comparison say, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlx_persona.evals.blind.judged import Judged, Ratings, judged
from mlx_persona.evals.blind.session import CHOICE, SIDES, TIE, A, B, Session
from mlx_persona.evals.intervals import wilson

REAL = "real"
_RESAMPLES = 2000
_ALPHA = 0.05


@dataclass(frozen=True)
class Share:
    """``times`` of ``of`` decided answers.

    Attributes:
        rate: ``times / of``; None where nothing was decided.
        interval: 95 % Wilson interval of the rate.
        p_value: of the exact two-sided binomial test against a coin: how often a coin would be as one-sided.
    """

    times: int
    of: int
    rate: float | None
    interval: tuple[float, float] | None
    p_value: float | None


@dataclass(frozen=True)
class Rating:
    """Mean ratings by one measure, 1 to 5.

    Attributes:
        means: side -> mean; None where nothing was rated.
        both: how many items have a rating of both sides.
        difference: mean of b minus a over those items.
        interval: its 95 % bootstrap interval over items; None for fewer than two.
    """

    means: dict[str, float | None]
    both: int
    difference: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Result:
    """A comparison's outcome.

    Attributes:
        labels: side -> what it is called.
        items: how many there are.
        answered: how many of them were chosen in.
        wins: side -> how often it was chosen.
        ties: how often neither was.
        b_share: ``b`` among the choices that were no ties.
        fooled: where a side is the real person: how often the model's reply was taken for theirs, ties left out.
        first: how often the reply shown first was chosen: far from half, habit speaks too.
        ratings: measure -> means.
        cut: side -> replies that reached the token limit, which may give a model away.
        judge: what a judge says of the same replies; None where none was asked.
    """

    labels: dict[str, str]
    items: int
    answered: int
    wins: dict[str, int]
    ties: int
    b_share: Share
    fooled: Share | None
    first: Share
    ratings: dict[str, Rating]
    cut: dict[str, int]
    judge: Judged | None = None

    def to_json(self) -> dict[str, Any]:
        """The result as one JSON object; ``win_rate``, ``interval`` and ``p_value`` are b's."""
        return {
            "a": self.labels[A],
            "b": self.labels[B],
            "items": self.items,
            "answered": self.answered,
            "a_wins": self.wins[A],
            "b_wins": self.wins[B],
            "ties": self.ties,
            "win_rate": self.b_share.rate,
            "interval": self.b_share.interval,
            "p_value": self.b_share.p_value,
            "fooled": asdict(self.fooled) if self.fooled else None,
            "first_chosen": asdict(self.first),
            "ratings": {name: asdict(rating) for name, rating in self.ratings.items()},
            "cut": self.cut,
            "judge": self.judge.to_json() if self.judge else None,
        }

    @property
    def main(self) -> Share:
        """The figure that matters: how often somebody was fooled, or else b's share."""
        return self.fooled or self.b_share

    def headline(self) -> str:
        """The outcome in a sentence that claims no more than the test allows."""
        share = self.main
        if share.rate is None:
            return "Nothing was decided."
        surely = share.p_value is not None and share.p_value < _ALPHA
        if self.fooled:
            said = f"Fooled {share.times} of {share.of} times."
            if not surely:
                return f"{said} That does not show that the model can be told from the person."
            if share.rate < 0.5:
                return f"{said} The model can be told from the person."
            return f"{said} The model is taken for the person more often than the person is."
        winner = self.labels[B if share.rate > 0.5 else A]
        if surely:
            return f"{winner} is preferred, {max(share.times, share.of - share.times)} of {share.of} times."
        return f"{share.of} decided answers do not tell {self.labels[A]} and {self.labels[B]} apart."

    def rows(self) -> list[list[str]]:
        """``[name, value]`` for people."""
        share, a, b = self.main, self.labels[A], self.labels[B]
        model = b if a == REAL else a
        if self.fooled:
            rows = [["the real reply was found", f"{share.of - share.times} of {self.answered}"]]
            rows += [[f"{model} was taken for the person", f"{share.times} of {self.answered}"]]
        else:
            rows = [[f"{label} was preferred", f"{self.wins[side]} of {self.answered}"] for side, label in _each(a, b)]
        rows += [["ties", str(self.ties)]]
        if share.rate is not None and share.interval is not None and share.p_value is not None:
            name = "fooled, ties left out" if self.fooled else f"for {b}, ties left out"
            rows += [[name, _percent(share.rate)]]
            rows += [["  95 % interval", f"{_percent(share.interval[0])} to {_percent(share.interval[1])}"]]
            rows += [["  p-value against a coin", f"{share.p_value:.3f}" if share.p_value >= 0.001 else "< 0.001"]]
            rows += [["the first of the two was chosen", f"{self.first.times} of {self.first.of}"]]
        for name, rating in self.ratings.items():
            rows += [[f"{name}: {label}", _number(rating.means[side])] for side, label in _each(a, b)]
            if rating.difference is not None:
                rows += [[f"  {b} minus {a}", f"{rating.difference:+.2f}"]]
            if rating.interval is not None:
                rows += [["  95 % interval", "{:+.2f} to {:+.2f}".format(*rating.interval)]]
        rows += [
            [f"replies of {label} cut at the token limit", str(self.cut[side])]
            for side, label in _each(a, b)
            if self.cut[side]
        ]
        return rows + (self.judge.rows(self.labels) if self.judge else [])


def score(session: Session, labels: dict[str, str], ratings: Ratings | None = None) -> Result:
    """Count the answers so far; ``labels`` names the sides, ``real`` being the person, ``ratings`` are a judge's."""
    choices = [(answer.step.item, str(answer.value)) for answer in session.answers if answer.step.ask == CHOICE]
    picked = [choice for _, choice in choices]
    wins = {side: picked.count(side) for side in SIDES}
    decided = wins[A] + wins[B]
    first = sum(session.items[item].first == choice for item, choice in choices)
    model = {labels[A]: B, labels[B]: A}.get(REAL)
    return Result(
        labels=labels,
        items=len(session.items),
        answered=len(picked),
        wins=wins,
        ties=picked.count(TIE),
        b_share=share_of(wins[B], decided),
        fooled=share_of(wins[model], decided) if model else None,
        first=share_of(first, decided),
        ratings={name: _rating(session, name) for name in session.rubric},
        cut={side: sum(item.cut[side] for item in session.items) for side in SIDES},
        judge=judged(session, ratings) if ratings else None,
    )


def share_of(times: int, of: int) -> Share:
    """``times`` of ``of`` with its interval and test."""
    if of == 0:
        return Share(0, 0, None, None, None)
    return Share(times, of, times / of, wilson(times, of), binomial_p(times, of))


def binomial_p(times: int, of: int) -> float:
    """How often ``of`` throws of a fair coin are at least as one-sided as ``times``: exact, both sides."""
    tail = sum(math.comb(of, k) for k in range(min(times, of - times) + 1))
    return min(1.0, 2 * tail / 2**of)


def _rating(session: Session, name: str) -> Rating:
    given: dict[str, dict[int, int]] = {side: {} for side in SIDES}
    for answer in session.answers:
        if answer.step.side and answer.step.ask == name and isinstance(answer.value, int):
            given[answer.step.side][answer.step.item] = answer.value
    differences = [value - given[A][item] for item, value in given[B].items() if item in given[A]]
    return Rating(
        means={side: _mean(list(values.values())) for side, values in given.items()},
        both=len(differences),
        difference=_mean(differences),
        interval=_bootstrap(differences) if len(differences) > 1 else None,
    )


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None


def _bootstrap(values: Sequence[int]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean, from resampled items; the same for the same values."""
    drawn = np.random.default_rng(0).choice(np.array(values), (_RESAMPLES, len(values)))  # (resamples, items)
    low, high = np.quantile(drawn.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _each(a: str, b: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (A, a), (B, b)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
