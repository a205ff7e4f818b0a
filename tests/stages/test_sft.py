"""SFT from end to end on a tiny model: what is learnt, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import mlx_lm
import pytest
import yaml

from mlx_persona import ui
from mlx_persona.config import SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.load import load_model
from mlx_persona.runs import Run, newest
from mlx_persona.schema import Conversation, Message, write_jsonl
from mlx_persona.settings import plain
from mlx_persona.stages import training
from mlx_persona.stages.sft import sft
from mlx_persona.stages.training import TrainResult
from tests.toy import WORDS, events, info, sft_config, talk, write_data

TOKENS = mx.array([[1, 40, 50, 60, 70, 80, 2]])


@pytest.fixture(scope="module")
def learnt(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Thirty updates: enough to know what the person always says."""
    out = tmp_path_factory.mktemp("learnt") / "run"
    config = sft_config(model, data, out, updates=30, eval_every=10, learning_rate=2e-2, rank=8, system="You are Ann.")
    return sft(config)


def test_it_learns_what_the_person_always_says(learnt: TrainResult) -> None:
    assert learnt.base_eval_loss > 5.5  # ln 259 = 5.56: it knows nothing
    assert learnt.eval_loss < 2.5
    assert learnt.best_update == 30
    evals = [e["loss"] for e in events(learnt.run, "eval")]
    assert (evals[0], min(evals)) == (learnt.base_eval_loss, learnt.eval_loss)


def test_a_run_says_what_it_was_made_of(learnt: TrainResult, model: Path, data: Path) -> None:
    said = info(learnt.run)
    assert (said["stage"], said["status"], said["parent"], said["model"]) == ("sft", "done", None, str(model))
    assert said["data_hashes"] == training.data_hashes(data, ("train", "valid"))
    assert said["model_identity"] == load_model(str(model)).identity
    assert said["peak_bytes"] == learnt.peak_bytes > 0
    assert said["held_out"] is True
    assert said["seconds"] > 0
    assert {"mlx", "mlx-lm", "python", "blas", "threads"} <= said["versions"].keys()
    config = yaml.safe_load((learnt.run / "config.yaml").read_text())
    assert config.keys() == plain(SftConfig()).keys()
    assert (config["rank"], config["updates"], config["out"]) == (8, 30, str(learnt.run))


def test_the_result_has_the_keys_of_the_contract(learnt: TrainResult) -> None:
    keys = {"run", "adapter", "best_update", "eval_loss", "base_eval_loss", "tokens_per_second", "peak_bytes", "phases"}
    assert json.loads(json.dumps(learnt.to_json())).keys() == keys


def test_the_adapter_is_that_of_the_best_checkpoint_and_opens_in_stock_mlx_lm(learnt: TrainResult, model: Path) -> None:
    best = learnt.run / f"checkpoints/{learnt.best_update:06d}"
    for name in (adapters.WEIGHTS, adapters.CONFIG):
        assert (learnt.adapter / name).read_bytes() == (best / name).read_bytes()
    spec = adapters.read_spec(learnt.adapter)
    assert (spec.rank, spec.scale, spec.dora, spec.system) == (8, 2.0, True, "You are Ann.")
    stock, _ = mlx_lm.load(str(model), adapter_path=str(learnt.adapter))
    ours = load_model(str(model))
    adapters.load_adapter(ours.model, learnt.adapter, ours.identity)
    assert mx.allclose(stock(TOKENS), ours.model(TOKENS), atol=1e-3)
    base, _ = mlx_lm.load(str(model))
    assert not mx.allclose(stock(TOKENS), base(TOKENS), atol=1e-1)


def test_an_early_stop_keeps_the_best_adapter(model: Path, data: Path, tmp_path: Path) -> None:
    """A rate that overshoots makes the loss worse: the run stops and the adapter is the early one."""
    config = sft_config(model, data, tmp_path / "run", updates=40, eval_every=1, learning_rate=2.0, patience=2)
    result = sft(config)
    assert info(result.run)["status"] == "stopped"
    assert info(result.run)["updates"] == result.best_update + 2 < 40
    best = result.run / f"checkpoints/{result.best_update:06d}" / adapters.WEIGHTS
    assert (result.adapter / adapters.WEIGHTS).read_bytes() == best.read_bytes()
    assert newest(("sft",), tmp_path) is None  # it is called run, not sft-1


