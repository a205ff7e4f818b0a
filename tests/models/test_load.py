"""Finding, identifying and loading base models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import pytest
from huggingface_hub import errors as hub_errors
from mlx.utils import tree_flatten
from mlx_lm.models import mixtral
from mlx_lm.models.switch_layers import SwitchLinear

from mlx_persona import backend
from mlx_persona.errors import PersonaError
from mlx_persona.models import hub, load
from mlx_persona.models.load import identity, load_model, load_tokenizer, resolve_model
from mlx_persona.models.quantized import dense_weight

Quantized = Callable[..., Path]
MODES = [(2, 32, "affine"), (3, 32, "affine"), (4, 64, "affine"), (5, 32, "affine"), (6, 32, "affine")]
MODES += [(8, 32, "affine"), (4, 32, "mxfp4"), (8, 32, "mxfp8"), (4, 16, "nvfp4")]


SIZE_OF = hub.download_bytes  # the fixture below replaces it


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "on_cpu", lambda: True)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any test that goes to the hub by mistake fails."""

    def download(*_: Any, **__: Any) -> str:
        raise AssertionError("went to the hub")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "download_bytes", lambda _: None)


# Names


def test_a_directory_is_itself(tiny_model_dir: Path) -> None:
    assert resolve_model(str(tiny_model_dir)) == tiny_model_dir


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "~/nothing", "models/tiny.gguf", "a/b/c"])
def test_a_path_never_goes_to_the_hub(name: str) -> None:
    with pytest.raises(PersonaError, match="no such model"):
        resolve_model(name)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(PersonaError, match="must not be empty"):
        resolve_model("")


def test_an_incomplete_directory_says_what_it_lacks(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="it has no config"):
        resolve_model(str(tmp_path))
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    with pytest.raises(PersonaError, match="has no weights"):
        resolve_model(str(tmp_path))
    shutil.copy(tiny_model_dir / "model.safetensors", tmp_path / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(PersonaError, match=r"lacks the weights model-00002-of-00002\.safetensors"):
        resolve_model(str(tmp_path))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(PersonaError, match=r"must be a \.gguf file, got"):
        resolve_model(str(tmp_path / "model.bin"))


def test_a_gguf_file_is_converted_once_for_its_content(
    tiny_gguf: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_PERSONA_CACHE", str(tmp_path / "cache"))
    file = tiny_gguf("Q8_0").write(tmp_path / "tiny.gguf")
    path = resolve_model(str(file))
    assert path.name == "tiny"
    assert load.identity(path)["name"] == "tiny"
    converted = path.stat().st_mtime_ns
    assert resolve_model(str(file)) == path
    assert path.stat().st_mtime_ns == converted
    tiny_gguf("Q4_0").write(file)
    assert resolve_model(str(file)) != path


# The hub


def test_a_cached_snapshot_is_used_without_network(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def download(repo: str, **options: Any) -> str:
        calls.append(options)
        return str(tiny_model_dir)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert resolve_model("org/name") == tiny_model_dir
    assert [c.get("local_files_only") for c in calls] == [True]


def test_a_snapshot_without_weights_is_fetched_again(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repo: str, local_files_only: bool = False, **_: Any) -> str:
        return str(tmp_path if local_files_only else tiny_model_dir)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert resolve_model("org/name") == tiny_model_dir


def _not_local(cause: Exception) -> Exception:
    error = hub_errors.LocalEntryNotFoundError("nothing cached\nmore")
    error.__cause__ = cause
    return error


def _response(kind: type[Exception]) -> Exception:
    return kind("nothing for you", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (_response(hub_errors.GatedRepoError), "org/name is gated", "HF_TOKEN"),
        (_response(hub_errors.RepositoryNotFoundError), "no local directory org/name, and no such", "HF_TOKEN"),
        (hub_errors.HFValidationError("odd"), "org/name is neither a local path nor", "--model PATH"),
        (_not_local(ConnectionError("no route")), r"cannot download org/name: no network \(no route\)", "--model PATH"),
        (_not_local(hub_errors.OfflineModeIsEnabled("off")), "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE"),
        (OSError("disk full\nmore"), "^cannot download org/name: disk full$", "--model PATH"),
    ],
)
def test_what_goes_wrong_at_the_hub_is_told_apart(
    error: Exception, message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repo: str, local_files_only: bool = False, **_: Any) -> str:
        raise hub_errors.LocalEntryNotFoundError("nothing cached") if local_files_only else error

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(PersonaError, match=message) as caught:
        resolve_model("org/name")
    assert caught.value.hint is not None
    assert hint in caught.value.hint


# Identity


def test_a_download_needs_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_cached", lambda _: None)
    monkeypatch.setattr(hub, "download_bytes", lambda _: 10**18)
    with pytest.raises(PersonaError, match=r"downloading org/name needs 1000000000\.00 GB on disk, but .* GB free"):
        hub.fetch_repo("org/name")


def test_what_a_download_takes_is_what_mlx_lm_would_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"model.safetensors": 1000, "config.json": 10, "pytorch_model.bin": 5000}
    said = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in files.items()])
    monkeypatch.setattr(hub.HfApi, "model_info", lambda *_, **__: said)
    assert SIZE_OF("org/name") == 1010


