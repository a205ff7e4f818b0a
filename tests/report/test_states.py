"""Runs that are not as they should be: going, interrupted, cut off, damaged, moved, judged before or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_persona import ui
from mlx_persona.config import ReportConfig
from mlx_persona.errors import PersonaError
from mlx_persona.report import reading
from mlx_persona.report.make import make_report
from mlx_persona.report.reading import find_eval, lineage, read_run
from mlx_persona.runs import Run, adapter_hash
from mlx_persona.stages.sft import sft
from tests.report.kit import Report, says, truth, written
from tests.toy import info, sft_config


def change(run: str, **values: object) -> None:
    """Set (or, with None, drop) keys of ``run.json``."""
    told = {**info(Path(run)), **values}
    Path(run, "run.json").write_text(json.dumps({k: v for k, v in told.items() if v is not None}))


def cut(run: str) -> None:
    """As a run is in the middle: no outcome yet, three updates, and an event that is half written."""
    change(run, status="running", eval_loss=None, base_eval_loss=None, best_update=None, seconds=None, updates=None)
    path = Path(run, "metrics.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    end = [i for i, line in enumerate(lines) if json.loads(line)["event"] == "train"][2] + 1
    path.write_text("".join(lines[:end]) + lines[end][:20])


def test_a_run_that_is_going_says_so_and_shows_what_there_is(workspace: Path) -> None:
    cut("runs/sft-2")
    run = Run.reopen(Path("runs/sft-2"))
    try:
        page = Report(written("runs/sft-2"))
    finally:
        run.close()
    assert "This run is still going." in page.text
    assert re.search(r"It made 3 updates of 3 planned in \d", page.text)
    assert "Before the first update its held-out loss was" in page.text
    assert "could not be read" not in page.text
    assert all(
        float(value) == truth(place, workspace) and says(shown, float(value)) for value, place, shown in page.figures
    )


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("running", "This run was cut off: it says that it is running, but nothing writes to it."),
        ("stopped", "This run was interrupted before its end."),
        ("failed", "This run failed."),
    ],
)
def test_a_run_without_an_end_says_how_to_go_on(workspace: Path, status: str, said: str) -> None:
    cut("runs/sft-2")
    change("runs/sft-2", status=status)
    text = Report(written("runs/sft-2")).text
    assert said in text
    assert "mlx-persona sft --resume runs/sft-2" in text


def test_a_run_that_ends_while_it_is_read_has_not_died(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change("runs/sft-1", status="running")
    monkeypatch.setattr(reading, "is_held", lambda path: bool(change("runs/sft-1", status="done")))
    assert read_run(Path("runs/sft-1")).status == "done"


def test_a_run_that_patience_ended_is_done(workspace: Path) -> None:
    change("runs/sft-1", status="stopped")
    text = Report(written("runs/sft-1")).text
    assert "stopped early" in text
    assert "--resume" not in text


def test_losses_of_training_rows_are_not_called_held_out(workspace: Path) -> None:
    change("runs/sft-1", held_out=False)
    text = Report(written("runs/sft-1")).text
    assert "nothing was held out (so this proves no learning)" in text


FILES = ("run.json", "config.yaml", "metrics.jsonl", "scores.json", "replies.jsonl", "checkpoints/000006/state.json")
HARMS: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "another thing": lambda path: path.write_text("[1, 2]\n"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00\n" * 40),
    "nested": lambda path: path.write_text("[" * 100_000),
    "wrong types": lambda path: path.write_text('{"event": "eval", "update": {}, "loss": "x", "figures": {"a": 3}}\n'),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("run", ["sft-1", "dpo-1", "fused-1", "eval-1"])
def test_a_damaged_file_leaves_a_page_with_the_rest(workspace: Path, run: str, harm: str) -> None:
    for name in FILES:
        path = workspace / "runs" / run / name
        if not path.is_file():
            continue
        kept = path.read_bytes()
        HARMS[harm](path)
        if name in ("run.json", "scores.json") and harm == "gone" and run in ("fused-1", "eval-1"):
            others = {"run.json", "metrics.jsonl", "scores.json"} - {name}
            if not any((path.parent / other).is_file() for other in others):
                with pytest.raises(PersonaError, match="is no run"):
                    read_run(path.parent)
                path.write_bytes(kept)
                continue
        text = Report(written(f"runs/{run}")).text
        assert run in text
        path.write_bytes(kept)


def test_what_could_not_be_read_is_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/sft-1/run.json").write_text("{")
    lines = Path("runs/sft-1/metrics.jsonl").read_text().splitlines(keepends=True)
    Path("runs/sft-1/metrics.jsonl").write_text("".join([*lines[:2], "{oops\n", *lines[2:]]))
    ui.set_quiet(False)
    result = make_report(ReportConfig(runs=("runs/sft-1",)))
    notes = ["run.json is damaged", "metrics.jsonl: 1 lines could not be read"]
    assert result.notes == notes
    assert all(note in capsys.readouterr().err or note in notes for note in notes)
    text = Report(result.path.read_text()).text
    assert all(note in text for note in notes)
    assert "learned to reply like" in text  # its name still tells what it was


def test_what_is_no_run_is_one_clear_error(workspace: Path) -> None:
    with pytest.raises(PersonaError, match="no such run: runs/sft-9"):
        read_run(Path("runs/sft-9"))
    with pytest.raises(PersonaError, match="data is no run") as caught:
        read_run(Path("data"))
    assert "runs/" in (caught.value.hint or "")
    with pytest.raises(PersonaError, match=r"no scores in runs/sft-1: scores\.json is missing"):
        make_report(ReportConfig(runs=("runs/sft-1",), eval="runs/sft-1"))


def test_the_chain_is_found_from_every_end(here: Path) -> None:
    whole = ["sft-1", "dpo-1", "fused-1"]
    for name in (*whole, "eval-1"):
        assert [run.name for run in lineage(read_run(Path("runs", name)))] == whole
    assert [run.name for run in lineage(read_run(Path("runs/sft-2")))] == ["sft-2"]


def test_a_chain_that_bites_its_tail_ends(workspace: Path) -> None:
    change("runs/sft-1", parent="runs/fused-1")
    assert {run.name for run in lineage(read_run(Path("runs/dpo-1")))} == {"sft-1", "dpo-1", "fused-1"}


def test_paths_are_found_from_another_folder(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = read_run(here / "runs/fused-1")
    assert [one.name for one in lineage(run)] == ["sft-1", "dpo-1", "fused-1"]
    text = Report(written(str(here / "runs/fused-1"), out="page.html")).text
    assert "Conversations of Ann" in text
    assert "12 for training, 5 held out" not in text  # these pairs were not written by `pairs`
    assert "No summary of the pairs: in data/pairs, report.json is missing" in text


def test_an_evaluation_knows_what_it_judged(here: Path) -> None:
    judged = info(Path("runs/eval-1"))["judged"]
    assert judged["dpo"] == {"run": "runs/dpo-1", "sha256": adapter_hash(Path("runs/dpo-1/adapter"))}
    assert judged["fused"]["sha256"] == info(Path("runs/fused-1"))["identity"]["sha256"]
    for name in ("sft-1", "dpo-1", "fused-1"):
        found = find_eval(read_run(Path("runs", name)))
        assert found is not None
        assert found.name == "eval-1"
    assert find_eval(read_run(Path("runs/sft-2"))) is None


def test_the_newest_evaluation_of_this_very_adapter_is_shown(workspace: Path) -> None:
    shutil.copytree("runs/eval-1", "runs/eval-2")
    change("runs/eval-2", finished=info(Path("runs/eval-1"))["finished"] + 9)
    found = find_eval(read_run(Path("runs/sft-1")))
    assert found is not None
    assert found.name == "eval-2"
    shutil.rmtree("runs/sft-1")
    sft(sft_config(Path("model"), Path("data/clean"), "runs/sft-1", seed=7))
    assert find_eval(read_run(Path("runs/sft-1"))) is None
    text = Report(written("runs/sft-1")).text
    assert "No evaluation has judged what came of this run" in text
    assert "By eval-1" in Report(written("runs/sft-1", eval="runs/eval-1")).text


def test_data_that_changed_since_are_not_shown_as_what_was_learned(workspace: Path) -> None:
    assert "Conversations of Ann" in Report(written("runs/sft-1")).text
    path = Path("data/clean/train.jsonl")
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    text = Report(written("runs/sft-1")).text
    assert "Conversations of Ann" not in text
    assert "data/clean has changed since, so what it holds now is not what this run learned from" in text
    shutil.rmtree("data/clean")
    assert "the folder data/clean of its data is gone" in Report(written("runs/sft-1")).text


def test_runs_whose_figures_do_not_compare_say_so(workspace: Path) -> None:
    change("runs/sft-2", data_hashes={"train": "x", "valid": "y"}, model_identity={"name": "other", "sha256": "z"})
    text = Report(written("runs/sft-1", "runs/sft-2")).text
    assert "The held-out data differ, so the held-out losses cannot be compared." in text
    assert "The base models differ." in text
