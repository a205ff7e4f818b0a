"""Finding and loading a base model: a local MLX directory, a GGUF file, or a Hugging Face repo.

On the CPU a model is held as dense float32, or, where that takes too much, quantized and dequantized layer by
layer in use: MLX's 16-bit and 4-bit products there are ten to a hundred times slower (docs/performance.md).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.mla import MultiLinear, QuantizedMultiLinear
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from mlx_persona import backend, ui
from mlx_persona.cache import cache_dir
from mlx_persona.errors import PersonaError
from mlx_persona.model_names import local_path
from mlx_persona.models import substitutes
from mlx_persona.models.gguf import CONVERSION, convert_gguf
from mlx_persona.models.hub import fetch_repo
from mlx_persona.models.once import build_once
from mlx_persona.models.quantized import RESIDENT, dense_weight
from mlx_persona.models.weights import check_weights, read_headers, weight_files

MEMORY_SHARE = 0.8
# A quantized model that takes more than this in float32 stays quantized: training needs room too.
DENSE_SHARE = 0.5
# What a config may say without the weights meaning anything else.
_VOLATILE = {"transformers_version", "torch_dtype", "dtype", "use_cache", "architectures", "quantization_config"}
_SAMPLE = 4096


@dataclass
class LoadedModel:
    """A base model that is ready to run: in eval mode and frozen."""

    model: Any
    tokenizer: Any
    config: dict[str, Any]
    path: Path
    name: str
    identity: dict[str, str]


def resolve_model(name: str) -> Path:
    """The MLX model directory that ``name`` means, fetched or converted where need be.

    ``name`` is a directory, a ``.gguf`` file (converted once per content) or a Hugging Face repo.

    Raises:
        PersonaError: nothing there, an incomplete directory, no network, or no access to the repo.
    """
    path = local_path(name)
    if path is None:
        return fetch_repo(name)
    if path.is_file():
        return _convert_once(path)
    weight_files(path)
    return path


def _convert_once(path: Path) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = f"{path.stat().st_size}-{digest[:16]}"
    target = cache_dir() / f"gguf-{CONVERSION}" / folder / path.stem
    return build_once(target, lambda _: convert_gguf(path, target))


def identity(path: Path) -> dict[str, str]:
    """``{"name", "sha256"}`` of a base model, to tell whether an adapter belongs to it.

    The hash covers the architecture's fields of ``config.json``, every tensor's name, type and shape, and
    4 KiB from the middle of every tensor: any other weights give another hash, and 4 GB take a moment.
    It does not depend on where the model lies or how it is cut into files.

    Raises:
        PersonaError: an incomplete or truncated model directory.
    """
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    kept = {k: v for k, v in config.items() if k not in _VOLATILE and not k.startswith("_") and "token_id" not in k}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    entries = [entry for file in weight_files(path) for entry in read_headers(file)]
    for entry in sorted(entries, key=lambda e: e.name):
        digest.update(json.dumps([entry.name, entry.dtype, entry.shape]).encode())
        with entry.file.open("rb") as file:
            size = min(entry.size, _SAMPLE)
            file.seek(entry.start + (entry.size - size) // 2)
            digest.update(file.read(size))
    return {"name": model_name(path), "sha256": digest.hexdigest()}


def model_name(path: Path) -> str:
    """``org/name`` for a snapshot in the Hugging Face cache, else the directory's name."""
    for part in path.parts:
        if match := re.fullmatch(r"models--(.+)", part):
            return match[1].replace("--", "/")
    return path.resolve().name


def load_model(name: str) -> LoadedModel:
    """Load a model and its tokenizer; dense float32 on the CPU, as stored on a GPU.

    Raises:
        PersonaError: as :func:`resolve_model`; truncated or unfitting weights; a model that mlx-lm does not
            know; or too little memory.
    """
    path = resolve_model(name)
    check_weights(path)
    try:
        model, config = mlx_lm.utils.load_model(path, lazy=True)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise PersonaError(f"mlx-lm cannot load {path}: {_first_line(error)}") from error
    if backend.on_cpu():
        dense = _fits_dense(model, name)
        if not dense:
            ui.info(f"{name} stays quantized in memory: in float32 it would take most of this machine's")
        for_cpu(model, dense)
    make_ready(model)
    return LoadedModel(model, load_tokenizer(path), config, path, model_name(path), identity(path))


