"""A judge's ratings of the replies of a blind comparison, beside what the one who knows the person answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlx_persona.errors import PersonaError
from mlx_persona.evals.blind.agreement import DECIMALS, HIGHEST, LOWEST, Agreement, agreement
from mlx_persona.evals.blind.session import SIDES, A, B, Session
from mlx_persona.evals.intervals import Tally

# What the ends of the scale mean where the user named a measure in a few words: as the page says.
SCALE = "(1 not at all, 5 entirely)"

# Side -> dimension -> score, 1 to 5: of one item.
Scores = dict[str, dict[str, float]]


def described(measure: str, shipped: Mapping[str, str]) -> str:
    """What a measure of the user's means, "" where they did not take the name of a shipped dimension."""
    return shipped.get("_".join(measure.lower().split()), "")


def meanings(rubric: Sequence[str], shipped: Mapping[str, str]) -> dict[str, str]:
    """What a judge is told about each measure: the user's, or all shipped ones where they rated by none.

    Args:
        rubric: the user's measures.
        shipped: dimension -> meaning.
    """
    return {measure: described(measure, shipped) or SCALE for measure in rubric} or dict(shipped)


@dataclass(frozen=True)
class Ratings:
    """All that one judge said of a comparison's replies.

    Attributes:
        url: where it was asked.
        model: which of its models.
        rubric: dimension -> what it was told that means.
        scores: per item.
        by_probability: how many scores are means over probabilities; the others are single digits.
    """

    url: str
    model: str
    rubric: dict[str, str]
    scores: tuple[Scores, ...]
    by_probability: int

    @property
    def questions(self) -> int:
        """How many scores there are."""
        return len(self.scores) * len(SIDES) * len(self.rubric)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of it."""
        return {**asdict(self), "scores": list(self.scores)}

    @classmethod
    def from_json(cls, value: object, items: int) -> Ratings:
        """Parse what :meth:`to_json` wrote about so many items; raises PersonaError."""
        try:
            given: dict[str, Any] = dict(value)  # type: ignore[call-overload]
            rubric = {str(name): str(text) for name, text in given["rubric"].items()}
            scores = tuple(
                {side: {name: float(item[side][name]) for name in rubric} for side in SIDES} for item in given["scores"]
            )
            found = cls(str(given["url"]), str(given["model"]), rubric, scores, int(given["by_probability"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PersonaError(f"a judge's ratings must have url, model, rubric and scores ({error!r})") from error
        every = [score for item in scores for side in item.values() for score in side.values()]
        if len(scores) != items or not all(LOWEST <= score <= HIGHEST for score in every):
            raise PersonaError(f"a judge's ratings must be {LOWEST} to {HIGHEST} for each of {items} items")
        return found


@dataclass(frozen=True)
class Dimension:
    """A judge on one dimension: its mean per side, and how far it agrees with the user's ratings, if there are any."""

    means: dict[str, float]
    agreement: Agreement | None


@dataclass(frozen=True)
class Judged:
    """What a judge says, and how far that is what the user says.

    Attributes:
        ratings: its ratings.
        dimensions: name -> figures.
        preferred: side -> in how many items its reply has the higher mean over dimensions.
        ties: in how many neither has.
        choices: of the items in which both the user and the judge preferred a side, in how many it is the same.
    """

    ratings: Ratings
    dimensions: dict[str, Dimension]
    preferred: dict[str, int]
    ties: int
    choices: Tally

    def to_json(self) -> dict[str, Any]:
        """As one JSON object, without the single scores."""
        return {
            "url": self.ratings.url,
            "model": self.ratings.model,
            "rubric": self.ratings.rubric,
            "questions": self.ratings.questions,
            "by_probability": self.ratings.by_probability,
            "dimensions": {name: asdict(one) for name, one in self.dimensions.items()},
            "preferred": self.preferred,
            "ties": self.ties,
            "choices": self.choices.to_json(),
        }

    def rows(self, labels: Mapping[str, str]) -> list[list[str]]:
        """``[name, value]`` for people; ``labels`` names the sides."""
        rows = [["judge", self.ratings.model]]
        rows += [
            [f"judge prefers {labels[side]}", f"{self.preferred[side]} of {len(self.ratings.scores)}"] for side in SIDES
        ]
        rows += [["  the same side as you", self.choices.shown()]]
        for name, one in self.dimensions.items():
            title = name.replace("_", " ")
            rows += [[f"judge on {title}: {labels[side]}", f"{one.means[side]:.2f}"] for side in SIDES]
            if one.agreement is not None:
                rows += _agreement_rows(one.agreement)
        return rows


def judged(session: Session, ratings: Ratings) -> Judged:
    """Compare a judge's ratings with the answers so far."""
    means = [{side: round(_mean(list(item[side].values())), DECIMALS) for side in SIDES} for item in ratings.scores]
    better = [A if mean[A] > mean[B] else B if mean[B] > mean[A] else None for mean in means]
    both = [
        (side, choice)
        for side, choice in ((side, session.chosen(index)) for index, side in enumerate(better))
        if side is not None and choice in SIDES
    ]
    return Judged(
        ratings,
        {name: _dimension(session, ratings, name) for name in ratings.rubric},
        {side: better.count(side) for side in SIDES},
        better.count(None),
        Tally(sum(side == choice for side, choice in both), len(both)),
    )


def _dimension(session: Session, ratings: Ratings, name: str) -> Dimension:
    means = {side: _mean([item[side][name] for item in ratings.scores]) for side in SIDES}
    given = [
        (answer.step.item, answer.value, ratings.scores[answer.step.item][answer.step.side][name])
        for answer in session.answers
        if answer.step.side and answer.step.ask == name and isinstance(answer.value, int)
    ]
    items, users, judges = [one[0] for one in given], [one[1] for one in given], [one[2] for one in given]
    return Dimension(means, agreement(items, users, judges))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _agreement_rows(found: Agreement) -> list[list[str]]:
    kappa = "-" if found.kappa is None else f"{found.kappa:.2f}{_range(found.interval, '.2f')}"
    ranks = "-" if found.spearman is None else f"{found.spearman:.2f}"
    return [
        [f"  agreement with you on {found.n} replies (kappa)", kappa],
        ["  rank correlation with you", ranks],
        ["  judge minus you", f"{found.difference:+.2f}{_range(found.difference_interval, '+.2f')}"],
    ]


def _range(interval: tuple[float, float] | None, form: str) -> str:
    return "" if interval is None else f" ({interval[0]:{form}} to {interval[1]:{form}})"
