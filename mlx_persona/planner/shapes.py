"""The sizes of a model from its ``config.json`` alone: mlx-lm's own classes are built, and nothing is computed.

MLX arrays are lazy, so a 7 B model that is never evaluated takes no memory, and any architecture that
mlx-lm knows can be walked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.nn as nn
import mlx_lm.utils
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import SwitchLinear

from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.token_chunks import GATED

HALF, FULL = 2, 4  # bytes of a 16-bit and of a 32-bit number
# What leads back to the residual stream, by the names that mlx-lm's models use.
_CLOSERS = frozenset({"o_proj", "out_proj", "down_proj", "dense", "wo", "w2", "fc2", "c_proj", "dense_4h_to_h"})

# How configs name the number of experts that a token goes through.
_ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "moe_topk")


@dataclass(frozen=True)
class Linear:
    """One linear layer: widths, bits (0: not quantized) and group size as stored, and whether it gets an adapter.

    ``experts`` of them are held, and each token goes through ``active``.
    """

    name: str
    inputs: int
    outputs: int
    bits: int = 0
    group: int = 0
    adaptable: bool = True
    experts: int = 1
    active: int = 1

    def adapted(self, keys: tuple[str, ...]) -> bool:
        """Whether an adapter on the layers of these names (empty: on all that get one) is on it."""
        return self.adaptable and (not keys or self.name in keys)

    @property
    def closing(self) -> bool:
        """Whether its output is added to the residual stream."""
        return self.name.rsplit(".", 1)[-1] in _CLOSERS

    @property
    def gated(self) -> bool:
        """Whether it is a part of a gated MLP."""
        return self.name.rsplit(".", 1)[-1] in GATED

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return self.inputs * self.outputs * self.experts

    def stored(self, dense: int = HALF) -> int:
        """Bytes as the model is stored, scales and biases included; ``dense`` per weight that is not quantized."""
        if not self.bits:
            return self.weights * dense
        return self.weights * self.bits // 8 + 2 * HALF * (self.weights // self.group)


@dataclass(frozen=True)
class Block:
    """One transformer block: its linear layers, in order, and how many other parameters it has."""

    linears: tuple[Linear, ...]
    others: int

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(linear.weights for linear in self.linears) + self.others


@dataclass(frozen=True)
class Shapes:
    """A model: blocks, the width between them, vocabulary, attention heads, and what lies outside the blocks.

    ``outside`` are the embedding and, where it is not tied, the head, as linear layers.
    ``expected`` says that the blocks are attention and a gated MLP; for others, memory is less certain.
    """

    kind: str
    blocks: tuple[Block, ...]
    width: int
    vocabulary: int
    heads: int
    outside: tuple[Linear, ...]
    others: int
    expected: bool

    @property
    def parameters(self) -> int:
        """All parameters."""
        return (
            sum(block.parameters for block in self.blocks)
            + sum(linear.weights for linear in self.outside)
            + self.others
        )

    @property
    def quantized(self) -> bool:
        """Whether it is stored quantized."""
        return any(linear.bits for block in self.blocks for linear in block.linears)

    def stored(self, dense: int = HALF) -> int:
        """Bytes as it is stored (in files, and in memory on a GPU)."""
        linears = [*self.outside, *(linear for block in self.blocks for linear in block.linears)]
        rest = self.others + sum(block.others for block in self.blocks)
        return sum(linear.stored(dense) for linear in linears) + rest * dense

    def adapted(self, num_layers: int, keys: tuple[str, ...] = ()) -> Iterator[tuple[int, Linear]]:
        """``(block number, layer)`` of every layer that an adapter on the last ``num_layers`` blocks (-1: all) gets."""
        first = 0 if num_layers < 0 else max(0, len(self.blocks) - num_layers)
        for number in range(first, len(self.blocks)):
            for linear in self.blocks[number].linears:
                if linear.adapted(keys):
                    yield number, linear


def read_config(path: Path) -> dict[str, Any]:
    """A model's ``config.json``, from its folder; raises PersonaError."""
    file = path / "config.json"
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PersonaError(f"{path} is not a model: it has no config.json") from error
    except ValueError as error:
        raise PersonaError(f"{file} is truncated or corrupt", "get the model again") from error
    if not isinstance(value, dict):
        raise PersonaError(f"{file} is truncated or corrupt", "get the model again")
    return value


