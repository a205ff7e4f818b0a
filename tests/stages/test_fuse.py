"""Fusing from end to end on tiny models: the gate, what it refuses, what is written, and what is left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx_persona.backend  # noqa: F401

# isort: split

import mlx.core as mx
import mlx_lm
import pytest
import yaml

from mlx_persona import ui
from mlx_persona.config import FuseConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters, load, merge
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.runs import adapter_hash, file_hash
from mlx_persona.schema import Conversation, Message, write_jsonl
from mlx_persona.stages import fuse as stage
from mlx_persona.stages.fuse import fuse
from tests.toy import save_adapter

TOKENS = mx.array([[3, 14, 15, 92, 65, 35]])


@pytest.fixture(scope="module")
def base(quantized_tiny_dir: Callable[..., Path]) -> Path:
    return quantized_tiny_dir(bits=4)


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that 8 bits keep and 4 bits do not."""
    return make_adapter(base, tmp_path_factory.mktemp("made") / "adapter", 0.03)


def make_adapter(base: Path, folder: Path, spread: float) -> Path:
    loaded = load.load_model(str(base))
    spec = adapters.attach(loaded.model, AdapterSpec(4, 2.0, True, base=loaded.identity, system="You are Ana."))
    for index, (_, layer) in enumerate(adapters.adapter_layers(loaded.model)):
        layer.lora_b = spread * mx.random.normal(layer.lora_b.shape, key=mx.random.key(index))
    save_adapter(folder, adapters.trainable(loaded.model), spec)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, base: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with held-out data and one finished SFT run, as the current directory."""
    monkeypatch.chdir(tmp_path)
    turns = (Message("user", "how are you?"), Message("assistant", "oh well, fine I guess, and what about you?"))
    for name, number in (("valid", 3), ("test", 2)):
        write_jsonl(Path(f"data/clean/{name}.jsonl"), [Conversation(turns * 2)] * number)
    shutil.copytree(made, "runs/sft-1/adapter")
    info = {"stage": "sft", "status": "done", "finished": 1.0, "model": str(base), "updates": 7}
    info["data_hashes"] = {"train": "ab" * 32}
    Path("runs/sft-1/run.json").write_text(json.dumps(info))
    return tmp_path


def config(**options: Any) -> FuseConfig:
    return FuseConfig(**{"gate_tokens": 32, "max_seq_length": 128, **options})


def leftovers() -> list[str]:
    return sorted(path.name for path in Path("runs").iterdir() if path.name != "sft-1")


def test_auto_writes_the_narrowest_width_that_passes(workspace: Path, base: Path) -> None:
    result = fuse(config())
    assert (result.path, result.bits) == (Path("runs/fused-1"), 8)
    assert list(result.widths) == ["4", "8"]
    assert result.widths["4"]["retention"] < 0.9 <= result.retention == result.widths["8"]["retention"]
    assert result.retention == pytest.approx(1 - result.kl / result.kl_base)
    assert (result.adapter, result.base) == (Path("runs/sft-1/adapter"), base.name)
    assert json.loads(json.dumps(result.to_json()))["path"] == "runs/fused-1"
    assert leftovers() == ["fused-1"]


def test_what_is_written_opens_in_stock_mlx_lm_and_talks_like_the_adapter(workspace: Path, base: Path) -> None:
    result = fuse(config(bits="16"))
    model, tokenizer = mlx_lm.load(str(result.path))
    model.set_dtype(mx.float32)
    loaded = load.load_model(str(base))
    adapters.load_adapter(loaded.model, Path("runs/sft-1/adapter"), loaded.identity)
    assert float(mx.abs(model(TOKENS) - loaded.model(TOKENS)).max()) < 1e-3
    assert tokenizer.eos_token_id == loaded.tokenizer.eos_token_id
    assert tokenizer.chat_template == loaded.tokenizer.chat_template
    assert (result.path / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()


def test_the_run_says_where_it_came_from_and_what_every_width_kept(workspace: Path, base: Path) -> None:
    result = fuse(config())
    info = json.loads((result.path / "run.json").read_text())
    assert info["stage"] == "fuse"
    assert info["status"] == "done"
    assert info["model"] == str(base)
    assert info["model_identity"] == load.identity(base)
    assert info["parent"] == "runs/sft-1"
    assert info["adapter"] == "runs/sft-1/adapter"
    assert info["adapter_sha256"] == adapter_hash(Path("runs/sft-1/adapter"))
    assert info["identity"] == load.identity(result.path)
    assert info["system"] == "You are Ana."
    assert info["widths"] == result.widths
    assert (info["bits"], info["retention"]) == (8, result.retention)
    assert (info["kl"], info["kl_base"]) == (result.kl, result.kl_base)
    held_out = Path("data/clean/valid.jsonl")
    assert info["held_out"] == {"file": str(held_out), "sha256": file_hash(held_out), "rows": 2, "tokens": 32}
    assert info["versions"]["mlx"]
    assert info["finished"] > 1.0
    resolved = yaml.safe_load((result.path / "config.yaml").read_text())
    assert resolved == {**resolved, "model": str(base), "adapter": "runs/sft-1/adapter", "out": "runs/fused-1"}


def test_the_model_card_has_the_figures_and_nothing_private(workspace: Path, base: Path) -> None:
    copy = workspace / "base"
    shutil.copytree(base, copy)
    (copy / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n\n# Base\n")
    result = fuse(config(model=str(copy)))
    card = (result.path / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "library_name": "mlx",
        "pipeline_tag": "text-generation",
        "tags": ["mlx", "mlx-persona"],
        "license": "apache-2.0",
    }
    for text in ("`base`", "DoRA, rank 4", "sft, 7 updates", "abababababababab", f"| 8 | {result.retention:.3f} |"):
        assert text in card
    assert "Ana" not in card
    assert str(workspace) not in card


def test_a_width_that_loses_too_much_is_refused_with_the_one_that_does_not(workspace: Path) -> None:
    with pytest.raises(PersonaError, match=r"fusing at 4 bits keeps -?\d\.\d\d of .* it must be >= 0.9") as caught:
        fuse(config(bits="4"))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("use --bits 8 (keeps ")
    assert caught.value.hint.endswith("), or --force")
    assert leftovers() == []


def test_force_writes_it_all_the_same_and_measures_no_other(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(ui, "warn", warnings.append)
    result = fuse(config(bits="4", force=True))
    assert (result.bits, list(result.widths)) == (4, ["4"])
    assert result.retention < 0.9
    assert [w.split(" of ")[0][:11] for w in warnings] == ["4 bits keep"]


def test_a_gate_that_nothing_passes_names_the_figures(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.parity, "retention", lambda kl, base: 0.25)
    with pytest.raises(PersonaError) as caught:
        fuse(config())
    assert caught.value.message == (
        "no width keeps 0.9 of the adapter's effect: 4 bits keep 0.25, 8 bits keep 0.25, 16 bits keep 0.25"
    )
    assert leftovers() == []
    with pytest.raises(PersonaError) as caught:
        fuse(config(bits="8"))
    assert caught.value.hint == "no wider width passes; --force writes it all the same"
    assert leftovers() == []


def test_try_all_measures_every_width_and_still_takes_the_narrowest(workspace: Path) -> None:
    result = fuse(config(try_all=True))
    assert result.bits == 8
    assert list(result.widths) == ["4", "8", "16"]
    assert result.widths["16"]["retention"] > 0.999
    assert json.loads((result.path / "config.json").read_text())["quantization"]["bits"] == 8
    assert list(result.path.glob("*.npy")) == []


def test_the_gate_is_where_it_was_set(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.parity, "retention", lambda kl, base: 0.5)
    assert fuse(config(min_retention=0.5)).bits == 4
    with pytest.raises(PersonaError, match=r"no width keeps 0\.51"):
        fuse(config(min_retention=0.51))


def test_an_adapter_that_does_nothing_passes_with_a_warning(
    workspace: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(ui, "warn", warnings.append)
    make_adapter(base, workspace / "idle", 0.0)
    result = fuse(config(adapter="idle", model=str(base)))
    assert (result.bits, result.retention) == (4, 1.0)
    assert result.kl_base < 1e-6
    assert len(warnings) == 1
    assert "the adapter does nothing" in warnings[0]


def test_the_newest_dpo_run_is_fused_and_its_base_is_known(workspace: Path, base: Path) -> None:
    shutil.copytree("runs/sft-1", "runs/dpo-1")
    info = json.loads(Path("runs/sft-1/run.json").read_text())
    Path("runs/dpo-1/run.json").write_text(json.dumps({**info, "stage": "dpo", "finished": 2.0}))
    result = fuse(config(bits="8"))
    assert result.adapter == Path("runs/dpo-1/adapter")
    assert json.loads((result.path / "run.json").read_text())["parent"] == "runs/dpo-1"


def test_the_adapter_names_its_base_where_no_run_does(workspace: Path, base: Path, made: Path) -> None:
    shutil.copytree(base, base.name)
    shutil.copytree(made, "alone")
    assert fuse(config(adapter="alone", bits="8")).bits == 8


def test_without_a_run_the_error_says_how_to_make_one(workspace: Path) -> None:
    shutil.rmtree("runs")
    with pytest.raises(PersonaError, match="no finished DPO or SFT run") as caught:
        fuse(config())
    assert caught.value.hint is not None
    assert "mlx-persona sft" in caught.value.hint


def test_test_conversations_stand_in_for_missing_validation_ones(workspace: Path) -> None:
    Path("data/clean/valid.jsonl").write_text("")
    result = fuse(config(bits="8"))
    assert json.loads((result.path / "run.json").read_text())["held_out"]["file"] == "data/clean/test.jsonl"
    shutil.rmtree("data")
    with pytest.raises(PersonaError, match=r"must hold held-out replies in valid\.jsonl or test\.jsonl"):
        fuse(config(bits="8"))


def test_a_folder_in_use_is_refused_and_an_empty_one_is_not(workspace: Path) -> None:
    Path("out").mkdir()
    assert fuse(config(out="out", bits="8")).path == Path("out")
    before = {p: p.stat().st_mtime_ns for p in Path("out").iterdir()}
    with pytest.raises(PersonaError, match="out is in use already"):
        fuse(config(out="out", bits="8"))
    assert {p: p.stat().st_mtime_ns for p in Path("out").iterdir()} == before
    assert fuse(config(bits="8")).path == Path("runs/fused-1")
    assert fuse(config(bits="8")).path == Path("runs/fused-2")


def test_too_little_disk_is_said_before_anything_is_scored(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    monkeypatch.setattr(stage.parity, "write_reference", lambda *_: pytest.fail("scored"))
    with pytest.raises(PersonaError, match=r"fusing needs 0\.0\d GB on disk, but runs has 0\.00 GB free"):
        fuse(config())
    assert leftovers() == []


def test_each_width_needs_its_own_room_on_disk(
    workspace: Path, base: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[int] = []
    monkeypatch.setattr(stage, "_check_disk", lambda folder, size: needed.append(size))
    fuse(config())
    sizes = [merge.fused_bytes(base, made, bits) for bits in (4, 8)]
    assert needed == [sizes[0] + 4 * 2048 * 32, *sizes]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("No space left on device")])
def test_an_interrupted_write_leaves_nothing(
    workspace: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(config: Any, *_: Any) -> None:
        raise error

    monkeypatch.setattr(merge, "_write_config", cut)
    with pytest.raises((KeyboardInterrupt, PersonaError)):
        fuse(config())
    assert leftovers() == []


def test_what_a_killed_fuse_left_is_cleared_and_a_running_one_is_not(workspace: Path) -> None:
    left = Path("runs/.fused-1.part/8")
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    with stage._scratch(Path("runs/fused-1")) as scratch:
        assert list(scratch.iterdir()) == []
        with (
            pytest.raises(PersonaError, match="another process is writing runs/fused-1"),
            stage._scratch(Path("runs/fused-1")),
        ):
            pass
