"""What the pages show, put together from what runs tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlx_persona.config import DpoConfig, EvalConfig, FuseConfig, SftConfig
from mlx_persona.report.arms import Arms, arm_charts, arms_of, read_table
from mlx_persona.report.card import Card, Cell, Row, Said, Table, card_of, part_tables, table_rows, wording_rows
from mlx_persona.report.charts import OTHERS, PERSON, card_charts, comparison_charts, training_charts
from mlx_persona.report.figures import Document, Figure, total
from mlx_persona.report.phase_plots import delta_comparison, phase_charts
from mlx_persona.report.phases import CALMING, Phases
from mlx_persona.report.plots import Chart
from mlx_persona.report.reading import Record, find_data, find_eval, lineage

_CONFIGS: dict[str, type] = {"sft": SftConfig, "dpo": DpoConfig, "fuse": FuseConfig, "eval": EvalConfig}
_WORK: Sequence[tuple[str, str, str, Callable[[Record], Figure | None]]] = (
    ("updates", "", "count", lambda run: run.updates),
    ("best update", "by the held-out loss", "count", lambda run: run.info.number("best_update")),
    ("held-out loss at the start", "nats per token", "loss", lambda run: run.first_loss),
    ("held-out loss", "nats per token", "loss", lambda run: run.best_loss),
    ("accuracy", "on held-out pairs", "share", lambda run: run.info.number("accuracy")),
    ("margin", "between real and rejected replies", "loss", lambda run: run.info.number("margin")),
    ("retention", "of the adapter's effect, after fusing", "share", lambda run: run.info.number("retention")),
    ("bits", "of the fused weights", "count", lambda run: run.info.number("bits")),
    ("time", "", "time", lambda run: run.seconds),
    ("tokens", "read in training", "count", lambda run: run.tokens),
    ("speed", "tokens per second", "one", lambda run: run.info.number("tokens_per_second")),
    ("peak memory", "", "bytes", lambda run: run.peak_bytes),
)


@dataclass(frozen=True)
class Option:
    """One option of a run: its name, what it is, its value as text or as a figure, and whether that is the default."""

    name: str
    help: str
    value: str | Figure
    default: bool


@dataclass(frozen=True)
class RunView:
    """All that the page of one run shows."""

    run: Record
    chain: Sequence[Record]
    seconds: Figure | None
    tokens: Figure | None
    data: Document | None
    no_data: str
    pairs: Document | None
    no_pairs: str
    card: Card | None
    charts: Sequence[Chart]
    phases: Phases
    phase_charts: Sequence[Chart]
    arms: Arms | None
    arm_charts: Sequence[Chart]
    card_charts: Sequence[Chart]
    options: Sequence[Option]


@dataclass(frozen=True)
class Comparison:
    """All that the page of several runs shows.

    Attributes:
        runs: each under the name that tells it from the others.
        rows: figures of all runs.
        phases: when each changed its phase, where any tells.
        options: ``(name, values)`` of the options in which they differ.
        card_names: the columns of the report card.
        card_rows: its rows.
        wording: its rows about words and letters.
        parts: the further parts of the evaluations.
        said: prompts that all cards share, with the replies of every column.
        notes: why figures may not be compared, and what could not be read.
    """

    runs: Sequence[tuple[str, Record]]
    rows: Sequence[Row]
    phases: Sequence[Row]
    options: Sequence[tuple[str, Sequence[str | Figure]]]
    card_names: Sequence[str]
    card_rows: Sequence[Row]
    wording: Sequence[Row]
    parts: Sequence[Table]
    said: Sequence[Said]
    charts: Sequence[Chart]
    notes: Sequence[str]


def view(run: Record, judged_by: Record | None = None) -> RunView:
    """What the page of a run shows.

    Args:
        run: the run.
        judged_by: the evaluation whose card to show; default: the newest that judged what the run made.
    """
    chain = lineage(run)
    tuned = next((one for one in chain if one.stage == "sft"), None)
    preferred = next((one for one in chain if one.stage == "dpo" and (run.stage != "sft")), None)
    data, no_data = find_data(tuned, "data") if tuned else (None, "")
    pairs, no_pairs = find_data(preferred, "pairs") if preferred else (None, "")
    scored = run if run.stage == "eval" and run.scores.value else judged_by or find_eval(run)
    card = card_of(scored, run.key) if scored else None
    phases, table = Phases(run), read_table(run.path)
    return RunView(
        run=run,
        chain=chain,
        seconds=total([one.seconds for one in chain]),
        tokens=total([one.tokens for one in chain]),
        data=data,
        no_data=no_data,
        pairs=pairs,
        no_pairs=no_pairs,
        card=card,
        charts=training_charts(run, phases),
        phases=phases,
        phase_charts=phase_charts(run, phases),
        arms=arms_of(table) if table else None,
        arm_charts=arm_charts(table) if table else (),
        card_charts=card_charts(card.figures) if card else (),
        options=options(run),
    )


def options(run: Record) -> list[Option]:
    """The options of a run in the order of its ``config.yaml``."""
    known = {item.name: item for item in dataclasses.fields(_CONFIGS[run.stage])} if run.stage in _CONFIGS else {}
    out = []
    for name in run.config.mapping():
        value = run.config.get(name)
        item = known.get(name)
        if item is None:
            out.append(Option(name, "", _value(run.config, name), False))
            continue
        default = list(item.default) if isinstance(item.default, tuple) else item.default
        out.append(Option(name, item.metadata["help"], _value(run.config, name), value == default))
    return out


def _value(config: Document, name: str) -> str | Figure:
    """An option's value: a figure where it is a number."""
    figure, value = config.number(name), config.get(name)
    if figure is not None:
        return figure
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return "-" if value is None or value == "" else str(value)


