"""DPO from end to end on a tiny model: its start, its reference, what is learnt, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from mlx_persona.config import DpoConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.load import load_model
from mlx_persona.runs import resolve_adapter
from mlx_persona.schema import read_pairs
from mlx_persona.stages import dpo as stage
from mlx_persona.stages.dpo import dpo
from mlx_persona.stages.sft import sft
from mlx_persona.training.checkpoint import checkpoint_path
from tests.toy import dpo_config, events, info, sft_config, write_model, write_pairs

TOKENS = mx.array([[1, 40, 50, 60, 70, 80, 2]])


@pytest.fixture(scope="module")
def sft_run(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DoRA of rank 4 with a system message."""
    return sft(sft_config(model, data, tmp_path_factory.mktemp("sft") / "run", system="You are Ann.")).run


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs each computation of a reference had."""
    counts: list[int] = []
    original = stage.reference_log_probs

    def counted(model: Any, logits: Any, rows: Any, *others: Any) -> Any:
        counts.append(len(rows.chosen))
        return original(model, logits, rows, *others)

    monkeypatch.setattr(stage, "reference_log_probs", counted)
    return counts


@pytest.mark.parametrize("options", [{}, {"fresh": True, "dora": False}, {"fresh": True, "dora": True, "rank": 3}])
def test_it_starts_at_ln_2_and_learns_to_prefer_the_chosen_replies(
    sft_run: Path, pairs: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Before the first update policy and reference are the same, so every margin is 0 and every loss ln 2."""
    result = dpo(dpo_config(sft_run, pairs, tmp_path / "run", **options))
    evals = events(result.run, "eval")
    assert evals[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert evals[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert result.base_eval_loss == evals[0]["loss"]
    assert result.eval_loss < 0.67
    assert evals[-1]["accuracy"] == result.extra["accuracy"] == 1.0
    assert evals[0]["margin"] < evals[1]["margin"] < evals[2]["margin"] == result.extra["margin"]
    assert result.extra["margin"] == pytest.approx(result.extra["chosen_reward"] - result.extra["rejected_reward"])
    assert info(result.run)["parent"] == str(sft_run)
    assert {"accuracy", "margin", "run", "adapter", "eval_loss"} <= json.loads(json.dumps(result.to_json())).keys()


def test_it_continues_the_adapter_and_leaves_the_sft_run_alone(sft_run: Path, pairs: Path, tmp_path: Path) -> None:
    before = (sft_run / "adapter" / adapters.WEIGHTS).read_bytes()
    result = dpo(dpo_config(sft_run, pairs, tmp_path / "run", rank=4, alpha=8.0, dora=True))
    assert (sft_run / "adapter" / adapters.WEIGHTS).read_bytes() == before
    spec, start = adapters.read_spec(result.adapter), adapters.read_spec(sft_run / "adapter")
    assert (spec.rank, spec.scale, spec.dora, spec.system) == (4, 2.0, True, "You are Ann.")
    assert (spec.keys, spec.base) == (start.keys, start.base)
    ours, theirs = (
        adapters.read_weights(folder / adapters.WEIGHTS) for folder in (result.adapter, sft_run / "adapter")
    )
    changed = [name for name in ours if not mx.array_equal(ours[name], theirs[name])]
    assert {name.rsplit(".", 1)[1] for name in changed} == {"lora_a", "lora_b", "m"}


@pytest.mark.parametrize("option", [{"rank": 8}, {"alpha": 4.0}, {"dora": False}])
def test_another_shape_of_adapter_needs_fresh(
    sft_run: Path, pairs: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    with pytest.raises(PersonaError, match=f"dpo continues the SFT adapter, whose {next(iter(option))} is") as caught:
        dpo(dpo_config(sft_run, pairs, tmp_path / "run", **option))
    assert "--fresh" in str(caught.value.hint)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("inner", "outer"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_fresh_adapter_is_saved_as_the_one_adapter_that_the_stack_equals(
    model: Path, data: Path, pairs: Path, tmp_path: Path, inner: bool, outer: bool
) -> None:
    start = sft(sft_config(model, data, tmp_path / "sft", dora=inner, updates=3, learning_rate=2e-2)).run
    result = dpo(dpo_config(start, pairs, tmp_path / "dpo", fresh=True, dora=outer, rank=3, learning_rate=1e-2))
    loaded = load_model(str(model))
    adapters.load_adapter(loaded.model, start / "adapter", loaded.identity)
    best = checkpoint_path(result.run, result.best_update)
    spec = adapters.read_spec(best)
    adapters.attach(loaded.model, spec)
    stack = adapters.read_weights(best / adapters.WEIGHTS)
    loaded.model.load_weights(list(stack.items()), strict=False)
    adapters.refresh(loaded.model)
    stock, _ = mlx_lm.load(str(model), adapter_path=str(result.adapter))
    assert mx.allclose(stock(TOKENS), loaded.model(TOKENS), atol=1e-3)
    assert adapters.read_spec(result.adapter).rank == 7
    again = load_model(str(model))
    adapters.load_adapter(again.model, result.adapter, again.identity)
    assert mx.allclose(again.model(TOKENS), loaded.model(TOKENS), atol=1e-3)
    base, _ = mlx_lm.load(str(model), adapter_path=str(start / "adapter"))
    assert not mx.allclose(stock(TOKENS), base(TOKENS), atol=3e-2)


def test_a_fresh_adapter_needs_no_sft_run_when_a_model_is_named(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = dpo(dpo_config("", pairs, "", fresh=True, model=str(model), rank=3))
    assert result.run == Path("runs/dpo-1")
    assert result.base_eval_loss == pytest.approx(math.log(2), abs=1e-5)
    assert info(result.run)["parent"] is None
    assert adapters.read_spec(result.adapter).rank == 3
    assert resolve_adapter("runs/dpo-1") == result.adapter


def test_without_an_sft_run_it_says_what_to_do(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PersonaError, match="no finished SFT run in runs/") as caught:
        dpo(DpoConfig(pairs=str(pairs)))
    assert "mlx-persona sft" in str(caught.value.hint)


def test_the_reference_is_computed_once_for_the_same_pairs_and_adapter(
    sft_run: Path, tmp_path: Path, computed: list[int]
) -> None:
    mine = write_pairs(tmp_path / "pairs")
    runs = [dpo(dpo_config(sft_run, mine, tmp_path / f"run{i}")).run for i in range(2)]
    assert computed == [12, 5]
    assert events(runs[0]) == events(runs[1])
    dpo(dpo_config(sft_run, mine, tmp_path / "fresh", fresh=True, rank=3))
    assert computed == [12, 5]  # a fresh adapter starts from the same policy


def test_the_reference_is_computed_anew_when_its_file_is_damaged(
    sft_run: Path, tmp_path: Path, computed: list[int]
) -> None:
    mine = write_pairs(tmp_path / "pairs")
    first = dpo(dpo_config(sft_run, mine, tmp_path / "one")).run
    files = sorted((mine / "reference").glob("*.npy"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:-7])
    files[1].write_bytes(b"")
    second = dpo(dpo_config(sft_run, mine, tmp_path / "two")).run
    assert computed == [12, 5, 12, 5]
    assert events(first) == events(second)
    assert all(np.isfinite(np.load(f)).all() for f in files)


def test_the_reference_is_computed_anew_for_another_adapter_or_other_pairs(
    model: Path, data: Path, sft_run: Path, tmp_path: Path, computed: list[int]
) -> None:
    mine = write_pairs(tmp_path / "pairs")
    dpo(dpo_config(sft_run, mine, tmp_path / "one", updates=1))
    other = sft(sft_config(model, data, tmp_path / "sft", updates=1, seed=5)).run
    dpo(dpo_config(other, mine, tmp_path / "two", updates=1))
    assert computed == [12, 5, 12, 5]
    write_pairs(mine, train=9)
    dpo(dpo_config(other, mine, tmp_path / "three", updates=1))
    assert computed == [12, 5, 12, 5, 9]


def test_missing_pairs_are_written_first_no_more_than_will_be_seen(sft_run: Path, data: Path, tmp_path: Path) -> None:
    config = dpo_config(
        sft_run, tmp_path / "pairs", tmp_path / "run", data=str(data), updates=2, batch_size=3, max_seq_length=300
    )
    result = dpo(config)
    made = {name: read_pairs(tmp_path / f"pairs/{name}.jsonl") for name in ("train", "valid")}
    assert len(made["train"]) == 6
    assert len(made["valid"]) == 1
    assert all(p.chosen.startswith("oh well well well") for p in made["train"])
    assert events(result.run, "eval")[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_accuracy_is_also_told_on_pairs_of_equal_length(sft_run: Path, tmp_path: Path) -> None:
    """Two of the five held-out pairs have sides whose tokens differ by less than a quarter."""
    mine = write_pairs(tmp_path / "pairs")
    lines = (mine / "valid.jsonl").read_text().splitlines()
    for i in (0, 3):
        pair = json.loads(lines[i])
        pair["rejected"] = pair["chosen"][::-1]
        lines[i] = json.dumps(pair)
    (mine / "valid.jsonl").write_text("\n".join(lines) + "\n")
    result = dpo(dpo_config(sft_run, mine, tmp_path / "run"))
    assert result.extra["pairs_length_matched"] == 2
    assert result.extra["accuracy_length_matched"] in (0.0, 0.5, 1.0)


def test_a_likelihood_term_keeps_the_chosen_replies_likely(sft_run: Path, pairs: Path, tmp_path: Path) -> None:
    losses = [
        dpo(dpo_config(sft_run, pairs, tmp_path / f"{weight}", nll_weight=weight)).extra["chosen_loss"]
        for weight in (0.0, 5.0)
    ]
    assert losses[1] < losses[0]


def test_pairs_that_do_not_fit_are_an_error(sft_run: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=r"no pair in .* fits in 16 tokens") as caught:
        dpo(dpo_config(sft_run, pairs, tmp_path / "run", max_seq_length=16))
    assert caught.value.hint == "raise --max-seq-length"


def test_an_adapter_of_another_model_is_refused(sft_run: Path, pairs: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(PersonaError, match="was made for another model"):
        dpo(dpo_config(sft_run, pairs, tmp_path / "run", model=str(other)))


def test_a_run_carries_its_start_with_it(sft_run: Path, pairs: Path, tmp_path: Path) -> None:
    result = dpo(dpo_config(sft_run, pairs, tmp_path / "run", updates=1))
    for name in (adapters.WEIGHTS, adapters.CONFIG):
        assert (result.run / "start" / name).read_bytes() == (sft_run / "adapter" / name).read_bytes()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_reading_each_prompt_once_changes_no_figure(
    sft_run: Path, pairs: Path, tmp_path: Path, dropout: float, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The run is the one that a model without shared prompts has, dropout included: only rounding differs."""
    options: dict[str, Any] = {"dropout": dropout, "label_smoothing": 0.1, "nll_weight": 0.2, "batch_size": 12}
    shared = dpo(dpo_config(sft_run, pairs, tmp_path / "shared", **options))
    assert "reads each prompt twice" not in capsys.readouterr().err
    monkeypatch.setattr(stage, "can_share", lambda *_: False)
    plain = dpo(dpo_config(sft_run, pairs, tmp_path / "plain", **options))
    assert "reads each prompt twice" in capsys.readouterr().err
    for ours, theirs in zip(events(shared.run), events(plain.run), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours.get("padded_tokens", 0) <= theirs.get("padded_tokens", 0)
        # Which of two equal rewards is larger, before the first update, rounding decides.
        for name, value in ((k, v) for k, v in theirs.items() if not k.startswith(("accuracy", "padded"))):
            assert ours[name] == (pytest.approx(value, rel=2e-3, abs=2e-4) if isinstance(value, float) else value), name


def test_each_layout_has_a_reference_of_its_own(
    sft_run: Path, tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference comes from the very forward pass that trains, or the first loss would not be ln 2."""
    mine = write_pairs(tmp_path / "pairs")
    dpo(dpo_config(sft_run, mine, tmp_path / "shared", updates=1))
    monkeypatch.setattr(stage, "can_share", lambda *_: False)
    dpo(dpo_config(sft_run, mine, tmp_path / "plain", updates=1))
    assert computed == [12, 5, 12, 5]
