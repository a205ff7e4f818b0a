"""The commands ``bench``, ``bench-loss``, ``bench-phase`` and ``bench-blocks``."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_persona import cli
from mlx_persona.benchmarks import blocks, flops
from mlx_persona.cli import main
from tests.toy import write_data, write_model


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for a toy model and its data."""
    monkeypatch.setattr(flops, "RATE_SECONDS", 0.001)
    data, model = write_data(tmp_path / "data"), write_model(tmp_path / "model")
    return ["--rank", "2", "--model", str(model), "--data", str(data)]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["bench", "--rows", "8", "--rounds", "1"], "model FLOPs utilisation"),
        (["bench-loss", "--steps", "2", "--updates", "2"], "supervised tokens seen"),
        (["bench-phase", "--updates", "10"], "the controller beside it"),
    ],
)
def test_training_is_compared_with_ratios_first(workspace: list[str], command: list[str], shown: str) -> None:
    done = CliRunner().invoke(main, [*command, *workspace, "--json"])
    assert done.exit_code == 0, done.output
    assert next(iter(json.loads(done.stdout))) == "ratio"
    assert shown in CliRunner().invoke(main, [*command, *workspace]).stdout


def test_every_command_that_a_module_makes_can_be_called() -> None:
    made = {
        name for module in set(cli.COMMANDS.values()) for name in import_module(f"mlx_persona.cli.{module}").commands
    }
    assert made == cli.COMMANDS.keys()


def test_blocks_are_shown_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    monkeypatch.setattr(blocks, "SHAPE", {**blocks.SHAPE, **small})
    command = ["bench-blocks", "--vocab", "256", "--seq", "32", "--rank", "2", "--side", "ours-dora"]
    done = CliRunner().invoke(main, [*command, "--json"])
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["sides"]) == ["ours-dora"]
    shown = CliRunner().invoke(main, command).stdout
    assert "Peak of ours-dora" in shown
    assert "update and norms" in shown
