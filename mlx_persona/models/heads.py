"""Logits and losses where they are needed: the body's hidden states are gathered before the output head.

A vocabulary-sized row for every input token is the largest array of a training step, and most
tokens are no targets. Whether a model's head can be applied to gathered rows is checked on the
model itself; where it cannot (logit scaling, soft-capping), full logits are gathered instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_persona.models.adapters import bypassed
from mlx_persona.models.cross_entropy import HEADS, head_losses
from mlx_persona.models.divergence import head_divergences, kl, log_softmax

Cache = Sequence[Any]


def _head(model: nn.Module) -> Any:
    """The layer that turns hidden states into logits; the embedding where the two are tied."""
    return model.lm_head if "lm_head" in model else model.model.embed_tokens


def _body_rows(model: nn.Module, tokens: mx.array, positions: mx.array, cache: Cache | None) -> mx.array:
    hidden = model.model(tokens) if cache is None else model.model(tokens, cache=cache)  # (B, T, D)
    return hidden.reshape(-1, hidden.shape[-1])[positions]  # (P, D)


def _split_rows(model: nn.Module, tokens: mx.array, positions: mx.array, cache: Cache | None) -> mx.array:
    head, rows = _head(model), _body_rows(model, tokens, positions, cache)
    logits = head.as_linear(rows) if hasattr(head, "as_linear") else head(rows)
    return logits.astype(mx.float32)  # (P, V)


def _full_rows(model: nn.Module, tokens: mx.array, positions: mx.array, cache: Cache | None) -> mx.array:
    logits = model(tokens) if cache is None else model(tokens, cache=cache)  # (B, T, V)
    return logits.reshape(-1, logits.shape[-1])[positions].astype(mx.float32)  # (P, V)


@dataclass(frozen=True)
class RowLogits:
    """The cheapest correct way to a model's logits and losses at some positions.

    ``split``: hidden states are gathered before the head. ``in_slabs``: the losses need no logits of the
    whole vocabulary at once. ``cache`` of both calls may bring an attention mask (``models.masks``).
    """

    split: bool
    in_slabs: bool

    def __call__(self, model: nn.Module, tokens: mx.array, positions: mx.array, cache: Cache | None = None) -> mx.array:
        """tokens (B, T), positions (P,) -> logits in float32 (P, V)."""
        return (_split_rows if self.split else _full_rows)(model, tokens, positions, cache)

    def log_probs(
        self,
        model: nn.Module,
        tokens: mx.array,
        positions: mx.array,
        targets: mx.array,
        cache: Cache | None = None,
    ) -> mx.array:
        """log p(target) in float32, in nats, at each position: (P,)."""
        if not self.in_slabs:
            return -nn.losses.cross_entropy(self(model, tokens, positions, cache), targets)
        rows = _body_rows(model, tokens, positions, cache)
        return -head_losses(rows, _head(model), targets, model.training)

    def against_base(
        self,
        model: nn.Module,
        tokens: mx.array,
        positions: mx.array,
        targets: mx.array,
        cache: Cache | None = None,
    ) -> tuple[mx.array, mx.array]:
        """log p(target), and KL of the model to its base, the adapters bypassed, in float32, in nats: (P,), (P,).

        The base is a constant. Its forward pass is over before the model's begins, and where the loss goes
        ``in_slabs``, all that is left of it are hidden states at the positions (P, D); else its logits (P, V).
        """
        rows = _body_rows if self.in_slabs else self
        with bypassed(model):
            base = mx.stop_gradient(rows(model, tokens, positions, cache))
        (tokens,) = mx.depends([tokens], [base])
        own = rows(model, tokens, positions, cache)
        if self.in_slabs:
            losses, divergences = head_divergences(own, base, _head(model), targets, model.training)
            return -losses, divergences
        log_probs = log_softmax(own)
        at_targets = mx.take_along_axis(log_probs, targets[:, None], axis=-1)[:, 0]
        return at_targets, kl(log_probs, log_softmax(base))


def row_logits(model: nn.Module) -> RowLogits:
    """What holds for this model; found by trying, before an adapter is attached or after."""
    probe, positions = mx.array([[1, 2, 3, 4]]), mx.arange(4)
    try:
        fast, full = _split_rows(model, probe, positions, None), _full_rows(model, probe, positions, None)
        same = bool(mx.allclose(fast, full, rtol=1e-3, atol=1e-3))
    except (AttributeError, TypeError, ValueError, KeyError):
        same = False
    # Exactly these classes: a subclass may do more than a product.
    frozen_head = same and type(_head(model)) in HEADS and not _head(model).trainable_parameters()
    return RowLogits(same, frozen_head)
