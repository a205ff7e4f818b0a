"""How far an adapter moves a model, against NumPy and against the model without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import numpy as np
import pytest

from mlx_persona.evals import drift
from mlx_persona.evals.probes import shipped
from mlx_persona.models import adapters
from mlx_persona.models.load import LoadedModel, load_model
from mlx_persona.tokens.batches import Row, make_row

ROWS = [
    make_row([5, 70, 80, 90, 100], [True, True, False, True, True]),
    make_row([9, 60, 61], [True] * 3),
    make_row([44, 45, 46, 47], [False, False, False, True]),
]


@pytest.fixture(params=[False, True], ids=["lora", "dora"])
def loaded(model: Path, request: pytest.FixtureRequest) -> LoadedModel:
    """The toy model with an adapter that changes what it says."""
    found = load_model(str(model))
    adapters.attach(found.model, adapters.AdapterSpec(rank=2, scale=2.0, dora=request.param))
    drawn = {
        name: value + 0.3 * mx.random.normal(value.shape, key=mx.random.key(i))
        for i, (name, value) in enumerate(sorted(adapters.trainable(found.model).items()))
    }
    found.model.load_weights(list(drawn.items()), strict=False)
    adapters.refresh(found.model)
    return found


def log_probs(model: Any, row: Row) -> np.ndarray[Any, Any]:
    """Before each marked token: (N, V) in float64."""
    logits = np.asarray(model(mx.array(row.ids[None, :-1]))[0].astype(mx.float32)).astype(np.float64)
    logits = logits[row.mask[1:]]
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_kl_and_losses_are_those_of_the_formulas(loaded: LoadedModel, model: Path) -> None:
    base = load_model(str(model)).model
    targets = np.concatenate([row.ids[1:][row.mask[1:]] for row in ROWS])
    p = np.concatenate([log_probs(loaded.model, row) for row in ROWS])
    q = np.concatenate([log_probs(base, row) for row in ROWS])
    seen: list[int] = []
    found = drift.mean_kl(loaded.model, ROWS, seen.append)
    assert found.tokens == len(targets) == 6
    assert found.kl == pytest.approx(float((np.exp(p) * (p - q)).sum(axis=1).mean()), rel=1e-4)
    assert found.loss == pytest.approx(-p[np.arange(6), targets].mean(), rel=1e-5)
    assert found.base_loss == pytest.approx(-q[np.arange(6), targets].mean(), rel=1e-5)
    assert found.kl > 0.01
    assert sum(seen) == len(ROWS)
    assert drift.mean_kl(loaded.model, ROWS) == found


def test_an_adapter_that_does_nothing_moves_nothing(model: Path) -> None:
    found = load_model(str(model))
    adapters.attach(found.model, adapters.AdapterSpec(rank=2, scale=2.0, dora=False))
    same = drift.mean_kl(found.model, ROWS)
    assert same.kl == 0
    assert same.loss == same.base_loss


def test_bypassing_is_the_base_model_and_ends_even_after_an_error(loaded: LoadedModel, model: Path) -> None:
    tokens = mx.array([[1, 2, 3]])
    with_adapter = loaded.model(tokens)
    base = load_model(str(model)).model(tokens)
    with pytest.raises(RuntimeError, match="stop"), adapters.bypassed(loaded.model):  # noqa: PT012
        assert mx.array_equal(loaded.model(tokens), base).item()
        raise RuntimeError("stop")
    assert mx.array_equal(loaded.model(tokens), with_adapter).item()


def test_each_row_has_a_loss_of_its_own(loaded: LoadedModel) -> None:
    seen: list[int] = []
    found = drift.row_losses(loaded.model, ROWS, seen.append)
    expected = [-log_probs(loaded.model, row)[np.arange(row.targets), row.ids[1:][row.mask[1:]]].mean() for row in ROWS]
    assert found == pytest.approx(expected, rel=1e-5)
    assert sum(seen) == len(ROWS)


def test_a_twentieth_of_the_usual_is_surprising() -> None:
    usual = [float(i) for i in range(100)]
    assert sum(drift.surprising(usual, usual)) == 5
    assert drift.surprising([94.0, 94.06], usual) == [False, True]


def test_the_neutral_text_becomes_a_row_per_paragraph(loaded: LoadedModel) -> None:
    text = shipped("neutral.txt").read_text(encoding="utf-8")
    rows = drift.text_rows(loaded.tokenizer, text)
    assert len(rows) == text.count("\n\n") + 1 == 20
    assert sum(row.targets for row in rows) >= 4000  # bytes here; more than a thousand tokens of a real model
    assert all(row.mask.all() for row in rows)
    assert loaded.tokenizer.decode(rows[0].ids.tolist()) == text.split("\n\n")[0]
    assert drift.text_rows(loaded.tokenizer, "\n\n\n\na\n\n") == []
