"""An adapter merged into its base model: a standalone model at a chosen width, written layer by layer.

The merge starts from the weights as they are stored, and each new weight is computed in float32. What no
adapter touches keeps its bits: it is stored anew only where the width asks for it (:func:`plan_layers`).
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
from mlx.utils import tree_flatten

from mlx_persona.models import adapters
from mlx_persona.models.load import identity
from mlx_persona.models.quantized import dense_weight
from mlx_persona.models.weights import read_headers

WIDTHS = (4, 8, 16)
DENSE = 16
SHARD_BYTES = 2 << 30  # what is held in memory before it goes to disk
_GROUPS = (64, 32)  # tried in this order where the base names no group size that fits
_BLOCK = 1 << 26  # weights quantized at once
_QUANTIZED = ("weight", "scales", "biases", "global_scale")
# What makes a model besides its weights and config.json; what speaks of quantized weights stays behind.
_COMPANIONS = ("*.json", "*.jinja", "*.txt", "*.tiktoken", "tokenizer.model", "*.py", "LICENSE*", "NOTICE*")
_OWN = frozenset({"config.json", "run.json", "model.safetensors.index.json", "hf_quant_config.json"})


@dataclass(frozen=True)
class Form:
    """How a layer's weight is stored: in affine groups of ``bits``, or dense in ``dtype`` where bits is None."""

    dtype: Any
    bits: int | None = None
    group_size: int = 0

    def size(self, weights: int) -> int:
        """Bytes for so many weights, scales and biases included."""
        if self.bits is None:
            return weights * self.dtype.size
        return weights * self.bits // 8 + 2 * (weights // self.group_size) * self.dtype.size


def plan_layers(model: nn.Module, adapted: Collection[str], bits: int) -> dict[str, Form]:
    """The layers to store anew at a width, by path; every other tensor is kept bit by bit.

    On a quantized base these are the adapted layers (an adapted layer that the base left dense stays
    dense), and at 16 bits all quantized ones. On a dense base these are, below 16 bits, all layers that
    mlx-lm would quantize, and at 16 bits the adapted ones. A layer's 16-bit type is kept.

    Args:
        model: the base model as it is stored, without an adapter.
        adapted: paths of the adapted layers.
        bits: 4, 8 or 16 (dense).
    """
    modules = [(path, module) for path, module in model.named_modules() if module.get("weight") is not None]
    dense_base = not any(_is_quantized(module) for _, module in modules)
    other = _float_dtype(model)
    forms: dict[str, Form] = {}
    for path, module in modules:
        if _is_quantized(module):
            dtype = module.scales.dtype if mx.issubdtype(module.scales.dtype, mx.floating) else other
            if bits == DENSE:
                forms[path] = Form(dtype)
            elif path in adapted:
                forms[path] = _grouped(module, bits, module.group_size, dtype)
        elif dense_base and bits != DENSE and (width := _wanted_bits(model, path, module, bits)):
            form = _grouped(module, width, _GROUPS[0], module.weight.dtype)
            if form.bits is not None or path in adapted:
                forms[path] = form
        elif path in adapted:
            forms[path] = Form(module.weight.dtype)
    return forms


def _is_quantized(module: Any) -> bool:
    return module.get("scales") is not None


def _count(module: Any) -> int:
    """How many weights a dense or quantized layer has."""
    size = int(module.weight.size)
    return size * 32 // int(module.bits) if _is_quantized(module) else size


def _float_dtype(model: nn.Module) -> Any:
    """The type of what is not quantized, such as the norms."""
    scales = {f"{path}.{key}" for path, m in model.named_modules() if _is_quantized(m) for key in _QUANTIZED}
    kept = [v.dtype for name, v in tree_flatten(model.parameters()) if name not in scales]
    return next((dtype for dtype in kept if mx.issubdtype(dtype, mx.floating)), mx.bfloat16)


