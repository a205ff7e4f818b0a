"""The watch command: how it ends, and how it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from mlx_persona import cli
from mlx_persona.report import html
from tests.web.watchkit import begin, end, step

ROOT = Path(__file__).resolve().parents[2]


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    """The lines of a refusal: an error and a hint."""
    assert cli._status(["watch", "--no-open", *args]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    return lines


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a finished run."""
    monkeypatch.chdir(tmp_path)
    end(begin(Path("runs/sft-1")))
    return tmp_path


def test_what_cannot_work_is_one_error_with_a_hint(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "runs/sft")[0] == "error: no such run: runs/sft"
    assert refused(capsys, "runs")[0].startswith("error: runs is no run")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        lines = refused(capsys, "--port", str(taken.getsockname()[1]))
        assert lines[0].endswith("is in use")
        assert "--port" in lines[1]


@pytest.mark.parametrize(
    ("package", "needs", "extra"),
    [("uvicorn", "the page", "serve"), ("jinja2", "the report", "report"), ("matplotlib", "the report", "report")],
)
def test_without_the_extras_it_says_what_to_install(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    needs: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    html._environment.cache_clear()
    assert refused(capsys) == [f"error: {needs} needs {package}", f"hint: pip install 'mlx-persona[{extra}]'"]


def test_ctrl_c_ends_it_with_a_plain_line_and_leaves_the_run_alone(tmp_path: Path) -> None:
    run = begin(tmp_path / "runs/sft-1")
    step(run, 1)
    command = [sys.executable, "-m", "mlx_persona", "watch", "--no-open", "--json", "-C", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT
    ) as process:
        assert process.stderr is not None
        first, second = process.stderr.readline(), process.stderr.readline()
        found = re.fullmatch(r"watch at: (http://127\.0\.0\.1:\d+/\S+/)\n", second)
        assert found, first + second
        assert "watching runs/sft-1, live" in first
        with urlopen(found[1] + "state", timeout=60) as answer:
            assert json.load(answer)["updates"] == 1
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == "no longer watching runs/sft-1; its training goes on\n"
    assert json.loads(out) == {"path": "runs/sft-1", "state": "live", "updates": 1}
    step(run, 2)
    end(run)


def test_watching_needs_no_mlx() -> None:
    script = (
        "import sys, mlx_persona.web.watch;"
        "sys.exit(str([m for m in ('mlx', 'mlx_lm', 'transformers', 'starlette', 'uvicorn', 'matplotlib', 'jinja2')"
        " if m in sys.modules]).strip('[]'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.strip() == ""
