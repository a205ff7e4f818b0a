"""AdamW, its schedule in units of updates, and gradient arithmetic."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map


def make_adamw(weight_decay: float) -> optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with bias correction, which MLX leaves off by default.

    The learning rate is an array set before every update, so that a compiled step sees it change.
    """
    return optim.AdamW(learning_rate=0.0, betas=[0.9, 0.999], eps=1e-8, weight_decay=weight_decay, bias_correction=True)


def learning_rate(update: int, total: int, peak: float, warmup: float, final: float) -> float:
    """Linear warm-up, then a cosine to ``final · peak``, in updates.

    Args:
        update: the update about to be made, 1..total.
        total: updates of the whole run.
        peak: the highest rate.
        warmup: share of the updates for warm-up.
        final: rate at the end, as a share of the peak.
    """
    rising = round(warmup * total)
    if update <= rising:
        return peak * update / rising
    progress = (update - rising) / max(1, total - rising)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def add(total: Any, part: Any) -> Any:
    """Sum of two trees of arrays; ``total`` may be None."""
    return part if total is None else tree_map(lambda a, b: a + b, total, part)


def global_norm(grads: Any) -> mx.array:
    """L2 norm over all arrays of a tree, in fp32: ()."""
    return mx.sqrt(sum((mx.square(g.astype(mx.float32)).sum() for _, g in tree_flatten(grads)), start=mx.array(0.0)))


def mean_and_norm(grad_sum: Any, weight: mx.array, clip: float) -> tuple[Any, mx.array]:
    """Summed gradients -> their weighted mean, clipped to the global norm ``clip`` (0: off).

    Returns:
        The gradients to apply, and the norm before clipping.
    """
    mean = tree_map(lambda g: g / weight, grad_sum)
    norm = global_norm(mean)
    if clip > 0:
        factor = mx.minimum(1.0, clip / mx.maximum(norm, 1e-12))
        mean = tree_map(lambda g: g * factor, mean)
    return mean, norm
