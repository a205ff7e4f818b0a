"""The one step loop, and what it is made of."""

from mlx_persona import backend  # a fast BLAS must be loaded before any module here imports mlx
