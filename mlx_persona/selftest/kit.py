"""What the checks share: how far two forms may differ, small random models, rows to train on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import llama, qwen2

from mlx_persona.backend import on_cpu
from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.load import LoadedModel, for_cpu, make_ready
from mlx_persona.tokens.batches import Row, make_row

GROUP = 64
WORDS = 512
# Widths that the fast kernels of a GPU are made for: heads of 64, everything else a multiple of 64.
_SHAPE = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": WORDS,
    "rope_theta": 10000.0,
}
_KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (llama, {"tie_word_embeddings": True}),
    "qwen2": (qwen2, {"tie_word_embeddings": False}),  # its q, k and v have biases
}
# Tokens that end a reply: enough of them that replies end at different lengths.
ENDS = set(range(3, WORDS, 24))

# How far a layer's result may be from the plain form, as a share of its largest element. One rounding costs
# 2^-9 in bfloat16 and 2^-11 in float16. A layer and its gradient make up to five in a row, a quantized product rounds
# its weights too, and each form does so in its own way: 12 leave room. GPUs multiply float32 in TF32, which rounds as
# float16 does. On the CPU float32 is float32 (2^-24): sums of a thousand products stay under 6e-5, and our exponential
# within 7e-6. A mistake mostly shows as 0.1 or more.
_ROUNDINGS = 12
_UNIT = {mx.bfloat16: 2.0**-9, mx.float16: 2.0**-11, mx.float32: 2.0**-11}
_CPU_LIMIT = 1e-4
# A whole model makes those roundings in every layer of every block, and they add up as squares do: 14 layers give 4.
# What goes through an exponential is allowed as much: a score of 8 is rounded by 4 units, and so is its probability.
DEEP = 4


class Measured(NamedTuple):
    """How far two forms were apart, and how far they may be. Not a number counts as too far."""

    figure: float
    limit: float


def limit(dtype: mx.Dtype, depth: int = 1) -> float:
    """How far results may differ for activations of this type; ``depth`` is 1 for a layer, else ``DEEP``."""
    return depth * (_CPU_LIMIT if on_cpu() and dtype == mx.float32 else _ROUNDINGS * _UNIT[dtype])


def activations() -> tuple[mx.Dtype, ...]:
    """The types that models compute in here."""
    return (mx.float32,) if on_cpu() else (mx.bfloat16, mx.float16)


def dtype_name(dtype: mx.Dtype) -> str:
    """``bfloat16`` for ``mx.bfloat16``."""
    return str(dtype).rpartition(".")[2]


def normal(seed: int, *shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    """Standard normal numbers that depend on the seed alone."""
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def distance(got: Iterable[mx.array], expected: Iterable[mx.array]) -> float:
    """The largest difference in any pair of arrays, as a share of the largest element expected there."""
    worst = []
    for one, other in zip(got, expected, strict=True):
        a, b = (np.array(x.astype(mx.float32), np.float64) for x in (one, other))
        if a.shape != b.shape:
            raise ValueError(f"shape {a.shape} instead of {b.shape}")
        top, apart = np.abs(b).max(), np.abs(a - b).max()
        worst.append(apart / top if top else np.where(apart == 0, 0.0, np.inf))
    return float(np.max(worst))  # unlike Python's max, it lets NaN through


def linear(outputs: int, inputs: int, bits: int | None, dtype: mx.Dtype, seed: int = 1) -> Any:
    """A linear layer with a bias and random weights, quantized where ``bits`` are given."""
    layer: Any = nn.Linear(inputs, outputs)
    layer.weight, layer.bias = normal(seed, outputs, inputs) / inputs**0.5, normal(seed + 1, outputs)
    layer.set_dtype(dtype)
    return layer if bits is None else nn.QuantizedLinear.from_linear(layer, GROUP, bits)


def small_model(kind: str, bits: int, dense: bool = False) -> LoadedModel:
    """A random quantized model of two blocks, made as one that is loaded from disk.

    Args:
        kind: ``llama`` or ``qwen2``.
        bits: of its weights, with bfloat16 scales.
        dense: on the CPU, hold it as dense float32, as models that fit are; else as those that do not.
    """
    module, extra = _KINDS[kind]
    model = module.Model(module.ModelArgs.from_dict({**_SHAPE, **extra, "model_type": kind}))
    weights = []
    for index, (name, value) in enumerate(tree_flatten(model.parameters())):
        drawn = normal(1000 + index, *value.shape)
        if "norm" in name:
            drawn = 1 + 0.1 * drawn
        elif value.ndim == 2:  # an embedding so small that the blocks outweigh it, or a tied head says it again
            drawn = 0.2 * drawn if "embed" in name else 1.5 * drawn / value.shape[1] ** 0.5
        weights.append((name, drawn.astype(mx.bfloat16)))
    model.load_weights(weights)
    nn.quantize(model, group_size=GROUP, bits=bits)
    if on_cpu():
        for_cpu(model, dense)
    make_ready(model)
    return LoadedModel(model, SimpleNamespace(eos_token_ids=ENDS), {}, Path(), f"random {kind}", {})


def adapt(model: nn.Module, dora: bool, trained: bool, dropout: float = 0.0) -> AdapterSpec:
    """Attach an adapter of rank 8: new, or as if it were ``trained`` (B and the magnitudes are moved)."""
    spec = adapters.attach(model, AdapterSpec(8, 2.0, dora, dropout=dropout))
    if trained:
        moved = {
            name: value if name.endswith("lora_a") else value + 0.1 * normal(index, *value.shape)
            for index, (name, value) in enumerate(sorted(adapters.trainable(model).items()))
        }
        model.load_weights(list(moved.items()), strict=False)
        adapters.refresh(model)
    return spec


def gradients(model: nn.Module, loss: Any) -> tuple[mx.array, dict[str, mx.array]]:
    """``loss()`` and its gradients by what is trained, eager; the model is as it was afterwards."""
    own = model.trainable_parameters()
    value, grads = nn.value_and_grad(model, loss)()
    mx.eval(value, grads)
    model.update(own)  # value_and_grad leaves its tracers in the model
    return value, dict(tree_flatten(grads))


def random_rows(count: int, seed: int = 0) -> list[Row]:
    """Rows of 24 to 80 random tokens whose second half is trained on."""
    rng = np.random.default_rng(seed)
    rows = []
    for length in rng.integers(24, 81, count).tolist():
        mask: Sequence[bool] = [i >= length // 2 for i in range(length)]
        rows.append(make_row(rng.integers(1, WORDS, length).tolist(), mask))
    return rows
