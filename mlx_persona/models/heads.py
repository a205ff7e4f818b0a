"""Logits where they are needed: the body's hidden states are gathered before the output head.

A vocabulary-sized row for every input token is the largest array of a training step, and most
tokens are no targets. Whether a model's head can be applied to gathered rows is checked on the
model itself; where it cannot (logit scaling, soft-capping), full logits are gathered instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

RowLogits = Callable[..., mx.array]


def _split_rows(model: nn.Module, tokens: mx.array, positions: mx.array, cache: Any = None) -> mx.array:
    hidden = model.model(tokens) if cache is None else model.model(tokens, cache=cache)  # (B, T, D)
    rows = hidden.reshape(-1, hidden.shape[-1])[positions]  # (P, D)
    head = model.lm_head if "lm_head" in model else model.model.embed_tokens.as_linear
    return head(rows).astype(mx.float32)  # (P, V)


def _full_rows(model: nn.Module, tokens: mx.array, positions: mx.array, cache: Any = None) -> mx.array:
    logits = model(tokens) if cache is None else model(tokens, cache=cache)  # (B, T, V)
    return logits.reshape(-1, logits.shape[-1])[positions].astype(mx.float32)  # (P, V)


def row_logits(model: nn.Module) -> RowLogits:
    """The cheapest correct ``(model, tokens (B, T), positions (P,), cache) -> fp32 logits (P, V)`` for a model.

    ``cache`` may be left out; it goes to the model's layers as it is.
    """
    probe, positions = mx.array([[1, 2, 3, 4]]), mx.arange(4)
    try:
        fast, full = _split_rows(model, probe, positions), _full_rows(model, probe, positions)
        same = bool(mx.allclose(fast, full, rtol=1e-3, atol=1e-3))
    except (AttributeError, TypeError, ValueError, KeyError):
        same = False
    return _split_rows if same else _full_rows
