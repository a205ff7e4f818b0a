"""The columns of the report card: what is measured of a set of texts, and how people are shown it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from mlx_persona.evals import style
from mlx_persona.evals.attribution import LEANING, Attribution, Share
from mlx_persona.evals.lineup import Lineup
from mlx_persona.evals.phrases import stock_phrase_rate
from mlx_persona.evals.wording import MEASURES, Difference, Wording

PERSON, OTHERS = "person", "others"


@dataclass(frozen=True)
class Said:
    """What a column is measured on.

    ``texts``: replies of a model, or other people's messages; ``cut``: for each reply of a model, whether it reached
    the token limit, () for people; ``loss``: a model's, in nats per token.
    """

    texts: Sequence[str]
    cut: Sequence[bool] = ()
    loss: float | None = None


@dataclass(frozen=True)
class Figures:
    """One column of the card; None where a figure has no meaning (people have no loss) or was not to be had.

    Attributes:
        loss: mean cross-entropy per reply token, end token included, in nats.
        perplexity: exp(loss).
        median_chars: median length of the replies, in characters.
        stock_phrases: stock assistant phrases per 100 replies.
        style_distance: to the person's held-out replies; for the person, the split-half floor.
        style_interval: 95 % bootstrap interval of ``style_distance``.
        above_floor: style distance minus the person's split-half floor, at least 0.
        ratio_to_base: ``above_floor`` over the base model's.
        cut_share: share of the replies that reached ``max_tokens``.
        style_parts: what each feature adds to ``style_distance``; they sum to it.
        wording: measure -> difference, without those that there is too little text for.
        attribution: how well the texts pass for the person's; for the person, the ceiling.
        leaning: how often a text is more like the person's than like those of who writes to them.
    """

    median_chars: float
    stock_phrases: float
    style_distance: float
    above_floor: float
    loss: float | None = None
    perplexity: float | None = None
    style_interval: tuple[float, float] | None = None
    ratio_to_base: float | None = None
    cut_share: float | None = None
    style_parts: dict[str, float] | None = None
    wording: dict[str, Difference] | None = None
    attribution: Share | None = None
    leaning: Share | None = None


def figures(
    real: Sequence[str], said: Mapping[str, Said], wording: Wording, attribution: Attribution | None, seed: int
) -> dict[str, Figures]:
    """The person's column and the others', in order.

    Args:
        real: the person's held-out replies.
        said: label -> what to measure, each of the same number of texts.
        wording: of ``real``.
        attribution: the classifier, or None where there is none.
        seed: fixes every draw.
    """
    n = len(next(iter(said.values())).texts)
    floor = style.split_half_floor(real, n, seed=seed)
    lineup = Lineup(real, attribution, n, seed) if attribution else None
    distances = {label: style.distance(real, one.texts) for label, one in said.items()}
    base = style.above_floor(distances["base"], floor) if "base" in distances else 0.0
    columns = {
        PERSON: Figures(
            median_chars=float(median(map(len, real))),
            stock_phrases=stock_phrase_rate(real),
            style_distance=floor,
            above_floor=0.0,
            wording=wording.own(),
            attribution=lineup.own() if lineup else None,
            leaning=attribution.share(real) if attribution else None,
        )
    }
    for label, one in said.items():
        above = style.above_floor(distances[label], floor)
        columns[label] = Figures(
            median_chars=float(median(map(len, one.texts))),
            stock_phrases=stock_phrase_rate(one.texts),
            style_distance=distances[label],
            above_floor=above,
            loss=one.loss,
            perplexity=None if one.loss is None else math.exp(one.loss),
            style_interval=style.bootstrap_interval(real, one.texts, seed=seed),
            ratio_to_base=above / base if base > 0 else None,
            cut_share=sum(one.cut) / len(one.cut) if one.cut else None,
            style_parts=style.contributions(real, one.texts),
            wording=wording.compare(one.texts, one.cut),
            attribution=lineup.share(one.texts, one.cut) if lineup else None,
            leaning=attribution.share(one.texts) if attribution else None,
        )
    return columns


def table(columns: Mapping[str, Figures]) -> tuple[list[str], list[list[str]]]:
    """``(columns, rows)`` for people: a row per figure that any column has, a column for each set of texts."""
    rows = [[name, *(show(column) for column in columns.values())] for name, show in _ROWS]
    return ["", *columns], [row for row in rows if set(row[1:]) != {NONE}]


NONE = "-"


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _range(interval: tuple[float, float] | None, form: str = ".3f") -> str:
    return NONE if interval is None else f"{interval[0]:{form}}–{interval[1]:{form}}"


def _most(column: Figures) -> str:
    """The feature that adds most to the style distance, and its share of it."""
    parts = column.style_parts
    if not parts or not column.style_distance:
        return NONE
    name = max(parts, key=lambda feature: parts[feature])
    return f"{name} {parts[name] / column.style_distance:.0%}"


def _above(name: str) -> Callable[[Figures], str]:
    def show(column: Figures) -> str:
        found = (column.wording or {}).get(name)
        return _number(found.above if found else None, ".3f")

    return show


def _above_range(name: str) -> Callable[[Figures], str]:
    def show(column: Figures) -> str:
        found = (column.wording or {}).get(name)
        if found is None or found.interval is None:
            return NONE
        low, high = (style.above_floor(bound, found.floor) for bound in found.interval)
        return _range((low, high))

    return show


_INTERVAL = "  95 % interval"
_ROWS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("loss (nats per token)", lambda c: _number(c.loss, ".3f")),
    ("perplexity", lambda c: _number(c.perplexity, ".1f")),
    ("reply length (median characters)", lambda c: _number(c.median_chars, ".0f")),
    ("replies cut at the token limit", lambda c: _number(c.cut_share, ".0%")),
    ("stock phrases per 100 replies", lambda c: _number(c.stock_phrases, ".1f")),
    ("style distance", lambda c: _number(c.style_distance, ".3f")),
    (_INTERVAL, lambda c: _range(c.style_interval)),
    ("  most of it", _most),
    ("  above the person's own floor", lambda c: _number(c.above_floor, ".3f")),
    ("  the same, base = 1", lambda c: _number(c.ratio_to_base, ".2f")),
    *(
        row
        for name in MEASURES
        for row in ((f"{name}, above floor (bits)", _above(name)), (_INTERVAL, _above_range(name)))
    ),
    ("attributed to the person", lambda c: _number(c.attribution.share if c.attribution else None, ".0%")),
    (_INTERVAL, lambda c: _range(c.attribution.interval if c.attribution else None, ".0%")),
    (LEANING, lambda c: _number(c.leaning.share if c.leaning else None, ".0%")),
    (_INTERVAL, lambda c: _range(c.leaning.interval if c.leaning else None, ".0%")),
)
