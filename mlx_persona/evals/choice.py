"""Which checkpoint is best? By loss, by style and by ability, and where these disagree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_persona.evals.figures import OTHERS, PERSON, Figures


def choose(figures: Mapping[str, Figures], ability: Mapping[str, Any] | None, base: str) -> dict[str, dict[str, Any]]:
    """The best checkpoint by each measure; of equals the earliest. The best of many is flattered by chance.

    Args:
        figures: the card's columns, in the order of training.
        ability: ``models`` of the ability part: label -> scores; None where it was not measured.
        base: the base model's label, which is none of the checkpoints.

    Returns:
        measure -> {``best``: its label, ``value``, ``tied``: the labels that are not to be told apart from it}.
        ``loss`` in nats per token and ``style`` (distance above the floor) are best where small, ``ability`` (the share
        kept of what the base model gets right) where large. Two are tied where their difference is within both 95 %
        intervals together (the root of the summed squares of their halves); the loss has none here, and no ties.
    """
    labels = [label for label in figures if label not in (PERSON, OTHERS, base)]
    out: dict[str, dict[str, Any]] = {}
    losses = {label: (loss, 0.0) for label in labels if (loss := figures[label].loss) is not None}
    if losses:
        out["loss"] = _best(losses)
    if labels:
        found = _best(
            {label: (figures[label].style_distance, _half(figures[label].style_interval)) for label in labels}
        )
        out["style"] = {**found, "value": figures[found["best"]].above_floor}
    kept = {label: ability[label]["retention"]["kept"] for label in labels} if ability else {}
    if any(tally["n"] for tally in kept.values()):
        found = _best({label: (-tally["share"], _half(tally["interval"])) for label, tally in kept.items()})
        out["ability"] = {**found, "value": -found["value"]}
    return out


def _half(interval: Sequence[float] | None) -> float:
    return (interval[1] - interval[0]) / 2 if interval else 0.0


def _best(measured: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """The least of some values with the half widths of their intervals, and what is not to be told apart from it."""
    best = min(measured, key=lambda label: measured[label][0])
    value, half = measured[best]
    tied = [
        label
        for label, (other, own) in measured.items()
        if label != best and half and other - value <= math.hypot(half, own)
    ]
    return {"best": best, "value": value, "tied": tied}


def spoken(choice: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per measure, and whether they agree: whether some checkpoint is best by all, or tied with the best."""
    lines = []
    for measure, found in choice.items():
        tied = f"; not to be told apart from it: {', '.join(found['tied'])}" if found["tied"] else ""
        lines.append(f"best by {measure}: update {found['best']} ({found['value']:.3f}){tied}")
    if choice and not set.intersection(*({found["best"], *found["tied"]} for found in choice.values())):
        lines.append("they disagree: style says how it sounds, loss how well it predicts, ability what it still knows")
    return lines
