"""Prompts and ways of drawing that several tests use."""

from __future__ import annotations

import numpy as np

from mlx_persona.generation.engine import Sampling

HOT = Sampling(max_tokens=12, temperature=1.0, top_p=0.95, seed=7)
GREEDY = Sampling(max_tokens=12, temperature=0.0, top_p=1.0, seed=0)


def make_prompts(count: int, prefix: int = 3) -> list[list[int]]:
    """Prompts of 5 to 44 tokens that share their first ``prefix``."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 45, size=count)
    return [[*range(100, 100 + prefix), *rng.integers(200, 2000, size=n - prefix).tolist()] for n in lengths]
