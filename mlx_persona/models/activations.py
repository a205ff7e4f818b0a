"""SwiGLU for the CPU, where MLX's sigmoid takes 40 times as long as a product (docs/lab-notes.md).

A third of a small model's forward pass there is this one function. Here the sigmoid is a rational
function, which compilers vectorise, with a gradient of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models import activations

# sigmoid(x) = 1/2 + x P(x²) / Q(x²) for |x| <= 17, fitted to float64 by reweighted least squares.
# The fit is within 6e-9; in float32, 2e-7 of rounding is left (MLX's own: 8e-8).
_LIMIT = 17.0
_P = (2.49999986e-01, 8.37887803e-03, 5.50909059e-05, 8.25060703e-08, 1.37687801e-11)
_Q = (1.0, 1.16848791e-01, 1.62444564e-03, 5.21201314e-06, 3.15375450e-09)


def sigmoid(x: mx.array) -> mx.array:
    """1 / (1 + exp(-x)) in float32, to 2e-7: any shape."""
    x = mx.clip(x, -_LIMIT, _LIMIT)
    square = x * x
    return 0.5 + x * _horner(_P, square) / _horner(_Q, square)


def _horner(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    out = x * coefficients[-1] + coefficients[-2]
    for c in coefficients[-3::-1]:
        out = out * x + c
    return out


@partial(mx.compile, shapeless=True)
def _forward(gate: mx.array, x: mx.array) -> mx.array:
    return gate * sigmoid(gate) * x


@partial(mx.compile, shapeless=True)
def _backward(gate: mx.array, x: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    s = sigmoid(gate)
    silu = gate * s
    return cotangent * x * (s + silu * (1 - s)), cotangent * silu


@mx.custom_function
def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return _forward(gate, x)


@_swiglu.vjp
def _swiglu_vjp(primals: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    return _backward(*primals, cotangent)


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) ∘ x, as mlx-lm's function of this name: (..., D), (..., D) -> (..., D)."""
    if gate.dtype != mx.float32 or x.dtype != mx.float32:
        return activations.swiglu(gate, x)
    return cast(mx.array, _swiglu(gate, x))


def speed_up(model: Any) -> None:
    """Let the model's classes call :func:`swiglu` where they call mlx-lm's. For the CPU only."""
    _rebind(model, activations.swiglu, swiglu)


@contextmanager
def as_in_mlx_lm(model: Any) -> Iterator[None]:
    """Meanwhile the model's classes are as mlx-lm has them, to compare with."""
    changed = _rebind(model, swiglu, activations.swiglu)
    try:
        yield
    finally:
        for module in changed:
            module.swiglu = swiglu


def _rebind(model: Any, old: Any, new: Any) -> list[Any]:
    """The modules of Python where the name was bound to another function."""
    places: list[Any] = [sys.modules[name] for name in {type(m).__module__ for m in model.modules()}]
    changed = [place for place in places if getattr(place, "swiglu", None) is old]
    for place in changed:
        place.swiglu = new
    return changed
