"""P2, rank and commitment, P3, identity survives a shorter prompt (source 000, section 3), and what the pulses do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_persona.evals.panel import BASE
from mlx_persona.evals.parts.prompts import FULL, NO_PROMPT, SLIM
from mlx_persona.experiments.arms import folder_name
from mlx_persona.experiments.claims import (
    CONFIRMED,
    MARGIN,
    REFUTED,
    UNDECIDED,
    Table,
    Verdict,
    arms_of,
    paired,
    shown,
)
from mlx_persona.experiments.statistics import Estimate, Floats, mean_interval, paired_loss
from mlx_persona.experiments.table import Record, ended, losses

# Permutations of the ranks within every seed.
ORDERS = 5000
# P3: so much of the way from the bare base model must be left under the slim prompt, and less is a collapse.
KEPT, COLLAPSED = 0.75, 0.5
# P3 is about a cut of at least so much.
CUT = 0.5


def rank(tables: Sequence[Table], seed: int = 0) -> Verdict | None:
    """P2: does a smaller rank commit earlier, and is it as good? None where no sweep's arms differ in rank alone."""
    found = next((found for table in tables if (found := _by_rank(table)) is not None), None)
    if found is None:
        return None
    ranks, runs = found
    early, early_line, early_figures = _commitment(ranks, runs, seed)
    good, good_lines, good_figures = _quality(ranks, runs, seed)
    outcome = UNDECIDED
    if early == CONFIRMED and good == CONFIRMED:
        outcome = CONFIRMED
    elif REFUTED in (early, good):
        outcome = REFUTED
    said = {CONFIRMED: "so it is", REFUTED: "the contrary is seen", UNDECIDED: "cannot be told"}
    return Verdict(
        "P2 a smaller rank commits earlier and is no worse",
        outcome,
        f"Earlier commitment: {said[early]}. No worse: {said[good]}.",
        "larger ranks commit earlier (interval of the slope below 0, permutation p < 0.05), or every larger rank has "
        "the lower held-out loss (all intervals above 0)",
        sum(map(len, runs)),
        (early_line, *good_lines),
        {"ranks": ranks, "commitment": early_figures, "quality": good_figures},
        (f"{len(runs[0])} seeds per rank; losses that differ by less than {MARGIN} nats per token count as equal",),
    )


def _by_rank(table: Table) -> tuple[list[int], list[list[Record]]] | None:
    """Ranks in order, and each one's runs with the seeds that all of them have."""
    arms = arms_of(table)
    by: dict[int, list[Record]] = {}
    rest = set()
    for arm, records in arms.items():
        options = dict(table["options"][arm])
        by[int(options.pop("rank", 0))] = records
        options.pop("alpha", None)
        rest.add(str(sorted(options.items())))
    if len(by) < 2 or len(rest) > 1 or len(by) < len(arms):
        return None
    seeds = set.intersection(*({int(r["seed"]) for r in records} for records in by.values()))
    if not seeds:
        return None
    order = sorted(by)
    return order, [[r for r in by[one] if r["seed"] in seeds] for one in order]


def _commitment(ranks: Sequence[int], runs: Sequence[Sequence[Record]], seed: int) -> tuple[str, str, dict[str, Any]]:
    """Tokens to commitment per doubling of the rank: outcome, words, numbers."""
    when = np.array([[(r["commitment"] or {}).get("tokens", math.nan) for r in of] for of in runs], np.float64)
    never = int(np.isnan(when).sum())
    guarded = sum((r["commitment"] or {}).get("by") == "guard" for of in runs for r in of)
    if never == when.size:
        return UNDECIDED, "no run reached S2, so nothing is known of when", {"never": never}
    ends = np.array([[r["tokens"] for r in of] for of in runs], np.float64)
    when = np.where(np.isnan(when), ends, when)  # later than the end: the end is the least that it can be
    doublings = np.log2(np.asarray(ranks, np.float64))
    slope = mean_interval(list(_slopes(doublings, when)), seed)
    rng = np.random.default_rng(seed)
    drawn = [
        abs(_slopes(doublings, np.stack([rng.permutation(column) for column in when.T], axis=1)).mean())
        for _ in range(ORDERS)
    ]
    p = (sum(one >= abs(slope.value) - 1e-9 for one in drawn) + 1) / (ORDERS + 1)
    outcome = UNDECIDED
    if p < 0.05 and slope.low is not None and slope.high is not None and 2 * never < when.size:
        outcome = CONFIRMED if slope.low > 0 else REFUTED if slope.high < 0 else UNDECIDED
    line = f"tokens to S2 per doubling of the rank: {shown(slope, '+,.0f')}, permutation p {p:.3f}"
    line += f"; {never} of {when.size} runs never reached S2 and count with their end" if never else ""
    line += f"; of {guarded} a guard decided" if guarded else ""
    return outcome, line, {"slope": slope.to_json(), "p": p, "never": never, "guarded": guarded}


