"""Time of a run: floating-point operations by formula, over a rate that is measured here and now."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_persona import backend
from mlx_persona.planner.memory import Setup, trainable
from mlx_persona.planner.shapes import Shapes

# What a training step reaches of the rate of large products. CPU: measured (docs/planner.md); GPU: a guess.
_USED = {"cpu": 0.5, "metal": 0.4, "cuda": 0.4}
# Rates of machines that are planned for but not here: fp32 or bf16 GFLOP/s. An M4's GPU; a small NVIDIA card.
_ELSEWHERE = {"cpu": 200.0, "metal": 3500.0, "cuda": 30000.0}


@dataclass(frozen=True)
class Work:
    """What a run reads: training tokens (padding included), targets among them, evaluation tokens in all."""

    tokens: float
    targets: float
    evaluated: float
    length: int


def training_flops(shapes: Shapes, setup: Setup, work: Work) -> float:
    """Operations of a run: per weight and token 2 forward, 2 backward (frozen: no own gradient), 2 recomputed."""
    adapter = trainable(shapes, setup.rank, setup.dora, setup.num_layers)
    first = 0 if setup.num_layers < 0 else len(shapes.blocks) - setup.num_layers
    per_token = forward = 0.0
    for number, block in enumerate(shapes.blocks):
        weights = sum(a.inputs * a.outputs * a.active for a in block.linears)
        inside = max((a.inputs for a in block.linears if a.closing and "attn" in a.name), default=shapes.width)
        once = 2 * weights + 4 * work.length * inside
        forward += once
        passes = 1 + (number >= first) + (first <= number < setup.checkpointed)
        per_token += once * passes
    head = 4 * shapes.width * shapes.vocabulary
    return (per_token + 6 * adapter) * work.tokens + head * work.targets + (forward + 2 * adapter) * work.evaluated


def seconds(flops: float, device: str) -> float:
    """Seconds for so many operations: on this machine by a short measurement, else by a typical rate."""
    rate = backend.measure_gflops(seconds=0.2) if device == backend.device_name() else _ELSEWHERE[device]
    return flops / (rate * 1e9 * _USED[device])
