"""What is minimised: ``objective(model, batch, knobs) -> (loss_sum, weight, metrics)``.

Losses are sums and come with their weight, so that N micro-batches add up to one big batch.
Metrics are arrays [sum, weight]; the loop adds them up and divides once. A metric named ``loss`` is logged, judged
and compared in the place of what is minimised; its weight must be the loss's.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_persona.models.heads import Cache, RowLogits
from mlx_persona.models.masks import with_blocks
from mlx_persona.models.shared_prefix import prefix_cache

Batch = dict[str, mx.array]
Knobs = dict[str, mx.array]
Metrics = dict[str, mx.array]
Objective = Callable[[nn.Module, Batch, Knobs], tuple[mx.array, mx.array, Metrics]]
# Loss sums and weights of every example of an evaluation batch: (N,), (N,).
Each = Callable[[nn.Module, Batch, Knobs], tuple[mx.array, mx.array]]


def _cache(model: nn.Module, batch: Batch) -> Cache | None:
    """What tells the rows of a batch apart where they share a sequence."""
    return with_blocks(model, batch["blocks"]) if "blocks" in batch else prefix_cache(model, batch)


def token_log_probs(rows: RowLogits, model: nn.Module, batch: Batch) -> mx.array:
    """log p(target) in fp32 at each gathered position: (P,). ``blocks`` (B, T) tell packed rows apart."""
    return rows.log_probs(model, batch["tokens"], batch["positions"], batch["targets"], _cache(model, batch))


def sft(rows: RowLogits, kl: float = 0.0) -> Objective:
    """Cross-entropy over the supervised tokens, in nats; weight = their number.

    With ``kl`` = λ > 0 a KL anchor is added: CE + λ·KL(π_θ ‖ π_base) on the same tokens, where the base is the model
    without its adapters. What is minimised is then the sum, while the metric ``loss`` stays the cross-entropy, so
    that runs of any λ, their patience and their checkpoints compare; ``kl`` is the divergence, in nats per token.
    """

    def anchored(model: nn.Module, batch: Batch, knobs: Knobs) -> tuple[mx.array, mx.array, Metrics]:
        weights, inputs = batch["weights"], (batch["tokens"], batch["positions"], batch["targets"])
        log_probs, divergences = rows.against_base(model, *inputs, _cache(model, batch))
        loss, divergence, weight = -(log_probs * weights).sum(), (divergences * weights).sum(), weights.sum()
        return (
            loss + kl * divergence,
            weight,
            {"loss": mx.stack([loss, weight]), "kl": mx.stack([divergence, weight])},
        )

    def objective(model: nn.Module, batch: Batch, knobs: Knobs) -> tuple[mx.array, mx.array, Metrics]:
        weights = batch["weights"]
        loss = -(token_log_probs(rows, model, batch) * weights).sum()
        return loss, weights.sum(), {}

    return anchored if kl else objective


def each_row(rows: RowLogits) -> Each:
    """Cross-entropy and supervised tokens of every row: (B,), (B,). The batch carries ``segments``."""

    def each(model: nn.Module, batch: Batch, knobs: Knobs) -> tuple[mx.array, mx.array]:
        sums, lengths = row_log_probs(rows, model, batch, batch["tokens"].shape[0])
        return -sums, lengths

    return each


def row_log_probs(rows: RowLogits, model: nn.Module, batch: Batch, count: int) -> tuple[mx.array, mx.array]:
    """Summed log-probability of each segment's supervised tokens, and their number: (count,), (count,)."""
    log_probs = token_log_probs(rows, model, batch) * batch["weights"]
    member = (batch["segments"][None] == mx.arange(count)[:, None]) * batch["weights"][None]  # (B, P)
    return member @ log_probs, member.sum(axis=1)


def dpo_losses(
    chosen: mx.array, rejected: mx.array, ref_chosen: mx.array, ref_rejected: mx.array, beta: mx.array, smoothing: float
) -> tuple[mx.array, mx.array, mx.array]:
    """DPO's sigmoid loss (Rafailov et al., 2023, eq. 7) with label smoothing (cDPO, Mitchell 2023).

    Args:
        chosen, rejected: log-probabilities of the replies under the policy (N,).
        ref_chosen, ref_rejected: the same under the reference (N,).
        beta: strength of the pull to the reference.
        smoothing: assumed share of flipped preferences, 0 <= smoothing < 0.5.

    Returns:
        Losses, chosen rewards, rejected rewards, each (N,).
    """
    reward_chosen, reward_rejected = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    margin = reward_chosen - reward_rejected
    losses = -(1 - smoothing) * nn.log_sigmoid(margin) - smoothing * nn.log_sigmoid(-margin)
    return losses, reward_chosen, reward_rejected


def dpo(rows: RowLogits, smoothing: float, nll_weight: float) -> Objective:
    """DPO over pairs: segments 0..N-1 of a batch are chosen, N..2N-1 rejected; weight = pairs.

    Either layout of tokens/pairs.py goes. The batch carries ``reference`` (2N,), the reference's
    log-probabilities, and ``matched`` (N,), 1 where both sides are about equally long: accuracy there
    cannot come from length alone. ``knobs["beta"]`` is beta. ``nll_weight`` adds the chosen reply's mean
    token loss (as in RPO, Pang et al., 2024).
    """

    def objective(model: nn.Module, batch: Batch, knobs: Knobs) -> tuple[mx.array, mx.array, Metrics]:
        half = batch["matched"].shape[0]
        losses, good, bad, nll, lengths = _pair_losses(rows, model, batch, knobs, smoothing, nll_weight)
        pairs = mx.array(half, mx.float32)
        right, matched = good > bad, batch["matched"]
        metrics = {
            "accuracy": mx.stack([right.sum(), pairs]),
            "accuracy_matched": mx.stack([(right * matched).sum(), matched.sum()]),
            "margin": mx.stack([(good - bad).sum(), pairs]),
            "chosen_reward": mx.stack([good.sum(), pairs]),
            "rejected_reward": mx.stack([bad.sum(), pairs]),
            "chosen_loss": mx.stack([nll.sum(), lengths.sum()]),
        }
        return losses.sum(), pairs, metrics

    return objective


def each_pair(rows: RowLogits, smoothing: float, nll_weight: float) -> Each:
    """The loss of every pair, as :func:`dpo` adds them up, and ones: (N,), (N,)."""

    def each(model: nn.Module, batch: Batch, knobs: Knobs) -> tuple[mx.array, mx.array]:
        losses = _pair_losses(rows, model, batch, knobs, smoothing, nll_weight)[0]
        return losses, mx.ones_like(losses)

    return each


def _pair_losses(
    rows: RowLogits, model: nn.Module, batch: Batch, knobs: Knobs, smoothing: float, nll_weight: float
) -> tuple[mx.array, ...]:
    """Losses, rewards of both sides, negative log-likelihoods of the chosen replies and their tokens: each (N,)."""
    half = batch["matched"].shape[0]
    sums, lengths = row_log_probs(rows, model, batch, 2 * half)
    reference = batch["reference"]
    losses, good, bad = dpo_losses(
        sums[:half], sums[half:], reference[:half], reference[half:], knobs["beta"], smoothing
    )
    nll = -sums[:half]
    if nll_weight > 0:
        losses = losses + nll_weight * (nll / lengths[:half])
    return losses, good, bad, nll, lengths[:half]
