"""Where downloads and conversions are kept: outside every project and every run."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``$MLX_PERSONA_CACHE``, else ``$XDG_CACHE_HOME/mlx-persona``, else ``~/.cache/mlx-persona``."""
    if named := os.environ.get("MLX_PERSONA_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mlx-persona"
