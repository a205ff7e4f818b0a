"""Measurements of ours against stock mlx-lm and other trainers, side by side in one process."""
