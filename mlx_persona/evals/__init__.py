"""Is it really them? Measures of a persona."""

from mlx_persona import backend  # a fast BLAS must be loaded before any module here imports mlx
