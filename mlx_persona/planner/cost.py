"""Time of a run: floating-point operations by formula, over a rate that is measured here and now."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlx_persona import backend
from mlx_persona.planner.memory import Setup
from mlx_persona.planner.shapes import Shapes

# What the products of a training step reach of the rate of large ones. GPU: a guess.
_USED = {"cpu": 1.0, "metal": 0.4, "cuda": 0.4}
# Seconds per number that attention and MLP hand on, for all that is no product. CPU, one thread: measured
# (docs/planner.md); it does not go down with more threads. On a GPU it is in the share above.
_PER_ELEMENT = {"cpu": 4.1e-8, "metal": 0.0, "cuda": 0.0}
# Rates of machines that are planned for but not here: fp32 or bf16 GFLOP/s. An M4's GPU; a small NVIDIA card.
_ELSEWHERE = {"cpu": 200.0, "metal": 3500.0, "cuda": 30000.0}


@dataclass(frozen=True)
class Work:
    """What a run reads: training tokens (padding included), targets among them, evaluation tokens in all."""

    tokens: float
    targets: float
    evaluated: float
    length: int

    def anchored(self) -> Work:
        """The same with a KL anchor: the base model reads everything too, and the loss takes the head twice."""
        return replace(self, targets=2 * self.targets, evaluated=2 * self.evaluated + self.tokens)


def training_flops(shapes: Shapes, setup: Setup, work: Work) -> float:
    """Operations of a run: per weight and token 2 forward, 2 backward (frozen: no own gradient), 2 recomputed."""
    layers = [layer for _, layer in shapes.adapted(setup.num_layers, setup.keys)]
    adapter = sum(setup.rank * (a.inputs + a.outputs) * a.active for a in layers)
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


def activations(shapes: Shapes, setup: Setup, work: Work) -> float:
    """Numbers that a run puts through functions of one element, in steps: a forward pass is a third of one."""
    first = 0 if setup.num_layers < 0 else len(shapes.blocks) - setup.num_layers
    total = 0.0
    for number, block in enumerate(shapes.blocks):
        inside = sum(a.inputs * a.active for a in block.linears if a.closing)
        thirds = 1 + 2 * (number >= first) + (first <= number < setup.checkpointed)
        total += inside * (thirds * work.tokens + work.evaluated) / 3
    return total


def seconds(shapes: Shapes, setup: Setup, work: Work) -> float:
    """Seconds that a run takes: on this machine by a short measurement of its products, else by a typical rate."""
    here = setup.device == backend.device_name()
    rate = backend.measure_gflops(seconds=0.2) if here else _ELSEWHERE[setup.device]
    products = training_flops(shapes, setup, work) / (rate * 1e9 * _USED[setup.device])
    return products + activations(shapes, setup, work) * _PER_ELEMENT[setup.device]
