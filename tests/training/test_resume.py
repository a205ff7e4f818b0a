"""A run that was cut off goes on as if nothing had happened, to the last bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import pytest

from mlx_persona import backend, cli, ui
from mlx_persona.config import DpoConfig, SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models.adapters import WEIGHTS, read_weights
from mlx_persona.runs import Run, newest, resolve_adapter
from mlx_persona.settings import plain
from mlx_persona.stages.dpo import dpo
from mlx_persona.stages.sft import sft
from mlx_persona.training import checkpoint
from tests.toy import dpo_config, events, info, sft_config, write_data, write_pairs

ROOT = Path(__file__).resolve().parents[2]


class Killed(BaseException):
    """Stands for kill -9 where a process of its own would take too long."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def sft_run(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SFT run to start DPO from."""
    return sft(sft_config(model, data, tmp_path_factory.mktemp("sft") / "run", updates=2)).run


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """``cut_off("train", 5)``: the process dies while it logs that event."""

    def at(event: str, update: int) -> None:
        log = Run.log

        def logged(run: Run, name: str, **values: Any) -> None:
            log(run, name, **values)
            if (name, values["update"]) == (event, update):
                monkeypatch.setattr(Run, "log", log)
                raise Killed

        monkeypatch.setattr(Run, "log", logged)

    return at


def flags(config: SftConfig) -> list[str]:
    """The command line that means this configuration."""
    out = []
    for name, value in plain(config).items():
        if value in (None, "", plain(SftConfig())[name]):
            continue
        flag = f"--{name.replace('_', '-')}"
        out += ["--dora" if value else "--lora"] if name == "dora" else [flag, str(value)]
    return out


