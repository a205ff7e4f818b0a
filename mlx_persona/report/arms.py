"""The arms of a sweep side by side, from its ``table.json``: what each came to, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_persona.report.card import Cell, Row
from mlx_persona.report.drawing import Bar
from mlx_persona.report.figures import Document, Figure, Key, read_document, shown
from mlx_persona.report.plots import BarChart, Chart

TABLE = "table.json"


@dataclass(frozen=True)
class _Kind:
    """A figure of a sweep: its name there and in a run's record, its name for people, form and meaning."""

    name: str
    path: Sequence[Key]
    title: str
    form: str
    note: str


@dataclass(frozen=True)
class Arms:
    """The arms of a sweep: their names, which is the reference, a row for each figure, and what to keep in mind."""

    names: Sequence[str]
    reference: str
    rows: Sequence[Row]
    notes: Sequence[str]


_LOSS = "Nats per token of the person's real replies; lower is better."
_KINDS = (
    _Kind("held_out_loss", ("held_out_loss",), "Held-out loss", "loss", _LOSS),
    _Kind("eval_loss", ("eval_loss",), "Evaluation loss", "loss", _LOSS),
    _Kind("accuracy", ("accuracy",), "Accuracy on pairs", "share", "Higher is better."),
    _Kind("style_distance", ("style_distance",), "Style distance", "loss", "To the person's; lower is more alike."),
    _Kind("attribution", ("attribution", "share"), "Taken for the person", "share", "Higher is more alike."),
    _Kind("onset_update", ("onset", "update"), "Onset", "one", "The update at which susceptibility began."),
    _Kind("commitment_update", ("commitment", "update"), "Commitment", "one", "The update at which it had settled."),
    _Kind("commitment_tokens", ("commitment", "tokens"), "Commitment in tokens", "count", "Tokens until it settled."),
    _Kind("calming_mean_to_peak", ("calming", "mean_to_peak"), "Calming", "plain", "Mean to peak; lower is calmer."),
)
_SEEDS = "The large dot is the mean, each small one a seed."


def read_table(folder: Path) -> Document | None:
    """The table of a sweep's folder; None where it is no sweep's."""
    table = read_document(folder / TABLE)
    return table if table.items("arms") else None


def arm_charts(table: Document) -> list[Chart]:
    """The differences in loss to the reference arm, and what each arm came to, as far as the table tells."""
    charts = _difference_chart(table)
    for kind in _KINDS:
        bars = [bar for i in range(len(table.items("arms"))) if (bar := _mean_bar(table, i, kind))]
        if len(bars) > 1:
            alt = f"{kind.title}, mean of each arm: {', '.join(f'{bar.label} {bar.shown}' for bar in bars)}."
            name = f"arms-{kind.name.replace('_', '-')}"
            note = f"{kind.note} {_SEEDS}" if any(len(bar.points) > 1 for bar in bars) else kind.note
            charts.append(BarChart(name, kind.title, alt, bars, dots=True, note=note))
    return charts


def arms_of(table: Document) -> Arms:
    """What the page of a sweep shows, but for its charts."""
    places, key = range(len(table.items("arms"))), _loss(table)
    compared = [_difference(table, i, key) for i in places]
    rows = [
        Row("difference in loss", "to the reference arm; lower is better", "plain", [value for value, _ in compared]),
        Row("95 % interval", "of that difference", "plain", [around for _, around in compared]),
    ]
    for kind in _KINDS:
        means: list[Cell] = [table.number("arms", i, "figures", kind.name, "mean") for i in places]
        rows.append(Row(kind.title.lower(), kind.note, kind.form, means))
    for name, meaning in (("runs", "that ended, of which the means are"), ("failed", "runs that came to nothing")):
        counts: list[Cell] = [table.number("arms", i, name) for i in places]
        rows.append(Row(name, meaning, "count", counts))
    notes = [note for note in table.items("notes") if isinstance(note, str)]
    told = [
        row for row in rows if any(not isinstance(cell, Figure) or cell.value for cell in row.cells if cell is not None)
    ]
    return Arms([_name(table, i) for i in places], table.text("reference"), told, notes)


def _name(table: Document, i: int) -> str:
    return table.text("arms", i, "arm") or "unnamed"


def _loss(table: Document) -> str:
    """The loss by which arms are compared."""
    arms = range(len(table.items("arms")))
    held_out = any(table.number("arms", i, "figures", "held_out_loss", "mean") for i in arms)
    return "held_out_loss" if held_out else "eval_loss"


def _difference(table: Document, i: int, key: str) -> tuple[Figure | None, tuple[Figure, Figure] | None]:
    """An arm's difference to the reference, with the widest interval that there is."""
    place: tuple[Key, ...] = ("arms", i, "differences", key)
    ways = ((*place, "by_both"), (*place, "by_conversation"), place)
    best = next((way for way in ways if table.number(*way, "value")), place)
    low, high = (table.number(*best, "interval", end) for end in (0, 1))
    return table.number(*best, "value"), (low, high) if low and high else None


def _difference_chart(table: Document) -> list[Chart]:
    key, bars = _loss(table), list[Bar]()
    for i in range(len(table.items("arms"))):
        value, around = _difference(table, i, key)
        if value is not None:
            ends = (around[0].value, around[1].value) if around else None
            bars.append(Bar(_name(table, i), "bar", value.value, f"{value.value:+.3f}", ends))
    if not bars:
        return []
    reference = table.text("reference") or "the reference"
    note = "Nats per token; left of the dashed line is better than the reference."
    if any(bar.interval for bar in bars):
        note += (
            " The line through each dot is its 95 % interval: where it crosses the dashed one, no difference is shown."
        )
    alt = f"Difference in loss to {reference}: {', '.join(f'{bar.label} {bar.shown}' for bar in bars)}."
    title = f"Difference in loss to {reference}"
    return [BarChart("arms-difference", title, alt, bars, 0.0, dots=True, main=True, note=note)]


def _mean_bar(table: Document, i: int, kind: _Kind) -> Bar | None:
    mean, name = table.number("arms", i, "figures", kind.name, "mean"), _name(table, i)
    if mean is None:
        return None
    own = [j for j in range(len(table.items("runs"))) if table.text("runs", j, "arm") == name]
    seeds = [figure.value for j in own if (figure := table.number("runs", j, *kind.path))]
    told, runs = table.number("arms", i, "figures", kind.name, "n"), table.number("arms", i, "runs")
    some = f" ({told.value:g} of {runs.value:g} runs)" if told and runs and told.value < runs.value else ""
    colour = "d5" if name == table.text("reference") else "bar"
    return Bar(name, colour, mean.value, shown(mean, kind.form) + some, points=seeds)