def _slopes(x: Floats, y: Floats) -> Floats:
    """Slope of every column of y (R, S) on x (R,): (S,)."""
    centred = x - x.mean()
    return np.asarray(centred @ (y - y.mean(axis=0)) / (centred**2).sum())


def _quality(
    ranks: Sequence[int], runs: Sequence[Sequence[Record]], seed: int
) -> tuple[str, list[str], dict[str, Any]]:
    """The smallest rank's held-out loss against every larger one's: outcome, words, numbers."""
    if not all(r.get("held_out") for of in runs for r in of):
        return UNDECIDED, ["the held-out losses were not measured (--eval loss)"], {}
    found = {
        one: paired_loss(losses(runs[0]), losses(of), seed, crossed=len(of) > 1)
        for one, of in zip(ranks[1:], runs[1:], strict=True)
    }
    lines = [
        f"held-out loss of rank {ranks[0]} minus that of rank {one}: {shown(difference)}"
        for one, difference in found.items()
    ]
    for name, what in (("style_distance", "style distance"), ("attribution", "share attributed to the person")):
        for one, of in zip(ranks[1:], runs[1:], strict=True):
            pairs = [(_plain(a, name), _plain(b, name)) for a, b in zip(runs[0], of, strict=True)]
            values = [a - b for a, b in pairs if a is not None and b is not None]
            if values:
                difference = mean_interval(values, seed)
                lines.append(f"{what} of rank {ranks[0]} minus that of rank {one}: {shown(difference)}")
    highs, lows = ([getattr(one, side) for one in found.values()] for side in ("high", "low"))
    outcome = CONFIRMED if max(highs) < MARGIN else REFUTED if min(lows) > 0 else UNDECIDED
    return outcome, lines, {str(one): difference.to_json() for one, difference in found.items()}


def _plain(record: Record, name: str) -> float | None:
    value = record.get(name)
    return value["share"] if isinstance(value, Mapping) else value


def identity(tables: Sequence[Table], seed: int = 0) -> Verdict | None:
    """P3: is the persona still there when the system prompt is cut? None where no run was asked under several prompts.

    Of the way from the bare base model to the trained model under the full prompt (style distance): how much is left
    under the slim one. A run whose way is not clearly there says nothing. Intervals of runs are averaged end by end,
    which is wide enough however the runs hang together: all are asked the same.
    """
    runs = [record for table in tables for record in ended(table["runs"]) if record.get("prompts")]
    if not runs:
        return None
    kept = [one for record in runs if (one := _kept(record)) is not None]
    tokens = runs[0]["prompts"]["tokens"]
    cut = 1 - tokens[SLIM] / max(1, tokens[FULL])
    outcome, lines = UNDECIDED, [f"the prompt is cut from {tokens[FULL]} to {tokens[SLIM]} tokens, by {cut:.0%}"]
    figures: dict[str, Any] = {"cut": cut, "usable": len(kept)}
    if kept:
        slim, none = (_mean([one[i] for one in kept]) for i in (0, 1))
        lines += [f"kept under the slim prompt: {shown(slim, '.2f')}", f"kept without any: {shown(none, '.2f')}"]
        lines.append("the bare base model is 0, the trained model under the full prompt is 1")
        if cut >= CUT and slim.low is not None and slim.high is not None:
            outcome = CONFIRMED if slim.low > KEPT else REFUTED if slim.high < COLLAPSED else UNDECIDED
        figures |= {"kept_slim": slim.to_json(), "kept_none": none.to_json()}
    lines += _base_loses(runs[0])
    says = {
        CONFIRMED: f"At least {KEPT:.0%} of what training brought is left under the slim prompt.",
        REFUTED: f"Less than {COLLAPSED:.0%} of what training brought is left under the slim prompt.",
        UNDECIDED: "How much is left under the slim prompt cannot be told.",
    }[outcome]
    missing = len(runs) - len(kept)
    note = f"of {missing} runs training did not clearly bring the model nearer to the person: they say nothing"
    return Verdict(
        "P3 identity survives a shorter prompt",
        outcome,
        says,
        f"under a prompt cut by at least {CUT:.0%}, less than {COLLAPSED:.0%} of the way from the bare base model to "
        "the trained one is left, even at the upper end of the 95 % interval",
        len(kept),
        tuple(lines),
        figures,
        (note,) if missing else (),
    )


