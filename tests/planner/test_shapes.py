"""Sizes from config.json alone, against models that are really built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import get_total_parameters

from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.planner.memory import trainable
from mlx_persona.planner.shapes import blueprint, read_config, shapes

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 128,
    "tie_word_embeddings": False,
}
QWEN = {**LLAMA, "model_type": "qwen2", "rope_theta": 1e6, "max_position_embeddings": 64, "tie_word_embeddings": True}
MOE = {
    **LLAMA,
    "model_type": "qwen3_moe",
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "rope_theta": 1e6,
    "max_position_embeddings": 64,
}
QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "quantization": {"group_size": 64, "bits": 4},
}


@pytest.mark.parametrize("config", [LLAMA, QWEN, MOE], ids=["llama", "qwen2", "mixture of experts"])
def test_every_parameter_is_counted(config: dict[str, Any]) -> None:
    assert shapes(config).parameters == get_total_parameters(blueprint(config))


@pytest.mark.parametrize("bits", [4, 8])
def test_stored_bytes_are_those_of_the_quantized_model(bits: int) -> None:
    model = blueprint(QWEN)
    model.set_dtype(mx.bfloat16)
    nn.quantize(model, group_size=32, bits=bits)
    real = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
    found = shapes({**QWEN, "quantization": {"group_size": 32, "bits": bits}})
    assert found.quantized
    assert found.stored() == real


def test_a_layer_with_a_width_of_its_own_is_counted_with_it() -> None:
    own = {"group_size": 32, "bits": 4, "model.layers.1.mlp.down_proj": {"group_size": 32, "bits": 8}}
    widths = {a.bits for a in shapes({**QWEN, "quantization": own}).blocks[1].linears if a.name == "mlp.down_proj"}
    assert widths == {8}


@pytest.mark.parametrize("layers", [-1, 2])
@pytest.mark.parametrize(
    ("config", "dora"), [(LLAMA, True), (LLAMA, False), (MOE, False)], ids=["dora", "lora", "mixture of experts"]
)
def test_an_adapter_has_as_many_parameters_as_one_that_is_attached(
    config: dict[str, Any], dora: bool, layers: int
) -> None:
    model = blueprint(config)
    mx.eval(model.parameters())
    adapters.attach(model, AdapterSpec(4, 2.0, dora, layers))
    real = sum(value.size for value in adapters.trainable(model).values())
    assert trainable(shapes(config), 4, dora, layers) == real


def test_a_7b_model_is_measured_without_its_memory() -> None:
    """Qwen2.5-7B has 7.62 B parameters; its 4-bit files take 4.28 GB; rank 64 on all linears is 161 M."""
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    found = shapes(QWEN_7B)
    assert mx.get_peak_memory() - before < 10**6
    assert round(found.parameters / 1e9, 2) == 7.62
    assert round(found.stored() / 1e9, 2) == 4.28
    assert round(trainable(found, 64, False) / 1e6) == 161


def test_an_unknown_architecture_is_an_error() -> None:
    with pytest.raises(PersonaError, match="mlx-lm cannot build this architecture: Model type nothing not supported"):
        shapes({"model_type": "nothing"})


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_config_that_is_none_is_an_error(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(PersonaError, match=r"no config\.json" if text is None else "truncated or corrupt"):
        read_config(tmp_path)


def test_a_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert read_config(tmp_path) == LLAMA
