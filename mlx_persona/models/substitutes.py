"""Functions of ours in the place of mlx-lm's, on the CPU: its models import them by name, so names are bound anew."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mlx_lm.models import activations as mlx_activations
from mlx_lm.models import base as mlx_base

from mlx_persona.models import activations, attention

# name -> (mlx-lm's, ours)
_FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "swiglu": (mlx_activations.swiglu, activations.swiglu),
    "scaled_dot_product_attention": (mlx_base.scaled_dot_product_attention, attention.scaled_dot_product_attention),
}


def speed_up(model: Any) -> None:
    """Let the model's classes call our functions where they call mlx-lm's. For the CPU only."""
    for name, (theirs, ours) in _FUNCTIONS.items():
        _rebind(model, name, theirs, ours)


@contextmanager
def as_in_mlx_lm(model: Any) -> Iterator[None]:
    """Meanwhile the model's classes are as mlx-lm has them, to compare with."""
    changed = {name: _rebind(model, name, ours, theirs) for name, (theirs, ours) in _FUNCTIONS.items()}
    try:
        yield
    finally:
        for name, modules in changed.items():
            for module in modules:
                setattr(module, name, _FUNCTIONS[name][1])


def _rebind(model: Any, name: str, old: Any, new: Any) -> list[Any]:
    """The modules of Python where the name was bound to another function."""
    places: list[Any] = [sys.modules[place] for place in {type(m).__module__ for m in model.modules()}]
    changed = [place for place in places if getattr(place, name, None) is old]
    for place in changed:
        setattr(place, name, new)
    return changed