def test_without_a_name_runs_are_numbered(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [sft(sft_config(model, data, "", updates=1)).run for _ in range(2)]
    assert [str(run) for run in runs] == ["runs/sft-1", "runs/sft-2"]
    assert newest(("sft",)) == runs[1]


def test_iterations_are_converted_to_updates_and_the_conversion_is_shown(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ui.set_quiet(False)
    config = sft_config(model, data, tmp_path / "run", updates=None, iters=12, grad_accumulation=4, batch_size=1)
    result = sft(config)
    assert "12 iterations of 4 micro-batches per update are 3 updates" in capsys.readouterr().err
    assert info(result.run)["updates"] == 3


def test_epochs_are_whole_passes(model: Path, data: Path, tmp_path: Path) -> None:
    """24 rows in micro-batches of 5, two per update: 5 micro-batches an epoch, so 3 updates."""
    config = sft_config(model, data, tmp_path / "run", updates=None, epochs=1.0, grad_accumulation=2, batch_size=5)
    result = sft(config)
    assert info(result.run)["updates"] == info(result.run)["planned_updates"] == 3


def test_the_system_message_of_the_data_is_remembered(model: Path, data: Path, tmp_path: Path) -> None:
    said = [Conversation((Message("system", "You are Bo."), *talk(word).messages)) for word in WORDS]
    for name in ("train", "valid"):
        write_jsonl(tmp_path / f"data/{name}.jsonl", said)
    result = sft(sft_config(model, tmp_path / "data", tmp_path / "run", updates=1))
    assert adapters.read_spec(result.adapter).system == "You are Bo."


@pytest.mark.parametrize(
    ("options", "name", "shape"),
    [
        ({"dora": False, "rank": 3, "num_layers": 1}, "model.layers.1.self_attn.q_proj.lora_a", (32, 3)),
        ({"dora": True, "rank": 2, "alpha": 5.0}, "model.layers.0.mlp.down_proj.m", (32,)),
    ],
)
def test_rank_kind_and_layers_are_those_asked_for(
    model: Path, data: Path, tmp_path: Path, options: dict[str, object], name: str, shape: tuple[int, ...]
) -> None:
    result = sft(sft_config(model, data, tmp_path / "run", updates=1, **options))
    weights = adapters.read_weights(result.adapter / adapters.WEIGHTS)
    assert weights[name].shape == shape
    assert any("layers.0." in n for n in weights) == (options.get("num_layers") != 1)
    assert any(n.endswith(".m") for n in weights) == options["dora"]
    assert adapters.read_spec(result.adapter).scale == (2.5 if "alpha" in options else 2.0)


def test_what_fits_in_no_row_is_an_error(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=r"no conversation of .*train\.jsonl fits in 16 tokens") as caught:
        sft(sft_config(model, data, tmp_path / "run", max_seq_length=16))
    assert caught.value.hint == "raise --max-seq-length"
    assert not (tmp_path / "run").exists()


def test_held_out_data_that_fits_in_no_row_is_an_error(model: Path, data: Path, tmp_path: Path) -> None:
    write_data(tmp_path)
    long = Conversation((Message("user", "why?"), Message("assistant", "because " * 40)))
    write_jsonl(tmp_path / "valid.jsonl", [long])
    with pytest.raises(PersonaError, match=r"no conversation of .*valid\.jsonl fits in 128 tokens"):
        sft(sft_config(model, tmp_path, tmp_path / "run"))


@pytest.mark.parametrize("valid", [None, "", '{"messages": [{"role": "user", "content": "hi"}]}\n'])
def test_without_held_out_conversations_training_rows_are_evaluated_and_it_says_so(
    valid: str | None, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The losses are those of a run whose held-out file is a copy of the training file."""
    alone, copied = tmp_path / "alone", write_data(tmp_path / "copied")
    write_data(alone)
    (copied / "valid.jsonl").write_bytes((copied / "train.jsonl").read_bytes())
    (alone / "valid.jsonl").unlink()
    if valid is not None:
        (alone / "valid.jsonl").write_text(valid)
    ui.set_quiet(False)
    results = [sft(sft_config(model, folder, folder / "run", eval_limit=5)) for folder in (alone, copied)]
    warning = "no held-out conversations: losses are of training rows, and no proof of learning"
    assert capsys.readouterr().err.count(warning) == 1
    assert [info(r.run)["held_out"] for r in results] == [False, True]
    assert events(results[0].run) == events(results[1].run)


def test_a_failed_run_says_so_and_is_not_built_upon(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PersonaError, match="not finite"):
        sft(sft_config(model, data, "", learning_rate=1e30, eval_every=1))
    assert info(Path("runs/sft-1"))["status"] == "failed"
    assert newest(("sft",)) is None


def test_two_runs_that_start_at_once_get_directories_of_their_own(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is as far as this one when it looks for a name."""
    monkeypatch.chdir(tmp_path)
    original = training.claim

    def claim(stage: str) -> Path:
        Run.create(original(stage), {}, {})
        return original(stage)

    monkeypatch.setattr(training, "claim", claim)
    assert sft(sft_config(model, data, "", updates=1)).run == Path("runs/sft-2")
