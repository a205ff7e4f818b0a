"""Which charts a page has, from what a run tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlx_persona.report.drawing import Bar, Line
from mlx_persona.report.figures import Figure, shown
from mlx_persona.report.phases import Phases
from mlx_persona.report.plots import RUN_COLOURS, BarChart, Chart, LineChart, path_in_words, points_of, smoothed
from mlx_persona.report.reading import Record

PERSON, OTHERS = "person", "others"
LABEL_COLOURS = {PERSON: "kept", OTHERS: "d2", "base": "d5", "sft": "bar", "dpo": "d1", "fused": "d0"}
_FILES = {"learning_rate": "learning-rate", "grad_norm": "gradient-norm"}
SMOOTH_NOTE = "Smoothed: a running mean of the training loss; what lies further back weighs less."


def training_charts(run: Record, phases: Phases) -> list[Chart]:
    """Loss, learning rate, gradient norm and tokens of an SFT or DPO run; rewards and accuracy of a DPO run."""
    train, held_out = points_of(run.events.series("train", "loss")), points_of(run.events.series("eval", "loss"))
    charts: list[Chart] = []
    if train or held_out:
        both = (("training", train), ("held-out", held_out))
        said = "; ".join(f"{what} {path_in_words(points)}" for what, points in both if points)
        lines = [
            Line("training, each update", "bar", train, "faint"),
            Line("training, smoothed", "bar", smoothed(train)),
            Line("training rows" if run.info.get("held_out") is False else "held-out", "d0", held_out, "dots"),
            Line("chosen checkpoint", "ink", _chosen(held_out, phases), "ring"),
        ]
        alt = f"Loss by update: {said}.{phases.said}"
        charts.append(LineChart("loss", "Loss", alt, lines, phases.bands, main=True, note=SMOOTH_NOTE))
    for key, title in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm")):
        if points := points_of(run.events.series("train", key)):
            alt = f"{title} by update: {path_in_words(points)}.{phases.said}"
            charts.append(LineChart(_FILES[key], title, alt, [Line(title, "bar", points)], phases.bands))
    return charts + _token_chart(run, phases) + _preference_charts(run)


def _chosen(held_out: Sequence[tuple[float, float]], phases: Phases) -> list[tuple[float, float]]:
    """Where the chosen checkpoint stands on the held-out loss."""
    return [point for point in held_out if phases.chosen and point[0] == phases.chosen.value]


def _token_chart(run: Record, phases: Phases) -> list[Chart]:
    kinds = (
        ("padded_tokens", "with padding", "d5"),
        ("tokens", "read", "bar"),
        ("supervised_tokens", "trained on", "d0"),
    )
    lines = [Line(name, colour, points_of(run.events.series("train", key))) for key, name, colour in kinds]
    lines = [line for line in lines if line.points]
    if not lines:
        return []
    said = "; ".join(f"{line.label} {path_in_words(line.points)}" for line in lines)
    alt = f"Tokens per update: {said}.{phases.said}"
    return [LineChart("tokens", "Tokens per update", alt, lines, phases.bands)]


def _preference_charts(run: Record) -> list[Chart]:
    charts: list[Chart] = []
    kinds = (("chosen_reward", "real replies", "kept"), ("rejected_reward", "rejected replies", "bad"))
    lines = [Line(name, colour, points_of(run.events.series("eval", key)), "dots") for key, name, colour in kinds]
    if all(line.points for line in lines):
        said = "; ".join(f"{line.label} {path_in_words(line.points)}" for line in lines)
        note = "How much likelier a reply has become than at the start, in nats times beta."
        charts.append(LineChart("rewards", "Rewards, held-out", f"Rewards by update: {said}.", lines, note=note))
    if accuracy := points_of(run.events.series("eval", "accuracy")):
        lines = [Line("accuracy", "kept", accuracy, "dots")]
        alt = f"Accuracy on held-out pairs by update: {path_in_words(accuracy)}."
        note = "The share of pairs whose real reply has become likelier than the rejected one has."
        charts.append(LineChart("accuracy", "Accuracy, held-out", alt, lines, note=note))
    return charts


def card_charts(figures: Mapping[str, Mapping[str, Figure | tuple[Figure, Figure]]]) -> list[Chart]:
    """Style distance and loss of everybody on a report card: ``figures[label][key]``."""
    style, floor = _bars(figures, "style_distance", "style_interval")
    loss, _ = _bars(figures, "loss", "")
    charts: list[Chart] = []
    if style:
        note = "Shorter is more alike. The line through each bar is its 95 % interval."
        if floor is not None:
            note += " Dashed: how far the person's own replies are from one another."
        charts.append(
            BarChart(
                "style", "Style distance to the person", _said("Style distance", style), style, floor=floor, note=note
            )
        )
    if loss:
        note = "Nats per token of the person's real replies; shorter is better."
        charts.append(BarChart("card-loss", "Loss on held-out replies", _said("Loss", loss), loss, note=note))
    return charts


def _said(what: str, bars: Sequence[Bar]) -> str:
    return f"{what}: {', '.join(f'{bar.label} {bar.shown}' for bar in bars)}."


def _bars(
    figures: Mapping[str, Mapping[str, Figure | tuple[Figure, Figure]]], key: str, interval: str
) -> tuple[list[Bar], float | None]:
    """A bar for each label that has the figure, and the person's figure."""
    bars, floor = [], None
    for label, column in figures.items():
        value, around = column.get(key), column.get(interval)
        if not isinstance(value, Figure):
            continue
        if label == PERSON:
            floor = value.value
        ends = (around[0].value, around[1].value) if isinstance(around, tuple) else None
        bars.append(Bar(label, LABEL_COLOURS.get(label, "d3"), value.value, shown(value, "loss"), ends))
    return bars, floor


def comparison_charts(runs: Sequence[tuple[str, Record]]) -> list[Chart]:
    """Held-out and training losses of several runs, each under its name."""
    charts: list[Chart] = []
    for key, title, kind in (("eval", "Held-out loss", "dots"), ("train", "Training loss, smoothed", "line")):
        lines = []
        for i, (name, run) in enumerate(runs):
            points = points_of(run.events.series(key, "loss"))
            if key == "train":
                points = smoothed(points)
            look = kind if i < len(RUN_COLOURS) else "dashes"
            lines.append(Line(name, RUN_COLOURS[i % len(RUN_COLOURS)], points, look))
        drawn = [line for line in lines if line.points]
        if drawn:
            said = "; ".join(f"{line.label} {path_in_words(line.points)}" for line in drawn)
            charts.append(LineChart(f"{key}-loss", title, f"{title} by update: {said}.", drawn, main=key == "eval"))
    return charts
