"""A run of a small network is repeatable, goes on where it was cut off, and says what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.experiments.grokking import Addition
from mlx_persona.experiments.trial import STATE, Plan, run_trial

PLAN = Plan(
    name="sums",
    seed=1,
    updates=12,
    eval_every=3,
    rate=0.01,
    schedule="constant",
    weight_decay=0.5,
    curvature_every=2,
    products=4,
    settings={},
)


class CutOffError(Exception):
    """What stands for a kill."""


class Sums(Addition):
    """Sums modulo 7, cut off at an update."""

    cut = 0

    def batch(self, update: int) -> tuple[mx.array, mx.array]:
        """All pairs, until it is cut off."""
        if update == self.cut:
            raise CutOffError
        return super().batch(update)


def sums(seed: int = 1, cut: int = 0) -> Sums:
    task = Sums(7, 0.5, 4, 8, seed)
    task.cut = cut
    return task


def log(folder: Path) -> str:
    return (folder / "metrics.jsonl").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never cut off."""
    return run_trial(PLAN, sums(), tmp_path_factory.mktemp("whole"))


def test_the_log_holds_every_update_and_evaluation(whole: Path) -> None:
    events = [json.loads(line) for line in log(whole).splitlines()]
    updates = {kind: [e["update"] for e in events if e["event"] == kind] for kind in ("train", "eval", "curvature")}
    assert updates == {"train": list(range(1, 13)), "eval": [0, 3, 6, 9, 12], "curvature": [0, 6, 12]}
    first, *later = [event for event in events if event["event"] == "curvature"]
    assert first["preconditioned"] is None
    assert first["alignment"] is None
    assert all(0 <= event["alignment"] <= 1 for event in later)
    assert json.loads((whole / "run.json").read_text())["status"] == "done"


@pytest.mark.parametrize("cut", [1, 5, 7, 12])
def test_what_was_cut_off_goes_on_bit_for_bit(whole: Path, tmp_path: Path, cut: int) -> None:
    with pytest.raises(CutOffError):
        run_trial(PLAN, sums(cut=cut), tmp_path)
    done = run_trial(PLAN, sums(), tmp_path)
    assert log(done) == log(whole)
    ours, theirs = mx.load(str(done / STATE)), mx.load(str(whole / STATE))
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_seed_fixes_everything_and_another_changes_it(whole: Path, tmp_path: Path) -> None:
    assert log(run_trial(PLAN, sums(), tmp_path / "again")) == log(whole)
    assert log(run_trial(replace(PLAN, seed=2), sums(2), tmp_path / "other")) != log(whole)


def test_a_finished_run_is_not_made_again(whole: Path) -> None:
    before = log(whole)
    run_trial(PLAN, sums(cut=1), whole.parent)
    assert log(whole) == before


def test_curvature_changes_no_number(whole: Path, tmp_path: Path) -> None:
    without = run_trial(replace(PLAN, curvature_every=100), sums(), tmp_path)

    def rest(folder: Path) -> list[str]:
        return [line for line in log(folder).splitlines() if '"curvature"' not in line]

    assert rest(without) == rest(whole)


def test_other_settings_are_refused(whole: Path) -> None:
    with pytest.raises(PersonaError, match="made with other settings"):
        run_trial(replace(PLAN, rate=0.02), sums(), whole.parent)


def test_a_damaged_state_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(CutOffError):
        run_trial(PLAN, sums(cut=5), tmp_path)
    (tmp_path / "sums" / STATE).write_bytes(b"nothing")
    with pytest.raises(PersonaError, match="is damaged") as caught:
        run_trial(PLAN, sums(), tmp_path)
    assert "delete" in str(caught.value.hint)


def test_a_cosine_ends_at_a_hundredth(tmp_path: Path) -> None:
    """A schedule that dies leaves nothing to learn in the end: the last updates hardly change the loss."""
    run = run_trial(replace(PLAN, schedule="cosine", updates=60, eval_every=30), sums(), tmp_path)
    losses = [json.loads(line)["loss"] for line in log(run).splitlines() if '"train"' in line]
    assert abs(losses[-1] - losses[-2]) < 0.1 * abs(losses[15] - losses[14])
