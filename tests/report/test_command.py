"""``mlx-persona report``: where the page goes, what is printed, what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest

from mlx_persona import cli
from mlx_persona.config import ReportConfig
from mlx_persona.errors import PersonaError
from mlx_persona.report import html
from mlx_persona.report.make import make_report

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_goes_into_the_run_and_its_path_to_stdout(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._status(["report", "runs/sft-1"]) == 0
    out, err = capsys.readouterr()
    assert out == "runs/sft-1/report.html\n"
    assert "quotes private messages" in err
    assert Path("runs/sft-1/report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_json_says_what_the_page_is_of(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._status(["report", "--json", "-q"]) == 0
    newest = {"path": "runs/dpo-1/report.html", "runs": ["runs/dpo-1"], "eval": f"{workspace}/runs/eval-1", "notes": []}
    out, err = capsys.readouterr()
    assert json.loads(out) == newest
    assert err == ""


def test_several_runs_are_compared_beside_them(workspace: Path) -> None:
    result = make_report(ReportConfig(runs=("runs/sft-1", "runs/sft-2")))
    assert result.path == workspace / "runs/report.html"
    assert result.runs == ["runs/sft-1", "runs/sft-2"]


@pytest.mark.parametrize(("out", "path"), [("new/a.html", "new/a.html"), ("data", "data/report.html")])
def test_out_is_a_file_or_a_folder_that_is_there(workspace: Path, out: str, path: str) -> None:
    assert make_report(ReportConfig(runs=("runs/sft-1",), out=out)).path == Path(path)
    assert Path(path).is_file()
    assert not Path("runs/sft-1/report.html").exists()


def test_a_page_twice_is_the_same_page(workspace: Path) -> None:
    pages = [make_report(ReportConfig(runs=("runs/dpo-1",))).path.read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]


@pytest.mark.parametrize("there", [True, False])
def test_open_shows_it_in_the_browser_or_says_that_there_is_none(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: seen.append(url) or there)
    assert cli._status(["report", "runs/sft-1", "--open"]) == 0
    assert seen == [(workspace / "runs/sft-1/report.html").as_uri()]
    assert ("no browser to open it in" in capsys.readouterr().err) is not there


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_the_extra_there_is_a_hint(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    html._environment.cache_clear()
    assert cli._status(["report", "runs/sft-1"]) == 1
    err = capsys.readouterr().err
    assert f"error: the report needs {package}" in err
    assert "hint: pip install 'mlx-persona[report]'" in err
    assert not Path("runs/sft-1/report.html").exists()


def test_no_run_at_all_is_an_error_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PersonaError, match="no training run in runs/ to report on") as caught:
        make_report(ReportConfig())
    assert "mlx-persona report RUN" in (caught.value.hint or "")


def test_a_report_needs_no_mlx_and_a_help_no_matplotlib(here: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from mlx_persona.cli import main;"
        "main(['report', '--help'], standalone_mode=False); assert 'matplotlib' not in sys.modules;"
        f"main(['report', 'runs/dpo-1', '--out', {str(tmp_path / 'page.html')!r}], standalone_mode=False);"
        "assert 'matplotlib' in sys.modules; assert not {'mlx', 'mlx_lm', 'transformers'} & sys.modules.keys()"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=here, check=False
    )
    assert done.returncode == 0, done.stderr
