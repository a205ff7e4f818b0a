"""An evaluation's report card as a table: a row for each figure, a column for the person and each candidate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from mlx_persona.errors import PersonaError
from mlx_persona.report.charts import PERSON
from mlx_persona.report.figures import Document, Figure
from mlx_persona.report.reading import Record

Interval = tuple[Figure, Figure]
Cell = Figure | Interval | str | None
Column = Mapping[str, Figure | Interval]
# Replies that a page shows, and how many of them at once.
MOST_REPLIES = 25
# key: (name, what it means, form). What is not here is shown under its own name.
KNOWN = {
    "loss": ("loss", "nats per token of the person's real replies; lower is better", "loss"),
    "perplexity": ("perplexity", "the same as the number of tokens to choose from", "one"),
    "style_distance": ("style distance", "to the person's held-out replies; lower is more alike", "loss"),
    "style_interval": ("95 % interval", "of the style distance", "loss"),
    "above_floor": ("above the floor", "style distance beyond the person's own from half to half", "loss"),
    "ratio_to_base": ("share of base", "of the base model's distance above the floor", "share"),
    "median_chars": ("reply length", "median, in characters", "one"),
    "stock_phrases": ("stock phrases", "of assistants, in a hundred replies", "one"),
    "cut_share": ("cut off", "replies that reached the token limit", "share"),
    "attribution / share": (
        "attributed to the person",
        "100 %: which replies are real is anybody's guess",
        "share",
    ),
    "attribution / interval": ("95 % interval", "of what is attributed", "share"),
    "leaning / share": ("rather the person's", "replies more like theirs than like those who write to them", "share"),
    "leaning / interval": ("95 % interval", "of that share", "share"),
}
# Of each measure of wording, in this order: (name, what it means); what else there is of it lies deeper.
_WORDING = {
    "distance": ("{}", "nothing where all is used as often; the person's own is what chance alone makes"),
    "interval": ("95 % interval", "of that distance"),
    "above": ("above the floor", "what chance between texts of that size does not explain; compare this"),
}
# What an evaluation calls its columns.
_COLUMNS = ("figures", "models")
_SHOWN_ELSEWHERE = {"data", "n", "references", "loss_tokens", "floor", "replies", "notes", *_COLUMNS}
_DEEPEST = 6
_MOST_MORE = 200


@dataclass(frozen=True)
class Row:
    """One figure of everybody: its name, what it means, its form, and a cell for each column."""

    name: str
    meaning: str
    form: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A part of an evaluation that says itself how it is to be shown: its name, its columns and its rows of text."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Said:
    """A prompt, and ``(who, reply)`` of everybody, the person first."""

    prompt: str
    replies: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Card:
    """What an evaluation found.

    Attributes:
        run: the evaluation.
        own: the labels that are the run whose page this is.
    """

    run: Record
    own: frozenset[str] = frozenset()

    @cached_property
    def figures(self) -> dict[str, dict[str, Figure | Interval]]:
        """``figures[label][key]``: numbers, and pairs as intervals; ``a / b`` is the key of what lies deeper."""
        scores = self.run.scores
        root = next((name for name in _COLUMNS if scores.mapping(name)), _COLUMNS[0])
        return {label: dict(_walk(scores, (root, label), 2)) for label in scores.mapping(root)}

    @property
    def labels(self) -> list[str]:
        """The columns."""
        return list(self.figures)

    def rows(self) -> list[Row]:
        """A row for each figure that anybody has; known ones first."""
        return table_rows(list(self.figures.values()))

    def wording(self) -> list[Row]:
        """Rows of what the texts are made of, measure by measure."""
        return wording_rows(list(self.figures.values()))

    def details(self) -> list[Row]:
        """A row for each figure that lies deeper: what the style distance is made of, and the like."""
        return table_rows(list(self.figures.values()), deep=True)

    def parts(self) -> list[Table]:
        """The further parts of the evaluation; their columns are in the order of the card's."""
        found = (label for rows in part_rows(self).values() for row in rows.values() for label in row)
        labels = dict.fromkeys([*self.labels, *found])
        return part_tables([(label, self, label) for label in labels])

    def more(self) -> list[tuple[str, Figure | Interval]]:
        """Every other figure of ``scores.json`` with its path, as many as can be read on a page."""
        keys = sorted(self.run.scores.mapping(), key=lambda key: key == "parts")  # the largest last
        found = (one for key in keys if key not in _SHOWN_ELSEWHERE for one in _walk(self.run.scores, (key,), 0))
        return list(islice(found, _MOST_MORE))

    def replies(self) -> list[Said]:
        """Prompts with everybody's replies: all that were written down, or those on the card; at most 25."""
        found = _lines(self.run) or self.run.scores.items("replies")
        step = max(1, -(-len(found) // MOST_REPLIES))
        return [one for value in found[::step] if (one := _said(value)) is not None]


def _walk(scores: Document, keys: tuple[str, ...], named_from: int) -> Iterator[tuple[str, Figure | Interval]]:
    """``(key, figure)`` of every number and interval below a path; a key is the path from ``named_from`` on."""
    figure, name = scores.number(*keys), " / ".join(keys[named_from:])
    pair = [scores.number(*keys, i) for i in range(len(scores.items(*keys)))]
    if figure is not None:
        yield name, figure
    elif len(pair) == 2 and pair[0] is not None and pair[1] is not None:
        yield name, (pair[0], pair[1])
    elif len(keys) < _DEEPEST:
        for key in scores.mapping(*keys):
            yield from _walk(scores, (*keys, key), named_from)


def table_rows(columns: Sequence[Column], deep: bool = False) -> list[Row]:
    """A row for each figure that any column has, known ones first.

    Args:
        columns: the figures of each column.
        deep: the figures that lie deeper and are not known, instead of the others.
    """
    found = dict.fromkeys(key for column in columns for key in column)
    order = [*(key for key in KNOWN if key in found), *(key for key in found if key not in KNOWN)]
    return [
        Row(*KNOWN.get(key, (key.replace("_", " "), "", "plain")), [column.get(key) for column in columns])
        for key in order
        if ("/" in key and key not in KNOWN) is deep and not _wording(key)
    ]


def wording_rows(columns: Sequence[Column]) -> list[Row]:
    """Three rows for each measure of wording that any column has: the distance, its interval, and without chance.

    What they mean is the same for all, and said once.
    """
    found = dict.fromkeys(measure for column in columns for key in column if (measure := _wording(key)))
    return [
        Row(name.format(measure), "" if i else meaning, "loss", cells)
        for i, measure in enumerate(found)
        for key, (name, meaning) in _WORDING.items()
        if any(cells := [column.get(f"wording / {measure} / {key}") for column in columns])
    ]


def _wording(key: str) -> str:
    """The measure that a key is a shown figure of, or ``""``."""
    of, _, rest = key.partition(" / ")
    measure, _, what = rest.rpartition(" / ")
    return measure if of == "wording" and what in _WORDING else ""


def part_rows(card: Card) -> dict[str, dict[tuple[str, int], dict[str, str]]]:
    """``found[part][what, count][label]``: the cells of every part that has rows; a name may stand twice in a part."""
    out: dict[str, dict[tuple[str, int], dict[str, str]]] = {}
    for name in card.run.scores.mapping("parts"):
        for row in card.run.scores.items("parts", name, "rows"):
            if isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], Mapping):
                rows = out.setdefault(name, {})
                count = sum(what == row[0] for what, _ in rows)
                rows[row[0], count] = {str(label): str(cell) for label, cell in row[1].items()}
    return out