def same_outcome(one: Path, other: Path) -> None:
    """Both runs logged the same and chose the same adapter, bit for bit."""
    assert events(one) == events(other)
    ours, theirs = (read_weights(run / "adapter" / WEIGHTS) for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert info(one)["best_update"] == info(other)["best_update"]
    assert info(one)["status"] == info(other)["status"] == "done"


def test_cut_off_within_s1_changes_nothing_after_resume(
    data: Path, model: Path, tmp_path: Path, cut_off: Callable[[str, int], None]
) -> None:
    """Under control, with a batch pulse that is still on: phases, pulses, losses and the choice are the same."""
    settings: dict[str, Any] = {
        "updates": 60,
        "eval_every": 2,
        "learning_rate": 1e-2,
        "patience": 0,
        "phase": "control",
        "phase_set": ("s1_batch_share=0.2",),
    }
    sft(sft_config(model, data, tmp_path / "whole", **settings))
    cut_off("train", 11)
    with pytest.raises(Killed):
        sft(sft_config(model, data, tmp_path / "killed", **settings))
    phases = [(e["phase"], e["batch_factor"]) for e in events(tmp_path / "killed", "phase")]
    assert phases[-1] == ("S1", 4)
    sft(SftConfig(resume=str(tmp_path / "killed")))
    same_outcome(tmp_path / "whole", tmp_path / "killed")
    assert info(tmp_path / "whole")["phase"] == info(tmp_path / "killed")["phase"]
    assert [one["phase"] for one in info(tmp_path / "whole")["phases"]] == ["S0", "S1", "S2"]


def test_kill_9_in_mid_run_changes_nothing_after_resume(data: Path, model: Path, tmp_path: Path) -> None:
    """DoRA with dropout, accumulation, and an epoch that ends within the run; killed at whatever update it is."""
    settings: dict[str, Any] = {
        "updates": 40,
        "grad_accumulation": 2,
        "batch_size": 3,
        "dropout": 0.2,
        "dora": True,
        "num_layers": 1,
    }
    whole = sft_config(model, data, tmp_path / "whole", **settings)
    sft(whole)
    killed = replace(whole, out=str(tmp_path / "killed"))
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_persona", "sft", *flags(killed), "-q"], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    metrics = tmp_path / "killed/metrics.jsonl"
    end = time.monotonic() + 60
    # After the first checkpoint, and between two of them.
    while not (metrics.exists() and '"update": 5' in metrics.read_text()) and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert info(tmp_path / "killed")["status"] == "running"
    assert not (tmp_path / "killed/adapter").exists()
    sft(SftConfig(resume=str(tmp_path / "killed")))
    same_outcome(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    ("event", "update"),
    [
        pytest.param("train", 2, id="before the first checkpoint"),
        pytest.param("eval", 0, id="before the first update"),
        pytest.param("checkpoint", 6, id="while a checkpoint is written"),
        pytest.param("train", 8, id="between checkpoints"),
    ],
)
def test_a_run_that_died_anywhere_goes_on_bit_for_bit(
    data: Path,
    model: Path,
    tmp_path: Path,
    cut_off: Callable[[str, int], None],
    plain_sft: Path,
    event: str,
    update: int,
) -> None:
    cut_off(event, update)
    config = sft_config(model, data, tmp_path / "cut", updates=9, dora=False)
    with pytest.raises(Killed):
        sft(config)
    sft(SftConfig(resume=str(tmp_path / "cut")))
    same_outcome(plain_sft, tmp_path / "cut")


def test_a_run_without_held_out_conversations_goes_on_too(
    model: Path, tmp_path: Path, cut_off: Callable[[str, int], None]
) -> None:
    data = write_data(tmp_path / "data")
    (data / "valid.jsonl").write_text("")
    whole = sft(sft_config(model, data, tmp_path / "whole", updates=5))
    cut_off("train", 4)
    with pytest.raises(Killed):
        sft(sft_config(model, data, tmp_path / "cut", updates=5))
    sft(SftConfig(resume=str(tmp_path / "cut")))
    same_outcome(whole.run, tmp_path / "cut")
    assert info(tmp_path / "cut")["held_out"] is False


@pytest.fixture(scope="module")
def plain_sft(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine updates without a break."""
    out = tmp_path_factory.mktemp("plain") / "run"
    return sft(sft_config(model, data, out, updates=9, dora=False)).run


@pytest.mark.parametrize("fresh", [False, True])
def test_dpo_goes_on_bit_for_bit_from_its_own_copy_of_the_start(
    pairs: Path, sft_run: Path, tmp_path: Path, cut_off: Callable[[str, int], None], fresh: bool
) -> None:
    mine = tmp_path / "sft"
    shutil.copytree(sft_run, mine)
    options: dict[str, Any] = {"fresh": fresh, "dropout": 0.2, "grad_accumulation": 2, "batch_size": 2}
    if fresh:
        options |= {"rank": 3, "dora": True}
    dpo(dpo_config(mine, pairs, tmp_path / "whole", **options))
    cut_off("train", 3)
    with pytest.raises(Killed):
        dpo(dpo_config(mine, pairs, tmp_path / "cut", **options))
    shutil.rmtree(mine)
    dpo(DpoConfig(resume=str(tmp_path / "cut")))
    same_outcome(tmp_path / "whole", tmp_path / "cut")


def test_the_checkpoints_of_a_stacked_run_are_no_adapters(
    pairs: Path, sft_run: Path, tmp_path: Path, cut_off: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold the outer half only: on the base model alone that is neither the person nor the reference."""
    cut_off("train", 3)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Killed):
        dpo(dpo_config(sft_run, pairs, "runs/dpo-1", fresh=True))
    assert newest(("dpo",)) is None
    with pytest.raises(PersonaError, match="no adapter in runs/dpo-1") as caught:
        resolve_adapter("runs/dpo-1")
    assert caught.value.hint == "finish the run: --resume runs/dpo-1"


def test_dpo_that_died_before_it_copied_its_start_starts_from_the_same_adapter(
    pairs: Path, sft_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dpo(dpo_config(sft_run, pairs, tmp_path / "whole", updates=2))
    with monkeypatch.context() as patch:
        patch.setattr("mlx_persona.stages.dpo.new_folder", _die)
        with pytest.raises(Killed):
            dpo(dpo_config(sft_run, pairs, tmp_path / "cut", updates=2))
    dpo(DpoConfig(resume=str(tmp_path / "cut")))
    same_outcome(whole.run, tmp_path / "cut")


def _die(path: Path) -> Any:
    raise Killed


@pytest.fixture
def interrupted(data: Path, model: Path, tmp_path: Path, cut_off: Callable[[str, int], None]) -> Path:
    """A run of six updates that died at the fifth."""
    cut_off("train", 5)
    own = write_data(tmp_path / "data")
    with pytest.raises(Killed):
        sft(sft_config(model, own, tmp_path / "run"))
    return tmp_path / "run"


def test_a_run_that_was_moved_is_continued_where_it_is(interrupted: Path) -> None:
    moved = interrupted.rename(interrupted.with_name("moved"))
    assert sft(SftConfig(resume=str(moved))).run == moved
    assert not interrupted.exists()
    assert info(moved)["status"] == "done"


def test_other_versions_are_a_warning(
    interrupted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "versions", lambda: {**info(interrupted)["versions"], "mlx": "9.9"})
    ui.set_quiet(False)
    sft(SftConfig(resume=str(interrupted)))
    said = capsys.readouterr().err
    assert re.search(r"warning: this machine changed since the run began \(mlx [\d.]+ -> 9\.9\)", said)


def test_other_data_is_an_error(interrupted: Path) -> None:
    with (interrupted.parent / "data/train.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    before = events(interrupted)
    with pytest.raises(PersonaError, match=r"the data changed since .* began"):
        sft(SftConfig(resume=str(interrupted)))
    assert events(interrupted) == before


def test_an_option_that_differs_from_the_runs_own_is_an_error(interrupted: Path) -> None:
    with pytest.raises(PersonaError, match=r"updates is 6 in .* and stays so, got 9"):
        sft(SftConfig(resume=str(interrupted), updates=9))


@pytest.mark.parametrize("name", ["adapters.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_an_error_that_names_the_file(interrupted: Path, name: str) -> None:
    file = interrupted / "checkpoints/000003" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(PersonaError, match=re.escape(str(file))):
        sft(SftConfig(resume=str(interrupted)))


@pytest.mark.parametrize(
    ("stage", "status", "expected"),
    [
        ("sft", "done", "is finished already"),
        ("dpo", "stopped", "is a run of dpo, not of sft"),
    ],
)
def test_what_cannot_be_resumed_is_an_error(tmp_path: Path, stage: str, status: str, expected: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"stage": stage, "status": status}))
    with pytest.raises(PersonaError, match=expected):
        sft(SftConfig(resume=str(tmp_path)))


def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="it is not a run directory"):
        sft(SftConfig(resume=str(tmp_path)))


def test_ctrl_c_writes_a_checkpoint_and_ends_with_130(
    data: Path,
    model: Path,
    plain_sft: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = sft_config(model, data, tmp_path / "run", updates=9, dora=False)
    log = Run.log

    def logged(run: Run, name: str, **values: Any) -> None:
        log(run, name, **values)
        if (name, values["update"]) == ("train", 4):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", logged)
        assert cli._status(["sft", *flags(config)]) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-2:] == ["stopped after update 4", f"hint: continue with --resume {tmp_path / 'run'}"]
    assert info(tmp_path / "run")["status"] == "stopped"
    assert (tmp_path / "run/checkpoints/000004" / checkpoint.OPTIMIZER).is_file()
    assert cli._status(["sft", "--resume", str(tmp_path / "run"), "-q"]) == 0
    # The checkpoint of the interrupt is all that is logged besides.
    kept = [e for e in events(tmp_path / "run") if (e["event"], e["update"]) != ("checkpoint", 4)]
    assert kept == events(plain_sft)
