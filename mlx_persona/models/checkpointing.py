"""Gradient checkpointing of chosen blocks: activations are recomputed in the backward pass."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils

# Above this many parameters a laptop needs the memory more than the time.
AUTO_ABOVE = 1_000_000_000


def parameters(model: nn.Module) -> int:
    """How many parameters a model has, whatever their width."""
    return int(mlx_lm.utils.get_total_parameters(model))


def checkpoint_blocks(model: nn.Module) -> None:
    """Checkpoint every block of a model, in place; a second call changes nothing.

    The instances get a subclass of their own, so other models of the same class stay as they are.
    """
    for block in model.layers:
        kind = type(block)
        if not getattr(kind, "_checkpointed", False):
            block.__class__ = _checkpointed(kind)


def _checkpointed(kind: type) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        def inner(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            self.update(parameters)
            return kind.__call__(self, *args, **kwargs)

        own = self.trainable_parameters()
        out = mx.checkpoint(inner)(own, *args, **kwargs)
        self.update(own)
        return out

    return type(f"Checkpointed{kind.__name__}", (kind,), {"__call__": call, "_checkpointed": True})
