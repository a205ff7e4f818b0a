"""The benchmark of writing counts tokens alike on every side, and gives stock its own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import pytest
from mlx_lm.models import activations, base, llama

from mlx_persona.benchmarks import generation
from mlx_persona.benchmarks.generation import GenerateBenchResult, bench_generate
from mlx_persona.config import GenerateBenchConfig
from mlx_persona.errors import PersonaError
from tests.toy import write_data, write_model


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """A toy model and data."""
    data = write_data(tmp_path / "data")
    model = str(write_model(tmp_path / "model"))
    return {"model": model, "data": str(data), "n": 6, "one_by_one": 6, "max_tokens": 8, "stock_batch_size": 4}


def test_greedy_sides_write_the_same_number_of_tokens(config: dict[str, Any]) -> None:
    result = bench_generate(GenerateBenchConfig(**config, temperature=0.0, rounds=2))
    assert result.tokens["ours"] == result.tokens["one_by_one"] == result.tokens["batches"] > 0
    assert result.prompts == 6
    printed = result.to_json()
    assert next(iter(printed)) == "ratio"
    assert set(printed["ratio"]) == {"one_by_one", "batches"}


def test_stock_runs_as_it_comes(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own SwiGLU and attention while it is measured, in both ways of its."""
    seen = []

    def spying(original: Any) -> Any:
        def spy(*args: Any, **kwargs: Any) -> Any:
            stock = llama.swiglu is activations.swiglu
            seen.append(stock and llama.scaled_dot_product_attention is base.scaled_dot_product_attention)
            return original(*args, **kwargs)

        return spy

    for name in ("generate_step", "batch_generate"):
        monkeypatch.setattr(generation, name, spying(getattr(generation, name)))
    bench_generate(GenerateBenchConfig(**config))
    # A generator's body runs when it is read, which is in the same block.
    assert seen == [True] * (6 + 2)


def test_the_ratio_is_ours_over_stock() -> None:
    result = GenerateBenchResult({"ours": 30.0, "one_by_one": 10.0, "batches": 20.0}, {}, {}, 2, 9)
    assert result.to_json()["ratio"] == {"one_by_one": 3.0, "batches": 1.5}


def test_too_few_prompts_are_an_error(config: dict[str, Any]) -> None:
    with pytest.raises(PersonaError, match="1000 prompts are needed"):
        bench_generate(GenerateBenchConfig(**{**config, "n": 1000}))
