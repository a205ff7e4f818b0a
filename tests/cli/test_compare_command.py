"""The compare command: what it prints of a finished comparison, and how it refuses."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from mlx_persona import cli
from tests.web.kit import items, resumed, write_comparison


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three items, all answered, in the current directory."""
    monkeypatch.chdir(tmp_path)
    folder = write_comparison(Path("runs/compare-1"), items(3), ("sft-1", "real"))
    with resumed(folder) as comparison:
        for key in "12t":
            comparison.press(key)
    return folder


def test_a_finished_comparison_is_printed_as_a_table_or_as_json(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._status(["compare", "--resume", str(finished)]) == 0
    out, err = capsys.readouterr()
    assert "sft-1 against real" in out
    assert "Fooled" in out
    assert out.endswith("runs/compare-1\n")
    assert err == ""
    assert cli._status(["compare", "--resume", str(finished), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"path": "runs/compare-1", **json.loads((finished / "result.json").read_text())}
    assert (shown["items"], shown["answered"], shown["ties"], shown["fooled"]["of"]) == (3, 3, 1, 2)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    """The lines of a refusal: an error and at most one hint."""
    capsys.readouterr()
    assert cli._status(["compare", *args]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] in (["error"], ["error", "hint"])
    return lines


def test_what_cannot_work_is_one_error_with_a_hint(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = refused(capsys)
    assert lines[0] == "error: a comparison needs two sides, got 0"
    assert "mlx-persona compare base runs/sft-1" in lines[1]
    assert refused(capsys, "base", "real")[0].startswith("error: no finished DPO or SFT run")
    assert refused(capsys, "base", "real", "--rubric", "a", "--rubric", "A ")[0].startswith("error: rubric must name")
    assert refused(capsys, "base", "real", "--port", "70000") == ["error: port must be <= 65535, got 70000"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lines = refused(capsys, "--resume", str(finished), "--port", str(port))
        assert lines[0] == f"error: port {port} is in use"
        assert "--port" in lines[1]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["compare-1"]


def test_without_the_extra_it_says_what_to_install(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    lines = refused(capsys, "--resume", str(finished))
    assert lines == ["error: the page needs uvicorn", "hint: pip install 'mlx-persona[serve]'"]