def test_identity_depends_on_what_the_model_is_and_not_on_where(tiny_model_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model_dir, tmp_path / "copy")
    first = identity(tiny_model_dir)
    assert identity(copy)["sha256"] == first["sha256"]
    assert identity(copy)["name"] == "copy"

    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_version": "9", "eos_token_id": 7}))
    assert identity(copy)["sha256"] == first["sha256"]
    (copy / "config.json").write_text(json.dumps({**config, "rope_theta": 20000.0}))
    assert identity(copy)["sha256"] != first["sha256"]
    (copy / "config.json").write_text(json.dumps(config))

    weights = mx.load(str(copy / "model.safetensors"))
    (copy / "model.safetensors").unlink()
    names = sorted(weights)
    mx.save_safetensors(str(copy / "model-1.safetensors"), {n: weights[n] for n in names[:5]})
    mx.save_safetensors(str(copy / "model-2.safetensors"), {n: weights[n] for n in names[5:]})
    assert identity(copy)["sha256"] == first["sha256"], "cut into other files"
    weights[names[-1]] = weights[names[-1]] + 1e-3
    mx.save_safetensors(str(copy / "model-2.safetensors"), {n: weights[n] for n in names[5:]})
    assert identity(copy)["sha256"] != first["sha256"]


def test_a_snapshot_in_the_hub_s_cache_is_named_by_its_repo() -> None:
    path = Path("cache/models--org--some-model-4bit/snapshots/0123abc")
    assert load.model_name(path) == "org/some-model-4bit"


# Loading


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(("bits", "group_size", "mode"), MODES)
def test_on_the_cpu_a_quantized_model_becomes_dense_float32(
    bits: int, group_size: int, mode: str, quantized_tiny_dir: Quantized
) -> None:
    path = quantized_tiny_dir(bits, group_size, mode)
    loaded = load_model(str(path))
    stock, _ = mlx_lm.utils.load_model(path)
    assert {v.dtype for _, v in tree_flatten(loaded.model.parameters())} == {mx.float32}
    assert isinstance(loaded.model.layers[0].mlp.up_proj, nn.Linear)
    assert isinstance(loaded.model.model.embed_tokens, nn.Embedding)
    ids = mx.array([[1, 2, 3, 2047]])
    assert mx.allclose(loaded.model(ids), stock(ids), rtol=1e-3, atol=2e-3 if mode == "affine" else 2e-2)


@pytest.mark.usefixtures("on_cpu")
def test_a_loaded_model_is_frozen_named_and_in_eval_mode(tiny_model_dir: Path) -> None:
    loaded = load_model(str(tiny_model_dir))
    assert tree_flatten(loaded.model.trainable_parameters()) == []
    assert not loaded.model.training
    assert loaded.path == tiny_model_dir
    assert loaded.name == tiny_model_dir.name
    assert loaded.identity == identity(tiny_model_dir)
    assert loaded.config["hidden_size"] == 64
    assert loaded.tokenizer.eos_token_ids == {2}
    assert loaded.tokenizer.has_chat_template