def blueprint(config: dict[str, Any]) -> Any:
    """The model that a config describes, never to be evaluated.

    Raises:
        PersonaError: an architecture that mlx-lm does not know, or fields that do not fit it.
    """
    try:
        kind, arguments = mlx_lm.utils._get_classes(config)
        return kind(arguments.from_dict(config))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise PersonaError(f"mlx-lm cannot build this architecture: {reason}") from error


def shapes(config: dict[str, Any]) -> Shapes:
    """The sizes of the model that a config describes.

    Raises:
        PersonaError: as :func:`blueprint`.
    """
    model = blueprint(config)
    try:
        layers = list(model.layers)
    except AttributeError as error:
        raise PersonaError("this architecture has no list of blocks") from error
    widths = _Widths(config)
    keys = set(adapters.target_keys(model))
    inside = {id(module) for block in layers for module in block.modules()}
    paths = {id(module): name for name, module in model.named_modules()}
    blocks = tuple(_block(block, paths[id(block)], keys, widths, config) for block in layers)
    outside = tuple(
        _linear(name, name, module, widths, False, config)
        for name, module in model.named_modules()
        if id(module) not in inside and isinstance(module, nn.Linear | nn.Embedding)
    )
    linears = [linear for block in blocks for linear in block.linears]
    counted = sum(block.parameters for block in blocks) + sum(linear.weights for linear in outside)
    total = sum(int(value.size) for _, value in tree_flatten(model.parameters()))
    text = {**config, **(config.get("text_config") or {})}
    width = int(text.get("hidden_size") or outside[0].inputs)
    names = {linear.name.rsplit(".", 1)[-1] for linear in linears}
    return Shapes(
        kind=str(config.get("model_type", "unknown")),
        blocks=blocks,
        width=width,
        vocabulary=max((linear.outputs for linear in outside), default=int(text.get("vocab_size", 0))),
        heads=int(text.get("num_attention_heads") or 0),
        outside=outside,
        others=total - counted,
        expected={"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} <= names,
    )


class _Widths:
    """How a config says that layers are stored: ``(bits, group size)`` by path."""

    def __init__(self, config: dict[str, Any]) -> None:
        found = config.get("quantization") or config.get("quantization_config") or {}
        self._by_path = {name: value for name, value in found.items() if isinstance(value, dict | bool)}
        self._bits, self._group = int(found.get("bits") or 0), int(found.get("group_size") or 64)

    def of(self, path: str, module: Any) -> tuple[int, int]:
        """Bits and group size of the layer at ``path``; bits are 0 where it is not quantized."""
        own = self._by_path.get(path)
        width = int(module.weight.shape[-1])
        if not self._bits or own is False or not hasattr(module, "to_quantized"):
            return 0, 0
        if isinstance(own, dict):
            return int(own["bits"]), int(own["group_size"])
        return (self._bits, self._group) if width % self._group == 0 else (0, 0)


def _block(block: Any, path: str, keys: set[str], widths: _Widths, config: dict[str, Any]) -> Block:
    linears = tuple(
        _linear(name, f"{path}.{name}", module, widths, name in keys, config)
        for name, module in sorted(block.named_modules(), key=lambda found: str(found[0]))
        if isinstance(module, nn.Linear | SwitchLinear)
    )
    total = sum(int(value.size) for _, value in tree_flatten(block.parameters()))
    return Block(linears, total - sum(linear.weights for linear in linears))


def _linear(name: str, path: str, module: Any, widths: _Widths, adaptable: bool, config: dict[str, Any]) -> Linear:
    bits, group = widths.of(path, module)
    shape = [int(n) for n in module.weight.shape]
    if isinstance(module, SwitchLinear):
        text = {**config, **(config.get("text_config") or {})}
        active = next((int(text[name]) for name in _ACTIVE if text.get(name)), 1)
        return Linear(name, shape[2], shape[1], bits, group, adaptable, shape[0], active)
    return Linear(name, shape[-1], shape[0], bits, group, adaptable)
