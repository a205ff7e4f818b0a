"""A workspace in which every stage has run, on a model that trains in a moment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mlx_persona.cleaning import clean
from mlx_persona.config import CleanConfig, EvalConfig, FuseConfig
from mlx_persona.stages.dpo import dpo
from mlx_persona.stages.evaluate import evaluate
from mlx_persona.stages.fuse import fuse
from mlx_persona.stages.sft import sft
from tests.toy import dpo_config, sft_config, write_export, write_model, write_pairs


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clean, two SFT runs, DPO, fuse and eval, one after the other, with relative paths as a user has them."""
    root, here = tmp_path_factory.mktemp("made"), Path.cwd()
    os.chdir(root)
    try:
        export = write_export(root, times=10)
        # Ann always says the same, and is held to it.
        once = {"test_fraction": 0.2, "near_duplicates": 0.0, "tags": False}
        clean(CleanConfig(raw=(export.name,), me=("Ann",), out="data/clean", **once))
        write_model(Path("model"))
        write_pairs(Path("data/pairs"))
        data = Path("data/clean")
        sft(sft_config(Path("model"), data, "runs/sft-2", rank=2, updates=3, dora=False))
        sft(sft_config(Path("model"), data, "runs/sft-1"))
        dpo(dpo_config("runs/sft-1", Path("data/pairs"), "runs/dpo-1"))
        fuse(FuseConfig(adapter="runs/dpo-1", bits="16", gate_tokens=32, max_seq_length=128, force=True))
        evaluate(EvalConfig(n=10, max_tokens=4, max_seq_length=128, loss_rows=4, quick=True))
    finally:
        os.chdir(here)
    return root


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current directory."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It itself, as the current directory: not to be changed."""
    monkeypatch.chdir(made)
    return made