def part_tables(columns: Sequence[tuple[str, Card, str]]) -> list[Table]:
    """A table for each part of any card.

    Args:
        columns: ``(name, card, label)``: the columns by name, and which of its card's each one is. A part is shown
            without those that it says nothing about.
    """
    found = [(name, part_rows(card), label) for name, card, label in columns]
    out = []
    for part in dict.fromkeys(part for _, parts, _ in found for part in parts):
        whats = dict.fromkeys(what for _, parts, _ in found for what in parts.get(part, {}))
        told = [
            (name, [parts.get(part, {}).get(what, {}).get(label) for what in whats]) for name, parts, label in found
        ]
        told = [(name, cells) for name, cells in told if any(cell is not None for cell in cells)]
        rows = [Row(what, "", "plain", [cells[i] for _, cells in told]) for i, (what, _) in enumerate(whats)]
        out.append(Table(part, [name for name, _ in told], rows))
    return [table for table in out if table.columns]


def card_of(run: Record, own_key: str = "") -> Card:
    """The card of an evaluation.

    Args:
        run: the evaluation.
        own_key: the hash of what another run made: its columns are marked.

    Raises:
        PersonaError: there are no scores.
    """
    if not run.scores.value:
        raise PersonaError(f"no scores in {run.path}: {run.scores.problem}", "name a folder that eval wrote")
    judged = run.info.mapping("judged")
    own = (label for label in judged if own_key and run.info.text("judged", label, "sha256") == own_key)
    return Card(run, frozenset(own))


def _lines(run: Record) -> list[Any]:
    """What ``replies.jsonl`` holds, without what cannot be read."""
    try:
        text = (run.path / "replies.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    out = []
    for line in text.split("\n"):
        try:
            out.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return out


def _said(value: Any) -> Said | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("prompt"), str):
        return None
    replies = [(str(who), text) for who, text in value.items() if who != "prompt" and isinstance(text, str)]
    return Said(value["prompt"], sorted(replies, key=lambda reply: reply[0] != PERSON))