def test_on_a_gpu_the_weights_stay_as_they_are(quantized_tiny_dir: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    loaded = load_model(str(quantized_tiny_dir(4)))
    assert isinstance(loaded.model.layers[0].mlp.up_proj, nn.QuantizedLinear)


@pytest.mark.usefixtures("on_cpu")
def test_experts_and_biases_become_dense_too(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = {
        "model_type": "mixtral",
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
        "quantization": {"group_size": 32, "bits": 4},
    }
    model = mixtral.Model(mixtral.ModelArgs.from_dict(config))
    nn.quantize(model, group_size=32, bits=4)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model_dir / name, tmp_path)
    loaded = load_model(str(tmp_path))
    assert isinstance(loaded.model.layers[0].block_sparse_moe.switch_mlp.up_proj, SwitchLinear)
    ids = mx.array([[1, 2, 3]])
    assert mx.allclose(loaded.model(ids), model(ids), atol=1e-4)


@pytest.mark.parametrize(("bits", "group_size", "mode"), MODES)
@pytest.mark.parametrize("kind", ["linear", "embedding"])
def test_dense_weight_is_what_the_layer_computes_with(bits: int, group_size: int, mode: str, kind: str) -> None:
    made = nn.Linear(64, 32) if kind == "linear" else nn.Embedding(32, 64)
    assert mx.array_equal(dense_weight(made), made.weight)
    layer = made.to_quantized(group_size=group_size, bits=bits, mode=mode)
    weight = dense_weight(layer)
    assert weight.dtype == mx.float32
    got = layer(mx.eye(64)).T - layer.bias[:, None] if kind == "linear" else layer(mx.arange(32))
    assert mx.allclose(weight, got.astype(mx.float32), atol=1e-2 if mode != "affine" else 1e-5)


def test_dense_weight_rounds_nothing_to_the_scales_type() -> None:
    """7 q + 0.001 with 16-bit scales: float32 keeps the offset, float16 would lose it for large q."""
    layer = nn.Linear(32, 1, bias=False).to_quantized(group_size=32, bits=8)
    layer.weight = mx.full((1, 8), 0xFFFFFFFF, dtype=mx.uint32)
    layer.scales, layer.biases = mx.array([[7.0]], dtype=mx.float16), mx.array([[0.125]], dtype=mx.float16)
    assert dense_weight(layer)[0, 0].item() == 7 * 255 + 0.125


@pytest.mark.usefixtures("on_cpu")
def test_a_model_that_does_not_fit_is_refused_with_figures(
    tiny_model_dir: Path, quantized_tiny_dir: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    """205,120 parameters in float32 are 0.82 MB, more than 80 % of 1 MB."""
    monkeypatch.setattr(backend, "memory_bytes", lambda: 1_000_000)
    with pytest.raises(PersonaError, match=r"must be at most 80% of this machine's 0\.0 GB"):
        load_model(str(tiny_model_dir))
    monkeypatch.setattr(backend, "memory_bytes", lambda: 1_100_000)
    assert load_model(str(tiny_model_dir)).name
    monkeypatch.setattr(backend, "memory_bytes", lambda: 150_000)
    with pytest.raises(PersonaError, match=r"must be at most 80% of this machine's 0\.0 GB"):
        load_model(str(quantized_tiny_dir(4)))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_model_that_takes_half_the_memory_stays_quantized(
    bits: int, quantized_tiny_dir: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = load_model(str(quantized_tiny_dir(bits))).model
    monkeypatch.setattr(backend, "memory_bytes", lambda: 1_600_000)
    resident = load_model(str(quantized_tiny_dir(bits))).model
    stored = sum(v.nbytes for _, v in tree_flatten(resident.parameters()))
    assert stored < 0.4 * sum(v.nbytes for _, v in tree_flatten(dense.parameters()))
    tokens = mx.array([[1, 5, 9, 2, 77]])
    logits = resident(tokens)
    assert logits.dtype == mx.float32
    np.testing.assert_allclose(np.asarray(logits), np.asarray(dense(tokens)), rtol=1e-4, atol=1e-4)


def test_truncated_weights_are_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model_dir, tmp_path / "copy")
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    for broken in (whole[:5], whole[:300], whole[:-1], whole + b"x", b"\xff" * 100, b"\x02" + bytes(7) + b"[]"):
        file.write_bytes(broken)
        with pytest.raises(PersonaError, match=r"model\.safetensors is truncated or corrupt"):
            load_model(str(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "nonesuch"}, "mlx-lm cannot load .*Model type nonesuch not supported"),
        ({"hidden_size": 32}, "mlx-lm cannot load .*shape"),
        ({"num_hidden_layers": 3}, "mlx-lm cannot load .*Missing"),
    ],
)
def test_a_config_that_does_not_fit_is_an_error(
    change: dict[str, Any], message: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_model_dir, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(PersonaError, match=message):
        load_model(str(copy))


def test_a_missing_or_broken_tokenizer_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model_dir, tmp_path / "copy")
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(PersonaError, match="cannot load the tokenizer of"):
        load_tokenizer(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(PersonaError, match="cannot load the tokenizer of"):
        load_tokenizer(copy)


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_a_config_that_is_no_object_is_an_error(tiny_model_dir: Path, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "config.json").write_text(text)
    with pytest.raises(PersonaError, match="truncated or corrupt"):
        load.load_model(str(folder))
