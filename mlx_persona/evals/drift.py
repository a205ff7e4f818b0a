"""How far an adapter moves a model: KL to its base, losses, and how unlikely the base finds what it says.

The base is the same model with its adapters bypassed, so nothing is loaded twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_persona.evals.parity import batch_log_probs
from mlx_persona.models.adapters import bypassed
from mlx_persona.models.divergence import kl
from mlx_persona.models.heads import row_logits
from mlx_persona.tokens.batches import Row, collate, make_row, ordered_batches
from mlx_persona.training.objectives import row_log_probs

# Two sets of log-probabilities over the vocabulary are held at once.
BATCH = 2
LOSS_BATCH = 8
# A reply surprises that the base model finds less likely than this share of its own.
USUAL = 0.95

OnBatch = Callable[[int], None]


@dataclass(frozen=True)
class Drift:
    """A trained model against its base on text that has nothing to do with the person.

    Attributes:
        kl: KL(adapted || base) per token, in nats: 0 where the adapter changes nothing.
        loss: mean cross-entropy of the adapted model, in nats per token.
        base_loss: the same of the base model.
        tokens: how many tokens these are means over.
    """

    kl: float
    loss: float
    base_loss: float
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def text_rows(tokenizer: Any, text: str) -> list[Row]:
    """Each paragraph of a plain text as a row whose every token counts (but the first, which nothing predicts)."""
    rows = [tokenizer.encode(paragraph.strip()) for paragraph in text.split("\n\n") if paragraph.strip()]
    return [make_row(ids, [True] * len(ids)) for ids in rows if len(ids) > 1]


def mean_kl(model: nn.Module, rows: Sequence[Row], on_batch: OnBatch | None = None) -> Drift:
    """KL(adapted || base) and both losses, means over all marked tokens of the rows.

    Args:
        model: carries an adapter at full strength.
        rows: with at least one marked token among them.
        on_batch: called with the number of rows that were just scored.
    """
    logits = row_logits(model)
    sums = np.zeros(3)
    for members in ordered_batches([len(row.ids) for row in rows], BATCH):
        batch = [rows[i] for i in members]
        adapted = batch_log_probs(model, logits, batch)  # (P, V)
        mx.eval(adapted)
        with bypassed(model):
            base = batch_log_probs(model, logits, batch)  # (P, V)
            mx.eval(base)
        parts = (kl(adapted, base), -_at_targets(adapted, batch), -_at_targets(base, batch))
        sums += [float(np.asarray(part).sum(dtype=np.float64)) for part in parts]
        if on_batch:
            on_batch(len(members))
    count = sum(row.targets for row in rows)
    divergence, loss, base_loss = (sums / count).tolist()
    return Drift(divergence, loss, base_loss, count)


def row_losses(model: nn.Module, rows: Sequence[Row], on_batch: OnBatch | None = None) -> list[float]:
    """Mean cross-entropy of each row's marked tokens, in nats.

    Args:
        model: any mlx-lm model, as it is.
        rows: each with at least one marked token.
        on_batch: called with the number of rows that were just scored.
    """
    logits = row_logits(model)
    losses = [0.0] * len(rows)
    for members in ordered_batches([len(row.ids) for row in rows], LOSS_BATCH):
        batch = {key: mx.array(value) for key, value in collate([rows[i] for i in members]).items()}
        sums, counts = row_log_probs(logits, model, batch, len(members))
        for i, loss in zip(members, np.asarray(-sums / counts).tolist(), strict=True):
            losses[i] = loss
        if on_batch:
            on_batch(len(members))
    return losses


def surprising(losses: Sequence[float], usual: Sequence[float]) -> list[bool]:
    """Which replies the base model finds less likely than all but a twentieth of its own.

    Args:
        losses: the base model's loss on each reply, in nats per token.
        usual: the same on its own replies to the same prompts.
    """
    limit = float(np.quantile(usual, USUAL))
    return [loss > limit for loss in losses]


def _at_targets(log_probs: mx.array, rows: Sequence[Row]) -> mx.array:
    """The log-probabilities (P,) of the tokens that really come: (P, V), row after row."""
    targets = np.concatenate([row.ids[1:][row.mask[1:]] for row in rows])
    return mx.take_along_axis(log_probs, mx.array(targets)[:, None], axis=1)[:, 0]
