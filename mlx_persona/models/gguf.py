"""A llama-family GGUF file -> an MLX model directory that stock ``mlx_lm.load`` opens.

Quantized weights stay quantized. GGUF stores the rows of q and k in the order that its rotary embedding
wants; they are put back into the Hugging Face order, so that adapters mean the same to every consumer.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_persona.errors import PersonaError
from mlx_persona.files import new_folder
from mlx_persona.models.gguf_file import GROUP, GGUFFile, bits_of, open_gguf
from mlx_persona.models.gguf_tokenizer import end_token_ids, write_tokenizer

# Part of the cache's path: raise it when a conversion's result changes.
CONVERSION = 1

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"


def convert_gguf(path: Path, out: Path) -> Path:
    """Convert a llama-family GGUF file into the MLX model directory ``out`` and return ``out``.

    The directory appears when it is whole. Floats are written as float16 (float32 where every matrix of
    the file is), one type throughout, since mixed types make stock mlx-lm compute in float32.

    Raises:
        PersonaError: ``out`` exists; not GGUF, truncated, or of an architecture, tensor type or tokenizer
            that cannot be converted.
    """
    if out.exists():
        raise PersonaError(f"{out} exists already", "choose another folder, or remove it first")
    with open_gguf(path) as file:
        names = _tensor_names(file)
        config = _config(file, names)
        with new_folder(out) as part:
            write_tokenizer(file.metadata, part, config["max_position_embeddings"])
            _write_weights(file, names, config, part / "model.safetensors")
            ends = end_token_ids(file.metadata)
            _write_json(part / "config.json", config)
            _write_json(part / "generation_config.json", {"eos_token_id": ends} if ends else {})
    return out


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _tensor_names(file: GGUFFile) -> dict[str, str]:
    """MLX module path by GGUF tensor name; raises PersonaError for a tensor too many or too few."""
    architecture = file.metadata.get("general.architecture")
    if architecture != "llama":
        raise PersonaError(
            f"{file.path}: general.architecture must be llama, got {architecture!r}",
            "take the model in MLX format instead, from the Hugging Face Hub",
        )
    layers = _number(file, "block_count", int)
    names = {f"{ours}.weight": theirs for ours, theirs in _TOP.items()}
    for n in range(layers):
        names |= {f"blk.{n}.{ours}.weight": f"model.layers.{n}.{theirs}" for ours, theirs in _BLOCK.items()}
    if "output.weight" not in file.tensors:
        del names["output.weight"]  # the output layer is the embedding
    unknown = sorted(file.tensors.keys() - names.keys() - {_ROPE_FACTORS})
    missing = sorted(names.keys() - file.tensors.keys())
    if unknown or missing:
        verb, name = ("holds", unknown[0]) if unknown else ("lacks", missing[0])
        raise PersonaError(f"{file.path} {verb} the tensor {name}: not a plain llama model with {layers} layers")
    return names


def _number(file: GGUFFile, key: str, kind: type, default: float | None = None) -> Any:
    """A hyper-parameter of the file; raises PersonaError where it is missing or not a positive number."""
    value = file.metadata.get(f"llama.{key}", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise PersonaError(f"{file.path}: llama.{key} must be a positive number, got {value!r}")
    # 1e-5 was stored as a 32-bit float; its shortest spelling is the number that was meant.
    return int(value) if kind is int else float(str(np.float32(value)))


def _config(file: GGUFFile, names: dict[str, str]) -> dict[str, Any]:
    """``config.json`` of the model."""
    hidden, heads = _number(file, "embedding_length", int), _number(file, "attention.head_count", int)
    head_dim = _number(file, "attention.key_length", int, hidden // heads)
    if (rotated := _number(file, "rope.dimension_count", int, head_dim)) != head_dim:
        raise PersonaError(f"{file.path}: llama.rope.dimension_count must be the head size {head_dim}, got {rotated}")
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": _number(file, "block_count", int),
        "intermediate_size": _number(file, "feed_forward_length", int),
        "num_attention_heads": heads,
        "num_key_value_heads": _number(file, "attention.head_count_kv", int, heads),
        "head_dim": head_dim,
        "rms_norm_eps": _number(file, "attention.layer_norm_rms_epsilon", float),
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "max_position_embeddings": _number(file, "context_length", int),
        "rope_theta": _number(file, "rope.freq_base", float, 10000.0),
        "rope_traditional": False,
        "rope_scaling": _rope_scaling(file, head_dim),
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "torch_dtype": "float32" if _all_float32(file) else "float16",
    }
    for role in ("bos", "eos", "pad"):
        index = file.metadata.get(f"tokenizer.ggml.{'padding' if role == 'pad' else role}_token_id")
        if index is not None:
            config[f"{role}_token_id"] = index
    if quantization := _quantization(file, names):
        config["quantization"] = config["quantization_config"] = quantization
    return config


def _all_float32(file: GGUFFile) -> bool:
    return all(t.kind == "F32" for t in file.tensors.values())


def _quantization(file: GGUFFile, names: dict[str, str]) -> dict[str, Any] | None:
    """mlx-lm's quantization entry: the commonest width for all, and each layer that differs by name."""
    bits = {module: bits_of(file.tensors[name].kind) for name, module in names.items() if not _is_norm(name)}
    widths = [b for b in bits.values() if b is not None]
    if not widths:
        return None
    common = max(sorted(set(widths)), key=widths.count)
    out: dict[str, Any] = {"group_size": GROUP, "bits": common, "mode": "affine"}
    for module, width in bits.items():
        if width is None:
            out[module] = False
        elif width != common:
            out[module] = {"group_size": GROUP, "bits": width, "mode": "affine"}
    return out


