"""``python -m mlx_persona`` is ``mlx-persona``."""

from mlx_persona.cli import run

run()