def when(seconds: Figure | None) -> str:
    """A moment as people write it, in UTC; ``""`` where it is none."""
    try:
        return f"{datetime.fromtimestamp(seconds.value, UTC):%Y-%m-%d %H:%M} UTC" if seconds else ""
    except (OverflowError, ValueError, OSError):
        return ""


def compare(runs: Sequence[Record], judged_by: Record | None = None) -> Comparison:
    """What the page of several runs shows.

    Args:
        runs: the runs, in the order of the columns.
        judged_by: the evaluation whose card to show; default: for each run the newest that judged it.
    """
    named = [(str(run.path) if [r.name for r in runs].count(run.name) > 1 else run.name, run) for run in runs]
    columns = _columns(named, judged_by)
    figures = [card.figures.get(label, {}) for _, card, label in columns]
    rows = [Row(name, said, form, [figure(run) for run in runs]) for name, said, form, figure in _WORK]
    return Comparison(
        runs=named,
        rows=[row for row in rows if any(row.cells)],
        phases=_phase_rows(runs),
        options=_differences(runs),
        card_names=[name for name, _, _ in columns],
        card_rows=table_rows(figures),
        wording=wording_rows(figures),
        parts=part_tables(columns),
        said=_common_replies(columns),
        charts=[*comparison_charts(named), *delta_comparison(named), *card_charts(_person_and(columns))],
        notes=[*_warnings(named, columns), *(f"{name}: {note}" for name, run in named for note in run.notes)],
    )


def _phase_rows(runs: Sequence[Record]) -> list[Row]:
    """What tells runs apart in their phases; empty where none tells of any."""
    found = [Phases(run) for run in runs]
    rows: list[tuple[str, str, str, list[Cell]]] = [
        ("onset", "update at which susceptibility began", "count", [one.began("S1") for one in found]),
        ("commitment", "update at which it had settled", "count", [one.began("S2") for one in found]),
        ("post-commitment", "update at which it began", "count", [one.began("S3") for one in found]),
        ("chosen", "update whose checkpoint was kept", "count", [one.chosen for one in found]),
        ("noise", "of the held-out loss, in nats", "plain", [one.noise for one in found]),
    ]
    for key, meaning in CALMING:
        name = f"calming, {key.replace('_', ' ')}"
        rows.append((name, meaning, "plain", [run.info.number("phase", "calming", key) for run in runs]))
    return [Row(*row) for row in rows if any(row[3])]


