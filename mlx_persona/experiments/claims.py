"""What a verdict is, and how its figures are worded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_persona.experiments.statistics import Estimate
from mlx_persona.experiments.table import Record, ended

Table = Mapping[str, Any]
CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"
# Losses that differ by less, in nats per token, are the same for anyone who talks to the model.
MARGIN = 0.02


@dataclass(frozen=True)
class Verdict:
    """What the runs say about one claim.

    Attributes:
        claim: its name: ``P1 phases exist``.
        outcome: ``confirmed``, ``refuted`` or ``undecided``.
        says: why, in a sentence.
        refuted_if: the claim's falsification criterion, as it was tested.
        n: how many runs it rests on.
        findings: the figures with their intervals, in words.
        figures: the same as numbers.
        notes: what the reader must know.
    """

    claim: str
    outcome: str
    says: str
    refuted_if: str
    n: int
    findings: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The verdict as a JSON object."""
        return {**self.__dict__, "findings": list(self.findings), "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """The verdict for people."""
        return [
            f"{self.claim}: {self.outcome} ({self.n} runs). {self.says}",
            f"  refuted if: {self.refuted_if}",
            *(f"  {line}" for line in (*self.findings, *self.notes)),
        ]


def shown(found: Estimate, form: str = "+.3f") -> str:
    """``+0.012 (95 % interval +0.001 to +0.020)``."""
    if found.low is None or found.high is None:
        return f"{found.value:{form}} (no interval: one value)"
    return f"{found.value:{form}} (95 % interval {found.low:{form}} to {found.high:{form}})"


def arms_of(table: Table) -> dict[str, list[Record]]:
    """Arm -> its runs that came to figures, seed by seed; arms without one are left out."""
    found: dict[str, list[Record]] = {}
    for record in ended(table["runs"]):
        found.setdefault(record["arm"], []).append(record)
    return {arm: sorted(runs, key=lambda run: int(run["seed"])) for arm, runs in found.items()}


def paired(ours: Sequence[Record], theirs: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """The runs of two arms with the same seeds, side by side."""
    by = {run["seed"]: run for run in theirs}
    both = [(run, by[run["seed"]]) for run in ours if run["seed"] in by]
    return [a for a, _ in both], [b for _, b in both]
