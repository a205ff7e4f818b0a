"""An engine that notes what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import pytest

from mlx_persona.generation import engine
from mlx_persona.generation.engine import Reply
from mlx_persona.models import adapters, load


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces the engine by one that notes what it was asked and tells if an adapter is on."""
    calls: list[dict[str, Any]] = []

    def replies(loaded: load.LoadedModel, prompts: Sequence[Sequence[int]], sampling: Any, **more: Any) -> list[Reply]:
        adapted = any(True for _ in adapters.adapter_layers(loaded.model))
        texts = [" yeah im in " if adapted else "Certainly! I'd be happy to help. " + "word " * 8 for _ in prompts]
        written = [Reply(text, cut=not adapted) for text in texts]
        for i, reply in enumerate(written):
            more["on_reply"](i, reply)
        calls.append({"loaded": loaded, "prompts": prompts, "sampling": sampling, "adapted": adapted, **more})
        return written

    monkeypatch.setattr(engine, "replies", replies)
    return calls