_Column = tuple[str, Card, str]


def _columns(named: Sequence[tuple[str, Record]], judged_by: Record | None) -> list[_Column]:
    """``(name, card, label)``: the run's own column of its card, or all columns of an evaluation."""
    out: list[_Column] = []
    for name, run in named:
        if run.stage == "eval" and run.scores.value:
            card = card_of(run)
            out += [(f"{name} {label}", card, label) for label in card.labels if label not in (PERSON, OTHERS)]
        elif scored := judged_by or find_eval(run):
            card = card_of(scored, run.key)
            out += [(name, card, label) for label in card.labels if label in card.own][:1]
    return out


def _person_and(columns: Sequence[_Column]) -> dict[str, dict[str, Any]]:
    """The figures of all columns behind the person's, where all have the same."""
    persons = [card.figures.get(PERSON, {}) for _, card, _ in columns]
    same = persons and all(_values(person) == _values(persons[0]) for person in persons)
    first = {PERSON: persons[0]} if same else {}
    return {**first, **{name: card.figures[label] for name, card, label in columns}}


def _values(figures: dict[str, Any]) -> dict[str, float]:
    return {key: figure.value for key, figure in figures.items() if isinstance(figure, Figure)}


def _common_replies(columns: Sequence[_Column]) -> list[Said]:
    """Prompts that every card has, with the person's reply and each column's."""
    if not columns:
        return []
    found = [
        {(one.prompt, dict(one.replies).get(PERSON, "")): dict(one.replies) for one in card.replies()}
        for _, card, _ in columns
    ]
    out = []
    for prompt, real in found[0]:
        if all((prompt, real) in replies for replies in found):
            said = [
                (name, replies[prompt, real].get(label, ""))
                for (name, _, label), replies in zip(columns, found, strict=True)
            ]
            out.append(Said(prompt, [(PERSON, real), *said]))
    return out


def _differences(runs: Sequence[Record]) -> list[tuple[str, Sequence[str | Figure]]]:
    """Options that not all runs have alike; where each run wrote to is no difference."""
    names = dict.fromkeys(name for run in runs for name in run.config.mapping())
    out: list[tuple[str, Sequence[str | Figure]]] = []
    for name in names:
        values = [run.config.get(name) for run in runs]
        if name not in ("out", "resume") and any(value != values[0] for value in values):
            out.append((name, [_value(run.config, name) for run in runs]))
    return out


def _warnings(named: Sequence[tuple[str, Record]], columns: Sequence[_Column]) -> list[str]:
    """Why figures may not be compared."""
    out = []
    trained = [run for _, run in named if run.stage in ("sft", "dpo")]
    if len({run.stage for run in trained}) > 1:
        out.append("SFT and DPO have different losses: one is of replies, the other of pairs. Do not compare them.")
    held_out = {(run.stage, run.info.text("data_hashes", "valid")) for run in trained}
    if len(held_out) > len({stage for stage, _ in held_out}):
        out.append("The held-out data differ, so the held-out losses cannot be compared.")
    if len({run.info.text("model_identity", "sha256") for _, run in named if run.stage != "eval"}) > 1:
        out.append("The base models differ.")
    asked = {
        (card.run.scores.text("data"), str(card.run.scores.get("n")), str(card.run.scores.get("floor")))
        for _, card, _ in columns
    }
    if len(asked) > 1:
        out.append("The report cards are of different held-out replies, so their figures cannot be compared.")
    without = [name for name, run in named if run.stage != "eval" and not any(column[0] == name for column in columns)]
    if without:
        out.append(f"No evaluation judged what came of: {', '.join(without)}.")
    return out
