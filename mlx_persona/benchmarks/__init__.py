"""Measurements of ours against stock mlx-lm and other trainers, side by side in one process."""

from mlx_persona import backend  # a fast BLAS must be loaded before any module here imports mlx
