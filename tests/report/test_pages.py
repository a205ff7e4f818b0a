"""The pages: every figure is the run's own, every chart shows its data, and nothing can be loaded or run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mlx_persona.pages import printable
from tests.pagekit import EVIL, Parsed
from tests.report.kit import Report, says, truth, written
from tests.toy import events, info

PAGES = {
    "sft": ("runs/sft-1",),
    "dpo": ("runs/dpo-1",),
    "fuse": ("runs/fused-1",),
    "eval": ("runs/eval-1",),
    "several": ("runs/sft-1", "runs/sft-2", "runs/dpo-1", "runs/fused-1", "runs/eval-1"),
}


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest, made: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Each kind of page, as text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        return written(*PAGES[request.param], out=str(tmp_path_factory.mktemp("page") / "page.html"))


def test_every_figure_is_the_run_s_own(page: str, made: Path) -> None:
    found = Report(page).figures
    assert len(found) > 20
    for value, place, shown in found:
        assert float(value) == truth(place, made), place
        assert says(shown, float(value)), (shown, value)


def test_no_figure_stands_in_the_text_itself(page: str) -> None:
    """What is no figure of a file, no name and no quotation holds no digit, but for the width of an interval."""
    assert re.findall(r".{0,30}\d.{0,10}", Report(page).rest.replace("95 % interval", "")) == []


@pytest.mark.parametrize(
    ("shown", "value", "right"),
    [
        ("1,234", 1234, True),
        ("1,234", 1235, False),
        ("0.123", 0.12349, True),
        ("0.123", 0.1241, False),
        ("12.5 %", 0.1254, True),
        ("12.5 %", 0.1256, False),
        ("1.50 GB", 1.504e9, True),
        ("1.50 GB", 1.51e9, False),
        ("2 min 5 s", 125.4, True),
        ("2 min 5 s", 126, False),
        ("1 h 1 min", 3640, True),
        ("1 h 1 min", 3700, False),
        ("42.5 s", 42.53, True),
        ("42.5 s", 42.6, False),
        ("2e-05", 2e-5, True),
        ("2.1e-05", 2e-5, False),
    ],
)
def test_the_measure_of_shown_figures_measures(shown: str, value: float, right: bool) -> None:
    assert says(shown, value) is right


def test_charts_show_what_was_logged(here: Path, tmp_path: Path) -> None:
    """Every vertex of a line is the same linear map of an event's update and value."""
    page = Report(written("runs/sft-1", out=str(tmp_path / "page.html")))
    series = page.series
    run = here / "runs/sft-1"
    train, evals = events(run, "train"), events(run, "eval")
    first, last = train[0]["loss"], train[-1]["loss"]
    assert (
        f"training {first:.4g} at update 1, {last:.4g} at update 6; held-out {evals[0]['loss']:.4g} at" in page.source
    )
    wanted = {
        "training, each update": [(e["update"], e["loss"]) for e in train],
        "held-out": [(e["update"], e["loss"]) for e in evals],
        "Learning rate": [(e["update"], e["learning_rate"]) for e in train],
        "Gradient norm": [(e["update"], e["grad_norm"]) for e in train],
        "read": [(e["update"], e["tokens"]) for e in train],
        "trained on": [(e["update"], e["supervised_tokens"]) for e in train],
    }
    for name, points in wanted.items():
        lines = [d for d in series[name] if d.count("M") == 1 and "C" not in d]  # not the dots
        assert len(lines) == (2 if name in ("training, each update", "held-out") else 1)
        for line in lines:
            drawn = np.array([float(n) for n in re.findall(r"-?[\d.]+", line)]).reshape(-1, 2)
            for axis in (0, 1):
                x, y = np.array(points)[:, axis], drawn[:, axis]
                slope, start = np.polyfit(x, y, 1)
                assert np.abs(slope * x + start - y).max() < 0.01, name
                assert slope * (-1) ** axis > 0  # updates go right, values go up


def test_both_lines_of_a_chart_have_the_same_axes(here: Path, tmp_path: Path) -> None:
    series = Report(written("runs/sft-1", out=str(tmp_path / "page.html"))).series
    run = here / "runs/sft-1"
    heights: list[tuple[float, float]] = []
    for name, kind in (("training, each update", "train"), ("held-out", "eval")):
        line = next(d for d in series[name] if "C" not in d)
        ys = [float(n) for n in re.findall(r"-?[\d.]+", line)][1::2]
        heights += zip((e["loss"] for e in events(run, kind)), ys, strict=True)
    x, y = np.array(heights).T
    slope, start = np.polyfit(x, y, 1)
    assert np.abs(slope * x + start - y).max() < 0.01


def test_bars_are_as_long_as_their_figures(here: Path, tmp_path: Path) -> None:
    """Style distances and their intervals, and losses, all on one scale from 0."""
    page = Report(written("runs/eval-1", out=str(tmp_path / "page.html")))
    figures = json.loads((here / "runs/eval-1/scores.json").read_text())["figures"]
    distances = [column["style_distance"] for column in figures.values()]
    losses = [column["loss"] for column in figures.values() if column["loss"] is not None]
    charts = re.findall(r"<svg.*?</svg>", page.source, re.DOTALL)
    assert len(charts) == 2
    for chart, values in zip(charts, (distances, losses), strict=True):
        series = Report(chart).series
        spans = [_span(series[str(i)][0]) for i in range(len(values))]
        start, scale = spans[0][0], (spans[0][1] - spans[0][0]) / values[0]
        for value, (left, right) in zip(values, spans, strict=True):
            assert (left, right) == (pytest.approx(start), pytest.approx(start + scale * value, abs=0.01))
            assert f">{value:.3f}</text>" in chart
        if values is distances:
            assert _span(series["floor"][0]) == pytest.approx((start + scale * values[0],) * 2, abs=0.01)
            for i, column in enumerate(figures.values()):
                if column["style_interval"]:
                    ends = [start + scale * end for end in column["style_interval"]]
                    assert _span(series[f"interval-{i}"][0]) == pytest.approx(tuple(ends), abs=0.01)


