"""``mlx-persona charts``: one file for each chart, which stands alone, and is the same whenever it is drawn."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mlx_persona import cli
from mlx_persona.config import ChartsConfig
from mlx_persona.errors import PersonaError
from mlx_persona.report.canvas import palettes
from mlx_persona.report.files import make_charts
from tests.report.phasekit import event_lines, write_run, write_sweep

NAMES = ("loss", "learning-rate", "gradient-norm", "tokens", "delta", "deviation", "entropy")
ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with phases, in the current directory."""
    monkeypatch.chdir(tmp_path)
    return write_run(Path("runs/sft-1"))


def test_each_chart_is_a_file_in_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._status(["charts", "runs/sft-1"]) == 0
    out, _ = capsys.readouterr()
    assert out.split() == [f"runs/sft-1/charts/{name}.svg" for name in NAMES]
    assert sorted(path.name for path in (run / "charts").iterdir()) == sorted(f"{name}.svg" for name in NAMES)


def test_json_lists_the_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._status(["charts", "runs/sft-1", "--format", "png", "--out", "here", "--json", "-q"]) == 0
    out, err = capsys.readouterr()
    files = [f"here/{name}.png" for name in NAMES]
    assert json.loads(out) == {"path": "here", "files": files, "runs": ["runs/sft-1"], "notes": []}
    assert err == ""


def test_several_runs_and_a_sweep_have_their_own(run: Path, tmp_path: Path) -> None:
    write_run(Path("runs/sft-2"), {"S0": 0, "S1": 4}, told=False)
    several = make_charts(ChartsConfig(runs=("runs/sft-1", "runs/sft-2")))
    assert several.path == tmp_path / "runs/charts"
    assert [file.name for file in several.files] == ["eval-loss.svg", "train-loss.svg", "delta.svg"]
    assert several.notes
    sweep = make_charts(ChartsConfig(runs=(str(write_sweep(Path("runs/sweep-1"))),)))
    names = ["arms-difference.svg", "arms-held-out-loss.svg", "arms-onset-update.svg"]
    assert [file.name for file in sweep.files] == names
    assert sweep.path == Path("runs/sweep-1/charts")


def test_an_evaluation_has_the_charts_of_its_card(here: Path, tmp_path: Path) -> None:
    found = make_charts(ChartsConfig(runs=("runs/eval-1",), out=str(tmp_path / "out")))
    assert [file.name for file in found.files] == ["style.svg", "card-loss.svg"]
    assert "Shorter is more alike." in found.files[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ["svg", "png"])
def test_the_same_chart_has_the_same_bytes(run: Path, form: str) -> None:
    """On another day, in another process, with another hash seed."""
    ours = {file.name: file.read_bytes() for file in make_charts(ChartsConfig(runs=(str(run),), format=form)).files}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "86400"}
    command = [sys.executable, "-m", "mlx_persona", "charts", str(run), "--format", form, "--out", "again"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert {file.name: file.read_bytes() for file in Path("again").iterdir()} == ours


def test_an_svg_file_stands_alone(run: Path) -> None:
    """It loads nothing, is named and described, and has its title, its legend and the names of its bands in it."""
    for file in make_charts(ChartsConfig(runs=(str(run),))).files:
        text = file.read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert not re.search(r"url\((?!#)|@import|<script|var\(|#0101", text)
        assert not re.search(r"https?://(?!www\.w3\.org/(2000/svg|1999/xlink))", text)
        said = {name: root.findtext(f"{SVG}{name}") or "" for name in ("title", "desc")}
        assert "Phases: S0 from update 0, S1 from update 8, S2 from update 22." in said["desc"]
        texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
        assert {said["title"], "S0", "S1", "S2", "update"} <= set(texts)
    loss = (run / "charts/loss.svg").read_text(encoding="utf-8")
    for mark in (
        "training, smoothed",
        "held-out",
        "chosen checkpoint",
        "S1 susceptibility",
        "Smoothed: a running mean",
    ):
        assert mark in loss


def test_an_svg_file_follows_the_viewer_s_scheme(run: Path) -> None:
    """Every colour in it is one of the light palette's, and the style has the dark one for each."""
    make_charts(ChartsConfig(runs=(str(run),)))
    light, dark = palettes()
    assert light["paper"] != dark["paper"]
    text = (run / "charts/loss.svg").read_text(encoding="utf-8")
    style = re.findall(r"<style>(.*?)</style>", text)[0]
    body = text.replace(style, "")
    assert set(re.findall(r"#[0-9a-f]{3,6}\b", body)) <= set(light.values())
    for name, colour in light.items():
        assert f'[fill="{colour}"]{{fill:{dark[name]}}}' in style
        assert f'[stroke="{colour}"]{{stroke:{dark[name]}}}' in style


@pytest.mark.parametrize("dark", [False, True])
def test_a_png_file_has_its_paper_and_says_what_it_shows(run: Path, dark: bool) -> None:
    make_charts(ChartsConfig(runs=(str(run),), format="png", dark=dark))
    with Image.open(run / "charts/loss.png") as image:
        assert image.size[0] == 2 * (760 + 28)
        assert image.info["Title"] == "Loss"
        assert image.info["Description"].startswith("Loss by update: training")
        assert "Software" not in image.info
        pixels = np.asarray(image.convert("RGB"))
    paper = palettes()[dark]["paper"]
    wide = paper if len(paper) == 7 else "#" + "".join(2 * digit for digit in paper[1:])
    assert tuple(pixels[2, 2]) == tuple(bytes.fromhex(wide[1:]))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_dark_is_for_png(run: Path) -> None:
    with pytest.raises(PersonaError, match="dark must come with format png, got svg"):
        ChartsConfig(runs=(str(run),), dark=True)


def test_nothing_to_draw_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs/sft-1"), events=[], told=False)
    with pytest.raises(PersonaError, match=r"there is nothing to draw in runs/sft-1"):
        make_charts(ChartsConfig(runs=("runs/sft-1",)))
    with pytest.raises(PersonaError, match=r"no training run in runs/ to draw") as caught:
        make_charts(ChartsConfig())
    assert "mlx-persona charts RUN" in (caught.value.hint or "")


def test_without_the_extra_there_is_a_hint_and_no_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PersonaError, match="needs matplotlib") as caught:
        make_charts(ChartsConfig(runs=(str(run),)))
    assert caught.value.hint == "pip install 'mlx-persona[report]'"
    assert not (run / "charts").exists()


def test_damaged_events_leave_what_can_be_drawn(tmp_path: Path) -> None:
    events = [{**event, "delta": None, "deviation": None} for event in event_lines({"S0": 0})]
    run = write_run(tmp_path / "sft-1", events=events, told=False)
    files = make_charts(ChartsConfig(runs=(str(run),))).files
    assert [file.stem for file in files] == [name for name in NAMES if name not in ("delta", "deviation")]