def _is_norm(name: str) -> bool:
    return name.endswith("_norm.weight")


def _rope_scaling(file: GGUFFile, head_dim: int) -> dict[str, Any] | None:
    """The rotary scaling: none, linear, or Llama 3's."""
    kind = file.metadata.get("llama.rope.scaling.type", "none")
    if _ROPE_FACTORS in file.tensors:
        return _llama3_scaling(file, head_dim)
    if kind == "none":
        return None
    if kind == "linear":
        return {"type": "linear", "rope_type": "linear", "factor": _number(file, "rope.scaling.factor", float)}
    raise PersonaError(f"{file.path}: llama.rope.scaling.type must be none or linear, got {kind!r}")


def _llama3_scaling(file: GGUFFile, head_dim: int) -> dict[str, Any]:
    """Llama 3.1's scaling, known from the factors by which the file says each frequency is divided.

    Llama 3.1 and later share all constants but the factor, which is the largest one; the others are
    computed from it and must be what the file says.
    """
    scaling: dict[str, Any] = {
        "rope_type": "llama3",
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    stated = np.array(file.load(_ROPE_FACTORS)["weight"].astype(mx.float32)).reshape(-1)
    factor = float(stated.max())
    theta = _number(file, "rope.freq_base", float, 10000.0)
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = 8192 / 1.0, 8192 / 4.0
    smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
    between = 1 / ((1 - smooth) / factor + smooth)
    expected = np.where(wavelength > low, factor, np.where(wavelength < high, 1.0, between))
    if stated.shape != expected.shape or not np.allclose(stated, expected, rtol=1e-3):
        raise PersonaError(f"{file.path}: {_ROPE_FACTORS} must be Llama 3's rotary factors, got others")
    return {**scaling, "factor": factor}


def _write_weights(file: GGUFFile, names: dict[str, str], config: dict[str, Any], out: Path) -> None:
    dtype = getattr(mx, config["torch_dtype"])
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for name, module in names.items():
        part = re.sub(r"^blk\.\d+\.|\.weight$", "", name)
        for suffix, array in file.load(name).items():
            if part in heads:
                array = _unpermute(array, heads[part])
            if mx.issubdtype(array.dtype, mx.floating):
                array = array.astype(dtype)
            weights[f"{module}.{suffix}"] = array
    mx.save_safetensors(str(out), weights, metadata={"format": "mlx"})


def _unpermute(rows: mx.array, heads: int) -> mx.array:
    """Rows of q or k from GGUF's order to Hugging Face's.

    Within a head GGUF puts the two halves of each rotated pair side by side (0, d/2, 1, d/2 + 1, ...);
    Hugging Face keeps the first halves, then the second ones.
    """
    count, columns = rows.shape
    pairs = rows.reshape(heads, count // heads // 2, 2, columns)  # (heads, d/2, half, in)
    return pairs.swapaxes(1, 2).reshape(count, columns)
