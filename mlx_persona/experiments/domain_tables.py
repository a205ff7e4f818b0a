"""What the runs in other domains show, as Markdown beside the paper's Table 6."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlx_persona.experiments.curves import RIVALS

Result = Mapping[str, Any]
# Source 000, Table 6: seed -> onset of S1 and of S2 (epochs), calming ratio, final accuracy (%).
PAPER = {42: (3, 20, 0.924, 82.4), 137: (3, 22, 0.917, 82.2), 256: (3, 19, 0.916, 82.3)}
_FIGURES = {
    "eigenvalue": "largest eigenvalue",
    "preconditioned": "the one Adam sees",
    "alignment": "|cos|(way, vector)",
}
_NORMS = ("mean", "variance", "peak", "median", "p95")
# Above this a step of Adam (β1 = 0.9) overshoots, in units of 1 / learning rate (Cohen et al., 2022).
ADAM_EDGE = 38.0


def markdown(results: Sequence[Result]) -> str:
    """All tables of all results, in the order of their names."""
    pictures = [one for one in results if "onsets" in one]
    sums = [one for one in results if "milestones" in one]
    parts = ["# Other domains: the same observer, unchanged\n"]
    if pictures:
        parts += [_images(pictures), _guards(pictures)]
    if sums:
        parts += [_grokking(sums), _cadences(sums)]
    parts += [_decays(results), _norms(results), _links(results), _edges(results)]
    return "\n".join(parts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _when(update: int | None, every: int) -> str:
    """An update in evaluations (of images: epochs)."""
    return "never" if update is None else f"{update / every:g}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _name(one: Result) -> str:
    return str(one["plan"]["name"])


def _images(results: Sequence[Result]) -> str:
    columns = [
        *("run", "seed", "profile", "S0→S1 (epoch)", "paper", "S1→S2 (epoch)", "paper", "S3 (epoch)"),
        *("calming: variance", "mean / peak", "median / p95", "paper", "final accuracy", "paper (CIFAR-10)"),
    ]
    rows = []
    for one in results:
        plan = one["plan"]
        onset, commit, calm, accuracy = PAPER.get(plan["seed"], (None,) * 4)
        for profile, seen in one["profiles"].items():
            ratios = [_ratio(seen["calming"][name]) for name in ("variance", "mean_to_peak", "median_to_p95")]
            when = [_when(seen[name], plan["eval_every"]) for name in ("onset", "commitment", "after")]
            rows.append(
                [
                    *(_name(one), str(plan["seed"]), profile, when[0], _said(onset), when[1], _said(commit), when[2]),
                    *(*ratios, _said(calm), f"{100 * one['final']['accuracy']:.1f} %", _said(accuracy, " %")),
                ]
            )
    return "## Images\n\n" + _table(columns, rows)


def _said(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:g}{unit}"


def _guards(results: Sequence[Result]) -> str:
    """The onset by the guard: the runs' onsets in one cell, where they agree once."""
    rows = []
    for place, row in enumerate(results[0]["onsets"]):
        cells = []
        for name in ("onset", "commitment"):
            found = [_when(one["onsets"][place][name], one["plan"]["eval_every"]) for one in results]
            cells.append(found[0] if len(set(found)) == 1 else ", ".join(found))
        by = sorted({one["onsets"][place]["decided_by"]["S1"] for one in results if one["onsets"][place]["onset"]})
        before = "yes" if row["before_training"] else "no"
        rows.append([before, str(row["consecutive"]), str(row["guard"]), *cells, ", ".join(by)])
    columns = [
        "sees the loss before training",
        "must agree",
        "guard",
        "S0→S1 (epoch)",
        "S1→S2 (epoch)",
        "S1 decided by",
    ]
    note = "Thresholds of the paper. One entry where all runs agree, else one for each, in the order above.\n\n"
    return "## The onset by the guard\n\n" + note + _table(columns, rows)


def _grokking(results: Sequence[Result]) -> str:
    columns = [
        *("run", "seed", "profile", "S0→S1", "S1→S2", "S3", "known by heart", "grokked", "gap crosses zero"),
        *("calming: variance", "mean / peak", "median / p95", "final validation accuracy", "final gaps (valid, train)"),
    ]
    rows = []
    for one in results:
        miles, final = one["milestones"], one["final"]
        crossing = next((event["update"] for event in one["evals"] if event["gap"] > 0), None)
        for profile, seen in one["profiles"].items():
            whens = [seen["onset"], seen["commitment"], seen["after"], miles["memorised"], miles["grokked"], crossing]
            ratios = [_ratio(seen["calming"][name]) for name in ("variance", "mean_to_peak", "median_to_p95")]
            rows.append(
                [
                    *(_name(one), str(one["plan"]["seed"]), profile),
                    *(_when(when, 1) for when in whens),
                    *(*ratios, f"{100 * final['accuracy']:.1f} %", f"{final['gap']:.2f}, {final['train_gap']:.2f}"),
                ]
            )
    note = "In updates. Known by heart, grokked: accuracy of at least 99 % on training and on validation pairs.\n\n"
    return "## Modular addition\n\n" + note + _table(columns, rows)


