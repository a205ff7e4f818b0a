"""Which charts a page has, from what a run tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlx_persona.report.drawing import Bar, Line
from mlx_persona.report.figures import Figure, shown
from mlx_persona.report.plots import BarChart, Chart, LineChart, smoothed
from mlx_persona.report.reading import Record

PERSON, OTHERS = "person", "others"
LABEL_COLOURS = {PERSON: "kept", OTHERS: "d2", "base": "d5", "sft": "bar", "dpo": "d1", "fused": "d0"}
RUN_COLOURS = ("bar", "d0", "d3", "d4", "d1", "d2")
SMOOTH_NOTE = "Smoothed: a running mean of the training loss; what lies further back weighs less."
Points = list[tuple[float, float]]


def _points(series: Sequence[tuple[float, Figure]]) -> Points:
    return [(update, figure.value) for update, figure in series]


def _path(points: Points) -> str:
    """A series in words: its ends, and how many points lie between."""
    if len(points) == 1:
        return f"{points[0][1]:.4g} at update {points[0][0]:,}"
    (first, start), (last, end) = points[0], points[-1]
    return f"{start:.4g} at update {first:,}, {end:.4g} at update {last:,}"


def training_charts(run: Record) -> list[Chart]:
    """Loss, learning rate, gradient norm and tokens of an SFT or DPO run; rewards and accuracy of a DPO run."""
    train, held_out = _points(run.events.series("train", "loss")), _points(run.events.series("eval", "loss"))
    charts = []
    if train or held_out:
        said = [f"{what} {_path(points)}" for what, points in (("training", train), ("held-out", held_out)) if points]
        lines = [
            Line("training, each update", "bar", train, "faint"),
            Line("training, smoothed", "bar", smoothed(train)),
            Line("training rows" if run.info.get("held_out") is False else "held-out", "d0", held_out, "dots"),
        ]
        charts.append(
            LineChart("loss", "Loss", f"Loss by update: {'; '.join(said)}.", lines, main=True, note=SMOOTH_NOTE)
        )
    for key, title in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm")):
        if points := _points(run.events.series("train", key)):
            charts.append(LineChart(key, title, f"{title} by update: {_path(points)}.", [Line(title, "bar", points)]))
    charts += _token_chart(run)
    return charts + _preference_charts(run)


def _token_chart(run: Record) -> list[Chart]:
    kinds = (
        ("padded_tokens", "with padding", "d5"),
        ("tokens", "read", "bar"),
        ("supervised_tokens", "trained on", "d0"),
    )
    lines = [Line(name, colour, _points(run.events.series("train", key))) for key, name, colour in kinds]
    lines = [line for line in lines if line.points]
    if not lines:
        return []
    said = "; ".join(f"{line.label} {_path(list(line.points))}" for line in lines)
    return [LineChart("tokens", "Tokens per update", f"Tokens per update: {said}.", lines)]


def _preference_charts(run: Record) -> list[Chart]:
    charts = []
    kinds = (("chosen_reward", "real replies", "kept"), ("rejected_reward", "rejected replies", "bad"))
    lines = [Line(name, colour, _points(run.events.series("eval", key)), "dots") for key, name, colour in kinds]
    if all(line.points for line in lines):
        said = "; ".join(f"{line.label} {_path(list(line.points))}" for line in lines)
        note = "How much likelier a reply has become than at the start, in nats times beta."
        charts.append(LineChart("rewards", "Rewards, held-out", f"Rewards by update: {said}.", lines, note=note))
    if accuracy := _points(run.events.series("eval", "accuracy")):
        lines = [Line("accuracy", "kept", accuracy, "dots")]
        alt = f"Accuracy on held-out pairs by update: {_path(accuracy)}."
        note = "The share of pairs whose real reply has become likelier than the rejected one has."
        charts.append(LineChart("accuracy", "Accuracy, held-out", alt, lines, note=note))
    return charts


def card_charts(figures: Mapping[str, Mapping[str, Figure | tuple[Figure, Figure]]]) -> list[Chart]:
    """Style distance and loss of everybody on a report card: ``figures[label][key]``."""
    style, floor = _bars(figures, "style_distance", "style_interval")
    loss, _ = _bars(figures, "loss", "")
    charts = []
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
    charts = []
    for key, title, kind in (("eval", "Held-out loss", "dots"), ("train", "Training loss, smoothed", "line")):
        lines = []
        for i, (name, run) in enumerate(runs):
            points = _points(run.events.series(key, "loss"))
            if key == "train":
                points = smoothed(points)
            look = kind if i < len(RUN_COLOURS) else "dashes"
            lines.append(Line(name, RUN_COLOURS[i % len(RUN_COLOURS)], points, look))
        drawn = [line for line in lines if line.points]
        if drawn:
            said = "; ".join(f"{line.label} {_path(list(line.points))}" for line in drawn)
            charts.append(LineChart(f"{key}-loss", title, f"{title} by update: {said}.", drawn, main=key == "eval"))
    return charts
