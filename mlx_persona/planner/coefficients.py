"""How many copies of each activation are alive, by device: ``coefficients.json``, written by ``calibrate --write``.

The CPU's are fitted to measured peaks. The GPU's are reasoned from the same graph (docs/planner.md).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("coefficients.json")


@dataclass(frozen=True)
class Sizes:
    """Sizes that a block's memory is made of (in numbers), or factors for them (in bytes per number).

    ``stream`` tokens x width; ``inside`` what closing layers read (attention's output), ``opened`` what the other
    layers write (q, k, v); ``gated`` and ``gating`` the same of gated MLPs (the product; gate and up);
    ``scores`` those of attention that are there at once (rows x heads x queries x tokens), ``probabilities`` those
    that it keeps for the backward pass; ``biases`` what a causal mask adds to them (queries x keys, once for all
    rows and heads);
    ``low`` what the adapters' A write; ``weight`` the largest piece of a weight that each use dequantizes;
    ``pieces`` the widest input of a layer whose weight is dequantized in more than one piece; ``routed`` what a mixture
    of experts reads and writes (tokens x experts that each goes through x width).
    """

    stream: float = 0.0
    inside: float = 0.0
    opened: float = 0.0
    gated: float = 0.0
    gating: float = 0.0
    scores: float = 0.0
    probabilities: float = 0.0
    biases: float = 0.0
    low: float = 0.0
    weight: float = 0.0
    pieces: float = 0.0
    routed: float = 0.0

    def times(self, factors: Sizes) -> float:
        """The sum of the sizes, each by its factor."""
        return sum(getattr(self, item.name) * getattr(factors, item.name) for item in fields(Sizes))


@dataclass(frozen=True)
class Kind:
    """For one kind of adapter: what a block saves, what its backward pass works with, and that after a recompute."""

    saved: Sizes
    working: Sizes
    recompute: Sizes


@dataclass(frozen=True)
class Head:
    """What is alive when the loss is computed: copies of the logits that are there at once and of the gradient.

    The gradient is that by the hidden states of the targets. ``work`` is a share of a block's forward work beside
    them, or, where the last block is recomputed, of the recompute's.
    """

    copies: float
    gradients: float
    work: float


@dataclass(frozen=True)
class Coefficients:
    """A device's.

    The loss: ``evaluated`` without gradients, ``trained``, and ``retrained`` where the last block is recomputed.
    ``measured`` says where, or that it was not.
    """

    measured: str
    lora: Kind
    dora: Kind
    checkpointed: Sizes
    forward: Sizes
    evaluated: Head
    trained: Head
    retrained: Head

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        return asdict(self)


def _kind(value: dict[str, Any]) -> Kind:
    return Kind(**{name: Sizes(**factors) for name, factors in value.items()})


@cache
def coefficients(device: str) -> Coefficients:
    """Those of ``cpu``; ``metal`` and ``cuda`` share theirs."""
    value = json.loads(FILE.read_text(encoding="utf-8"))["cpu" if device == "cpu" else "gpu"]
    return Coefficients(
        value["measured"],
        _kind(value["lora"]),
        _kind(value["dora"]),
        Sizes(**value["checkpointed"]),
        Sizes(**value["forward"]),
        Head(**value["evaluated"]),
        Head(**value["trained"]),
        Head(**value["retrained"]),
    )
