"""The commands of ``make experiments``: what they write, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlx_persona.experiments.domains import main
from mlx_persona.experiments.grokking import Addition, milestones

HEADINGS = [
    "# Other domains: the same observer, unchanged",
    "## Images",
    "## The onset by the guard",
    "## Modular addition",
    "## Modular addition by cadence (profile paper)",
    "## Against a decay (profile paper)",
    "## Gradient norms by phase (profile paper)",
    "## δL beside the Hessian",
    "## The largest eigenvalue",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each kind, so short that nothing is learned."""
    out = tmp_path_factory.mktemp("runs")
    assert main(["images", "--images", "digits", "--seeds", "7", "--epochs", "2", "--out", str(out)]) == 0
    assert main(["grokking", "--seeds", "7", "--updates", "20", "--out", str(out)]) == 0
    return out


def test_the_tables_stand_beside_the_papers(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--out", str(runs)]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("#")] == HEADINGS
    assert (runs / "tables.md").read_text(encoding="utf-8").strip() == text.strip()
    for line in text.splitlines():
        if line.startswith("| images-digits-constant-7 | 7 | paper"):
            assert line.endswith("| - | - |") is False
            assert " % | - |" in line  # the paper has no seed 7


def test_a_result_holds_all_profiles_and_figures_for_charts(runs: Path) -> None:
    assert main(["tables", "--out", str(runs)]) == 0
    found = json.loads((runs / "images-digits-constant-7" / "result.json").read_text(encoding="utf-8"))
    assert list(found["profiles"]) == ["paper", "commit-regimes", "noise", "paper, no S3"]
    assert [event["update"] for event in found["evals"]] == [0, 12, 24]
    assert found["evals"][0]["delta"] is None
    assert found["evals"][1]["delta"] == pytest.approx(found["evals"][1]["loss"] - found["evals"][0]["loss"], abs=1e-6)
    assert found["plan"]["rate"] == 0.01
    assert found["plan"]["settings"] == {
        "channels": [32, 64, 128],
        "hidden": 256,
        "batch": 128,
        "images": "digits",
        "rows": 1438,
    }


def test_every_pair_is_asked_once_and_the_answer_is_the_sum() -> None:
    task = Addition(7, 0.4, 4, 8, seed=3)
    pairs = [*task.train[0].tolist(), *task.valid[0].tolist()]
    sums = [*task.train[1].tolist(), *task.valid[1].tolist()]
    assert sorted(map(tuple, pairs)) == [(a, b) for a in range(7) for b in range(7)]
    assert len(task.train[1]) == 20
    assert sums == [(a + b) % 7 for a, b in pairs]


def test_milestones_are_the_first_evaluations_that_know() -> None:
    rows = [(0, 0.1, 0.0), (10, 0.99, 0.2), (20, 1.0, 0.98), (30, 1.0, 0.99), (40, 1.0, 0.5)]
    events = [
        {"event": "eval", "update": update, "train_accuracy": train, "accuracy": valid} for update, train, valid in rows
    ]
    assert milestones(events) == {"memorised": 10, "grokked": 30, "delay": 20}
    assert milestones(events[:3]) == {"memorised": 10, "grokked": None, "delay": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images", "--data", "nowhere"], "no such folder: nowhere"),
        (["images", "--images", "cifar10"], "CIFAR-10 needs its files"),
        (["images", "--images", "digits", "--epochs", "0"], "epochs must be >= 1, got 0"),
        (["grokking", "--updates", "0"], "updates must be >= 1, got 0"),
        (["tables", "--out", "nowhere"], "no finished experiment in nowhere"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert f"error: {message}" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("seed", ["-1", "x", "4294967296"])
def test_a_seed_that_is_none_is_wrong_usage(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["grokking", f"--seeds={seed}"])
    assert stop.value.code == 2
    assert f"a seed is a whole number from 0 to 4294967295, got {seed}" in capsys.readouterr().err


def test_a_damaged_log_is_said_to_be(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "grokking-97-7"
    folder.mkdir()
    for name in ("run.json", "metrics.jsonl"):
        (folder / name).write_bytes((runs / "grokking-97-7" / name).read_bytes())
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "ev')
    assert main(["tables", "--out", str(tmp_path)]) == 1
    assert "metrics.jsonl is damaged" in capsys.readouterr().err


def test_a_process_that_was_killed_goes_on_bit_for_bit(runs: Path, tmp_path: Path) -> None:
    """With SIGKILL, as the system does it, between two evaluations."""
    command = [sys.executable, "-m", "mlx_persona.experiments.domains", "grokking", "--seeds", "7", "--updates", "20"]
    log = tmp_path / "grokking-97-7" / "metrics.jsonl"
    process = subprocess.Popen([*command, "--out", str(tmp_path)], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    while not log.exists() or log.read_text(encoding="utf-8").count('"eval"') < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = log.read_text(encoding="utf-8")
    assert main(["grokking", "--seeds", "7", "--updates", "20", "--out", str(tmp_path)]) == 0
    whole = (runs / "grokking-97-7" / "metrics.jsonl").read_text(encoding="utf-8")
    assert before != whole
    assert log.read_text(encoding="utf-8") == whole
