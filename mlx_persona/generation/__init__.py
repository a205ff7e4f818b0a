"""The one engine that writes replies."""

from mlx_persona import backend  # a fast BLAS must be loaded before any module here imports mlx