def _cadences(results: Sequence[Result]) -> str:
    """The same runs, had they been evaluated less often."""
    rows = []
    for one in results:
        accuracy = {event["update"]: event["accuracy"] for event in one["evals"]}
        for row in one["cadences"]:
            cells = []
            for name in ("onset", "commitment"):
                cells.append(_when(row[name], 1))
                cells.append("-" if row[name] is None else f"{100 * accuracy[row[name]]:.1f} %")
            rows.append([_name(one), str(row["stride"] * one["plan"]["eval_every"]), *cells])
    columns = ["run", "updates between evaluations", "S0→S1", "accuracy then", "S1→S2", "accuracy then"]
    return "## Modular addition by cadence (profile paper)\n\n" + _table(columns, rows)


def _decays(results: Sequence[Result]) -> str:
    """The observer on a fitted exponential, and three regimes against decays on held-back evaluations."""
    rows = []
    for one in results:
        found, seen, every = one["decay"], one["profiles"]["paper"], one["plan"]["eval_every"]
        if found is None:
            continue
        whens = [_when(part[name], every) for name in ("onset", "commitment") for part in (seen, found)]
        ratios = [f"{found['ratios'][name]:.2f}" for name in RIVALS]
        rows.append([_name(one), *whens, f"{found['error']:.3g}", *ratios])
    columns = ["run", "S0→S1", "of the exponential", "S1→S2", "of the exponential", "its error (nats)", *RIVALS]
    note = (
        "In evaluations; the exponential is fitted from the highest loss on. On the right: error of three regimes on "
        "held-back evaluations / error of each decay; above 1 the decay predicts better.\n\n"
    )
    return "## Against a decay (profile paper)\n\n" + note + _table(columns, rows)


def _norms(results: Sequence[Result]) -> str:
    rows = []
    for one in results:
        for part in one["profiles"]["paper"]["phases"]:
            norm = part["grad_norm"]
            figures = [_ratio(norm[name] if norm else None) for name in _NORMS]
            rows.append([_name(one), part["phase"], f"{part['from']}-{part['to']}", *figures])
    columns = ["run", "phase", "updates", *_NORMS]
    return "## Gradient norms by phase (profile paper)\n\n" + _table(columns, rows)


def _links(results: Sequence[Result]) -> str:
    rows = []
    for one in results:
        for name, title in _FIGURES.items():
            found = one["links"][name]
            rows.append(
                [
                    *(_name(one), title, str(found["n"]), str(found["block"])),
                    *(_interval(found["value"], found["interval"]),),
                    *(_interval(found["differences"], found["differences_interval"]),),
                ]
            )
    columns = ["run", "δL and", "n", "block", "rank correlation (95 %)", "of the changes (95 %)"]
    return "## δL beside the Hessian\n\n" + _table(columns, rows)


def _interval(value: float | None, ends: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:+.2f}" + (f" ({ends[0]:+.2f} to {ends[1]:+.2f})" if ends else "")


def _edges(results: Sequence[Result]) -> str:
    """Where the curvature went, and how near to Adam's edge."""
    rows = []
    for one in results:
        measured = one["curvature"]
        if len(measured) < 2:
            continue
        plain = [event["eigenvalue"] for event in measured]
        adapted = [event["preconditioned"] for event in measured[1:]]
        ways = [event["alignment"] for event in measured[1:]]
        rate = one["plan"]["rate"]
        rows.append(
            [
                *(_name(one), f"{plain[0]:.3g}", f"{max(plain):.3g}", f"{plain[-1]:.3g}"),
                *(f"{statistics.median(adapted):.3g}", f"{ADAM_EDGE / rate:g}", f"{statistics.median(ways):.4f}"),
            ]
        )
    columns = [
        *("run", "λ before training", "highest λ", "last λ", "median preconditioned λ", "38 / learning rate"),
        "median |cos|(way, vector)",
    ]
    return "## The largest eigenvalue\n\n" + _table(columns, rows)
