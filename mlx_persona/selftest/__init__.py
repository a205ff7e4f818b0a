"""``mlx-persona doctor --selftest``: whether what we compute faster is still right, on the device where it runs.

Small random models, nothing downloaded. Each check compares one of our forms with a plain one.
"""

from mlx_persona import backend  # a fast BLAS must be loaded before any module here imports mlx
