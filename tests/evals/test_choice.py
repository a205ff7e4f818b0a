"""Which checkpoint is best, on figures made up by hand."""

from __future__ import annotations

from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from mlx_persona.evals.choice import choose, spoken
from mlx_persona.evals.figures import Figures
from mlx_persona.evals.intervals import Tally


def column(loss: float | None, distance: float, half: float = 0.0) -> Figures:
    interval = (distance - half, distance + half) if half else None
    return Figures(10.0, 0.0, distance, distance - 0.1, loss=loss, style_interval=interval)


def figures(**columns: Figures) -> dict[str, Figures]:
    person = {"person": column(None, 0.1), "others": column(None, 0.3), "base": column(1.0, 0.0)}
    return {**person, **{name.removeprefix("u"): found for name, found in columns.items()}}


def kept(hits: int, n: int) -> dict[str, Any]:
    return {"retention": {"kept": Tally(hits, n).to_json()}}


def test_each_measure_has_a_best_of_its_own_and_base_and_people_are_none() -> None:
    made = figures(u2=column(4.0, 0.5, 0.01), u4=column(3.0, 0.2, 0.01), u6=column(3.5, 0.4, 0.01))
    found = choose(made, {"base": {}, "2": kept(90, 100), "4": kept(10, 100), "6": kept(50, 100)}, "base")
    assert {measure: one["best"] for measure, one in found.items()} == {"loss": "4", "style": "4", "ability": "2"}
    assert (found["loss"]["value"], found["style"]["value"], found["ability"]["value"]) == (3.0, 0.1, 0.9)
    assert all(one["tied"] == [] for one in found.values())
    assert spoken(found)[-1].startswith("they disagree")


def test_what_differs_by_less_than_both_intervals_together_is_tied() -> None:
    """Halves of 0.03 and 0.04 make 0.05."""
    made = figures(u2=column(3.0, 0.26, 0.04), u4=column(3.1, 0.2, 0.03), u6=column(3.2, 0.25, 0.04))
    found = choose(made, None, "base")
    assert found["style"] == {"best": "4", "value": 0.1, "tied": ["6"]}
    assert found["loss"] == {"best": "2", "value": 3.0, "tied": []}
    assert len(spoken(found)) == 3


def test_a_tie_is_no_disagreement() -> None:
    made = figures(u2=column(3.0, 0.21, 0.04), u4=column(3.1, 0.2, 0.03))
    found = choose(made, {"2": kept(5, 10), "4": kept(6, 10)}, "base")
    assert [found[name]["best"] for name in ("loss", "style", "ability")] == ["2", "4", "4"]
    assert found["ability"]["tied"] == ["2"]
    assert spoken(found) == [
        "best by loss: update 2 (3.000)",
        "best by style: update 4 (0.100); not to be told apart from it: 2",
        "best by ability: update 4 (0.600); not to be told apart from it: 2",
    ]


def test_of_equals_the_earliest_and_nothing_of_nothing() -> None:
    found = choose(figures(u2=column(3.0, 0.2), u4=column(3.0, 0.2)), {"2": kept(0, 0), "4": kept(0, 0)}, "base")
    assert {measure: one["best"] for measure, one in found.items()} == {"loss": "2", "style": "2"}
    assert choose(figures(), None, "base") == {}
    assert spoken({}) == []
