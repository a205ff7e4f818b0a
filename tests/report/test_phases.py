"""The phases of a run on its page: where they lie, what they say, and what becomes of damaged ones."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from mlx_persona.report.drawing import Band, apart
from mlx_persona.report.figures import Figure, product
from mlx_persona.report.phases import Phases
from mlx_persona.report.reading import read_run
from mlx_persona.report.views import compare, view
from tests.report.kit import Report, says, truth, written
from tests.report.phasekit import PROFILE, REASONS, STORY, UPDATES, event_lines, write_run

STARTS = {"S0": 0, "S1": 8, "S2": 22}
DELTA = "δL: the smoothed change of the held-out loss"
DELTA_CHARTS = (DELTA, "How steady δL is", "How spread out the gradient norms are")


def phases_of(folder: Path) -> Phases:
    return Phases(read_run(folder))


def spans(folder: Path) -> list[tuple[str, float, float]]:
    """The bands of a run: name, start, end."""
    return [(band.name, band.start, band.end) for band in phases_of(folder).bands]


def edges(path: str) -> tuple[float, float]:
    """From where to where a path reaches, in pixels."""
    xs = [float(n) for n in re.findall(r"-?[\d.]+", path)][::2]
    return min(xs), max(xs)


def charts_of(page: str) -> dict[str, str]:
    """Title -> the narrow SVG below it."""
    found = re.findall(r"<figure>\s*<h3>(.*?)</h3>(.*?)</figure>", page, re.DOTALL)
    return {title: re.findall(r"<svg.*?</svg>", body, re.DOTALL)[-1] for title, body in found}


def test_bands_lie_where_the_evaluations_saw_the_phases(tmp_path: Path) -> None:
    """On every chart over updates: from the evaluation that saw the phase to the one that saw the next."""
    run = write_run(tmp_path / "sft-1")
    assert spans(run) == [("S0", 0, 8), ("S1", 8, 22), ("S2", 22, 40)]
    charts = charts_of(written(str(run)))
    assert set(charts) == {"Loss", "Learning rate", "Gradient norm", "Tokens per update", *DELTA_CHARTS}
    for title, svg in charts.items():
        series = Report(svg).series
        s1, s2, border = (edges(series[name][0]) for name in ("band-S1", "band-S2", "band-start-S2"))
        assert s1[1] == pytest.approx(s2[0])
        assert border == pytest.approx((s2[0], s2[0]))
        per_update = (s2[1] - s2[0]) / (40 - 22)
        assert s1[1] - s1[0] == pytest.approx((22 - 8) * per_update, abs=0.01), title
        for name, first in (("held-out", 0), ("training, smoothed", 1), ("Gradient norm", 1), ("δL", 2)):
            for line in series.get(name, []):
                if "C" not in line:  # no dot: from its first update to the last one, on the same scale
                    ends = (s1[0] + (first - 8) * per_update, s2[1])
                    assert edges(line) == pytest.approx(ends, abs=0.01), name
        assert re.findall(r">(S\d)</text>", svg) == ["S0", "S1", "S2"]


def test_the_thresholds_of_delta_stand_at_their_values(tmp_path: Path) -> None:
    """In units of noise: onset 2 x 0.025, commit 0.5 x 0.025 nats.

    The scale is even up to commit and logarithmic beyond. There are 0.6 / 0.9 decades between 0 and commit, and onset,
    four times as far out, is log10(4) of one further.
    """
    series = Report(charts_of(written(str(write_run(tmp_path / "sft-1"))))[DELTA]).series
    paths = [*series["level-0"], *series["level-1"]]
    onset, low, high = (float(re.findall(r"-?[\d.]+", path)[1]) for path in paths)
    zero = (low + high) / 2
    assert onset > low > high  # downwards
    assert (onset - zero) / (low - zero) == pytest.approx(1 + math.log10(4) / (0.6 / 0.9), abs=1e-3)


def test_the_page_says_what_the_run_says_of_its_phases(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sft-1")
    page = Report(written(str(run)))
    assert STORY in page.text
    assert "Chosen: the checkpoint of update 34 , in S2 , eligible." in page.text
    assert "S1 susceptibility 8 22 14 1,400 2.5 3.5" in page.text
    assert f"{REASONS['S1']} (decided by the signal)" in page.text
    assert "; not the signal decided when, but a guard" in page.text
    assert "The phases were acted on ( control ), by the profile noise" in page.text
    assert "divided by their peak while it was susceptible 0.625" in page.text
    assert "one in twenty" not in page.text  # a ratio that is null
    assert "onset τ1: S1 is δL below minus this 2 0.05" in page.text
    assert "has a noise of 0.025 nats" in page.text
    for name in PROFILE:
        assert f" {name} " in page.text


def test_every_figure_is_the_run_s_own_and_none_stands_in_the_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sft-1")
    write_run(tmp_path / "sft-2", {"S0": 0, "S1": 4}, told=False)
    for runs in ((str(run),), (str(tmp_path / "sft-2"),), (str(run), str(tmp_path / "sft-2"))):
        page = Report(written(*runs))
        assert len(page.figures) > 20
        for value, place, shown in page.figures:
            assert float(value) == truth(place, tmp_path), place
            assert says(shown, float(value)), (shown, value)
        rest = page.rest.replace("95 % interval", "")
        assert re.findall(r".{0,30}\d.{0,10}", rest) == []


@pytest.mark.parametrize(
    ("units", "spread_as", "nats"),
    [("noise", "deviation", 0.25 * 0.025), ("noise", "variance", 0.25 * 0.025**2), ("loss", "variance", 0.25)],
)
def test_a_spread_in_nats_goes_with_the_noise_or_its_square(
    tmp_path: Path, units: str, spread_as: str, nats: float
) -> None:
    told = {"profile": {**PROFILE, "units": units, "spread_as": spread_as}, "noise": 0.025}
    spread = phases_of(write_run(tmp_path / "sft-1", told=False, phase=told)).threshold("spread")
    assert spread is not None
    assert spread.value == pytest.approx(nats, rel=1e-12)
    assert truth(spread.place, tmp_path) == spread.value


def test_while_a_run_goes_on_the_log_tells(tmp_path: Path) -> None:
    """Stopped in S1, and ``run.json`` does not know yet."""
    run = write_run(tmp_path / "sft-1", {"S0": 0, "S1": 8}, until=14, told=False, status="running")
    assert spans(run) == [("S0", 0, 8), ("S1", 8, 14)]
    text = Report(written(str(run))).text
    assert "S0 pre-susceptibility 0 8 S1 susceptibility 8 14" in text
    assert "by the profile noise" in text
    assert "Chosen:" not in text


def test_one_evaluation_is_s0_without_an_end(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sft-1", until=0, told=False)
    assert spans(run) == [("S0", 0, 0)]
    charts = charts_of(written(str(run)))
    assert "Loss" in charts
    assert not any(title.startswith("δL") for title in charts)  # nothing has changed yet


def test_a_phase_seen_at_the_very_end_begins_there(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sft-1", {"S0": 0, "S1": 8, "S2": UPDATES})
    assert spans(run) == [("S0", 0, 8), ("S1", 8, 40), ("S2", 40, 40)]
    assert ">S2</text>" in charts_of(written(str(run)))["Loss"]


def test_a_run_without_phases_looks_as_before(tmp_path: Path) -> None:
    events = [event for event in event_lines(STARTS) if event["event"] != "phase"]
    run = write_run(tmp_path / "sft-1", events=events, told=False)
    assert not phases_of(run)
    text = written(str(run))
    assert "Phases" not in Report(text).text
    assert "band-" not in text
    assert "chosen checkpoint" not in text
    write_run(tmp_path / "sft-2", events=events, told=False)
    assert compare([read_run(tmp_path / name) for name in ("sft-1", "sft-2")]).phases == []


@pytest.mark.parametrize(
    "harm",
    [
        {"phase": "S9"},
        {"phase": ["S1"]},
        {"phase": None},
        {"update": "x"},
        {"update": -3},
        {"update": float("nan")},
        {"delta": "x", "deviation": [], "entropy": {}},
        {"delta": float("nan")},
        {"reason": 7, "decided_by": []},
    ],
)
def test_a_damaged_event_leaves_the_others(tmp_path: Path, harm: dict[str, Any]) -> None:
    """The one that begins S1, at update 8; without it S1 is seen from the next evaluation on."""
    events = event_lines(STARTS)
    [at] = [i for i, event in enumerate(events) if event["event"] == "phase" and event["update"] == 8]
    events[at] |= harm
    run = write_run(tmp_path / "sft-1", events=events, told=False)
    begins = 8 if {"phase", "update"}.isdisjoint(harm) else 10
    assert spans(run) == [("S0", 0, begins), ("S1", begins, 22), ("S2", 22, 40)]
    charts = charts_of(written(str(run)))
    points = 20 if {"delta", "update"}.isdisjoint(harm) else 19
    assert ">S1</text>" in charts[DELTA]
    [line] = [d for d in Report(charts[DELTA]).series["δL"] if "C" not in d]
    drawn = len(re.findall("[ML]", line))
    assert drawn == (20 if harm == {"update": -3} else points)


@pytest.mark.parametrize("told", [7, [], "S1", {"phases": 7}, {"phases": [7, None, {"phase": "S7"}]}, {"profile": [1]}])
def test_a_damaged_summary_leaves_the_log(tmp_path: Path, told: object) -> None:
    run = write_run(tmp_path / "sft-1", told=False, phase=told)
    assert "S1 susceptibility 8 22 S2" in Report(written(str(run))).text


def test_several_runs_side_by_side(tmp_path: Path) -> None:
    write_run(tmp_path / "sft-1")
    write_run(tmp_path / "sft-2", {"S0": 0, "S1": 4}, told=False)
    page = Report(written(str(tmp_path / "sft-1"), str(tmp_path / "sft-2")))
    assert "onset update at which susceptibility began 8 4" in page.text
    assert "commitment update at which it had settled 22 –" in page.text
    assert "chosen update whose checkpoint was kept 34 –" in page.text
    assert {"sft-1", "sft-2"} <= set(Report(charts_of(page.source)["δL: the smoothed change of the loss"]).series)


def test_hostile_words_in_events_are_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sft-1")
    evil = "<script>alert(1)</script>"
    told = json.loads((run / "run.json").read_text())
    told["phase"] |= {"mode": evil, "story": evil, "profile": {evil: evil}}
    told["phase"]["phases"][1] |= {"reason": evil, "decided_by": evil}
    (run / "run.json").write_text(json.dumps(told))
    text = written(str(run))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 4


def test_the_chosen_checkpoint_is_ringed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sft-1")
    [loss] = [chart for chart in view(read_run(run)).charts if chart.name == "loss"]
    [ring] = [mark for mark in loss.legend if mark.label == "chosen checkpoint"]
    assert getattr(ring, "points", None) == [(34, pytest.approx(2.8))]


def test_names_of_bands_keep_apart() -> None:
    assert apart([10, 50, 90], 100, 20) == [10, 50, 90]
    assert apart([50, 52, 54], 100, 20) == [50, 70, 90]
    assert apart([2, 3], 100, 20) == [10, 30]
    assert apart([98, 99], 100, 20) == [70, 90]
    assert apart([1, 2, 3, 4], 40, 20) == [5, 15, 25, 35]
    assert Band("S0", "x", "", 0, 1).kind == "band"


def test_a_product_needs_all_its_factors() -> None:
    assert product([Figure(2, "a"), Figure(0.5, "b")]) == Figure(1.0, "a * b")
    assert product([Figure(2, "a"), None]) is None
