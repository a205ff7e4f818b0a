"""Modular addition, learned by heart first and understood later (Power et al., 2022).

A network of one hidden layer gets some of all pairs (a, b) and must say (a + b) mod p. It knows the training pairs by
heart long before it can do the others: the delay is what is called grokking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_persona import backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx

from mlx_persona.experiments.networks import Params, adder, init_adder, logit_gaps, row_losses
from mlx_persona.experiments.trial import Plan

KNOWN = 0.99  # accuracy from which a set counts as learned
_PROBE = 512


class Addition:
    """All pairs of numbers below a prime, split at random into training and validation; full-batch."""

    def __init__(self, modulus: int, share: float, embedding: int, hidden: int, seed: int) -> None:
        self.sizes = (modulus, embedding, hidden)
        pairs = np.stack(np.divmod(np.arange(modulus**2), modulus), axis=1).astype(np.int32)
        pairs = pairs[np.random.default_rng([seed, modulus]).permutation(len(pairs))]
        sums = (pairs.sum(axis=1) % modulus).astype(np.int32)
        cut = round(share * len(pairs))
        self.train = mx.array(pairs[:cut]), mx.array(sums[:cut])
        self.valid = mx.array(pairs[cut:]), mx.array(sums[cut:])

    def init(self, key: mx.array) -> Params:
        """Random weights."""
        return init_adder(key, *self.sizes)

    def logits(self, params: Params, x: mx.array) -> mx.array:
        """(N, p) for pairs (N, 2)."""
        return adder(params, x)

    def batch(self, update: int) -> tuple[mx.array, mx.array]:
        """All training pairs, at every update."""
        return self.train

    def probe(self) -> tuple[mx.array, mx.array]:
        """The first training pairs; their order is random."""
        return self.train[0][:_PROBE], self.train[1][:_PROBE]

    def measure(self, params: Params) -> dict[str, float]:
        """Loss, accuracy and mean logit gap (right minus best other) of validation and training pairs."""
        figures: dict[str, float] = {}
        for name, (x, y) in (("", self.valid), ("train_", self.train)):
            logits = adder(params, x)
            losses, gaps = np.array(row_losses(logits, y)), np.array(logit_gaps(logits, y))
            figures[f"{name}loss"] = float(losses.mean())
            figures[f"{name}accuracy"] = float((gaps > 0).mean())
            figures[f"{name}gap"] = float(gaps.mean())
            if not name:
                figures["noise"] = float(losses.std() / np.sqrt(len(losses)))
        return figures


def grokking(seed: int, updates: int = 2500, modulus: int = 97) -> tuple[Plan, Addition]:
    """Settings that grok within minutes on a CPU (found by trying; docs/experiments.md says what else was tried)."""
    settings: dict[str, Any] = {"modulus": modulus, "share": 0.4, "embedding": 64, "hidden": 256}
    plan = Plan(
        name=f"grokking-{modulus}-{seed}",
        seed=seed,
        updates=updates,
        eval_every=10,
        rate=3e-3,
        schedule="constant",
        weight_decay=1.0,
        curvature_every=5,
        products=30,
        settings=settings,
    )
    return plan, Addition(**settings, seed=seed)


def milestones(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """When the training pairs were known by heart, when the others, and the delay between them, in updates.

    The first evaluation with an accuracy of at least 0.99 each; null where there was none.
    """
    evals = [event for event in events if event["event"] == "eval"]

    def first(name: str) -> int | None:
        return next((event["update"] for event in evals if event[name] >= KNOWN), None)

    memorised, grokked = first("train_accuracy"), first("accuracy")
    delay = None if memorised is None or grokked is None else grokked - memorised
    return {"memorised": memorised, "grokked": grokked, "delay": delay}
