"""What a run's log says about its phases: where they lay, how gradient norms behaved in them, and in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Event = Mapping[str, Any]
Stretch = dict[str, Any]


def stretches(events: Sequence[Event]) -> list[Stretch]:
    """The phases that a run went through, in their order.

    Args:
        events: ``metrics.jsonl``; without ``phase`` events there are none.

    Returns:
        For each ``phase``, ``from`` and ``to`` (updates), ``updates`` and ``tokens`` in it, ``decided_by`` and
        ``reason`` of its beginning, and ``grad_norm``: ``n``, ``mean``, ``variance``, ``peak``, ``median``, ``p95``
        of the norms before clipping, None where it has no update.
    """
    seen = [event for event in events if event["event"] == "phase"]
    train = [event for event in events if event["event"] == "train"]
    if not seen:
        return []
    begins = [seen[0], *(event for event in seen if event["reason"])]
    last = max(int(event["update"]) for event in (*seen, *train))
    ends = [*(int(event["update"]) for event in begins[1:]), last]
    found = []
    for begin, end in zip(begins, ends, strict=True):
        inside = [event for event in train if begin["update"] < event["update"] <= end]
        found.append(
            {
                "phase": begin["phase"],
                "from": int(begin["update"]),
                "to": end,
                "updates": len(inside),
                "tokens": sum(event["tokens"] for event in inside),
                "decided_by": begin["decided_by"],
                "reason": begin["reason"],
                "grad_norm": norm_figures([event["grad_norm"] for event in inside]),
            }
        )
    return found


def norm_figures(norms: Sequence[float]) -> dict[str, float] | None:
    """Statistics of gradient norms (population variance); None of none."""
    if not norms:
        return None
    values = np.asarray(norms, np.float64)
    return {
        "n": len(norms),
        "mean": float(values.mean()),
        "variance": float(values.var()),
        "peak": float(values.max()),
        "median": float(np.median(values)),
        "p95": float(np.quantile(values, 0.95)),
    }


def calming(found: Sequence[Stretch]) -> dict[str, float | None]:
    """How much calmer gradient norms are in S2 than in S1, three ways; None where there is no S1 or no S2.

    ``variance``: variance of S2 / of S1 (prediction P4 of the paper, section 3). ``mean_to_peak``: mean of S2 / peak of
    S1 (its Table 5). ``median_to_p95``: median of S2 / 95th percentile of S1, which one outlier cannot move.
    """
    figures = {one["phase"]: one["grad_norm"] for one in found}
    before, after = figures.get("S1"), figures.get("S2")
    parts = {"variance": ("variance", "variance"), "mean_to_peak": ("mean", "peak"), "median_to_p95": ("median", "p95")}
    return {
        name: after[top] / before[bottom] if before and after and before[bottom] > 0 else None
        for name, (top, bottom) in parts.items()
    }


def story(found: Sequence[Stretch], events: Sequence[Event], acts: bool, chosen: Mapping[str, Any]) -> str:
    """One paragraph for people.

    Args:
        found: of :func:`stretches`, not empty.
        events: the log.
        acts: whether the controller changed anything.
        chosen: ``update`` and ``phase`` of the checkpoint that became the adapter, and what it was chosen ``by``:
            ``loss``, ``phase`` or ``style``.
    """
    losses = {int(event["update"]): event["loss"] for event in events if event["event"] == "eval"}
    told = [_told(one, losses, last=one is found[-1]) for one in found]
    if acts:
        told.append(_acted(events))
    told.append(f"The adapter is that of update {chosen['update']} ({chosen['phase']}), {_CHOSEN[chosen['by']]}.")
    return " ".join(told)


def _told(one: Stretch, losses: Mapping[int, float], last: bool) -> str:
    """A sentence or two on a phase."""
    first, final = losses.get(one["from"]), losses.get(one["to"])
    moved = f", evaluation loss {first:.3f} to {final:.3f}" if first is not None and final is not None else ""
    when = f"Updates {one['from']} to {one['to']}{moved}:"
    guarded = " A guard, not the signal, decided when it began." if one["decided_by"] == "guard" else ""
    name = one["phase"]
    words = _ENDED[name] if last else _PASSED[name]
    return f"{when} {words} ({name}).{guarded}"


_CHOSEN = {
    "loss": "which has the lowest evaluation loss",
    "phase": "which has the lowest evaluation loss of the eligible ones",
    "style": "which sounds most like the person",
}
# What is said of a phase that came to its end, and of the one in which a run ended.
_PASSED = {
    "S0": "until it was sure that the loss falls fast",
    "S1": "the model reorganised itself and the loss fell fast",
    "S2": "it settled",
}
_ENDED = {
    "S0": "nothing moved fast",
    "S1": "still learning fast when the run ended; more updates may help",
    "S2": "it has settled",
    "S3": "it learns by heart and no longer generalises",
}


def _acted(events: Sequence[Event]) -> str:
    """What the controller changed."""
    phases = [event for event in events if event["event"] == "phase"]
    rates = sorted({event["lr_factor"] for event in phases} - {1.0})
    batches = sorted({event["batch_factor"] for event in phases} - {1})
    if not rates and not batches:
        return "The controller changed nothing."
    did = [f"the learning rate times {' and '.join(f'{rate:g}' for rate in rates)}"] if rates else []
    did += [f"micro-batches times {' and '.join(str(batch) for batch in batches)}"] if batches else []
    return f"The controller set {', and '.join(did)}, for as long as the log says."
