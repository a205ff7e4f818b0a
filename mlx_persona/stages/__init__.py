"""One module per stage: each wires data, model, objective and loop."""

from mlx_persona import backend  # a fast BLAS must be loaded before any module here imports mlx
