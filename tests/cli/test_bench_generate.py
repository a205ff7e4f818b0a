"""The command ``bench-generate``."""

from __future__ import annotations

import json
from pathlib import Path

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from click.testing import CliRunner

from mlx_persona.cli import main
from tests.toy import write_data, write_model


def test_the_command_prints_ratios_first(tmp_path: Path) -> None:
    data, model = write_data(tmp_path / "data"), write_model(tmp_path / "model")
    few = ["--n", "3", "--one-by-one", "2", "--max-tokens", "4", "--model", str(model), "--data", str(data)]
    done = CliRunner().invoke(main, ["bench-generate", *few, "--json"])
    assert done.exit_code == 0, done.output
    assert next(iter(json.loads(done.stdout))) == "ratio"
    shown = CliRunner().invoke(main, ["bench-generate", *few])
    assert "stock, batch_generate" in shown.stdout
