"""What a run is planned for is what its micro-batches really are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlx_persona.stages.budget import pairs_load
from mlx_persona.tokens.batches import Row, make_row, ordered_batches
from mlx_persona.tokens.pairs import PairRows


def random_pairs(count: int) -> PairRows:
    """Pairs of 4..60 prompt tokens and replies of 1..40."""
    rng = np.random.default_rng(3)

    def row(prompt: list[int], length: int) -> Row:
        reply = rng.integers(1, 99, length).tolist()
        return make_row([*prompt, *reply], [False] * len(prompt) + [True] * length)

    prompts = [rng.integers(1, 99, rng.integers(4, 60)).tolist() for _ in range(count)]
    chosen, rejected = (tuple(row(p, int(rng.integers(1, 40))) for p in prompts) for _ in range(2))
    return PairRows(chosen, rejected, 0)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_the_largest_micro_batch_of_pairs_is_known_before(shared: bool, size: int) -> None:
    rows = replace(random_pairs(32), shared=shared)
    batches = [rows.batch(members) for members in ordered_batches(rows.order, size)]
    load = pairs_load(rows, size)
    assert load.rows == (size if shared else 2 * size)
    tokens, targets = (max(b[name].size for b in batches) for name in ("tokens", "targets"))
    # Stacked rows are put together by the longest of all, and not pair by pair.
    assert tokens <= load.tokens <= (tokens if shared else 1.25 * tokens)
    assert targets <= load.targets <= 1.5 * targets


def test_a_shared_prompt_is_planned_once() -> None:
    rows = random_pairs(32)
    assert pairs_load(replace(rows, shared=True), 4).tokens < pairs_load(rows, 4).tokens
