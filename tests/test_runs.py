"""Run directories: numbers, locks, metrics, and which run the next stage finds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlx_persona import runs
from mlx_persona.errors import PersonaError
from mlx_persona.runs import (
    Run,
    claim,
    find_adapter,
    is_held,
    newest,
    newest_fused,
    newest_model,
    next_free,
    resolve_adapter,
    run_of,
)


def make(path: Path, *, adapter: bool = True, **info: Any) -> Path:
    """A run directory as a stage leaves it."""
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(info))
    if adapter:
        (path / "adapter").mkdir()
        (path / "adapter/adapter_config.json").write_text("{}")
    return path


def checkpoint(run: Path, update: int, best: int) -> Path:
    folder = run / f"checkpoints/{update:06d}"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"best_update": best}))
    return folder


def test_numbers_go_on_after_the_highest(tmp_path: Path) -> None:
    assert next_free("sft", tmp_path) == tmp_path / "sft-1"
    for name in ("sft-1", "sft-10", "sft-2", "dpo-30", "sft-x", "old-sft-40"):
        (tmp_path / name).mkdir()
    (tmp_path / "sft-50").touch()  # a file is no run
    assert next_free("sft", tmp_path) == tmp_path / "sft-11"


def test_two_processes_never_claim_the_same_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one read the directory before the first one made its own."""
    assert claim("sft", tmp_path) == tmp_path / "sft-1"
    stale = iter([tmp_path / "sft-1"])
    fresh = runs.next_free
    monkeypatch.setattr(runs, "next_free", lambda stage, root: next(stale, None) or fresh(stage, root))
    assert claim("sft", tmp_path) == tmp_path / "sft-2"


def test_a_place_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(PersonaError, match="cannot write to"):
        claim("sft", tmp_path / "runs")
    with pytest.raises(PersonaError, match="cannot write to"):
        Run.create(tmp_path / "runs", {}, {})


def test_the_newest_run_is_the_one_that_finished_last_and_has_a_result(tmp_path: Path) -> None:
    assert newest(("sft",), tmp_path) is None
    make(tmp_path / "sft-1", status="done", finished=10.0)
    make(tmp_path / "sft-2", status="done", finished=5.0)
    make(tmp_path / "sft-3", status="failed", finished=20.0)
    make(tmp_path / "sft-4", status="running", finished=30.0)
    make(tmp_path / "sft-5", status="done", finished=40.0, adapter=False)
    make(tmp_path / "dpo-1", status="stopped", finished=7.0)
    assert newest(("sft",), tmp_path) == tmp_path / "sft-1"
    assert newest(("dpo", "sft"), tmp_path) == tmp_path / "sft-1"
    assert newest(("dpo",), tmp_path) == tmp_path / "dpo-1"


def test_the_newest_runs_model_is_its_base_model_as_it_was_named(tmp_path: Path) -> None:
    assert newest_model(tmp_path) is None
    make(tmp_path / "sft-1", status="done", finished=10.0, model="org/small")
    make(tmp_path / "dpo-1", status="done", finished=20.0, model="models/own")
    make(tmp_path / "sft-2", status="running", model="org/other")
    assert newest_model(tmp_path) == "models/own"
    make(tmp_path / "sft-3", status="done", finished=30.0)
    assert newest_model(tmp_path) is None


def test_the_newest_fused_model_is_a_whole_one(tmp_path: Path) -> None:
    make(tmp_path / "fused-2", status="done")
    make(tmp_path / "fused-10", status="done")
    make(tmp_path / "fused-11", status="running")
    assert newest_fused(tmp_path) == tmp_path / "fused-10"
    assert newest_fused(tmp_path / "none") is None


def test_an_adapter_is_found_in_its_folder_its_run_or_the_best_checkpoint(tmp_path: Path) -> None:
    done = make(tmp_path / "sft-1", status="done")
    assert find_adapter(done) == find_adapter(done / "adapter") == done / "adapter"
    cut = make(tmp_path / "sft-2", status="failed", adapter=False)
    assert find_adapter(cut) is None
    checkpoint(cut, 2, 2), checkpoint(cut, 10, 2)
    assert find_adapter(cut) == cut / "checkpoints/000002"
    checkpoint(cut, 12, 11)  # the best one is gone
    assert find_adapter(cut) == cut / "checkpoints/000012"
    (cut / "checkpoints/000013").mkdir()  # not whole
    assert [p.name for p in runs.sorted_checkpoints(cut)] == ["000002", "000010", "000012"]
    assert run_of(cut / "checkpoints/000012") == cut.resolve()
    assert run_of(tmp_path) is None


def test_an_adapter_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="no such adapter or run"):
        resolve_adapter(str(tmp_path / "none"))
    with pytest.raises(PersonaError, match="no adapter in") as caught:
        resolve_adapter(str(tmp_path))
    assert caught.value.hint == "name a run, or a folder with adapters.safetensors"


def test_a_run_holds_its_config_its_facts_and_its_events(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "sft-1", {"rank": 4, "system": "é"}, {"stage": "sft"})
    assert yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8")) == {"rank": 4, "system": "é"}
    assert runs.read_info(run.path) == {"stage": "sft", "status": "running"}
    run.log("train", update=1, loss=2.5)
    run.log("eval", update=1, loss=2.0)
    assert run.events() == [
        {"event": "train", "update": 1, "loss": 2.5},
        {"event": "eval", "update": 1, "loss": 2.0},
    ]
    size = run.metrics_size()
    run.log("train", update=2, loss=1.0)
    run.cut_metrics(size)
    run.log("train", update=3, loss=0.5)
    assert [e["update"] for e in run.events()] == [1, 1, 3]
    run.cut_metrics(10**9)  # a file that lost its end is not filled up with zeros
    assert [e["update"] for e in run.events()] == [1, 1, 3]
    run.close()
    assert sorted(p.name for p in run.path.iterdir()) == ["config.yaml", "metrics.jsonl", "run.json"]


def test_one_process_at_a_time_writes_to_a_run(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {}, {})
    for again in (lambda: Run.create(run.path, {}, {}), lambda: Run.reopen(run.path)):
        with pytest.raises(PersonaError, match="another process is writing to") as caught:
            again()
        assert caught.value.hint == "wait for it, or give another --out"
    run.close()
    Run.reopen(run.path).close()


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from mlx_persona.runs import Run;"
        "run = Run.create(Path(sys.argv[1]), {}, {}); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(PersonaError, match="another process is writing to"):
            Run.reopen(tmp_path / "run")
        assert is_held(tmp_path / "run")
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not is_held(tmp_path / "run")
    Run.reopen(tmp_path / "run").close()
    assert not is_held(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("status", "hint"),
    [("done", "give another --out"), ("failed", "continue it with --resume {}, or give another --out")],
)
def test_a_run_is_never_overwritten(tmp_path: Path, status: str, hint: str) -> None:
    path = make(tmp_path / "run", status=status)
    with pytest.raises(PersonaError, match="is in use already") as caught:
        Run.create(path, {}, {})
    assert caught.value.hint == hint.format(path)
    assert runs.read_info(path) == {"status": status}


def test_a_folder_that_is_no_run_is_neither_taken_nor_resumed(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(PersonaError, match="is in use already"):
        Run.create(tmp_path, {}, {})
    with pytest.raises(PersonaError, match="it is not a run directory"):
        Run.reopen(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_facts_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert runs.read_info(tmp_path) is None


def test_files_are_named_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert runs.file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
