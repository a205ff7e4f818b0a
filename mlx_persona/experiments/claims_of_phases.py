"""P1, phases exist, and P4, gradient calming predicts quality (source 000, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlx_persona.experiments.claims import CONFIRMED, REFUTED, UNDECIDED, Table, Verdict, arms_of, shown
from mlx_persona.experiments.curves import (
    MIN_EVALS,
    PARAMETERS,
    PHASES,
    Floats,
    advantage,
    advantage_draws,
    bic,
    held_back,
    series,
    strongest,
)
from mlx_persona.experiments.statistics import Estimate, counts, percentiles, smallest_correlation, spearman_by_group
from mlx_persona.experiments.table import FIGURES, Record

# So many arms are units of their own, with their seeds; of fewer arms every run is one.
UNITS = 4
RATIOS = ("variance", "mean_to_peak", "median_to_p95")
_NAMES = {
    "variance": "variance S2 / variance S1 (the prediction's)",
    "mean_to_peak": "mean S2 / peak S1 (the paper's Table 5)",
    "median_to_p95": "median S2 / 95th percentile S1",
}
QUALITIES = ("style_distance", "held_out_loss")
# A correlation that is smaller predicts nothing of use.
WEAK = 0.3


def phases(tables: Sequence[Table], seed: int = 0) -> Verdict | None:
    """P1: is the loss curve of a run without intervention better told as three regimes than as a smooth decay?

    None where no run has ``curves.MIN_EVALS`` evaluations. :mod:`mlx_persona.experiments.curves` says what the phase
    model predicts and what its rivals are.
    """
    runs: list[tuple[str, Record]] = []
    for number, table in enumerate(tables):
        twins = {first for first, _, same in table["equal"] if same}  # "off" beside "observe" is the same run again
        for arm, records in arms_of(table).items():
            if table["options"][arm].get("phase") != "control" and arm not in twins:
                runs += [(f"{number} {arm}", r) for r in records if len(r["evals"]) >= MIN_EVALS]
    if not runs:
        return None
    curves = [series(record) for _, record in runs]
    errors = [held_back(curve) for curve in curves]
    rival = strongest(errors)
    ratio = _pooled([arm for arm, _ in runs], errors, rival, seed)
    better = sum(advantage(one, rival) < 0 for one in errors)
    outcome = UNDECIDED
    if ratio.high is not None and ratio.low is not None:
        outcome = CONFIRMED if ratio.high < 1 and 3 * better >= 2 * len(runs) else outcome
        outcome = REFUTED if ratio.low > 1 else outcome
    says = {
        CONFIRMED: "Three regimes predict evaluations that were held back better than every smooth decay does.",
        REFUTED: "A smooth decay predicts evaluations that were held back better than three regimes do.",
        UNDECIDED: "Neither three regimes nor a smooth decay predicts held-back evaluations clearly better.",
    }[outcome]
    criteria = [bic(curve) for curve in curves]
    wins = sum(one[PHASES] == min(one.values()) for one in criteria)
    passed = sum(bool(record.get("onset") and record.get("commitment")) for _, record in runs)
    names = [name for name in PARAMETERS if name != PHASES]
    return Verdict(
        "P1 phases exist",
        outcome,
        says,
        "the smooth decay that fits best predicts held-back evaluations better than three lines that meet (S1 falling, "
        "S0 and S2 at most half as steep); the 95 % interval of the ratio of their errors lies above 1",
        len(runs),
        (
            f"error of the phase model ({PARAMETERS[PHASES]} parameters) / error of {rival} ({PARAMETERS[rival]}), on "
            f"every fifth evaluation held back in turn: {shown(ratio, '.2f')}; better in {better} of {len(runs)} runs",
            f"BIC prefers the phase model in {wins} of {len(runs)} runs",
            f"the thresholds saw S0, S1 and S2 in {passed} of {len(runs)} runs, as they would in any smooth decay",
        ),
        {
            "ratio": ratio.to_json(),
            "rival": rival,
            "better": better,
            "bic_prefers_phases": wins,
            "thresholds_passed": passed,
            "ratio_by_rival": {
                name: math.exp(float(np.mean([advantage(one, name) for one in errors]))) for name in names
            },
        },
        ("of one run: its evaluations are resampled in blocks, and the interval is rough",) if len(runs) == 1 else (),
    )


def _pooled(arms: Sequence[str], errors: Sequence[Mapping[str, Floats]], rival: str, seed: int) -> Estimate:
    """Geometric mean over runs of the ratio of errors; arms (or runs, of few arms) are resampled."""
    if len(errors) == 1:
        low, high = percentiles(np.exp(advantage_draws(errors[0], rival, seed)))
        return Estimate(math.exp(advantage(errors[0], rival)), low, high, 1)
    values = np.array([advantage(one, rival) for one in errors])
    units = list(arms) if len(set(arms)) >= UNITS else [str(i) for i in range(len(errors))]
    names = list(dict.fromkeys(units))
    member = np.array([[unit == name for unit in units] for name in names], np.float64)  # (U, N)
    drawn = counts(len(names), np.random.default_rng(seed)) @ member  # (K, N): how often each run
    low, high = percentiles(np.exp(drawn @ values / drawn.sum(axis=1)))
    return Estimate(math.exp(float(values.mean())), low, high, len(names))


def calming(tables: Sequence[Table], seed: int = 0) -> Verdict | None:
    """P4: is the persona better where the gradient norms calm down more from S1 to S2?

    None where no run has a calming ratio and a measure of quality. Low is calm, and low is good of both measures, so
    the prediction is a positive rank correlation. All three ratios are reported; the prediction is of the variances.
    """
    runs = [
        (f"{number} {arm}", record)
        for number, table in enumerate(tables)
        for arm, records in arms_of(table).items()
        for record in records
        if record.get("calming")
    ]
    found: dict[str, dict[str, tuple[Estimate, float]]] = {}
    for ratio in RATIOS:
        for quality in QUALITIES:
            if (one := _correlation(runs, ratio, FIGURES[quality], seed)) is not None:
                found.setdefault(ratio, {})[quality] = one
    if not found:
        return None
    outcome = _calming_outcome(found.get("variance", {}))
    units = max(one.n for of in found.values() for one, _ in of.values())
    power = smallest_correlation(units)
    seen = "no correlation is sure to be seen" if power is None else f"a correlation of {power:.2f} (80 % power)"
    return Verdict(
        "P4 gradient calming predicts quality",
        outcome,
        {
            CONFIRMED: "Runs whose gradients calm down more have the better persona.",
            REFUTED: "Calmer gradients do not go with a better persona, by more than a weak correlation at most.",
            UNDECIDED: "So few runs cannot tell the correlation from none.",
        }[outcome],
        f"the rank correlation of the variance ratio with every measure of quality is below {WEAK} even at the upper "
        "end of its 95 % interval",
        len(runs),
        tuple(
            f"{_NAMES[ratio]} and {quality.replace('_', ' ')}: Spearman {shown(one, '+.2f')}, permutation p {p:.3f}"
            for ratio, of in found.items()
            for quality, (one, p) in of.items()
        ),
        {
            "correlations": {
                ratio: {quality: {**one.to_json(), "p": p} for quality, (one, p) in of.items()}
                for ratio, of in found.items()
            },
            "detectable": power,
        },
        (f"{units} independent units (arms, or runs of few arms): what they would have seen is {seen}",),
    )


def _correlation(
    runs: Sequence[tuple[str, Record]], ratio: str, quality: Callable[[Record], Any], seed: int
) -> tuple[Estimate, float] | None:
    """Spearman's correlation of a ratio with a measure of quality, and its p; None of fewer than four units."""
    have = [(arm, r) for arm, r in runs if r["calming"].get(ratio) is not None and quality(r) is not None]
    arms = [arm for arm, _ in have]
    groups = arms if len(set(arms)) >= UNITS else [str(i) for i in range(len(have))]
    if len(set(groups)) < UNITS:
        return None
    pairs = [(r["calming"][ratio], quality(r)) for _, r in have]
    x, y = (np.array(values, np.float64) for values in zip(*pairs, strict=True))
    value, p = spearman_by_group(x, y, groups, seed)
    return None if math.isnan(value.value) else (value, p)


def _calming_outcome(found: Mapping[str, tuple[Estimate, float]]) -> str:
    """Of the variance ratio: confirmed by any measure after Holm's correction, refuted only by all of them."""
    if not found:
        return UNDECIDED
    ordered = sorted(found.values(), key=lambda one: one[1])
    # Holm, 1979: the smallest p is held against 5 % / m; one is enough.
    value, p = ordered[0]
    against = any((one.high or 0.0) < 0 for one, _ in ordered)
    if p < 0.05 / len(ordered) and (value.low or 0.0) > 0 and not against:
        return CONFIRMED
    return REFUTED if all(one.high is not None and one.high < WEAK for one, _ in ordered) else UNDECIDED
