"""The arms of a sweep: dots where the figures are, intervals as wide as the table says, seeds as they came."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mlx_persona.report.arms import arm_charts, read_table
from mlx_persona.report.figures import Document
from mlx_persona.report.plots import BarChart, Chart
from tests.report.kit import Report, says, truth, written
from tests.report.phasekit import write_sweep

ARMS = ("rank 8", "rank 16", "rank 32")


def charts(folder: Path) -> dict[str, BarChart]:
    """The charts of a sweep, by name."""
    table = read_table(folder)
    assert table is not None
    found: list[Chart] = arm_charts(table)
    return {chart.name: chart for chart in found if isinstance(chart, BarChart)}


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> dict[str, BarChart]:
    """The charts after a change of the table."""
    table = json.loads((folder / "table.json").read_text())
    change(table)
    (folder / "table.json").write_text(json.dumps(table))
    return charts(folder)


def xs(path: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?[\d.]+", path)][::2]


def dots(chart: BarChart, name: str) -> list[float]:
    """Where the markers of a series stand, in x."""
    [group] = [g for g in ElementTree.fromstring(chart.svg).iter() if g.get("data-series") == name]
    return [float(use.get("x", "nan")) for use in group.iter() if use.tag.endswith("use")]


def test_differences_are_drawn_with_their_widest_interval(tmp_path: Path) -> None:
    found = charts(write_sweep(tmp_path / "sweep-1"))
    assert set(found) == {"arms-difference", "arms-held-out-loss", "arms-onset-update"}
    chart = found["arms-difference"]
    assert [(bar.label, bar.value, bar.shown) for bar in chart.bars] == [
        ("rank 16", 0.02, "+0.020"),
        ("rank 32", 0.04, "+0.040"),
    ]
    assert [bar.interval for bar in chart.bars] == [pytest.approx((0.01, 0.035)), pytest.approx((0.03, 0.055))]
    series = Report(chart.svg).series
    floor, ends = xs(series["floor"][0])[0], [xs(series[f"interval-{row}"][0]) for row in (0, 1)]
    scale = (ends[1][0] - ends[0][0]) / 0.02
    assert floor == pytest.approx(ends[0][0] - 0.01 * scale, abs=0.02)  # no difference, within the chart
    assert ends[0][1] - ends[0][0] == pytest.approx(0.025 * scale, abs=0.02)


def test_every_seed_has_a_dot_and_the_reference_its_colour(tmp_path: Path) -> None:
    chart = charts(write_sweep(tmp_path / "sweep-1"))["arms-held-out-loss"]
    assert [bar.label for bar in chart.bars] == list(ARMS)
    assert [bar.colour for bar in chart.bars] == ["d5", "bar", "bar"]
    assert list(chart.bars[1].points) == pytest.approx([3.42, 3.43, 3.44])
    assert chart.bars[1].shown == "3.430"
    assert [len(places) for places in (dots(chart, "points-1"), dots(chart, "1"))] == [3, 1]
    means, seeds = [dots(chart, str(row))[0] for row in range(3)], dots(chart, "points-1")
    assert seeds[1] == pytest.approx(means[1], abs=0.01)
    assert seeds[2] - seeds[0] == pytest.approx(means[2] - means[1], abs=0.01)  # 0.02 both


def test_a_mean_of_some_runs_says_of_how_many(tmp_path: Path) -> None:
    def one_never_began(table: dict[str, Any]) -> None:
        table["arms"][2]["figures"]["onset_update"]["n"] = 2
        table["runs"][-1]["onset"] = None

    chart = changed(write_sweep(tmp_path / "sweep-1"), one_never_began)["arms-onset-update"]
    assert [bar.shown for bar in chart.bars] == ["8.0", "10.0", "12.0 (2 of 3 runs)"]
    assert len(chart.bars[2].points) == 2


def test_the_page_of_a_sweep_holds_its_own_figures(tmp_path: Path) -> None:
    page = Report(written(str(write_sweep(tmp_path / "sweep-1"))))
    assert len(page.figures) > 12
    for value, place, shown in page.figures:
        assert float(value) == truth(place, tmp_path)
        assert says(shown, float(value))
    assert "95 % interval of that difference – 0.01 to 0.035 0.03 to 0.055" in page.text
    assert "few seeds" in page.text
    assert "failed" not in page.text
    assert re.findall(r".{0,30}\d.{0,10}", page.rest.replace("95 % interval", "")) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.update(arms=[7, None, {"arm": "x"}]),
        lambda table: table.update(runs=7),
        lambda table: table["arms"][1].update(figures=[], differences={"held_out_loss": {"value": "x"}}),
        lambda table: table.pop("reference"),
        lambda table: table["arms"][1]["differences"]["held_out_loss"]["by_both"].update(interval=None),
    ],
)
def test_a_damaged_table_leaves_a_page(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    folder = write_sweep(tmp_path / "sweep-1")
    changed(folder, change)
    assert "The arms" in Report(written(str(folder))).text


def test_a_single_arm_has_no_comparison(tmp_path: Path) -> None:
    assert charts(write_sweep(tmp_path / "sweep-1", ("rank 8",))) == {}


def test_a_folder_without_arms_is_no_sweep(tmp_path: Path) -> None:
    assert read_table(tmp_path) is None
    (tmp_path / "table.json").write_text('{"arms": {}}')
    assert read_table(tmp_path) is None
    assert arm_charts(Document("x")) == []
