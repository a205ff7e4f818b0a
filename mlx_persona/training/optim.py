"""AdamW, its schedule in units of updates, and gradient arithmetic."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map


class AdamW(optim.AdamW):
    """MLX's AdamW, each array updated in one compiled pass: passes over memory are what it costs on the CPU."""

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        """The parameter after one update; ``state`` holds the moments ``m`` and ``v``."""
        (b1, b2), step = self.betas, self.step
        rate = self.learning_rate / (1 - b1**step)
        shrink = 1 - self.learning_rate * self.weight_decay
        parameter, state["m"], state["v"] = _adamw_step(
            gradient, parameter, state["m"], state["v"], rate, mx.rsqrt(1 - b2**step), shrink, b1, b2, self.eps
        )
        return parameter


@partial(mx.compile, shapeless=True)
def _adamw_step(
    g: mx.array,
    p: mx.array,
    m: mx.array,
    v: mx.array,
    rate: mx.array,
    correction: mx.array,
    shrink: mx.array,
    b1: float,
    b2: float,
    eps: float,
) -> tuple[mx.array, mx.array, mx.array]:
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * (g * g)
    return p * shrink - rate * m / (mx.sqrt(v) * correction + eps), m, v


def make_optimizer(name: str, weight_decay: float) -> optim.Optimizer:
    """The optimizer of that name (see ``--optimizer``).

    Its learning rate is an array set before every update, so that a compiled step sees it change.

    ``adamw`` (Loshchilov and Hutter, 2019) with bias correction, which MLX leaves off by default: 8 bytes of state per
    trained parameter; ``lion`` (Chen et al., 2023): 4 bytes; ``adafactor`` (Shazeer and Stern, 2018) without momentum
    and without its relative step: a row and a column for each matrix.
    """
    if name == "lion":
        return optim.Lion(learning_rate=0.0, betas=[0.9, 0.99], weight_decay=weight_decay)
    if name == "adafactor":
        return optim.Adafactor(learning_rate=0.0, scale_parameter=False, relative_step=False, weight_decay=weight_decay)
    return AdamW(learning_rate=0.0, betas=[0.9, 0.999], eps=1e-8, weight_decay=weight_decay, bias_correction=True)


def learning_rate(update: float, total: int, peak: float, warmup: float, final: float) -> float:
    """Linear warm-up, then a cosine to ``final · peak``, in updates.

    Args:
        update: the update about to be made, 1..total; between two where the run is measured in tokens.
        total: updates of the whole run.
        peak: the highest rate.
        warmup: share of the updates for warm-up.
        final: rate at the end, as a share of the peak.
    """
    rising = round(warmup * total)
    if update <= rising:
        return peak * update / rising
    progress = min(1.0, (update - rising) / max(1, total - rising))
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def add(total: Any, part: Any) -> Any:
    """Sum of two trees of arrays; ``total`` may be None."""
    return part if total is None else tree_map(lambda a, b: a + b, total, part)


def global_norm(grads: Any) -> mx.array:
    """L2 norm over all arrays of a tree, in fp32: ()."""
    return mx.sqrt(sum((mx.square(g.astype(mx.float32)).sum() for _, g in tree_flatten(grads)), start=mx.array(0.0)))


def factor_and_norm(grad_sum: Any, weight: mx.array, clip: float) -> tuple[mx.array, mx.array]:
    """What summed gradients are multiplied by to be their weighted mean, clipped to the global norm ``clip`` (0: off).

    Returns:
        That factor, and the mean's norm before clipping.
    """
    norm = global_norm(grad_sum) / weight
    factor = 1 / weight
    if clip > 0:
        factor = factor * mx.minimum(1.0, clip / mx.maximum(norm, 1e-12))
    return factor, norm


def scaled(grads: Any, factor: mx.array) -> Any:
    """Every array of a tree times ``factor``."""
    return tree_map(lambda g: g * factor, grads)
