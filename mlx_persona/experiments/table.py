"""What a sweep came to: a row for every arm, for people and as JSON, and its differences to the reference arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np

from mlx_persona.experiments.statistics import Floats, mean_interval, paired_loss, smallest_difference

Record = Mapping[str, Any]
Rows = tuple[list[str], list[list[str]]]
FEW_SEEDS = 6
NONE = "-"


def _at(name: str, key: str) -> Callable[[Record], Any]:
    return lambda record: (record.get(name) or {}).get(key)


# Figure -> where a run's record has it. Lower is better of all that are losses or distances.
FIGURES: dict[str, Callable[[Record], Any]] = {
    "held_out_loss": lambda r: r.get("held_out_loss"),
    "eval_loss": lambda r: r.get("eval_loss"),
    "lowest_loss": lambda r: r.get("lowest_loss"),
    "best_update": lambda r: r.get("best_update"),
    "accuracy": lambda r: r.get("accuracy"),
    "margin": lambda r: r.get("margin"),
    "kl": lambda r: r.get("kl"),
    "style_distance": lambda r: r.get("style_distance"),
    "attribution": _at("attribution", "share"),
    "onset_update": _at("onset", "update"),
    "onset_tokens": _at("onset", "tokens"),
    "commitment_update": _at("commitment", "update"),
    "commitment_tokens": _at("commitment", "tokens"),
    "calming_variance": _at("calming", "variance"),
    "calming_mean_to_peak": _at("calming", "mean_to_peak"),
    "calming_median_to_p95": _at("calming", "median_to_p95"),
    "updates": lambda r: r.get("updates"),
    "tokens": lambda r: r.get("tokens"),
    "seconds": lambda r: r.get("seconds"),
}
Column = tuple[str, str, str]
# Heading, figure and form, for people: how good an arm is, and what its training was like.
_RESULTS: tuple[Column, ...] = (
    ("held-out loss", "held_out_loss", ".3f"),
    ("eval loss", "eval_loss", ".3f"),
    ("at update", "best_update", ".0f"),
    ("accuracy", "accuracy", ".2f"),
    ("KL to base", "kl", ".3f"),
    ("style distance", "style_distance", ".3f"),
    ("attributed", "attribution", ".0%"),
)
_TRAINING: tuple[Column, ...] = (
    ("S1 at update", "onset_update", ".0f"),
    ("S2 at update", "commitment_update", ".0f"),
    ("S2 at tokens", "commitment_tokens", ",.0f"),
    ("calming: variance", "calming_variance", ".3g"),
    ("mean/peak", "calming_mean_to_peak", ".3g"),
    ("median/p95", "calming_median_to_p95", ".3g"),
    ("updates", "updates", ".0f"),
    ("tokens", "tokens", ",.0f"),
    ("s", "seconds", ".0f"),
)


def ended(records: Sequence[Record]) -> list[Record]:
    """The runs that came to figures."""
    return [record for record in records if record["status"] != "failed"]


def summary(arms: Sequence[str], records: Sequence[Record], reference: str) -> list[dict[str, Any]]:
    """Every arm's means, spreads, and differences to the reference arm.

    Args:
        arms: their names, in order.
        records: of all runs that ended, failed ones too.
        reference: the arm that the others are compared with.

    Returns:
        Per arm ``arm``, ``runs``, ``failed``, ``figures``: name -> {``mean``, ``sd`` (None of one run), ``n``}, and
        ``differences`` (none of the reference): name -> {``value``, ``interval``, ``n`` (seeds), ``detectable``: the
        difference that so many seeds would have found with 80 % power}, paired by seed. ``held_out_loss`` is also
        paired by conversation: ``by_conversation`` and ``by_both``, of conversations alone and with the seeds.
    """
    found = []
    base = {r["seed"]: r for r in ended(records) if r["arm"] == reference}
    for arm in arms:
        own = [r for r in records if r["arm"] == arm]
        good = {r["seed"]: r for r in ended(own)}
        line: dict[str, Any] = {"arm": arm, "runs": len(good), "failed": len(own) - len(good)}
        line["figures"] = {name: one for name, get in FIGURES.items() if (one := _spread(good, get)) is not None}
        line["differences"] = {} if arm == reference else _differences(good, base)
        found.append(line)
    return found


def _spread(records: Mapping[int, Record], get: Callable[[Record], Any]) -> dict[str, Any] | None:
    values = [float(value) for record in records.values() if (value := get(record)) is not None]
    if not values:
        return None
    return {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None, "n": len(values)}


def _differences(own: Mapping[int, Record], base: Mapping[int, Record]) -> dict[str, Any]:
    seeds = [seed for seed in own if seed in base]
    found: dict[str, Any] = {}
    for name, get in FIGURES.items():
        pairs = [(get(own[seed]), get(base[seed])) for seed in seeds]
        values = [float(a) - float(b) for a, b in pairs if a is not None and b is not None]
        if values:
            spread = stdev(values) if len(values) > 1 else 0.0
            found[name] = {**mean_interval(values).to_json(), "detectable": smallest_difference(spread, len(values))}
    both = [seed for seed in seeds if own[seed].get("held_out") and base[seed].get("held_out")]
    if both:
        ours, theirs = (losses([side[seed] for seed in both]) for side in (own, base))
        found["held_out_loss"]["by_conversation"] = paired_loss(ours, theirs, crossed=False).to_json()
        if len(both) > 1:
            found["held_out_loss"]["by_both"] = paired_loss(ours, theirs).to_json()
    return found


def losses(records: Sequence[Record]) -> Floats:
    """Held-out losses of runs: (S, C, 2), nats and tokens; conversations without a row are left out."""
    found = np.asarray([record["held_out"] for record in records], np.float64)
    return np.asarray(found[:, found[0, :, 1] > 0], np.float64)


def notes(lines: Sequence[Mapping[str, Any]], seeds: int) -> list[str]:
    """What a reader of the intervals must know."""
    found = []
    if seeds < 2:
        found.append("one seed: no spread, and no interval over seeds")
    elif seeds < FEW_SEEDS:
        found.append(
            f"{seeds} seeds: their bootstrap intervals are too narrow and say little; those of the held-out loss "
            "pair conversations too and say more"
        )
    if any(line["failed"] for line in lines):
        found.append("arms with failed runs are means over fewer seeds")
    return found


def arms_tables(lines: Sequence[Mapping[str, Any]], reference: str) -> dict[str, Rows]:
    """Title -> ``(columns, rows)`` for people: mean ± spread of what any arm has.

    The first says how good the arms are, with the difference of the held-out loss to the reference; the second what
    their training was like.
    """
    loss = "held_out_loss" if any("held_out_loss" in line["figures"] for line in lines) else "eval_loss"
    found = {}
    for title, columns in (("Results", _RESULTS), ("Training", _TRAINING)):
        shown = [column for column in columns if any(column[1] in line["figures"] for line in lines)]
        heads = ["arm", *(name for name, _, _ in shown)]
        rows = [[line["arm"], *(_mean(line["figures"].get(f), form) for _, f, form in shown)] for line in lines]
        if title == "Results":
            heads[1:1] = ["n", f"{loss.replace('_', ' ')} against reference"]
            for row, line in zip(rows, lines, strict=True):
                runs = f"{line['runs']}" + (f" ({line['failed']} failed)" if line["failed"] else "")
                change = "reference" if line["arm"] == reference else _change(line["differences"].get(loss))
                row[1:1] = [runs, change]
        found[title] = heads, rows
    return found


def _mean(figure: Mapping[str, Any] | None, form: str) -> str:
    if figure is None:
        return NONE
    spread = "" if not figure["sd"] else f" ± {figure['sd']:{form}}"
    return f"{figure['mean']:{form}}{spread}"


def _change(found: Mapping[str, Any] | None) -> str:
    """``+0.012 (+0.001 to +0.020)``, by the widest interval that there is."""
    if found is None:
        return NONE
    best = found.get("by_both") or found.get("by_conversation") or found
    if best["interval"] is None:
        return f"{best['value']:+.3f}"
    low, high = best["interval"]
    return f"{best['value']:+.3f} ({low:+.3f} to {high:+.3f})"


def runs_table(records: Sequence[Record]) -> Rows:
    """``(columns, rows)`` for people: every run, and the errors of those that failed."""
    shown = [c for c in (*_RESULTS, *_TRAINING) if any(FIGURES[c[1]](r) is not None for r in ended(records))]
    rows = []
    for record in records:
        values = [FIGURES[figure](record) for _, figure, _ in shown]
        cells = [NONE if v is None else format(v, form) for v, (_, _, form) in zip(values, shown, strict=True)]
        state = record["status"] if record["status"] != "failed" else f"failed: {record['error']}"
        rows.append([record["arm"], str(record["seed"]), state, *cells])
    return ["arm", "seed", "status", *(name for name, _, _ in shown)], rows


def markdown(table: Mapping[str, Any]) -> str:
    """The whole table as a Markdown page."""
    head = f"# {table['title']}\n\n{table['about']}\n"
    parts = [head]
    for title, rows in arms_tables(table["arms"], table["reference"]).items():
        parts.append(f"## {title}\n\n{_markdown(rows)}")
    base = table["base"].get("held_out_loss")
    if base is not None:
        parts.append(f"Without an adapter the held-out loss is {base:.3f} nats per token.\n")
    points = [*table["notes"], *(f"{a} = {b}: {'yes' if same else 'NO'}" for a, b, same in table["equal"])]
    parts.append("".join(f"- {point}\n" for point in points))
    parts += ["## Runs\n", _markdown(runs_table(table["runs"]))]
    return "\n".join(parts)


def _markdown(table: Rows) -> str:
    columns, rows = table
    lines = [columns, ["---", *("---:" for _ in columns[1:])], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def same_figures(records: Sequence[Record], first: str, second: str) -> bool | None:
    """Whether two arms came to the same losses at every evaluation, to the last bit; None where there is no pair."""
    by = {(r["arm"], r["seed"]): r["evals"] for r in ended(records)}
    pairs = [(evals, by[second, seed]) for (arm, seed), evals in by.items() if arm == first and (second, seed) in by]
    return all(a == b for a, b in pairs) if pairs else None


def left(done: Sequence[float], remaining: int) -> float:
    """Seconds that the remaining runs will take, by the mean of those done; infinite where none is."""
    return remaining * mean(done) if done else math.inf
