"""Token budgets, packing and the token cache from end to end: the same training, resumed to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import pytest
from mlx_lm.utils import load_tokenizer

from mlx_persona import ui
from mlx_persona.config import SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.runs import Run
from mlx_persona.stages.sft import SftSource, sft
from mlx_persona.tokens import cache
from mlx_persona.tokens.dataset import conversation_rows, load_split
from mlx_persona.tokens.render import Renderer
from tests.toy import events, info, sft_config


class Killed(BaseException):
    """Stands for kill -9."""


SINGLE: dict[str, Any] = {"batch_size": 1, "max_seq_length": 256}
BUDGET: dict[str, Any] = {"batch_size": 1, "max_seq_length": 256, "batch_tokens": 512}
PACKED: dict[str, Any] = {"batch_size": 2, "max_seq_length": 256, "packing": True}
WAYS = pytest.mark.parametrize(
    "options", [BUDGET, PACKED, {**BUDGET, "packing": True}], ids=["budget", "packed", "both"]
)


def source(config: SftConfig) -> SftSource:
    """What a run with this configuration draws its micro-batches from."""
    renderer = Renderer(load_tokenizer(Path(config.model)))
    rows = conversation_rows(load_split(Path(config.data), "train"), renderer, config.max_seq_length).rows
    return SftSource(rows, rows[:2], config)


def whole_epoch(config: SftConfig) -> dict[str, Any]:
    """The train event of one update over exactly one epoch."""
    run = sft(replace(config, updates=1, grad_accumulation=source(config).plan.per_epoch)).run
    return events(run, "train")[0]


@WAYS
def test_however_rows_are_batched_an_epoch_gives_the_same_update(
    model: Path, data: Path, tmp_path: Path, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ui.set_quiet(False)
    single = whole_epoch(sft_config(model, data, tmp_path / "single", **SINGLE))
    other = whole_epoch(sft_config(model, data, tmp_path / "other", **options))
    assert "padding)" in capsys.readouterr().err
    assert (other["tokens"], other["supervised_tokens"]) == (single["tokens"], single["supervised_tokens"])
    assert other["loss"] == pytest.approx(single["loss"], rel=1e-5)
    assert other["grad_norm"] == pytest.approx(single["grad_norm"], rel=1e-3)


@WAYS
def test_the_log_says_what_padding_costs(model: Path, data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Padded tokens are the size of the arrays, as the plan foretells for a whole epoch."""
    config = sft_config(model, data, tmp_path / "run", **options)
    drawn = source(config)
    batches = [drawn.train_batch(n, 1)["tokens"] for n in range(drawn.plan.per_epoch)]
    event = whole_epoch(config)
    assert event["padded_tokens"] == sum(b.size for b in batches)
    inputs = event["tokens"] - len(drawn.train)  # the last token of a row is only predicted
    assert drawn.plan.padding() == pytest.approx(1 - inputs / event["padded_tokens"])
    assert config.batch_tokens is None or max(b.size for b in batches) <= config.batch_tokens


@WAYS
def test_a_resumed_run_goes_on_to_the_bit(
    model: Path, data: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, over several epochs, and with rows that come from the cache after the interruption."""
    settings = {**options, "updates": 9, "grad_accumulation": 2, "dropout": 0.2}
    whole = sft_config(model, data, tmp_path / "whole", **settings)
    sft(whole)
    monkeypatch.setenv("MLX_PERSONA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALL", 0)
    log = Run.log

    def die(run: Run, name: str, **values: Any) -> None:
        log(run, name, **values)
        if (name, values["update"]) == ("train", 5):
            raise Killed

    monkeypatch.setattr(Run, "log", die)
    with pytest.raises(Killed):
        sft(replace(whole, out=str(tmp_path / "killed")))
    monkeypatch.setattr(Run, "log", log)
    sft(SftConfig(resume=str(tmp_path / "killed")))
    assert events(tmp_path / "killed") == events(tmp_path / "whole")
    assert info(tmp_path / "killed")["data_hashes"] == info(tmp_path / "whole")["data_hashes"]


def test_a_second_run_does_not_read_the_conversations(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_PERSONA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALL", 0)
    first = sft(sft_config(model, data, tmp_path / "first", updates=2))

    def never(path: Path) -> Iterator[Any]:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(cache, "iter_conversations", never)
    second = sft(sft_config(model, data, tmp_path / "second", updates=2))
    assert events(first.run) == events(second.run)


def test_a_budget_below_the_longest_row_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    config = sft_config(model, data, tmp_path / "run", batch_tokens=64, batch_size=1)
    with pytest.raises(PersonaError, match="batch_tokens must be >= 96, what the longest row takes up, got 64"):
        sft(config)


def test_rows_and_tokens_per_batch_exclude_each_other() -> None:
    with pytest.raises(PersonaError, match="batch_size must be left out where batch_tokens is 512, got 4"):
        SftConfig(batch_size=4, batch_tokens=512)