def _span(path: str) -> tuple[float, float]:
    """From where to where a path reaches, in x."""
    xs = [float(n) for n in re.findall(r"-?[\d.]+", path)][::2]
    return min(xs), max(xs)


def test_nothing_is_loaded_and_nothing_runs(page: str) -> None:
    for tag, attributes in Parsed(page).tags:
        assert tag not in {"script", "link", "iframe", "img", "image", "object", "embed", "base", "form", "a"}
        assert not {"src", "srcset", "data", "action", "xlink:href"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"""url\((?!#)|@import|=["']?\s*https?://(?!www\.w3\.org/2000/svg)""", page)
    [policy] = [a["content"] for tag, a in Parsed(page).tags if tag == "meta" and "http-equiv" in a]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def test_tables_and_charts_can_be_heard(page: str) -> None:
    """A caption and scoped headers in each table, words for each chart, and ids of their own."""
    tags = Parsed(page).tags
    names = [tag for tag, _ in tags]
    assert names.count("table") == names.count("caption") > 0
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    charts = [attributes for tag, attributes in tags if tag == "svg"]
    assert charts
    assert all(a.get("role") == "img" and len(a.get("aria-label") or "") > 20 for a in charts)
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(a.get("href") or "").removeprefix("#") for _, a in tags if "href" in a}
    assert targets <= set(ids)
    assert names.count("h1") == 1


def test_charts_follow_the_page_s_colours(page: str) -> None:
    svg = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "var(--bar)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert "font-family" not in svg
    assert "<text" in svg  # text stays text
    assert "@media screen and (prefers-color-scheme: dark)" in page


def test_what_was_said_stands_side_by_side(here: Path, tmp_path: Path) -> None:
    text = Report(written("runs/dpo-1", out=str(tmp_path / "page.html"))).text
    lines = [json.loads(line) for line in (here / "runs/eval-1/replies.jsonl").read_text().splitlines()]
    for said in lines:
        for reply in said.values():
            assert " ".join(printable(reply).split()) in text
    assert "sft-1 : sft, held-out loss" in text
    assert "dpo-1 (this run): dpo, held-out loss" in text


def test_a_comparison_shows_where_options_differ_and_each_run_s_own_column(here: Path, tmp_path: Path) -> None:
    text = Report(written("runs/sft-1", "runs/dpo-1", out=str(tmp_path / "page.html"))).text
    scores = json.loads((here / "runs/eval-1/scores.json").read_text())["figures"]
    row = " ".join(f"{scores[label]['style_distance']:.3f}" for label in ("sft", "dpo"))
    assert f"style distance to the person's held-out replies; lower is more alike {row}" in text
    assert "SFT and DPO have different losses" in text
    other = Report(written("runs/sft-1", "runs/sft-2", out=str(tmp_path / "page.html"))).text
    assert "rank 4 2" in other
    assert "dora on off" in other
    assert "No evaluation judged what came of: sft-2." in other
    assert "cannot be compared" not in other


@pytest.mark.parametrize("runs", [("runs/dpo-1",), ("runs/dpo-1", "runs/sft-1"), ("runs/eval-1",)])
def test_whatever_was_said_or_named_is_text(workspace: Path, runs: tuple[str, ...]) -> None:
    """Hostile text in every place that others can write to: replies, labels, names, options, notes."""
    plain = [tag for tag, _ in Parsed(written(*runs)).tags]
    evil = EVIL + "$x_1$ \x00\x1b\ud800\u202e</svg></style>-->]]>{{ 7*7 }}"
    lines = (workspace / "runs/eval-1/replies.jsonl").read_text().splitlines()
    said = [dict.fromkeys(json.loads(line), evil) for line in lines]
    (workspace / "runs/eval-1/replies.jsonl").write_text("".join(json.dumps(one) + "\n" for one in said))
    scores = json.loads((workspace / "runs/eval-1/scores.json").read_text())
    scores["figures"] = {
        label if label in ("sft", "dpo", "fused") else label + evil: figures
        for label, figures in scores["figures"].items()
    }
    (workspace / "runs/eval-1/scores.json").write_text(json.dumps(scores))
    report = json.loads((workspace / "data/clean/report.json").read_text())
    report["person"]["names"] = [evil]
    report["splits"] = {key + evil: sizes for key, sizes in report["splits"].items()}
    (workspace / "data/clean/report.json").write_text(json.dumps(report))
    for name in ("sft-1", "dpo-1", "eval-1"):
        told = info(workspace / "runs" / name)
        told.update(device=evil, git=evil, model_identity={"name": evil}, versions={evil: evil})
        (workspace / "runs" / name / "run.json").write_text(json.dumps(told))
    text = written(*runs)
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7*7 }}" in text
    tags = [tag for tag, _ in Parsed(text).tags]
    assert set(tags) <= set(plain) | {"bdi", "tr", "th", "td"}
    assert {"data", "table", "svg"} <= set(tags)
