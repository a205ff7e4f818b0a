"""The tiny model, loaded once, with and without an adapter that changes what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import pytest

from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.load import LoadedModel, load_model
from tests.toy import save_adapter


@pytest.fixture(scope="session")
def tiny(tiny_model_dir: Path) -> LoadedModel:
    """The tiny random model, loaded once: do not change it.

    It is surer than a random one: where a thousand tokens are alike, rounding exchanges two of them.
    """
    loaded = load_model(str(tiny_model_dir))
    loaded.model.model.norm.weight = 4 * loaded.model.model.norm.weight
    return loaded


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_adapter(system="", dora=True)``: a saved random adapter for the tiny model."""

    def make(system: str = "", dora: bool = True) -> Path:
        loaded = load_model(str(tiny_model_dir))
        spec = AdapterSpec(4, 2.0, dora, base=loaded.identity, system=system)
        spec = adapters.attach(loaded.model, spec)
        weights = adapters.trainable(loaded.model)
        for number, (name, value) in enumerate(sorted(weights.items())):
            if name.endswith("lora_b"):
                weights[name] = 0.3 * mx.random.normal(value.shape, key=mx.random.key(number))
        folder = tmp_path_factory.mktemp("adapter") / "adapter"
        save_adapter(folder, weights, spec)
        return folder

    return make


@pytest.fixture
def short_ends(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """The tiny model with so many end tokens that replies end at different lengths."""
    monkeypatch.setattr(tiny.tokenizer, "_eos_token_ids", set(range(0, 2048, 10)))
    return tiny
