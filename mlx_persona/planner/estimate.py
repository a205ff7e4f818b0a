"""A run's plan: its peak against a budget, its time, and what to change where it does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mlx_persona.errors import PersonaError
from mlx_persona.planner.memory import Load, Peak, Setup, fewest_checkpoints, peak, states_of
from mlx_persona.planner.shapes import Shapes

_UNITS = {"": 1, "B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
# Checkpointing aims at these shares of the budget, with and without measurements; FAR of the machine is an error.
NEAR, NEAR_UNMEASURED, FAR = 0.92, 0.8, 1.15


@dataclass(frozen=True)
class Advice:
    """One way to change a run, as options, and the peak that it would have."""

    change: str
    peak_bytes: int
    fits: bool

    def to_json(self) -> dict[str, Any]:
        """As ``plan --json`` shows it."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Needs:
    """What decides a run's memory: the model, the setup, the largest batches, and the bytes it may take."""

    shapes: Shapes
    setup: Setup
    train: Load
    evaluation: Load
    budget: int

    @property
    def peak(self) -> Peak:
        """The predicted peak."""
        return peak(self.shapes, self.setup, self.train, self.evaluation)

    @property
    def fits(self) -> bool:
        """Whether it stays within the budget."""
        return self.peak.bytes <= self.budget


def parse_memory(text: str) -> int:
    """``16GB`` -> bytes (binary, as memory is sold); raises PersonaError."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(B|KB|MB|GB|TB)?\s*", text, re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise PersonaError(f"memory must be a size such as 16GB, got {text!r}")
    return int(float(match[1]) * _UNITS[(match[2] or "GB").upper()])


def with_checkpoints(needs: Needs, wanted: str) -> Needs:
    """The needs with ``on``, ``off``, a number of blocks, or with ``auto`` the fewest that fit (all, where none does).

    Raises:
        PersonaError: more blocks than there are.
    """
    every = len(needs.shapes.blocks)
    if wanted == "auto":
        share = NEAR if needs.setup.device == "cpu" else NEAR_UNMEASURED
        found = fewest_checkpoints(needs.shapes, needs.setup, needs.train, needs.evaluation, int(share * needs.budget))
        count = every if found is None else found
    else:
        count = {"on": every, "off": 0}.get(wanted, -1)
        count = int(wanted) if count < 0 else count
    if count > every:
        raise PersonaError(f"grad_checkpoint must be <= {every} blocks for this model, got {count}")
    return replace(needs, setup=replace(needs.setup, checkpointed=count))


def _shorter(needs: Needs, length: int) -> Needs:
    share = length / needs.train.length
    loads = [
        replace(load, length=min(load.length, length), targets=max(1, int(load.targets * min(1.0, share))))
        for load in (needs.train, needs.evaluation)
    ]
    return replace(needs, train=loads[0], evaluation=loads[1])


def _fewer_rows(needs: Needs, rows: int) -> Needs:
    share = rows / needs.train.rows
    train = replace(needs.train, rows=rows, targets=max(1, int(needs.train.targets * share)))
    return replace(needs, train=train, setup=replace(needs.setup, accumulation=max(2, needs.setup.accumulation)))


def changes(needs: Needs) -> Iterator[tuple[str, Needs]]:
    """Ways to need less, the least costly first, each on top of those before it."""
    every = len(needs.shapes.blocks)
    if needs.setup.checkpointed < every:
        needs = replace(needs, setup=replace(needs.setup, checkpointed=every))
        yield "--grad-checkpoint on", needs
    least = 2 if needs.setup.pairs else 1
    if needs.train.rows > least:
        factor = needs.train.rows // least
        needs = _fewer_rows(needs, least)
        yield f"--batch-size 1 --grad-accumulation {factor} times as many", needs
    sparing = states_of("adafactor", needs.setup.rank)
    if needs.setup.states > sparing:
        needs = replace(needs, setup=replace(needs.setup, states=sparing))
        yield "--optimizer adafactor", needs
    while needs.setup.rank > 8:
        needs = replace(needs, setup=replace(needs.setup, rank=needs.setup.rank // 2))
        yield f"--rank {needs.setup.rank}", needs
        if needs.setup.rank <= 16:
            break
    while needs.train.length > 256:
        needs = _shorter(needs, needs.train.length // 2)
        yield f"--max-seq-length {needs.train.length}", needs
    if needs.setup.num_layers < 0 and every > 8:
        needs = replace(needs, setup=replace(needs.setup, num_layers=every // 2))
        yield f"--num-layers {every // 2}", needs


def advise(needs: Needs) -> list[Advice]:
    """What to change so that it fits: each entry adds one option to those before it; the last one fits, if any does."""
    found: list[Advice] = []
    said: list[str] = []
    if needs.fits:
        return found
    for change, less in changes(needs):
        flag = change.split()[0]
        said = [*(one for one in said if one.split()[0] != flag), change]
        there = less.peak.bytes
        found.append(Advice(" ".join(said), there, there <= needs.budget))
        if found[-1].fits:
            break
    return found


def spoken_time(seconds: float) -> str:
    """``about 2 h 10 min``."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes // 60} h {minutes % 60} min"
