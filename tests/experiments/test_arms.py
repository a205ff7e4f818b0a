"""What a sweep compares: grids, presets, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_persona.config import SWEEP_PRESETS, SweepConfig
from mlx_persona.errors import PersonaError
from mlx_persona.experiments.arms import Design, design, folder_name

BLOCKS = 28


def of(**options: Any) -> Design:
    return design(SweepConfig(**options), BLOCKS)


def options(found: Design, name: str) -> list[Any]:
    return [arm.options.get(name) for arm in found.arms]


def test_a_grid_is_all_combinations_and_alpha_may_follow_from_the_rank() -> None:
    found = of(grid=("alpha=rank,2rank,16", "rank=8,32"))
    assert options(found, "rank") == [8, 32] * 3
    assert options(found, "alpha") == [8.0, 32.0, 16.0, 64.0, 16.0, 16.0]
    assert found.arms[0].name == "alpha=rank, rank=8"
    assert found.reference == found.arms[0].name


def test_numbers_may_be_given_in_units_of_what_all_share() -> None:
    found = of(grid=("learning_rate=x0.5,x2,3e-3",), settings=("learning-rate=1e-3",))
    assert options(found, "learning_rate") == pytest.approx([5e-4, 2e-3, 3e-3])


def test_values_are_of_the_options_type() -> None:
    found = of(settings=("dora=off", "alpha=none", "batch_tokens=64", "extra=a", "extra=b"))
    only = found.arms[0].options
    assert (only["dora"], only["alpha"], only["batch_tokens"], only["extra"]) == (False, None, 64, ("a", "b"))
    assert only["patience"] == 0  # a run that stops early has not seen as much as the others


@pytest.mark.parametrize("name", SWEEP_PRESETS)
def test_every_preset_has_arms_that_its_stage_takes(name: str) -> None:
    """``design`` builds the stage's config of every arm, which refuses what it does not know."""
    found = of(preset=name)
    assert len(found.arms) > 1
    assert found.reference in [arm.name for arm in found.arms]


def test_ranks_differ_in_the_rank_alone_at_one_scale() -> None:
    found = of(preset="ranks")
    assert options(found, "rank") == [8, 16, 32, 64]
    assert {arm.options["alpha"] / arm.options["rank"] for arm in found.arms} == {2.0}


def test_the_failed_configuration_is_that_of_the_source() -> None:
    failed, recommended, _ = of(preset="failed-vs-recommended").arms
    assert [
        failed.options[k] for k in ("rank", "dora", "num_layers", "learning_rate", "batch_size", "mask_prompt")
    ] == [*(16, False, 8, 1e-5, 2, False)]
    assert [recommended.options[k] for k in ("rank", "alpha", "dora", "num_layers", "learning_rate")] == [
        *(64, 128.0, True, -1, 2e-4)
    ]


def test_the_ablation_has_the_arms_of_the_issue() -> None:
    found = of(preset="tpt-ablation", settings=("learning_rate=1e-3", "phase_set=guard=3"))
    by = {arm.name: arm for arm in found.arms}
    assert by["no controller"].options["phase"] == "off"
    assert by["batch pulse"].options["phase_set"] == ("guard=3", "s1_lr=1")
    assert by["LR pulse x1.25"].options["phase_set"] == ("guard=3", "s1_batch=1", "s1_lr=1.25")
    assert by["constant LR x1.10"].options["learning_rate"] == pytest.approx(1.1e-3)
    assert by["constant schedule"].options["final_lr"] == 1.0
    assert by["base LR halved"].options["learning_rate"] == pytest.approx(5e-4)
    assert by["base LR doubled"].options["learning_rate"] == pytest.approx(2e-3)
    assert [arm.name for arm in found.arms if arm.intervenes] == [
        *("controller", "batch pulse", "LR pulse x1.10", "LR pulse x1.05", "LR pulse x1.25", "LR pulse x1.50")
    ]
    assert found.equal == (("no controller", "observe only"),)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"grid": ("rnk=8",)}, "there is no option rnk"),
        ({"grid": ("rank=8", "rank=16")}, "an option twice"),
        ({"grid": ("rank",)}, "must be NAME=VALUE"),
        ({"grid": ("rank=8,8",)}, "the same"),
        ({"settings": ("seed=3",)}, "seed is not for --set"),
        ({"settings": ("rank=many",)}, "rank must be a whole number"),
        ({"settings": ("rank=0",)}, "rank must be >= 1"),
        ({"settings": ("dora=perhaps",)}, "dora must be on or off"),
        ({"preset": "beta", "stage": "sft"}, "preset beta is of dpo"),
        ({"preset": "ranks", "stage": "dpo"}, "preset ranks is of sft"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(PersonaError, match=said):
        of(**bad)


@pytest.mark.parametrize(("seeds", "said"), [("1,x", "whole numbers"), ("", "whole numbers"), ("1,1", "must differ")])
def test_seeds_are_checked(seeds: str, said: str) -> None:
    with pytest.raises(PersonaError, match=said):
        _ = SweepConfig(seeds=seeds).seed_list


def test_folder_names_are_plain() -> None:
    assert folder_name("alpha=2rank, learning_rate=x1.5", 42) == "alpha=2rank_learning_rate=x1.5-seed42"
