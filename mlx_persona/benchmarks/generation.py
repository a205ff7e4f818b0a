"""Writing many replies: our engine against stock mlx-lm, one by one and in plain batches.

    mlx-persona bench-generate --model MODEL

The same real prompts, sampling settings and longest reply for all three, in one process with one BLAS. What
counts is tokens written per second of the whole job, prompts read included; the token that ends a reply is
not counted, on any side. Sampled replies differ from side to side, so their tokens do too: a rate allows for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mlx_persona.backend import memory_bytes  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
from mlx_lm.generate import batch_generate, generate_step
from mlx_lm.sample_utils import make_sampler

from mlx_persona import ui
from mlx_persona.config import GenerateBenchConfig
from mlx_persona.errors import PersonaError
from mlx_persona.generation.engine import Sampling, write
from mlx_persona.models import substitutes
from mlx_persona.models.load import LoadedModel, load_model
from mlx_persona.stages.pairs import choose, render_candidates
from mlx_persona.tokens.dataset import load_split
from mlx_persona.tokens.render import Renderer

SIDES = ("ours", "one_by_one", "batches")
_TITLES = {"ours": "ours", "one_by_one": "stock, one by one", "batches": "stock, batch_generate"}


@dataclass(frozen=True)
class GenerateBenchResult:
    """Medians over rounds: tokens written per second, and what was written and how long it took."""

    tokens_per_second: dict[str, float]
    tokens: dict[str, int]
    seconds: dict[str, float]
    prompts: int
    prompt_tokens: int

    def to_json(self) -> dict[str, Any]:
        """``ratio`` (ours / stock's two ways) first, then the figures of each side."""
        return {"ratio": self._ratio(), **self.__dict__}

    def _ratio(self) -> dict[str, float]:
        rate = self.tokens_per_second
        return {side: rate["ours"] / rate[side] for side in SIDES[1:]}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people."""
        ratio = {"ours": 1.0, **self._ratio()}
        return ["", "ours is x times as fast", "tokens per second", "tokens", "seconds"], [
            [
                _TITLES[side],
                f"{ratio[side]:.2f}",
                f"{self.tokens_per_second[side]:.1f}",
                str(self.tokens[side]),
                f"{self.seconds[side]:.1f}",
            ]
            for side in SIDES
        ]


def bench_generate(config: GenerateBenchConfig) -> GenerateBenchResult:
    """Measure all three, alternating, and take medians.

    Raises:
        PersonaError: no data, or too few prompts.
    """
    loaded = load_model(config.model)
    candidates = choose(load_split(Path(config.data), "train"), "train", config.n, config.seed)
    room = config.max_seq_length - config.max_tokens
    prompts = [list(c.prompt) for c in render_candidates(candidates, Renderer(loaded.tokenizer), room)]
    if len(prompts) < config.n:
        raise PersonaError(f"{config.n} prompts are needed, {config.data} has {len(prompts)} that fit", "lower --n")
    sample = prompts[:: max(1, len(prompts) // config.one_by_one)][: config.one_by_one]
    measures: dict[str, Callable[[], int]] = {
        "ours": lambda: _ours(loaded, prompts, config),
        "one_by_one": lambda: _one_by_one(loaded, sample, config),
        "batches": lambda: _batches(loaded, prompts, config),
    }
    figures: dict[str, list[tuple[int, float]]] = {side: [] for side in SIDES}
    with ui.progress("bench", len(SIDES) * config.rounds) as bar:
        for _ in range(config.rounds):
            for side, measure in measures.items():
                mx.clear_cache()
                mx.random.seed(config.seed)
                started = time.perf_counter()
                tokens = measure()
                figures[side].append((tokens, time.perf_counter() - started))
                bar.advance(1, _TITLES[side])
    return GenerateBenchResult(
        {side: median(tokens / seconds for tokens, seconds in found) for side, found in figures.items()},
        {side: round(median(tokens for tokens, _ in found)) for side, found in figures.items()},
        {side: median(seconds for _, seconds in found) for side, found in figures.items()},
        len(prompts),
        sum(map(len, prompts)),
    )


def _ours(loaded: LoadedModel, prompts: Sequence[list[int]], config: GenerateBenchConfig) -> int:
    """Tokens that our engine writes."""
    sampling = Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)
    counts: list[int] = []

    def keep(_: int, tokens: Sequence[int]) -> None:
        loaded.tokenizer.decode(tokens)  # as stock does
        counts.append(len(tokens))

    write(loaded, prompts, sampling, keep, batch_size=config.batch_size)
    return sum(counts)


def _one_by_one(loaded: LoadedModel, prompts: Sequence[list[int]], config: GenerateBenchConfig) -> int:
    """Tokens that stock mlx-lm writes, a prompt at a time."""
    sampler, ends, count = _sampler(config), loaded.tokenizer.eos_token_ids, 0
    with substitutes.as_in_mlx_lm(loaded.model):
        for prompt in prompts:
            for token, _ in generate_step(
                mx.array(prompt), loaded.model, max_tokens=config.max_tokens, sampler=sampler
            ):
                if token in ends:
                    break
                count += 1
    return count


def _batches(loaded: LoadedModel, prompts: Sequence[list[int]], config: GenerateBenchConfig) -> int:
    """Tokens that stock mlx-lm writes in batches of prompts in their order."""
    size, count = config.stock_batch_size, 0
    with substitutes.as_in_mlx_lm(loaded.model):
        for start in range(0, len(prompts), size):
            written = batch_generate(
                loaded.model,
                loaded.tokenizer,
                prompts[start : start + size],
                max_tokens=config.max_tokens,
                sampler=_sampler(config),
                completion_batch_size=size,
                prefill_batch_size=size,
                return_token_ids=True,
            )
            count += sum(map(len, written.token_ids))
    return count


def _sampler(config: GenerateBenchConfig) -> Callable[[mx.array], mx.array]:
    return make_sampler(config.temperature, config.top_p)
