"""Checks of what is done with a trained model: stock mlx-lm opens the adapter, and the engine writes what it writes."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.generate import generate_step
from mlx_lm.tuner.utils import load_adapters

from mlx_persona.generation import engine
from mlx_persona.generation.sampling import Sampling
from mlx_persona.models import adapters, substitutes
from mlx_persona.models.load import LoadedModel
from mlx_persona.selftest.kit import DEEP, ENDS, WORDS, Measured, activations, adapt, distance, limit, small_model

_LONGEST = 20


def adapter_in_mlx_lm(kind: str, bits: int, dora: bool) -> Measured:
    """Logits of a model with our adapter against stock mlx-lm's, which loads the saved one."""
    ours, stock = (small_model(kind, bits, dense=True).model for _ in range(2))
    spec = adapt(ours, dora, trained=True)
    tokens = mx.random.randint(0, WORDS, (2, 40), key=mx.random.key(1))
    with tempfile.TemporaryDirectory() as name:
        adapters.write_adapter(Path(name), adapters.trainable(ours), spec)
        load_adapters(stock, name)
    ours.eval()
    got = ours(tokens)
    with substitutes.as_in_mlx_lm(stock):
        expected = stock(tokens)
        mx.eval(got, expected)
    return Measured(distance([got], [expected]), limit(activations()[0], DEEP))


def _regret(loaded: LoadedModel, prompt: Sequence[int], reply: Sequence[int]) -> float:
    """How much better the best token was than the written one, at worst, where mlx-lm reads one by one.

    As a share of the range of the log-probabilities; 0 means that mlx-lm writes the same tokens.
    """
    ended = len(reply) < _LONGEST
    forced = itertools.chain(reply, itertools.repeat(0))

    def sampler(_: mx.array) -> mx.array:
        return mx.array([next(forced)])

    worst = []
    steps = generate_step(mx.array(list(prompt)), loaded.model, max_tokens=len(reply) + ended, sampler=sampler)
    for place, (_, logprobs) in enumerate(steps):
        row = np.array(logprobs.astype(mx.float32), np.float64)
        written = [reply[place]] if place < len(reply) else sorted(ENDS)  # any of them ends it
        worst.append((row.max() - row[written].max()) / (row.max() - row.min()))
    return float(np.max(worst))


def short_generation(kind: str, bits: int) -> Measured:
    """Greedy replies that the engine writes in a batch, against mlx-lm's, one by one.

    In 16 bits two tokens can be equally likely but for rounding, and the forms then choose differently. So mlx-lm is
    led along the engine's reply, and what counts is how much likelier its own choice would have been at each token.
    """
    loaded = small_model(kind, bits, dense=True)
    adapt(loaded.model, dora=True, trained=True)
    loaded.model.eval()
    rng = np.random.default_rng(0)
    prompts = [[5, 6, 7, *rng.integers(1, WORDS, n).tolist()] for n in (3, 17, 9, 30, 1, 12, 21)]
    replies: dict[int, Sequence[int]] = {}
    # Three at a time: places are refilled, and replies end early.
    engine.write(loaded, prompts, Sampling(_LONGEST, 0.0, 1.0, 0), replies.__setitem__, batch_size=3)
    with substitutes.as_in_mlx_lm(loaded.model):
        regrets = [_regret(loaded, prompt, replies[i]) for i, prompt in enumerate(prompts)]
    return Measured(float(np.max(regrets)), limit(activations()[0], DEEP))
