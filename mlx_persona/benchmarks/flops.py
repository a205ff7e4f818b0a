"""What a training step must compute, by a fixed formula, and what that is of the machine's matrix-product rate."""

from __future__ import annotations

from typing import Any

from mlx_persona import backend

# How long matrix products are measured before and after each timed part.
RATE_SECONDS = 1.0


def linear_shape(layer: Any) -> tuple[int, int]:
    """``(out, in)`` of a linear or embedding layer, quantized or not."""
    out, columns = layer.weight.shape
    return int(out), int(columns) * 32 // int(layer.bits) if "scales" in layer else int(columns)


def block_shapes(model: Any) -> list[tuple[int, int]]:
    """``(out, in)`` of every linear layer of every block, before an adapter is attached."""
    return [
        linear_shape(module)
        for block in model.layers
        for _, module in block.named_modules()
        if "weight" in module and module.weight.ndim == 2
    ]


def useful_flops(model: Any, rank: int, tokens: int, supervised: int) -> float:
    """FLOPs that training a model of linear layers with an adapter needs, whoever trains it.

    ``4 x block parameters x tokens``: a product forward, and one back for the gradient by its input (the weights are
    frozen). ``4 x head parameters x supervised tokens``: the same for the output head, which only they need.
    ``6 x adapter parameters x tokens``: A and B have gradients of their own. Not counted, so that the figure is the
    lower for it: padding, attention scores, norms, activations, softmax, the norms of DoRA, the optimizer, and what
    checkpointing computes again. Of a mixture of experts it counts all of them: the figure is for dense models.

    Args:
        model: the base model, without an adapter. The head is as large as the embedding.
        rank: of an adapter on every linear layer of every block.
        tokens: inputs of all rows, without padding.
        supervised: tokens with a loss.
    """
    shapes = block_shapes(model)
    blocks = sum(out * inner for out, inner in shapes)
    adapter = sum(rank * (out + inner) for out, inner in shapes)
    vocabulary, width = linear_shape(model.model.embed_tokens)
    return 4.0 * blocks * tokens + 4.0 * vocabulary * width * supervised + 6.0 * adapter * tokens


def machine_rate() -> float:
    """FLOP/s of fp32 matrix products here and now, as ``mlx-persona doctor`` measures them."""
    return 1e9 * backend.measure_gflops(seconds=RATE_SECONDS)
