"""Verdicts on made-up sweeps, for which it is known what they must say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_persona.config import VerdictsConfig
from mlx_persona.errors import PersonaError
from mlx_persona.experiments.arms import folder_name
from mlx_persona.experiments.claims import Verdict
from mlx_persona.experiments.claims_of_phases import calming, phases
from mlx_persona.experiments.claims_of_quality import identity, interventions, rank
from mlx_persona.experiments.verdicts import judge, markdown, verdicts

X = np.linspace(0, 1, 31)
SEEDS = (42, 137, 256)
Record = dict[str, Any]


def table(runs: list[Record], options: dict[str, Any] | None = None) -> dict[str, Any]:
    arms = {run["arm"]: {} for run in runs}
    return {
        "stage": "sft",
        "model_identity": {"sha256": "m"},
        "data_hashes": {},
        "equal": [],
        "options": {**arms, **(options or {})},
        "runs": [{"status": "done", "evals": [], "commitment": None, **run} for run in runs],
    }


def curve(arm: str, seed: int, loss: Any) -> Record:
    evals = [[i, 100 * i, float(y)] for i, y in enumerate(loss)]
    return {"arm": arm, "seed": seed, "evals": evals, "rates": [1.0] * 30, "onset": {}, "commitment": None}


def outcome(found: Verdict | None) -> str:
    assert found is not None
    return found.outcome


# P1


def exponentials(number: int) -> Any:
    rng = np.random.default_rng(number)
    tau, noise = np.exp(rng.uniform(np.log(0.03), np.log(2))), rng.uniform(0.001, 0.03)
    return 3 + 2 * np.exp(-X / tau) + noise * rng.normal(size=31)


def test_phases_are_not_confirmed_of_an_exponential() -> None:
    """Of 200 random ones with noise at most 5 % may be called phases."""
    found = [outcome(phases([table([curve("a", 1, exponentials(i))])])) for i in range(200)]
    assert found.count("confirmed") <= 10
    assert found.count("refuted") > 150


def staircases(number: int, noise: float = 0.01) -> Any:
    rng = np.random.default_rng(number)
    begin = rng.uniform(0.1, 0.4)
    end = begin + rng.uniform(0.1, 0.35)
    return 5 - 2 * np.clip((X - begin) / (end - begin), 0, 1) + noise * rng.normal(size=31)


def test_phases_are_confirmed_of_staircases_and_refuted_of_exponentials_over_seeds() -> None:
    stairs = phases([table([curve("a", seed, staircases(seed)) for seed in SEEDS])])
    assert outcome(stairs) == "confirmed"
    assert stairs is not None
    assert stairs.n == 3
    assert stairs.figures["ratio"]["interval"][1] < 1
    decays = phases([table([curve("a", seed, exponentials(seed)) for seed in SEEDS])])
    assert outcome(decays) == "refuted"


def test_phases_are_undecided_where_runs_contradict_one_another_or_are_noise() -> None:
    mixed = [curve("a", i, staircases(i) if i % 2 else exponentials(i)) for i in range(4)]
    assert outcome(phases([table(mixed)])) == "undecided"
    noise = [curve("a", i, 3 + 0.1 * np.random.default_rng(i).normal(size=31)) for i in range(3)]
    assert outcome(phases([table(noise)])) != "confirmed"


def test_phases_need_enough_evaluations_and_runs_without_pulses() -> None:
    assert phases([table([curve("a", 1, staircases(1)[:10])])]) is None
    controlled = table([curve("a", 1, staircases(1))], {"a": {"phase": "control"}})
    assert phases([controlled]) is None


# P2


def ranked(
    commit: Callable[[int, int], float | None], loss: Callable[[int], float], seeds: tuple[int, ...] = SEEDS
) -> dict[str, Any]:
    """Ranks 8 to 64: tokens to S2 by (doublings, seed), and the held-out loss by doublings."""
    rng = np.random.default_rng(0)
    hard = rng.normal(3, 0.4, 20)  # what the 20 conversations cost everyone
    runs = []
    for step, r in enumerate((8, 16, 32, 64)):
        for seed in seeds:
            nats = 50 * (hard + loss(step) + 0.01 * rng.normal(size=20))
            when = commit(step, seed)
            runs.append(
                {
                    "arm": f"rank {r}",
                    "seed": seed,
                    "tokens": 20000,
                    "held_out": [[float(n), 50.0] for n in nats],
                    "style_distance": 0.3 + loss(step),
                    "commitment": None if when is None else {"tokens": when, "update": 1, "by": "signal"},
                }
            )
    options = {f"rank {r}": {"rank": r, "alpha": 2 * r, "dora": True} for r in (8, 16, 32, 64)}
    return table(runs, options)


def test_rank_is_confirmed_where_small_ones_commit_earlier_and_are_no_worse() -> None:
    found = rank([ranked(lambda step, seed: 5000 + 800 * step + seed, lambda step: 0.0)])
    assert outcome(found) == "confirmed"
    assert found is not None
    assert found.figures["commitment"]["slope"]["value"] == pytest.approx(800)
    assert found.n == 12


def test_rank_is_refuted_where_large_ones_are_earlier_or_better() -> None:
    assert outcome(rank([ranked(lambda step, seed: 9000 - 800 * step + seed, lambda step: 0.0)])) == "refuted"
    assert outcome(rank([ranked(lambda step, seed: 5000 + 800 * step, lambda step: -0.1 * step)])) == "refuted"


def test_rank_is_undecided_where_commitment_does_not_depend_on_it_or_is_not_reached() -> None:
    noise = np.random.default_rng(5)
    assert outcome(rank([ranked(lambda step, seed: float(noise.normal(8000, 900)), lambda step: 0.0)])) == "undecided"
    never = rank([ranked(lambda step, seed: None, lambda step: 0.0)])
    assert outcome(never) == "undecided"
    assert never is not None
    assert "no run reached S2" in never.findings[0]


def test_rank_says_nothing_of_arms_that_differ_in_more() -> None:
    other = ranked(lambda step, seed: 1.0, lambda step: 0.0)
    other["options"]["rank 8"]["dora"] = False
    assert rank([other]) is None


# P3


def prompted(seed: int, kept: float, spread: float, *, cut: int = 120, clear: bool = True) -> Record:
    """Base without a prompt at 1.0, trained under the full one at 0.4; ``kept`` of the way is left under the slim."""
    lost = 0.6 * (1 - kept)
    interval = [lost - spread, lost + spread]
    per = 100 / (900 - cut)

    def distance(value: float) -> dict[str, Any]:
        return {"distance": {"value": value, "interval": [value - 0.05, value + 0.05]}}

    step = {"value": lost * per, "interval": [end * per for end in interval], "n": 40, "includes_zero": False}
    base = {
        "variants": {name: distance(1.0) for name in ("full", "slim", "none")},
        "lost_per_100_tokens": {"full_to_slim": {**step, "includes_zero": True}},
    }
    own = {
        "variants": {"full": distance(0.4), "slim": distance(0.4 + lost), "none": distance(0.4 + lost)},
        "lost_per_100_tokens": {"full_to_slim": step},
        "kept_without_prompt": {"value": kept, "interval": [kept - 0.1, kept + 0.1], "n": 40} if clear else None,
    }
    models = {"base": base, folder_name("all alike", seed): own}
    scores = {"tokens": {"full": 900, "slim": cut, "none": 0}, "models": models}
    return {"arm": "all alike", "seed": seed, "prompts": scores}


def test_identity_is_confirmed_where_the_slim_prompt_keeps_it() -> None:
    found = identity([table([prompted(seed, 0.97, 0.05) for seed in SEEDS])])
    assert outcome(found) == "confirmed"
    assert found is not None
    assert found.figures["kept_slim"]["value"] == pytest.approx(0.97)
    assert found.figures["kept_slim"]["interval"] == pytest.approx([0.97 - 0.05 / 0.6, 0.97 + 0.05 / 0.6])
    assert found.figures["cut"] == pytest.approx(780 / 900)
    assert any("no hard trial" in line for line in found.findings)


def test_identity_is_refuted_where_little_is_left() -> None:
    assert outcome(identity([table([prompted(seed, 0.2, 0.05) for seed in SEEDS])])) == "refuted"


def test_identity_is_undecided_of_wide_intervals_a_small_cut_or_an_unclear_way() -> None:
    assert outcome(identity([table([prompted(seed, 0.8, 0.3) for seed in SEEDS])])) == "undecided"
    assert outcome(identity([table([prompted(1, 0.99, 0.01, cut=600)])])) == "undecided"
    unclear = identity([table([prompted(1, 0.99, 0.01, clear=False)])])
    assert outcome(unclear) == "undecided"
    assert unclear is not None
    assert unclear.n == 0


# P4


def calmed(effect: float, arms: int, noise: float, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    runs = []
    for arm in range(arms):
        calm = arm / arms
        for one in SEEDS:
            quality = effect * calm + noise * rng.normal()
            ratios = dict.fromkeys(("variance", "mean_to_peak", "median_to_p95"), calm + 0.01 * rng.normal())
            figures = {"style_distance": 0.5 + quality, "held_out_loss": 3 + quality}
            runs.append({"arm": f"arm {arm}", "seed": one, "calming": ratios, **figures})
    return table(runs)


def test_calming_is_confirmed_refuted_and_undecided() -> None:
    assert outcome(calming([calmed(1.0, 10, 0.05)])) == "confirmed"
    assert outcome(calming([calmed(-1.0, 10, 0.05)])) == "refuted"
    few = calming([calmed(1.0, 4, 2.0)])
    assert outcome(few) == "undecided"
    assert few is not None
    assert few.figures["detectable"] > 0.99


def test_calming_of_nothing_is_seldom_confirmed() -> None:
    found = [outcome(calming([calmed(0.0, 5, 1.0, seed)])) for seed in range(8)]
    assert found.count("confirmed") <= 1


def test_calming_says_nothing_where_there_is_no_ratio() -> None:
    assert calming([table([{"arm": "a", "seed": 1, "calming": None, "held_out_loss": 3.0}])]) is None


# Interventions


def ablated(gain: float, against_constant: float, noise: float = 0.005) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    shift = {"observe only": 0.0, "controller": -gain, "constant LR x1.10": against_constant - gain}
    hard = rng.normal(3, 0.4, 20)
    runs = [
        {
            "arm": arm,
            "seed": seed,
            "held_out": [[50 * float(h + by + noise * rng.normal()), 50.0] for h in hard],
        }
        for arm, by in shift.items()
        for seed in SEEDS
    ]
    return table(runs)


def test_interventions_must_beat_a_constant_rate_too() -> None:
    assert outcome(interventions([ablated(0.1, 0.05)])) == "confirmed"
    assert outcome(interventions([ablated(0.1, -0.05)])) == "undecided"
    assert outcome(interventions([ablated(0.0, 0.0)])) == "refuted"
    assert outcome(interventions([ablated(0.03, 0.0, noise=0.2)])) == "undecided"
    assert interventions([ranked(lambda step, seed: 1.0, lambda step: 0.0)]) is None


# All of them


def test_sweeps_of_different_models_are_not_judged_together(tmp_path: Path) -> None:
    one, other = calmed(1.0, 6, 0.05), {**calmed(1.0, 6, 0.05), "model_identity": {"sha256": "n"}}
    assert len(judge([one, one])) == 1
    assert judge([{**one, "stage": "dpo"}]) == []
    with pytest.raises(PersonaError, match="different models or data"):
        judge([one, other])


def test_verdicts_are_read_from_folders_and_never_a_bare_yes(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(json.dumps(calmed(1.0, 10, 0.05)))
    (found,) = verdicts(VerdictsConfig(sweeps=(str(tmp_path),)))
    assert found.claim.startswith("P4")
    assert found.refuted_if
    assert found.n == 30
    text = markdown([found])
    assert "confirmed" in text
    assert "95 % interval" in text
    with pytest.raises(PersonaError, match="no table of a sweep"):
        verdicts(VerdictsConfig(sweeps=(str(tmp_path / "nothing"),)))
