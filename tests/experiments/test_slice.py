"""A slice of a model: which blocks it keeps, and that they are the same blocks."""

from __future__ import annotations

import json
from pathlib import Path

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.experiments import slice as slicing
from mlx_persona.experiments.slice import kept_blocks, slice_model
from mlx_persona.models.load import load_model


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_PERSONA_CACHE", str(tmp_path / "cache"))


def test_kept_blocks_are_spread_from_the_first_to_the_last() -> None:
    assert kept_blocks(30, 6) == [0, 6, 12, 17, 23, 29]  # 29/5 = 5.8 apart, rounded
    assert kept_blocks(4, 4) == [0, 1, 2, 3]
    assert kept_blocks(30, 1) == [0]
    with pytest.raises(PersonaError, match="blocks must be 1 to 30"):
        kept_blocks(30, 31)


def test_a_slice_computes_what_the_model_without_the_other_blocks_computes(model: Path) -> None:
    sliced = load_model(str(slice_model(str(model), 1)))
    whole = load_model(str(model))
    whole.model.model.layers = whole.model.model.layers[:1]
    tokens = mx.array([[1, 40, 50, 60]])
    assert mx.array_equal(sliced.model(tokens), whole.model(tokens))
    assert sliced.identity["sha256"] != whole.identity["sha256"]
    assert sliced.name.endswith("-1-blocks")


def test_all_blocks_are_the_model_itself_and_a_slice_is_made_once(model: Path) -> None:
    assert slice_model(str(model), 2) == model
    first = slice_model(str(model), 1)
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert slice_model(str(model), 1) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made


def test_settings_of_single_blocks_go_with_them(quantized_tiny_dir) -> None:  # type: ignore[no-untyped-def]
    source = quantized_tiny_dir()
    found = slice_model(str(source), 1)
    config = json.loads((found / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    assert load_model(str(found)).model.layers[0] is not None
    named = {"group_size": 32, "model.layers.0.mlp": {"bits": 4}, "model.layers.5.mlp": {"bits": 8}, "lm_head": False}
    assert slicing._renumbered(named, {"5": "1"}) == {
        "group_size": 32,
        "model.layers.1.mlp": {"bits": 8},
        "lm_head": False,
    }