def for_cpu(model: Any, dense: bool) -> None:
    """Give a model, in place, the form and the functions that the CPU computes with: dense float32, or quantized."""
    if dense:
        _to_float32(model)
    else:
        _keep_quantized(model)
    substitutes.speed_up(model)


def make_ready(model: Any) -> None:
    """Compute a model's weights, and put it in eval mode, frozen."""
    mx.eval(model.parameters())
    model.eval()
    model.freeze()


def load_tokenizer(path: Path) -> Any:
    """The mlx-lm ``TokenizerWrapper`` of a model directory, with the end tokens of its generation config.

    Raises:
        PersonaError: no tokenizer there, or one that cannot be read.
    """
    try:
        config = mlx_lm.utils.load_config(path)
        return mlx_lm.utils.load_tokenizer(path, eos_token_ids=config.get("eos_token_id"))
    except Exception as error:  # transformers and tokenizers raise whatever comes, down to bare Exception
        raise PersonaError(f"cannot load the tokenizer of {path}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _fits_dense(model: Any, name: str) -> bool:
    """Whether to hold a model in float32; raises PersonaError where it fits neither so nor as it is stored."""
    there = backend.memory_bytes()
    needed = 4 * mlx_lm.utils.get_total_parameters(model)
    coded = [m for _, m in model.named_modules() if m.get("scales") is not None]
    if not coded or any(type(m) not in RESIDENT for m in coded):
        resident, share = needed, MEMORY_SHARE
    else:
        resident = sum(v.nbytes if v.dtype == mx.uint32 else 4 * v.size for _, v in tree_flatten(model.parameters()))
        share = DENSE_SHARE
    if min(needed, resident) > MEMORY_SHARE * there:
        raise PersonaError(
            f"{name} takes {min(needed, resident) / 2**30:.1f} GB, as the CPU needs it; "
            f"it must be at most {MEMORY_SHARE:.0%} of this machine's {there / 2**30:.1f} GB",
            "choose a smaller model with --model, or one in 4 bits",
        )
    return bool(needed <= share * there)


def _keep_quantized(model: Any) -> None:
    """Let the quantized layers compute in float32 from their codes; all else becomes float32."""
    for module in model.modules():
        if type(module) in RESIDENT:
            module.__class__ = RESIDENT[type(module)]
            if "bias" in module:
                module.bias = module.bias.astype(mx.float32)
        elif not module.children():
            module.set_dtype(mx.float32)


def _empty_like(module: Any) -> Any | None:
    """The dense layer for a quantized one, its weight still to be set; None for any other module."""
    if isinstance(module, nn.QuantizedLinear):
        return nn.Linear(1, 1, bias=False)
    if isinstance(module, nn.QuantizedEmbedding):
        return nn.Embedding(1, 1)
    if isinstance(module, QuantizedSwitchLinear):
        return SwitchLinear(1, 1, 1, bias=False)
    if isinstance(module, QuantizedMultiLinear):
        return MultiLinear(1, 1, 1)
    return None


def _to_float32(model: Any) -> None:
    """Make every layer dense float32, one at a time, so that the peak stays near the final size."""
    modules = model.named_modules()
    while modules:
        path, module = modules.pop()  # popped, so that a quantized copy is freed as soon as it is replaced
        if (dense := _empty_like(module)) is not None:
            dense.weight = dense_weight(module)
            if "bias" in module:
                dense.bias = module.bias.astype(mx.float32)
            mx.eval(dense.parameters())
            model.update_modules(tree_unflatten([(path, dense)]))
        elif not module.children():
            module.set_dtype(mx.float32)
            mx.eval(module.parameters())
    model.set_dtype(mx.float32)  # arrays that belong to no leaf
    mx.clear_cache()
