"""The observer of ``mlx_persona.phase``, unchanged, shown the log of a run that it cannot have influenced.

A log is read again from its beginning, so that one run can be judged by many profiles and guards without training anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_persona import backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from mlx_persona.config.phases import Profile
from mlx_persona.evals.blind.agreement import spearman
from mlx_persona.phase.controller import Controller, init_controller, on_eval, on_update
from mlx_persona.phase.summary import calming, stretches

Event = Mapping[str, Any]
Floats = NDArray[np.float64]
_DRAWS = 2000


@dataclass(frozen=True)
class Observed:
    """What the observer saw.

    Attributes:
        deltas: evaluation's update -> δL (NaN at the first).
        onset, commitment, after: updates at which S1, S2 and S3 began; None where they did not.
        decided_by: phase -> ``signal`` or ``guard``.
        calming: the three ratios of gradient norms, S2 against S1.
        phases: stretches with the statistics of their gradient norms.
    """

    deltas: dict[int, float]
    onset: int | None
    commitment: int | None
    after: int | None
    decided_by: dict[str, str]
    calming: dict[str, float | None]
    phases: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Everything but the signal, which follows from the log."""
        return {name: value for name, value in vars(self).items() if name != "deltas"}


def observe(events: Sequence[Event], profile: Profile, before_training: bool = True) -> Observed:
    """Show a whole log to the observer.

    Args:
        events: of ``metrics.jsonl``: ``train`` (``loss``, ``grad_norm``) and ``eval`` (``loss``; ``noise`` in the
            first), in the order in which they happened.
        profile: every threshold.
        before_training: whether it sees the evaluation before the first update, too.
    """
    noise = next(event["noise"] for event in events if event["event"] == "eval")
    updates = max(int(event["update"]) for event in events)
    controller = Controller(profile, acts=False, updates=updates)
    state = init_controller(controller, noise)
    log: list[dict[str, Any]] = []
    deltas: dict[int, float] = {}
    for event in events:
        update = int(event["update"])
        if event["event"] == "train":
            state = on_update(state, event["loss"], event["grad_norm"])
            log.append({**event, "tokens": 0})  # images and sums have none
        elif event["event"] == "eval" and (before_training or update > 0):
            state, seen = on_eval(controller, state, update, event["loss"])
            change = seen.transition
            deltas[update] = seen.delta
            log.append(
                {
                    "event": "phase",
                    "update": update,
                    "phase": seen.phase.name,
                    "reason": change.reason if change else "",
                    "decided_by": change.decided_by if change else "",
                }
            )
    found = stretches(log)
    begun = {one["phase"]: one["from"] for one in found[1:]}
    for one in found:
        del one["tokens"]
    return Observed(
        deltas=deltas,
        onset=begun.get("S1"),
        commitment=begun.get("S2"),
        after=begun.get("S3"),
        decided_by={one["phase"]: one["decided_by"] for one in found[1:]},
        calming=calming(found),
        phases=found,
    )


def onsets(events: Sequence[Event], profile: Profile, guards: Sequence[int]) -> list[dict[str, Any]]:
    """When S1 and S2 begin, by how many evaluations the observer must wait, and by what it sees first.

    Returns:
        A row for each guard, for one and two evaluations that must agree, with and without the evaluation before
        training: ``guard``, ``consecutive``, ``before_training``, ``onset``, ``commitment``, ``decided_by``.
    """
    rows = []
    for before in (True, False):
        for consecutive in (1, 2):
            for guard in guards:
                seen = observe(events, replace(profile, guard=guard, consecutive=consecutive), before)
                rows.append(
                    {
                        "guard": guard,
                        "consecutive": consecutive,
                        "before_training": before,
                        "onset": seen.onset,
                        "commitment": seen.commitment,
                        "decided_by": seen.decided_by,
                    }
                )
    return rows


def cadences(events: Sequence[Event], profile: Profile, strides: Sequence[int]) -> list[dict[str, Any]]:
    """When S1 and S2 begin if only every so manieth evaluation had been made: thresholds are per evaluation.

    Returns:
        For each stride ``stride``, ``onset`` and ``commitment``.
    """
    rows = []
    for stride in strides:
        places = iter(range(len(events)))
        fewer = [event for event in events if event["event"] != "eval" or next(places) % stride == 0]
        seen = observe(fewer, profile)
        rows.append({"stride": stride, "onset": seen.onset, "commitment": seen.commitment})
    return rows


@dataclass(frozen=True)
class Link:
    """A rank correlation over time.

    Attributes:
        value: Spearman's; None where a side never changes.
        interval: 95 %, by the moving-block bootstrap.
        differences: the same of the changes from one measurement to the next, which a common trend cannot make.
        differences_interval: of that.
        n: measurements.
        block: measurements in a block.
    """

    value: float | None
    interval: tuple[float, float] | None
    differences: float | None
    differences_interval: tuple[float, float] | None
    n: int
    block: int

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return dict(vars(self))


def link(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Link:
    """How two series of a run go together: rank correlation, with an interval that minds their memory.

    Neighbouring measurements of one run are alike, so the interval redraws blocks of the square root of their number
    (Künsch, 1989, Annals of Statistics 17:1217), not single ones. It is of one run, not of runs in general; and two
    series that both only fall go together without a link: the changes tell.

    Args:
        first: (n,) one series; rows where either is not finite are left out.
        second: (n,) the other.
        seed: of the draws.
    """
    pairs = np.array([row for row in zip(first, second, strict=True) if all(map(math.isfinite, row))], np.float64)
    pairs = pairs.reshape(-1, 2)
    steps = np.diff(pairs, axis=0)
    block = max(1, round(math.sqrt(len(pairs))))
    return Link(
        _rank(pairs),
        _interval(pairs, block, seed),
        _rank(steps),
        _interval(steps, block, seed),
        n=len(pairs),
        block=block,
    )


def _rank(pairs: Floats) -> float | None:
    return spearman(pairs[:, 0], pairs[:, 1]) if len(pairs) > 2 else None


def _interval(pairs: Floats, block: int, seed: int) -> tuple[float, float] | None:
    """The 2.5 and 97.5 % points of the rank correlation over redrawn blocks; None of fewer than two blocks."""
    n = len(pairs)
    if n < max(2 * block, 4):
        return None
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n - block + 1, (_DRAWS, -(-n // block)))
    drawn = [_rank(pairs[(begin[:, None] + np.arange(block)).ravel()[:n]]) for begin in starts]
    values = [value for value in drawn if value is not None]
    if not values:
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def curvature_links(events: Sequence[Event], seen: Observed) -> dict[str, dict[str, Any]]:
    """δL beside what was measured of the Hessian: name of the figure -> :class:`Link`, as JSON.

    ``eigenvalue``, ``preconditioned`` and ``alignment`` of the ``curvature`` events, each with δL at the same update.
    """
    rows = [event for event in events if event["event"] == "curvature"]
    deltas = [seen.deltas[int(row["update"])] for row in rows]

    def series(name: str) -> list[float]:
        return [math.nan if row[name] is None else row[name] for row in rows]

    return {name: link(deltas, series(name)).to_json() for name in ("eigenvalue", "preconditioned", "alignment")}
