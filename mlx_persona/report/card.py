"""An evaluation's report card as a table: a row for each figure, a column for the person and each candidate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlx_persona.errors import PersonaError
from mlx_persona.report.charts import PERSON
from mlx_persona.report.figures import Figure, is_number
from mlx_persona.report.reading import Record

Interval = tuple[Figure, Figure]
Cell = Figure | Interval | None
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
}
_SHOWN_ELSEWHERE = {"data", "n", "references", "loss_tokens", "floor", "figures", "replies"}
_MOST_MORE = 200


@dataclass(frozen=True)
class Row:
    """One figure of everybody: its name, what it means, its form, and a cell for each column."""

    name: str
    meaning: str
    form: str
    cells: Sequence[Cell]


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
        """``figures[label][key]``: numbers, and pairs of numbers as intervals."""
        scores = self.run.scores
        out: dict[str, dict[str, Figure | Interval]] = {}
        for label in scores.mapping("figures"):
            out[label] = {}
            for key in scores.mapping("figures", label):
                low, high = (scores.number("figures", label, key, i) for i in (0, 1))
                figure = scores.number("figures", label, key)
                if figure is not None:
                    out[label][key] = figure
                elif low is not None and high is not None:
                    out[label][key] = (low, high)
        return out

    @property
    def labels(self) -> list[str]:
        """The columns."""
        return list(self.figures)

    def rows(self) -> list[Row]:
        """A row for each figure that anybody has; known ones first."""
        found = dict.fromkeys(key for column in self.figures.values() for key in column)
        order = [*(key for key in KNOWN if key in found), *(key for key in found if key not in KNOWN)]
        return [Row(*describe(key), [column.get(key) for column in self.figures.values()]) for key in order]

    def parts(self) -> list[Row]:
        """What each feature adds to the style distance."""
        scores = self.run.scores
        labels = self.labels
        names = dict.fromkeys(name for label in labels for name in scores.mapping("figures", label, "style_parts"))
        return [
            Row(name, "", "loss", [scores.number("figures", label, "style_parts", name) for label in labels])
            for name in names
        ]

    def more(self) -> list[tuple[str, Figure]]:
        """Every other figure of ``scores.json`` with its path, as far as they can be read on a page."""
        out: list[tuple[str, Figure]] = []

        def walk(keys: tuple[str | int, ...], value: Any) -> None:
            if len(out) >= _MOST_MORE or len(keys) > 6:
                return
            if isinstance(value, Mapping):
                for key, inner in value.items():
                    walk((*keys, key), inner)
            elif is_number(value):
                out.append((" / ".join(map(str, keys)), Figure(value, self.run.scores.place(*keys))))

        for key, value in self.run.scores.value.items():
            if key not in _SHOWN_ELSEWHERE:
                walk((key,), value)
        return out

    def replies(self) -> list[Said]:
        """Prompts with everybody's replies: all that were written down, or those on the card; at most 25."""
        found = _lines(self.run) or self.run.scores.items("replies")
        step = max(1, -(-len(found) // MOST_REPLIES))
        return [one for value in found[::step] if (one := _said(value)) is not None]


def describe(key: str) -> tuple[str, str, str]:
    """``(name, meaning, form)`` of a figure."""
    return KNOWN.get(key, (key.replace("_", " "), "", "plain"))


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
