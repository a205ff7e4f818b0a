"""What the controller costs is taken within a real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_persona.benchmarks.phase import bench_phase
from mlx_persona.config import PhaseBenchConfig
from mlx_persona.errors import PersonaError


def test_times_add_up(folder: Path) -> None:
    config = PhaseBenchConfig(model=str(folder / "model"), data=str(folder / "data"), rank=2, updates=12)
    found = bench_phase(config)
    assert found.updates == 12
    assert found.evaluations >= 2
    assert 0 < found.watch_seconds < found.step_seconds
    assert 0 < found.eval_seconds < found.total_seconds
    assert found.phases[0] == "S0"
    told = json.loads(json.dumps(found.to_json()))
    assert told["ratio"]["watch"] == pytest.approx(told["watch_seconds"] / told["step_seconds"])
    assert told["ratio"]["evaluations"] == pytest.approx(told["eval_seconds"] / told["total_seconds"])
    assert len(found.table()[1]) == 4


def test_rows_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(PersonaError, match="fits in 16 tokens"):
        bench_phase(PhaseBenchConfig(model=str(folder / "model"), data=str(folder / "data"), max_seq_length=16))
