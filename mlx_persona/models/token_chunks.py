"""The MLP of a checkpointed block over a long sequence, some tokens at a time.

A gated MLP's arrays are the widest of a block, five times the model's width in Qwen2.5-7B, and its backward pass
needs a dozen of them at once. It treats every token alike, so they need not be there for all tokens together.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_persona.models.lora import AdapterLayer

# Tokens at a time: enough for products at full speed. A quantized base is dequantized for each part on the CPU.
CHUNK = 512
# The layers of the MLPs that are taken so.
GATED = {"gate_proj", "up_proj", "down_proj"}


def chunk_mlps(model: nn.Module, tokens: int = CHUNK) -> int:
    """Let the gated MLPs of a model take at most ``tokens`` at a time, in place; a second call changes nothing.

    Experts, and anything else than gate, up and down, stay as they are. Dropout counts tokens, so with it the
    whole sequence is taken.

    Returns:
        How many MLPs were found.
    """
    mlps = [block.mlp for block in model.layers if "mlp" in block and set(block.mlp.children()) == GATED]
    for mlp in mlps:
        if not hasattr(type(mlp), "_chunked"):
            mlp.__class__ = _chunked(type(mlp), tokens)
    return len(mlps)


def _chunked(kind: Any, tokens: int) -> type:
    def call(self: Any, x: mx.array) -> mx.array:
        length = x.shape[-2]
        if length <= tokens or not self.training or _drops(self):
            return kind.__call__(self, x)

        def inner(parameters: Any, x: mx.array) -> Any:
            self.update(parameters)
            return kind.__call__(self, x)

        own = self.trainable_parameters()
        count = -(-length // tokens)
        edges = [round(i * length / count) for i in range(count + 1)]
        out: list[mx.array] = []
        for start, stop in pairwise(edges):
            part = x[..., start:stop, :]
            if out:  # one after the other, or nothing is gained
                (part,) = mx.depends([part], [out[-1]])
            out.append(mx.checkpoint(inner)(own, part))
        self.update(own)
        return mx.concatenate(out, axis=-2)

    return type(f"Chunked{kind.__name__}", (kind,), {"__call__": call, "_chunked": True})


def _drops(mlp: Any) -> bool:
    return any(isinstance(m, AdapterLayer) and m.drops for m in mlp.modules())
