"""The parity gate's arithmetic, against NumPy and against itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401

# isort: split

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_persona.evals import parity
from mlx_persona.models.divergence import kl
from mlx_persona.models.load import LoadedModel, load_model
from mlx_persona.schema import Conversation, Message
from mlx_persona.tokens.batches import Row, make_row
from mlx_persona.tokens.render import Renderer


class Table(nn.Module):
    """A model whose next-token logits depend on the last token alone: (V, V)."""

    def __init__(self, logits: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self.table = mx.array(logits)

    def __call__(self, tokens: mx.array) -> mx.array:
        """Logits (B, T, V) of tokens (B, T)."""
        return self.table[tokens]


def log_softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    x = x.astype(np.float64)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


ROWS = [
    make_row([0, 1, 2, 3, 4], [False, False, True, True, False]),
    make_row([4, 3, 1], [False, True, False]),
    make_row([2, 2, 0, 4, 1, 3], [True, False, False, True, True, True]),
]
BEFORE_TARGETS = [1, 2, 4, 0, 4, 1]  # the token before each marked one


def test_kl_and_retention_are_those_of_the_formula(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    adapter, fused, base = (rng.normal(0, 2, (5, 5)).astype(np.float32) for _ in range(3))
    path = tmp_path / "reference.npy"
    parity.write_reference(Table(adapter), ROWS, path)

    def expected(other: np.ndarray[Any, Any]) -> float:
        p, q = log_softmax(adapter)[BEFORE_TARGETS], log_softmax(other)[BEFORE_TARGETS]
        return float((np.exp(p) * (p - q)).sum(axis=-1).mean())

    kl_fused = parity.divergence(Table(fused), ROWS, path, "fused")
    kl_base = parity.divergence(Table(base), ROWS, path, "base")
    assert kl_fused == pytest.approx(expected(fused), rel=1e-5)
    assert kl_base == pytest.approx(expected(base), rel=1e-5)
    assert parity.retention(kl_fused, kl_base) == pytest.approx(1 - expected(fused) / expected(base), rel=1e-4)
    assert parity.divergence(Table(adapter), ROWS, path, "itself") == 0
    stored = np.load(path)
    assert stored.dtype == np.float32
    assert stored.nbytes == parity.reference_bytes(Table(adapter), ROWS) == 4 * 5 * 6


def test_retention_of_an_adapter_that_does_nothing_is_whole() -> None:
    assert parity.retention(0.5, 1e-7) == 1.0
    assert parity.retention(0.25, 1.0) == 0.75
    assert parity.retention(2.0, 1.0) == -1.0


def test_tokens_that_cannot_occur_count_nothing() -> None:
    reference = mx.array([[0.0, -np.inf], [np.log(0.5), np.log(0.5)]])
    other = mx.array([[np.log(0.25), np.log(0.75)], [0.0, -np.inf]])
    assert np.asarray(kl(reference, other)).tolist() == [pytest.approx(np.log(4)), np.inf]


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> LoadedModel:
    return load_model(str(tiny_model_dir))


def talk(number: int, replies: int) -> Conversation:
    turns = []
    for i in range(replies):
        turns += [
            Message("user", f"question {number} {i}"),
            Message("assistant", f"well then, answer {number} {i} it is"),
        ]
    return Conversation(tuple(turns))


def marked(rows: list[Row]) -> list[int]:
    return [row.targets for row in rows]


def test_rows_are_spread_over_conversations_and_end_with_their_last_token(tiny: LoadedModel) -> None:
    renderer = Renderer(tiny.tokenizer)
    conversations = [talk(number, 6) for number in range(10)]
    rows = parity.sample_rows(conversations, renderer, 4 * parity.PER_ROW, 512)
    assert marked(rows) == [parity.PER_ROW] * 4
    assert all(row.mask[-1] for row in rows)
    for row, number in zip(rows, (0, 2, 5, 7), strict=True):
        whole = renderer.render(conversations[number].messages)
        assert whole is not None
        assert row.ids.tolist() == whole.ids[: len(row.ids)]
        assert row.mask.tolist() == whole.mask[: len(row.ids)]


def test_few_conversations_give_more_tokens_each(tiny: LoadedModel) -> None:
    rows = parity.sample_rows([talk(0, 20), talk(1, 20)], Renderer(tiny.tokenizer), 6 * parity.PER_ROW, 512)
    assert marked(rows) == [3 * parity.PER_ROW] * 2


def test_short_conversations_are_made_up_for_by_more_of_them(tiny: LoadedModel) -> None:
    rows = parity.sample_rows([talk(n, 1) for n in range(30)], Renderer(tiny.tokenizer), 100, 512)
    assert sum(marked(rows)) == 100
    assert len(rows) > 100 // parity.PER_ROW + 1


def test_the_last_row_is_cut_to_the_number_asked_for(tiny: LoadedModel) -> None:
    rows = parity.sample_rows([talk(n, 20) for n in range(5)], Renderer(tiny.tokenizer), 40, 512)
    assert marked(rows) == [parity.PER_ROW, 40 - parity.PER_ROW]
