"""The life of an adapter: attach, save, load, strength, collapse.

A saved adapter is a folder with ``adapters.safetensors`` and ``adapter_config.json`` that stock
mlx-lm opens. Loading checks every tensor, every shape and the identity of the base model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_persona.errors import PersonaError
from mlx_persona.models.dora import DoRALinear
from mlx_persona.models.lora import AdapterLayer, LoRALinear
from mlx_persona.models.lora_experts import EXPERTS, LoRAExperts, no_dora, no_dropout
from mlx_persona.runs import ADAPTER_FILES

CONFIG, WEIGHTS = ADAPTER_FILES
# A mixture of experts is steered by these; adapting them destabilises it, and stock mlx-lm does.
ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
# How many norms are computed at once: MLX starts all of them together, and on a 16-bit base each
# holds a float32 copy of its weight meanwhile.
_AT_ONCE = 8


@dataclass(frozen=True)
class AdapterSpec:
    """What kind of adapter, where, and how strong: ``scale`` is alpha / rank."""

    rank: int
    scale: float
    dora: bool
    num_layers: int = -1
    dropout: float = 0.0
    keys: tuple[str, ...] = ()
    base: dict[str, str] = field(default_factory=dict)
    system: str = ""

    def to_json(self) -> dict[str, Any]:
        """``adapter_config.json`` as stock mlx-lm reads it, with our keys beside its own."""
        return {
            "fine_tune_type": "dora" if self.dora else "lora",
            "num_layers": self.num_layers,
            "lora_parameters": {
                "rank": self.rank,
                "scale": self.scale,
                "dropout": self.dropout,
                "keys": list(self.keys),
            },
            "alpha": self.rank * self.scale,
            "base_model": self.base,
            "system": self.system,
        }

    @classmethod
    def from_json(cls, value: Any, where: Path) -> AdapterSpec:
        """Parse ``adapter_config.json``; raises PersonaError naming the file."""
        try:
            kind, inner = value["fine_tune_type"], value["lora_parameters"]
            if kind not in ("lora", "dora"):
                raise PersonaError(f"{where}: fine_tune_type must be lora or dora, got {kind!r}")
            return cls(
                rank=int(inner["rank"]),
                scale=float(inner["scale"]),
                dora=kind == "dora",
                num_layers=int(value["num_layers"]),
                dropout=float(inner.get("dropout", 0.0)),
                keys=tuple(inner.get("keys") or ()),
                base=dict(value.get("base_model") or {}),
                system=str(value.get("system") or ""),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PersonaError(f"{where} is not an adapter's configuration: {error!r}") from error


def target_keys(model: nn.Module) -> tuple[str, ...]:
    """Names, within a block, of all linear layers and experts, adapted or not, but the routers of a mixture."""
    found: dict[str, None] = {}
    for block in model.layers:
        inner = _bases(block)
        for name, module in block.named_modules():
            if _adaptable(module) and id(module) not in inner and ROUTERS.isdisjoint(name.split(".")):
                found[name] = None
    return tuple(found)


def _adaptable(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.QuantizedLinear, AdapterLayer, *EXPERTS))


def _bases(model: nn.Module) -> set[int]:
    """``id`` of every layer that lies below an adapter layer."""
    return {id(module.linear) for _, module in model.named_modules() if isinstance(module, AdapterLayer)}


def adapter_layers(model: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """``(path, layer)`` of every outermost adapter layer."""
    inner = _bases(model)
    for name, module in model.named_modules():
        if isinstance(module, AdapterLayer) and id(module) not in inner:
            yield name, module


def _is_experts(module: nn.Module) -> bool:
    return isinstance(module, (LoRAExperts, *EXPERTS))


def attach(model: nn.Module, spec: AdapterSpec, seed: int = 0) -> AdapterSpec:
    """Put a new adapter on a model, in place; on an adapted model it is stacked on what is there.

    All that was there is frozen and drops nothing any more: only the new adapter trains. The mode
    (training or eval) stays as it is.

    Returns:
        The spec with ``keys`` filled in.

    Raises:
        PersonaError: more blocks asked for than there are, nothing to adapt, or DoRA or dropout on experts; the
            model stays as it was.
    """
    blocks = model.layers
    if spec.num_layers > len(blocks):
        raise PersonaError(f"num_layers must be <= {len(blocks)} for this model, got {spec.num_layers}")
    if spec.num_layers == 0:
        raise PersonaError("num_layers must be -1 or >= 1, got 0")
    keys = spec.keys or target_keys(model)
    first = 0 if spec.num_layers < 0 else len(blocks) - spec.num_layers
    found = {
        index: [(name, module) for name, module in blocks[index].named_modules() if name in keys and _adaptable(module)]
        for index in range(first, len(blocks))
    }
    modules = [module for inside in found.values() for _, module in inside]
    if not modules:
        raise PersonaError(f"none of the layers to adapt is in this model: {', '.join(keys) or 'no linear layers'}")
    if any(_is_experts(module) for module in modules):
        if spec.dora:
            raise no_dora()
        if spec.dropout > 0:
            raise no_dropout()
    model.freeze()
    for _, below in adapter_layers(model):
        below.set_dropout(0.0)
    for index, inside in found.items():
        new = []
        for name, module in inside:
            kind = LoRAExperts if _is_experts(module) else DoRALinear if spec.dora else LoRALinear
            layer = kind(module, spec.rank, spec.scale, spec.dropout, f"layers.{index}.{name}", seed)
            layer.train(module.training)  # a module is born in training mode, with its dropout on
            mx.eval(layer.state)  # one layer's dense weight at a time
            new.append((name, layer))
        blocks[index].update_modules(tree_unflatten(new))
    return replace(spec, keys=keys)


def detach(model: nn.Module) -> None:
    """Take every adapter off again, in place."""
    layers = [(name, layer.innermost) for name, layer in adapter_layers(model)]
    model.update_modules(tree_unflatten(layers))


def refresh(model: nn.Module) -> None:
    """Recompute the cached norms of DoRA: after an update, a load, a resume."""
    layers = [module for _, module in model.named_modules() if isinstance(module, DoRALinear)]
    for start in range(0, len(layers), _AT_ONCE):
        group = layers[start : start + _AT_ONCE]
        for layer in group:
            layer.refresh()
        mx.eval([layer._norm for layer in group])


def set_strength(model: nn.Module, strength: float) -> None:
    """W -> W + t (W' - W) in every adapted layer: 0 is what the adapter was put on, 1 the adapter, for DoRA too."""
    for _, layer in adapter_layers(model):
        layer._strength = None if strength == 1.0 else mx.array(strength, dtype=mx.float32)


@contextmanager
def bypassed(model: nn.Module) -> Iterator[None]:
    """Meanwhile the model is its base, without any adapter: exactly, DoRA's magnitudes included, at the base's cost.

    For a compiled function it counts what holds while the function is traced.
    """
    layers = [module for module in model.modules() if isinstance(module, AdapterLayer)]
    for layer in layers:
        layer.bypassed = True
    try:
        yield
    finally:
        for layer in layers:
            layer.bypassed = False


def set_row_keys(model: nn.Module, rows: mx.array) -> None:
    """Give every adapter layer the batch's row keys for dropout: uint32 (B, 2), or one per token (B, T, 2)."""
    for _, layer in adapter_layers(model):
        layer._rows = rows


def trainable(model: nn.Module) -> dict[str, mx.array]:
    """The tensors that training changes, by their saved names."""
    return dict(tree_flatten(model.trainable_parameters()))


def write_adapter(folder: Path, weights: dict[str, mx.array], spec: AdapterSpec) -> None:
    """Write an adapter's two files into an existing folder."""
    mx.save_safetensors(str(folder / WEIGHTS), weights, metadata={"format": "mlx"})
    (folder / CONFIG).write_text(json.dumps(spec.to_json(), indent=2) + "\n", encoding="utf-8")


def read_spec(folder: Path) -> AdapterSpec:
    """The configuration of a saved adapter; raises PersonaError."""
    path = folder / CONFIG
    if not path.is_file():
        raise PersonaError(f"no adapter in {folder}: {CONFIG} is missing")
    try:
        return AdapterSpec.from_json(json.loads(path.read_text(encoding="utf-8")), path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PersonaError(f"{path} is not JSON: {error}") from error


def read_weights(path: Path) -> dict[str, mx.array]:
    """All tensors of a safetensors file, read now.

    Raises:
        PersonaError: missing, truncated or corrupt.
    """
    if not path.is_file():
        raise PersonaError(f"no such file: {path}")
    try:
        weights: dict[str, mx.array] = mx.load(str(path), format="safetensors")  # type: ignore[assignment]
        mx.eval(weights)
    except (RuntimeError, ValueError) as error:
        raise PersonaError(f"{path} is truncated or corrupt: {error}") from error
    return weights


def load_weights(model: nn.Module, weights: dict[str, mx.array], where: Path) -> None:
    """Put saved tensors into the attached adapter; every tensor and shape must fit.

    Raises:
        PersonaError: missing or unknown tensors, or another shape.
    """
    expected = {k: v.shape for k, v in trainable(model).items()}
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        what = f"missing {missing[0]}" if missing else f"unexpected {unknown[0]}"
        total = len(missing) + len(unknown)
        raise PersonaError(f"{where} does not fit this model: {what} ({total} tensors differ)", _OTHER_BASE)
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise PersonaError(
                f"{where} does not fit this model: {name} must have shape {shape}, got {weights[name].shape}",
                _OTHER_BASE,
            )
    # Trained in float32, whatever they were saved in.
    model.load_weights([(name, value.astype(mx.float32)) for name, value in weights.items()], strict=False)
    refresh(model)


_OTHER_BASE = "name the base model that the adapter was made for with --model"


def check_base(folder: Path, identity: dict[str, str] | None) -> AdapterSpec:
    """The spec of a saved adapter that is for this base model; None knows no model and checks nothing.

    Raises:
        PersonaError: no adapter there, or one for another model.
    """
    spec = read_spec(folder)
    made_for = spec.base
    if identity and made_for and made_for.get("sha256") != identity.get("sha256"):
        raise PersonaError(
            f"{folder} was made for another model: {made_for.get('name')}, not {identity.get('name')}",
            f"use --model {made_for.get('name')}",
        )
    return spec


def load_adapter(model: nn.Module, folder: Path, identity: dict[str, str] | None) -> AdapterSpec:
    """Attach a saved adapter, frozen, after checking that it belongs to this base model.

    Args:
        model: the base model, changed in place.
        folder: the adapter's folder.
        identity: the base model's identity (``models.load.identity``); None skips that check.

    Returns:
        The spec it was saved with, ``keys`` filled in.

    Raises:
        PersonaError: no adapter there, made for another model, truncated, or of other shapes.
    """
    spec = check_base(folder, identity)
    weights = read_weights(folder / WEIGHTS)
    # Frozen, it drops nothing; stock mlx-lm trains experts with dropout, and such an adapter opens here too.
    keys = attach(model, replace(spec, dropout=0.0)).keys
    load_weights(model, weights, folder)
    model.freeze()
    return replace(spec, keys=keys)


def collapse(model: nn.Module, spec: AdapterSpec) -> tuple[dict[str, mx.array], AdapterSpec]:
    """A stack of two adapters as one adapter of the summed rank, exactly.

    LoRA on LoRA concatenates. Anything with DoRA becomes DoRA: the rows of the inner W' are
    d ∘ (W + s₁B₁A₁) with d = m₁ / ‖W + s₁B₁A₁‖, so a further s₂B₂A₂ is s₂(B₂/d)A₂ inside the
    brackets, and the magnitude is the outer layer's (or, for plain LoRA, the norm of the sum).

    Args:
        model: carries the stack.
        spec: the outer adapter's.

    Returns:
        Tensors by their saved names, and the spec of the one adapter.
    """
    weights: dict[str, mx.array] = {}
    rank, dora = spec.rank, spec.dora
    for name, outer in adapter_layers(model):
        inner = outer.linear
        if not isinstance(inner, AdapterLayer):
            part = {"lora_a": outer.lora_a, "lora_b": outer.lora_b}
            if isinstance(outer, DoRALinear):
                part["m"] = outer.m
        else:
            rank = spec.rank + int(inner.lora_a.shape[1])  # of experts too: (E, r, in)
            dora = spec.dora or isinstance(inner, DoRALinear)
            part = _collapse_layer(outer, inner, dora)
        weights.update({f"{name}.{key}": value for key, value in part.items()})
    mx.eval(weights)
    return weights, replace(spec, rank=rank, dora=dora)


def _collapse_layer(outer: AdapterLayer, inner: AdapterLayer, dora: bool) -> dict[str, mx.array]:
    """One layer's stack at the outer layer's scale."""
    inner_b = inner.lora_b * (inner.scale / outer.scale)
    outer_b, sign = outer.lora_b, mx.array(1.0)
    if isinstance(inner, DoRALinear):
        # A row of zeros has m = 0; there any factor will do, since its bracket holds the outer part alone.
        outer_b = outer_b * mx.where(inner.m == 0, 1.0, inner._norm / inner.m)[None, :]
        sign = mx.where(inner.m < 0, -1.0, 1.0)  # a negative d turns the bracket's row round
    part = {
        "lora_a": mx.concatenate([inner.lora_a, outer.lora_a], axis=1),
        "lora_b": mx.concatenate([inner_b, outer_b], axis=2 if isinstance(outer, LoRAExperts) else 0),
    }
    if dora and isinstance(outer, LoRALinear):
        part["m"] = sign * (outer.m if isinstance(outer, DoRALinear) else mx.sqrt(outer.row_square_norms()))
    return part


def describe(spec: AdapterSpec) -> str:
    """One line for people: kind, rank, alpha and the effective scale."""
    kind = "DoRA" if spec.dora else "LoRA"
    where = "all blocks" if spec.num_layers < 0 else f"the last {spec.num_layers} blocks"
    return f"{kind}, rank {spec.rank}, alpha {spec.rank * spec.scale:g}, scale {spec.scale:g}, {where}"
