"""Gradient checkpointing of chosen blocks: activations are recomputed in the backward pass."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn


def checkpoint_blocks(model: nn.Module, count: int | None = None) -> None:
    """Checkpoint the first ``count`` blocks of a model (default: all), in place; a second call changes nothing.

    The first ones, since the backward pass comes to them last, when what the others had saved is gone.
    The instances get a subclass of their own, so other models of the same class stay as they are.
    """
    for block in list(model.layers)[:count]:
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
