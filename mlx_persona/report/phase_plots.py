"""Charts of a run's phases: δL with its thresholds, how steady it is, and how spread out the gradient norms are."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_persona.report.drawing import Level, Line
from mlx_persona.report.phases import Phases
from mlx_persona.report.plots import RUN_COLOURS, Chart, LineChart, path_in_words, points_of
from mlx_persona.report.reading import Record

_BENT = "Away from zero the scale is logarithmic."


def phase_charts(run: Record, phases: Phases) -> list[Chart]:
    """δL, its deviation, and the entropy of gradient norms, by update; those that the run's log has."""
    charts: list[Chart] = []
    levels = phases.levels
    whose = "training" if run.info.text("phase", "profile", "signal") == "train" else "held-out"
    if points := points_of(run.events.series("phase", "delta")):
        title = f"δL: the smoothed change of the {whose} loss"
        alt = f"δL by update: {path_in_words(points)}.{_thresholds(levels)}{phases.said}"
        note = f"In nats from one evaluation to the next; below zero the loss falls. {_BENT if levels else ''}".strip()
        lines = [Line("δL", "bar", points, "dots")]
        bend = min((abs(level.low) for level in levels), default=None)
        charts.append(LineChart("delta", title, alt, lines, phases.bands, levels, bend, main=True, note=note))
    kinds = (
        ("deviation", "How steady δL is", "Standard deviation of the newest values of δL, in nats."),
        ("entropy", "How spread out the gradient norms are", "Entropy between two evaluations; one is the most."),
    )
    for key, title, note in kinds:
        if points := points_of(run.events.series("phase", key)):
            spread = phases.threshold("spread") if key == "deviation" else None
            literal = run.info.text("phase", "profile", "spread_as") != "variance"
            limit = [Level("settled below this", "kept", spread.value)] if spread and spread.value and literal else []
            lines = [Line(key, "bar", points, "dots")]
            alt = f"{title}, by update: {path_in_words(points)}.{phases.said}"
            charts.append(LineChart(key, title, alt, lines, phases.bands, limit, note=note))
    return charts


def _thresholds(levels: Sequence[Level]) -> str:
    said = [f"{level.label}: {level.low if level.high is None else level.high:.4g}" for level in levels]
    return f" Thresholds: {', '.join(said)}." if said else ""


def delta_comparison(runs: Sequence[tuple[str, Record]]) -> list[Chart]:
    """δL of several runs, each under its name; nothing where none has any."""
    lines = [
        Line(name, RUN_COLOURS[i % len(RUN_COLOURS)], points_of(run.events.series("phase", "delta")), "dots")
        for i, (name, run) in enumerate(runs)
    ]
    drawn = [line for line in lines if line.points]
    if not drawn:
        return []
    said = "; ".join(f"{line.label} {path_in_words(line.points)}" for line in drawn)
    commits = [level.high for _, run in runs for level in Phases(run).levels if level.high]
    title = "δL: the smoothed change of the loss"
    note = f"In nats from one evaluation to the next; below zero the loss falls. {_BENT if commits else ''}".strip()
    alt = f"δL by update: {said}."
    return [LineChart("delta", title, alt, drawn, linear=min(commits, default=None), note=note)]
