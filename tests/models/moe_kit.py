"""Small random mixtures of experts, as mlx-lm builds them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_persona.planner.shapes import blueprint
from tests.toy import MODEL

_SIZES = {
    **MODEL,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rope_theta": 10000.0,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
# Qwen2-MoE has an expert that all tokens share, behind a gate of its own; Qwen3-MoE here a first block without
# experts; Gemma 4 adds its experts to a dense MLP, and its router is a module; gpt-oss has biases everywhere.
MIXTURES: dict[str, dict[str, Any]] = {
    "qwen2": {**_SIZES, "model_type": "qwen2_moe", "shared_expert_intermediate_size": 64},
    "qwen3": {
        **_SIZES,
        "model_type": "qwen3_moe",
        "decoder_sparse_step": 1,
        "mlp_only_layers": [0],
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
    },
    "gemma4": {
        **_SIZES,
        "model_type": "gemma4_text",
        "global_head_dim": 32,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "enable_moe_block": True,
        "top_k_experts": 2,
        "use_double_wide_mlp": False,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    },
    "gpt-oss": {**_SIZES, "model_type": "gpt_oss", "num_local_experts": 4, "sliding_window": 8},
}


def mixture(name: str) -> Any:
    """One of them with random weights, the same on every call; in eval mode and frozen."""
    model = blueprint(MIXTURES[name])
    weights = [
        (k, 0.3 * mx.random.normal(v.shape, key=mx.random.key(i)) + ("norm" in k))
        for i, (k, v) in enumerate(tree_flatten(model.parameters()))
    ]
    model.load_weights(weights)
    model.eval()
    model.freeze()
    return model