def _kept(record: Record) -> tuple[Estimate, Estimate] | None:
    """What is kept under the slim prompt, and without one; None where the way is not clearly there."""
    models = record["prompts"]["models"]
    own = models[folder_name(record["arm"], record["seed"])]
    lost, whole = own["lost_per_100_tokens"][f"{FULL}_to_{SLIM}"], own["kept_without_prompt"]
    if lost is None or whole is None:
        return None
    tokens = record["prompts"]["tokens"]
    way = models[BASE]["variants"][NO_PROMPT]["distance"]["value"] - own["variants"][FULL]["distance"]["value"]
    if way <= 0:
        return None
    scale = (tokens[FULL] - tokens[SLIM]) / 100 / way
    low, high = (1 - scale * end for end in reversed(lost["interval"]))
    whole_low, whole_high = whole["interval"]
    slim = Estimate(1 - scale * lost["value"], low, high, lost["n"])
    return slim, Estimate(whole["value"], whole_low, whole_high, whole["n"])


def _mean(found: Sequence[Estimate]) -> Estimate:
    """The mean of estimates that all have intervals, end by end."""
    value, low, high = (float(np.mean([getattr(one, end) for one in found])) for end in ("value", "low", "high"))
    return Estimate(value, low, high, len(found))


def _base_loses(record: Record) -> list[str]:
    """What the same cut does to the base model: where that is nothing, the cut is no trial."""
    lost = record["prompts"]["models"][BASE]["lost_per_100_tokens"][f"{FULL}_to_{SLIM}"]
    if lost is None:
        return []
    line = f"the base model's style distance changes by {lost['value']:+.4f} per 100 tokens cut"
    return [line + (", perhaps by nothing: the cut is no hard trial" if lost["includes_zero"] else "")]


def interventions(tables: Sequence[Table], seed: int = 0) -> Verdict | None:
    """Do the controller's pulses improve the result, and more than a higher learning rate all the time would?

    None where no sweep has the arms ``controller`` and ``observe only`` (preset tpt-ablation).
    """
    arms = next((arms for table in tables if {"controller", "observe only"} <= (arms := arms_of(table)).keys()), None)
    if arms is None:
        return None
    found = {}
    for other in ("observe only", "constant LR x1.10", "constant schedule"):
        ours, theirs = paired(arms["controller"], arms.get(other, []))
        if ours and all(r.get("held_out") for r in (*ours, *theirs)):
            found[other] = paired_loss(losses(ours), losses(theirs), seed, crossed=len(ours) > 1)
    if "observe only" not in found:
        return None
    plain, constant = found["observe only"], found.get("constant LR x1.10")
    outcome = UNDECIDED
    if (plain.high or 0.0) < 0 and constant is not None and (constant.high or 0.0) < 0:
        outcome = CONFIRMED
    elif plain.low is not None and plain.low > -MARGIN:
        outcome = REFUTED
    return Verdict(
        "Interventions in S1 improve the result",
        outcome,
        {
            CONFIRMED: "The controlled runs have the lower held-out loss, also than a higher rate all the time.",
            REFUTED: f"What the controller gains at the same tokens is less than {MARGIN} nats per token, if anything.",
            UNDECIDED: "The runs cannot tell it from no controller, or from a higher learning rate all the time.",
        }[outcome],
        f"at the same tokens the controller lowers the held-out loss by less than {MARGIN} nats per token, even at the "
        "favourable end of the 95 % interval",
        len(arms["controller"]),
        tuple(f"held-out loss of controller minus {other}: {shown(one)}" for other, one in found.items()),
        {other: one.to_json() for other, one in found.items()},
        ("resampled over conversations and seeds; few seeds make the interval too narrow",),
    )
