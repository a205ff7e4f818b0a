"""DoRA layers (Liu et al., 2024, arXiv 2402.09353) with a factored, cached row norm.

W' = m ∘ (W + sBA) / ‖W + sBA‖ (per row). The norm carries no gradient (paper, section 4.3), so it
changes only when A and B do: one computation serves all micro-batches of an update and a whole
generation. It is never taken from a materialised W + sBA (see ``low_rank_square_norms``).
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_persona.models.lora import LoRALinear, low_rank_square_norms, matmul_base, plus_low_rank, row_square_norms

_TINY = 1e-12  # a row of zeros (a padded model has some) must not give 0 / 0


class DoRALinear(LoRALinear):
    """A LoRA layer with a trained magnitude ``m`` (out,), named as in stock mlx-lm.

    ``_norm`` is the cached ‖W + sBA‖; call :meth:`refresh` after A or B changed.
    """

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float, path: str, seed: int) -> None:
        super().__init__(base, rank, scale, dropout, path, seed)
        self._w_sq = row_square_norms(base)
        self.m = mx.sqrt(self._w_sq)
        self._norm = mx.sqrt(mx.maximum(self._w_sq, _TINY))

    def direction_norm(self) -> mx.array:
        """‖W + sBA‖ per row, factored, in fp32: (out,)."""
        aw = matmul_base(self.linear, self.lora_a.T)  # (r, out)
        squares = low_rank_square_norms(self._w_sq, aw, self.lora_a, self.lora_b, self.scale)
        return mx.sqrt(mx.maximum(squares, _TINY))

    def refresh(self) -> None:
        """Recompute the cached norm from the present A and B."""
        self._norm = mx.stop_gradient(self.direction_norm())

    def adapted(self, x: mx.array, y: mx.array) -> mx.array:
        """(m / ‖W + sBA‖) ∘ (y + s (x A) B): (..., out)."""
        # In float32 until the end: m / ‖W + sBA‖ is near 1, where bfloat16 has steps of 0.4 to 0.8 %, and what
        # training moves it by is often less.
        y32 = y.astype(mx.float32)
        out = plus_low_rank(self.dropped(x), y32, self.lora_a, self.lora_b, self.scale, self.m, self._norm)
        return out.astype(y.dtype)

    def row_square_norms(self) -> mx.array:
        """m²: by construction, the rows of W' have norm m."""
        return mx.square(self.m)

    def merge_into(self, w: mx.array) -> mx.array:
        """m (W + sBA) / ‖W + sBA‖ for a dense W (out, in)."""
        return (self.m / self._norm)[:, None] * super().merge_into(w)
