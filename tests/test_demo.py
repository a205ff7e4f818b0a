"""The demo's wiring, with toys in the place of the downloads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import pytest

from mlx_persona import cli, demo
from mlx_persona.config import DemoConfig, EvalConfig
from mlx_persona.errors import PersonaError
from mlx_persona.runs import read_info
from tests.toy import write_export, write_model


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy model and a toy export, quick stages, and an empty directory to work in."""
    model, export = write_model(tmp_path / "toys/model"), write_export(tmp_path / "toys", 10)
    monkeypatch.setattr(demo, "fetch_model", lambda: model)
    monkeypatch.setattr(demo, "fetch_conversations", lambda: export)

    def quick(name: str, **options: Any) -> None:
        original = getattr(demo, name)
        monkeypatch.setattr(demo, name, lambda *args: replace(original(*args), **options))

    quick("sft_config", updates=2, eval_every=2, max_seq_length=192)
    quick("pairs_config", n=4, max_tokens=8, max_seq_length=192)
    quick("dpo_config", updates=2, eval_every=2, max_seq_length=192)
    quick("fuse_config", gate_tokens=32, max_seq_length=192, min_retention=0.0)
    small = {"n": 10, "max_tokens": 8, "max_seq_length": 192, "batch_size": 8}
    monkeypatch.setattr(demo, "EvalConfig", lambda **given: EvalConfig(**{**given, **small}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_stage_runs_and_finds_the_one_before(toys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._status(["demo", "--me", "Ann", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["seconds"].keys() == {"fetch", "clean", "sft", "pairs", "dpo", "fuse", "eval", "report"}
    assert all(f"[{name}: " in err for name in result["seconds"])
    parents = {name: (read_info(Path("demo/runs") / name) or {})["parent"] for name in ("sft-1", "dpo-1", "fused-1")}
    assert parents == {"sft-1": None, "dpo-1": "demo/runs/sft-1", "fused-1": "demo/runs/dpo-1"}
    assert result["fuse"]["widths"].keys() == {"4", "8", "16"}
    assert json.loads(Path("demo/runs/eval-1/scores.json").read_text())["parts"].keys() == {
        "probes",
        "ability",
        "leaks",
    }
    assert result["report"] == "demo/runs/dpo-1/report.html"
    assert "Report card" in Path(result["report"]).read_text()
    assert cli._status(["demo", "--me", "Ann"]) == 0  # an earlier demo makes room
    out = capsys.readouterr().out
    assert "Report card" in out
    assert "talk to it: mlx-persona chat -C demo" in out
    assert [p.name for p in Path("demo/runs").glob("sft-*")] == ["sft-1"]


def test_what_no_demo_made_is_not_emptied(toys: Path) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    with pytest.raises(PersonaError, match="mine holds something that no demo made"):
        demo.demo(DemoConfig(out="mine"))
    assert Path("mine/letter.txt").read_text() == "dear"