def _grouped(module: Any, bits: int, wanted: int, dtype: Any) -> Form:
    """``bits`` in groups that divide the rows, of the wanted size if affine quantization knows it; else dense."""
    width = _count(module) // math.prod(module.weight.shape[:-1])
    sizes = (wanted, *_GROUPS) if wanted in (32, 64, 128) else _GROUPS
    group = next((size for size in sizes if width % size == 0), None)
    return Form(dtype) if group is None else Form(dtype, bits, group)


def _wanted_bits(model: Any, path: str, module: Any, bits: int) -> int:
    """The width at which a dense layer is to be stored, as its architecture has it in mlx-lm; 0: leave it dense."""
    if not hasattr(module, "to_quantized"):
        return 0
    predicate = getattr(model, "quant_predicate", None)
    verdict = True if predicate is None else predicate(path, module)
    if isinstance(verdict, dict):
        return 8 if verdict["bits"] > bits else bits
    return bits if verdict else 0


def quantize(weight: mx.array, form: Form) -> dict[str, mx.array]:
    """Affine quantization of a float32 weight (..., in), of one block of rows after another.

    Scales and biases are rounded to the stored type first and the codes chosen for the rounded ones: with
    bfloat16 and 8 bits that takes a third off the error of ``mx.quantize``.

    A weight that was on a grid of this width is put on a new one all the same. Its old grid would be nearer, but
    every small change would round back to the old code: a trained adapter would vanish (docs/lab-notes.md).
    """
    rows = weight.reshape(-1, weight.shape[-1])
    step = max(1, _BLOCK // rows.shape[-1])
    parts = []
    for start in range(0, rows.shape[0], step):
        parts.append(_quantize_rows(rows[start : start + step], form))
        mx.eval(parts[-1])
    lead = weight.shape[:-1]
    return {key: mx.concatenate([p[key] for p in parts]).reshape(*lead, -1) for key in parts[0]}


def _quantize_rows(rows: mx.array, form: Form) -> dict[str, mx.array]:
    """``weight`` (R, in·bits/32) uint32, ``scales`` and ``biases`` (R, in/group) for rows (R, in)."""
    assert form.bits is not None
    _, scales, biases = mx.quantize(rows, group_size=form.group_size, bits=form.bits)
    groups = rows.reshape(rows.shape[0], -1, form.group_size)  # (R, in/group, group)
    scales, biases = scales.astype(form.dtype), biases.astype(form.dtype)
    scale, bias = (part.astype(mx.float32)[..., None] for part in (scales, biases))
    codes = mx.clip(mx.round((groups - bias) / mx.where(scale == 0, 1.0, scale)), 0, 2**form.bits - 1)
    per = 32 // form.bits
    shifts = mx.arange(per, dtype=mx.uint32) * form.bits
    packed = (codes.astype(mx.uint32).reshape(rows.shape[0], -1, per) << shifts).sum(axis=-1).astype(mx.uint32)
    return {"weight": packed, "scales": scales, "biases": biases}


def fused_bytes(base: Path, adapter: Path, bits: int) -> int:
    """Bytes of the weights of a fused model, from the headers alone."""
    model, _ = mlx_lm.utils.load_model(base, lazy=True)
    names = (entry.name for entry in read_headers(adapter / adapters.WEIGHTS))
    forms = plan_layers(model, {name.rpartition(".")[0] for name in names}, bits)
    modules = dict(model.named_modules())
    total = sum(form.size(_count(modules[path])) for path, form in forms.items())
    for name, value in tree_flatten(model.parameters()):
        path, _, leaf = name.rpartition(".")
        if path not in forms or leaf not in _QUANTIZED:
            total += value.nbytes
    return total


def write_fused(base: Path, adapter: Path, bits: int, folder: Path) -> None:
    """Write base and adapter as one model into an existing folder, with tokenizer, template and generation config.

    At most ``SHARD_BYTES`` and one layer's float32 arrays are held in memory besides the stored base and the adapter.

    Raises:
        PersonaError: the adapter was made for another model, or is truncated.
        OSError, RuntimeError: the disk is full or not writable.
    """
    model, config = mlx_lm.utils.load_model(base, lazy=True)
    adapters.load_adapter(model, adapter, identity(base))
    layers = dict(adapters.adapter_layers(model))
    adapters.detach(model)
    forms = plan_layers(model, layers, bits)
    modules = dict(model.named_modules())
    shards = _Shards(folder)
    for name, value in tree_flatten(model.parameters()):
        path, _, leaf = name.rpartition(".")
        if path not in forms or leaf not in _QUANTIZED:
            shards.add(name, value)
        elif leaf == "weight":
            module, form = modules[path], forms[path]
            weight = layers[path].merged_weight() if path in layers else dense_weight(module)
            new = {"weight": weight.astype(form.dtype)} if form.bits is None else quantize(weight, form)
            for key, array in new.items():
                shards.add(f"{path}.{key}", array)
    shards.close()
    _write_config(config, model, forms, bits, folder)
    _copy_companions(base, folder)


class _Shards:
    """Tensors -> ``model.safetensors``, or numbered files of at most ``SHARD_BYTES`` with an index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, mx.array] = {}
        self._files: list[list[str]] = []
        self._held_bytes = self._total = 0

    def add(self, name: str, value: mx.array) -> None:
        """Compute a tensor now and write it sooner or later."""
        mx.eval(value)
        if self._held and self._held_bytes + value.nbytes > SHARD_BYTES:
            self._flush()
        self._held[name] = value
        self._held_bytes += value.nbytes
        self._total += value.nbytes

    def _flush(self) -> None:
        self._files.append(list(self._held))
        mx.save_safetensors(str(self._part(len(self._files))), self._held, metadata={"format": "mlx"})
        self._held, self._held_bytes = {}, 0
        mx.clear_cache()

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number}.safetensors"

    def close(self) -> None:
        """Write the rest and give the files their names, now that their number is known."""
        self._flush()
        count = len(self._files)
        if count == 1:
            self._part(1).rename(self._folder / "model.safetensors")
            return
        where = {}
        for number, names in enumerate(self._files, 1):
            file = f"model-{number:05d}-of-{count:05d}.safetensors"
            self._part(number).rename(self._folder / file)
            where.update(dict.fromkeys(names, file))
        index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(where.items()))}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _write_config(config: dict[str, Any], model: Any, forms: dict[str, Form], bits: int, folder: Path) -> None:
    """``config.json``: the base's, with the quantization of each layer that is not at the common width."""
    for holder in (config, config.get("text_config") or {}):
        holder.pop("quantization", None)
        holder.pop("quantization_config", None)
    layers: dict[str, dict[str, Any]] = {}
    for path, module in model.named_modules():
        if form := forms.get(path):
            if form.bits is not None:
                layers[path] = {"group_size": form.group_size, "bits": form.bits, "mode": "affine"}
        elif _is_quantized(module):
            layers[path] = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
            if module.get("global_scale") is not None:
                layers[path]["global_scale"] = True
    if layers:
        groups = Counter(p["group_size"] for p in layers.values() if p["bits"] == bits and p["mode"] == "affine")
        group = groups.most_common(1)[0][0] if groups else _GROUPS[0]
        common = {"group_size": group, "bits": bits, "mode": "affine"}
        config["quantization"] = {**common, **{path: p for path, p in layers.items() if p != common}}
    # As mlx-lm's own `save` decides it: without its tower, a vision config only misleads.
    vision = "vision_tower" in getattr(model, "model", {})
    mlx_lm.utils.save_config(config, folder / "config.json", keep_vision_config=vision)


def _copy_companions(base: Path, folder: Path) -> None:
    """Tokenizer, chat templates, generation config, licence: whatever belongs to the model but its weights."""
    templates = "additional_chat_templates/*.jinja"
    for file in sorted({file for pattern in (*_COMPANIONS, templates) for file in base.glob(pattern)}):
        if file.is_file() and file.name not in _OWN:
            target = folder / file.relative_to(base)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
