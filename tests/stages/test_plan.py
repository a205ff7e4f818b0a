"""``plan`` from end to end on toy configs, and the plan that every run makes of itself."""

from __future__ import annotations

import json
from pathlib import Path

import mlx_persona.backend

# isort: split

import pytest

from mlx_persona import ui
from mlx_persona.config import PlanConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models.load import load_model
from mlx_persona.stages import budget
from mlx_persona.stages.plan import plan
from mlx_persona.stages.sft import sft
from tests.planner.test_shapes import QWEN_7B
from tests.toy import events, sft_config, write_data, write_model, write_pairs

KEYS = {"peak_bytes", "fits", "epochs", "updates", "tokens", "effective_scale", "seconds_estimate", "advice"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def seven(tmp_path: Path) -> str:
    """A folder with nothing but a config."""
    (tmp_path / "seven").mkdir()
    (tmp_path / "seven/config.json").write_text(json.dumps(QWEN_7B))
    return str(tmp_path / "seven")


@pytest.mark.parametrize("stage", ["sft", "dpo", "pairs", "fuse"])
def test_a_stage_is_planned_from_the_config_alone(stage: str, seven: str) -> None:
    result = json.loads(json.dumps(plan(PlanConfig(model=seven, stage=stage, device="metal")).to_json()))
    assert result.keys() >= KEYS
    assert result["peak_bytes"] > 4.28e9  # the weights
    assert result["effective_scale"] == 2.0
    assert "not measured on Metal" in result["measured"]


def test_a_named_budget_is_less_what_macos_keeps(seven: str) -> None:
    config = PlanConfig(model=seven, memory="16GB", device="metal", rank=64, max_seq_length=2048)
    result = plan(config)
    assert result.budget_bytes == 2**35 // 3
    assert result.fits == (result.peak_bytes <= result.budget_bytes)
    small = plan(PlanConfig(model=seven, memory="8GB", device="metal"))
    assert not small.fits
    assert small.advice[-1].peak_bytes < small.peak_bytes


def test_an_anchor_is_planned(seven: str) -> None:
    """A third to a half more time, and a little memory: hidden states and gradients of the targets."""
    plain, anchored = (plan(PlanConfig(model=seven, device="metal", kl=kl)) for kl in (0.0, 0.05))
    assert 1.3 < anchored.seconds_estimate / plain.seconds_estimate < 1.6
    assert 0 < anchored.peak_bytes - plain.peak_bytes < 0.01 * plain.peak_bytes


def test_data_is_counted_as_a_run_counts_it(tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "model"), write_data(tmp_path / "data/clean")
    config = sft_config(model, data, tmp_path / "run", updates=None, epochs=1.0)
    run = sft(config)
    found = plan(PlanConfig(model=str(model), data=str(data), rank=4, updates=None, epochs=1.0, batch_size=4,
                            grad_accumulation=1, max_seq_length=128))  # fmt: skip
    assert found.counted.startswith("counted in")
    trained = events(run.run, "train")
    assert (found.updates, found.tokens) == (len(trained), sum(e["tokens"] for e in trained))


def test_without_a_tokenizer_letters_are_counted(seven: str, tmp_path: Path) -> None:
    write_data(tmp_path / "data/clean")
    found = plan(PlanConfig(model=seven))
    assert found.counted.startswith("estimated from the letters")
    assert found.tokens > 0


def test_pairs_are_counted_on_both_sides(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    write_pairs(tmp_path / "data/pairs")
    found = plan(PlanConfig(model=str(model), stage="dpo"))
    assert found.counted.startswith("counted in")
    assert found.epochs == pytest.approx(16 / 12, abs=1e-3)  # 12 pairs, updates of 8


def test_a_run_says_its_plan_and_stays_within_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ui.set_quiet(False)
    model, data = write_model(tmp_path / "model"), write_data(tmp_path / "data/clean")
    sft(sft_config(model, data, tmp_path / "run"))
    said = capsys.readouterr().err
    assert "plan: peak 0.0 GB of " in said
    assert "6 updates, about " in said


def test_a_run_that_cannot_fit_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = write_model(tmp_path / "model"), write_data(tmp_path / "data/clean")
    for name in ("memory_bytes", "usable_bytes"):
        monkeypatch.setattr(mlx_persona.backend, name, lambda: 400_000)
    monkeypatch.setattr("mlx_persona.models.load.MEMORY_SHARE", 1e9)
    with pytest.raises(PersonaError, match=r"this run takes about 0\.0 GB of memory") as caught:
        sft(sft_config(model, data, tmp_path / "run"))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("try --")
    assert not (tmp_path / "run").exists()


def test_a_run_that_may_not_fit_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ui.set_quiet(False)
    model, data = write_model(tmp_path / "model"), write_data(tmp_path / "data/clean")
    monkeypatch.setattr(mlx_persona.backend, "usable_bytes", lambda: 400_000)
    sft(sft_config(model, data, tmp_path / "run", updates=1))
    assert "memory may not do: try --" in capsys.readouterr().err


def test_an_architecture_that_cannot_be_planned_trains_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(config: object) -> object:
        raise PersonaError("no such architecture")

    monkeypatch.setattr(budget, "shapes", unknown)
    model, data = write_model(tmp_path / "model"), write_data(tmp_path / "data/clean")
    plain = sft(sft_config(model, data, tmp_path / "plain", grad_checkpoint="off"))
    again = sft(sft_config(model, data, tmp_path / "again", grad_checkpoint="1"))
    assert again.eval_loss == pytest.approx(plain.eval_loss, rel=1e-4)


def test_a_full_disk_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = write_model(tmp_path / "model"), write_data(tmp_path / "data/clean")
    monkeypatch.setattr(budget, "run_bytes", lambda *_: 10**18)
    with pytest.raises(PersonaError, match=r"this run needs 1000000000\.00 GB on disk"):
        sft(sft_config(model, data, tmp_path / "run"))


def test_a_run_directory_takes_no_more_than_was_planned(tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "model"), write_data(tmp_path / "data/clean")
    config = sft_config(model, data, tmp_path / "run", rank=64, eval_every=1, keep_last=2)
    result = sft(config)
    took = sum(f.stat().st_size for f in result.run.rglob("*.safetensors"))
    shape = budget.shapes(load_model(str(model)).config)
    assert 0.5 < took / budget.run_bytes(shape, budget.Setup(64), 2) < 1
