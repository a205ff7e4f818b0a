"""Which checkpoint is best? By loss, by style and by ability, and where these disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_persona.evals.figures import OTHERS, PERSON, Figures


def choose(figures: Mapping[str, Figures], ability: Mapping[str, Any] | None, base: str) -> dict[str, dict[str, Any]]:
    """The best checkpoint by each measure; of equals the earliest.

    Args:
        figures: the card's columns, in the order of training.
        ability: ``models`` of the ability part: label -> scores; None where it was not measured.
        base: the base model's label, which is none of the checkpoints.

    Returns:
        measure -> {``best``: its label, ``value``, ``tied``: the labels whose 95 % intervals reach the best value}.
        ``loss`` in nats per token and ``style`` (distance above the floor) are best where small, ``ability`` (the share
        kept of what the base model gets right) where large. The loss has no interval here, so nothing ties with it.
    """
    labels = [label for label in figures if label not in (PERSON, OTHERS, base)]
    losses = {label: loss for label in labels if (loss := figures[label].loss) is not None}
    out: dict[str, dict[str, Any]] = {}
    if losses:
        best = min(losses, key=lambda label: losses[label])
        out["loss"] = {"best": best, "value": losses[best], "tied": []}
    if labels:
        best = min(labels, key=lambda label: figures[label].style_distance)
        reached = figures[best].style_distance
        lows = {label: interval[0] for label in labels if (interval := figures[label].style_interval)}
        tied = [label for label, low in lows.items() if label != best and low <= reached]
        out["style"] = {"best": best, "value": figures[best].above_floor, "tied": tied}
    kept = {label: ability[label]["retention"]["kept"] for label in labels} if ability else {}
    if any(found["n"] for found in kept.values()):
        best = max(kept, key=lambda label: kept[label]["share"])
        tied = [x for x, found in kept.items() if x != best and found["interval"][1] >= kept[best]["share"]]
        out["ability"] = {"best": best, "value": kept[best]["share"], "tied": tied}
    return out


def spoken(choice: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per measure, and whether they agree."""
    lines = []
    for measure, found in choice.items():
        tied = f"; not to be told apart from it: {', '.join(found['tied'])}" if found["tied"] else ""
        lines.append(f"best by {measure}: update {found['best']} ({found['value']:.3f}){tied}")
    if len({found["best"] for found in choice.values()}) > 1:
        lines.append("they disagree: style says how it sounds, loss how well it predicts, ability what it still knows")
    return lines
