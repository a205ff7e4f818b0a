"""LoRA on the experts of a mixture: y = W_e x + s B_e A_e x, with an A and a B for every expert e.

Tensors are named and shaped as stock mlx-lm's ``LoRASwitchLinear``: ``lora_a`` (E, r, in), ``lora_b`` (E, out, r). Each
token goes through the experts that the router chose for it, and so do gradients: an expert that no token of a batch
goes to learns nothing from it.
"""

from __future__ import annotations

import math
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from mlx_persona.errors import PersonaError
from mlx_persona.models.lora import AdapterLayer

EXPERTS = (SwitchLinear, QuantizedSwitchLinear)


def no_dora() -> PersonaError:
    """Why the experts of a mixture get no DoRA."""
    return PersonaError(
        "DoRA cannot be trained on the experts of a mixture: stock mlx-lm has it for plain linear layers only, and "
        "could not open the adapter",
        "train a LoRA adapter instead: --lora",
    )


def no_dropout() -> PersonaError:
    """Why the experts of a mixture drop nothing."""
    return PersonaError(
        "dropout is not possible on the experts of a mixture: they get tokens sorted by expert, so that a row's mask "
        "could not be kept from depending on the rest of its batch",
        "leave --dropout at 0",
    )


def _plus_low_rank(
    x: mx.array, y: mx.array, a: mx.array, b: mx.array, scale: float, indices: mx.array, in_order: bool
) -> mx.array:
    """y + s B_e A_e x in float32, with gradients made before anything flows on to earlier layers (as in ``lora.py``).

    Args:
        x: the adapter's input (..., 1, in), broadcast against ``indices``.
        y: the experts' output, in float32 (..., 1, out).
        a, b: lora_a (E, r, in), lora_b (E, out, r).
        scale: s.
        indices: which expert each goes to (...).
        in_order: they are sorted, and products may go expert by expert.
    """

    def low(x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        for weight in (a, b):
            x = mx.gather_mm(x, weight.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=in_order)
        return scale * x

    @mx.custom_function
    def forward(x: mx.array, y: mx.array, a: mx.array, b: mx.array) -> mx.array:
        return y + low(x, a, b)

    @forward.vjp
    def backward(primals: Any, push: mx.array, _: mx.array) -> tuple[mx.array, ...]:
        x, _, a, b = primals
        by_x, by_a, by_b = mx.vjp(low, [x, a, b], [push])[1]
        by_x, push = mx.depends([by_x, push], [by_a, by_b])
        return by_x, push, by_a, by_b

    return cast(mx.array, forward(x, y, a, b))


class LoRAExperts(AdapterLayer):
    """The same projection of all experts of a mixture, frozen, each with a trainable low-rank update."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float, path: str, seed: int) -> None:
        super().__init__(base, scale, dropout, path)
        bound = 1 / math.sqrt(base.input_dims)
        shape = (base.num_experts, rank, base.input_dims)
        self.lora_a = mx.random.uniform(-bound, bound, shape, key=self.key(seed))
        self.lora_b = mx.zeros((base.num_experts, base.output_dims, rank))

    @property
    def num_experts(self) -> int:
        """E."""
        return int(self.lora_a.shape[0])

    @property
    def input_dims(self) -> int:
        """Width of the input."""
        return int(self.lora_a.shape[2])

    @property
    def output_dims(self) -> int:
        """Width of the output."""
        return int(self.lora_b.shape[1])

    def set_dropout(self, p: float) -> None:
        """Raises PersonaError for anything but 0."""
        if p > 0:
            raise no_dropout()
        super().set_dropout(p)

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """The chosen experts' output, bias included: (..., 1, in), (...) -> (..., 1, out)."""
        y: mx.array = self.linear(x, indices, sorted_indices=sorted_indices)
        if self.bypassed:
            return y
        wide = (x.astype(mx.float32), y.astype(mx.float32))
        out = _plus_low_rank(*wide, self.lora_a, self.lora_b, self.scale, indices, sorted_indices).astype(y.dtype)
        return out if self._strength is None else y + self._strength.astype(y.dtype) * (out - y)

    def merge_into(self, w: mx.array) -> mx.array:
        """W_e + s B_e A_e for dense W (E, out, in)."""
        return w + self.scale * (self.lora_b @ self.lora_a)
