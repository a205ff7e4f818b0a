"""Merging: what is on disk computes what the adapter computes, and nothing else changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401

# isort: split

import mlx.core as mx
import mlx_lm
import mlx_lm.utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_persona.errors import PersonaError
from mlx_persona.files import new_folder
from mlx_persona.models import adapters, load, merge
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.quantized import dense_weight
from tests.toy import save_adapter

TOKENS = mx.array([[3, 14, 15, 92, 65, 35, 89, 79]])
Q_PROJ = "model.layers.1.self_attn.q_proj"


def opened(path: Path) -> Any:
    """The model in float32, without its tokenizer, whose loading would be most of the time here."""
    model, _ = mlx_lm.utils.load_model(path)
    load._to_float32(model)
    model.freeze()
    return model


def make_adapter(base: Path, folder: Path, dora: bool = True, **spec: Any) -> Path:
    """A random adapter of rank 4 that changes every adapted layer by about a tenth."""
    model = opened(base)
    made = adapters.attach(model, AdapterSpec(4, 2.0, dora, base=load.identity(base), **spec))
    for index, (_, layer) in enumerate(adapters.adapter_layers(model)):
        layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(index))
        if dora:
            layer.m = layer.m * (1 + 0.1 * mx.random.normal(layer.m.shape, key=mx.random.key(100 + index)))
    save_adapter(folder, adapters.trainable(model), made)
    return folder


def adapter_logits(base: Path, adapter: Path) -> mx.array:
    model = opened(base)
    adapters.load_adapter(model, adapter, load.identity(base))
    return model(TOKENS)


def fused(base: Path, adapter: Path, bits: int, folder: Path) -> Path:
    with new_folder(folder) as part:
        merge.write_fused(base, adapter, bits, part)
    return folder


def tensors(folder: Path) -> dict[str, mx.array]:
    found: dict[str, mx.array] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        found.update(mx.load(str(file)))
    return found


def furthest(a: mx.array, b: mx.array) -> float:
    return float(mx.abs(a - b).max())


@pytest.fixture(scope="module", params=["dense", 4, 8])
def base(request: pytest.FixtureRequest, tiny_model_dir: Path, quantized_tiny_dir: Callable[..., Path]) -> Path:
    return tiny_model_dir if request.param == "dense" else quantized_tiny_dir(bits=request.param)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_dense_fused_model_computes_what_the_adapter_computes(base: Path, dora: bool, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", dora)
    wanted = adapter_logits(base, adapter)
    out = fused(base, adapter, 16, tmp_path / "out")

    assert furthest(wanted, opened(base)(TOKENS)) > 0.5
    assert furthest(wanted, opened(out)(TOKENS)) < 1e-4
    config = json.loads((out / "config.json").read_text())
    assert "quantization" not in config
    assert "quantization_config" not in config


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_stock_mlx_lm_opens_it_and_computes_the_same(base: Path, bits: int, tmp_path: Path) -> None:
    out = fused(base, make_adapter(base, tmp_path / "adapter"), bits, tmp_path / "out")
    model, tokenizer = mlx_lm.load(str(out))
    model.set_dtype(mx.float32)
    assert furthest(model(TOKENS), load.load_model(str(out)).model(TOKENS)) < 1e-3
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_fusing_is_as_near_as_its_width_allows(base: Path, bits: int, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    out = fused(base, adapter, bits, tmp_path / "out")
    stored, _ = mlx_lm.utils.load_model(base, lazy=True)
    adapters.load_adapter(stored, adapter, None)
    wanted = dict(adapters.adapter_layers(stored))[Q_PROJ].merged_weight()
    model, config = mlx_lm.utils.load_model(out)
    layer = dict(model.named_modules())[Q_PROJ]

    assert (layer.bits, config["quantization"]["bits"]) == (bits, bits)
    found = dense_weight(layer)
    plain = mx.dequantize(*mx.quantize(wanted, layer.group_size, bits), layer.group_size, bits)
    assert float(mx.square(found - wanted).mean()) <= 1.001 * float(mx.square(plain - wanted).mean())
    assert furthest(wanted, found) < float(mx.abs(layer.scales).max())


def test_layers_without_an_adapter_keep_every_bit(quantized_tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    base = quantized_tiny_dir(bits=4)
    out = fused(base, make_adapter(base, tmp_path / "adapter", num_layers=1), 8, tmp_path / "out")
    before, after = tensors(base), tensors(out)
    assert before.keys() == after.keys()
    changed = {name for name in before if not mx.array_equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("model.layers.1.") for name in changed)
    assert not any("norm" in name for name in changed)

    quantization = json.loads((out / "config.json").read_text())["quantization"]
    assert quantization["bits"] == 8
    kept = {"group_size": 32, "bits": 4, "mode": "affine"}
    assert quantization["model.embed_tokens"] == kept
    assert quantization["model.layers.0.self_attn.q_proj"] == kept
    assert Q_PROJ not in quantization


def test_a_dense_base_at_16_bits_keeps_every_tensor_without_an_adapter(tiny_model_dir: Path, tmp_path: Path) -> None:
    out = fused(tiny_model_dir, make_adapter(tiny_model_dir, tmp_path / "a", num_layers=1), 16, tmp_path / "out")
    before, after = tensors(tiny_model_dir), tensors(out)
    assert before.keys() == after.keys()
    for name in before:
        adapted = name.startswith("model.layers.1.") and "norm" not in name
        assert bool(mx.array_equal(before[name], after[name])) is not adapted, name


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("bits", [4, 16])
def test_the_type_of_the_base_is_kept(tiny_model_dir: Path, dtype: Any, bits: int, tmp_path: Path) -> None:
    base = recast(tiny_model_dir, tmp_path / "base", dtype)
    out = fused(base, make_adapter(base, tmp_path / "adapter"), bits, tmp_path / "out")
    assert {v.dtype for v in tensors(out).values()} == {dtype} | ({mx.uint32} if bits == 4 else set())


def recast(base: Path, folder: Path, dtype: Any) -> Path:
    """The same model in another floating type."""
    folder.mkdir()
    for file in base.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    weights = {k: v.astype(dtype) if mx.issubdtype(v.dtype, mx.floating) else v for k, v in tensors(base).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def test_a_base_in_another_quantization_mode_is_merged_too(
    quantized_tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    base = quantized_tiny_dir(bits=4, group_size=32, mode="mxfp4")
    adapter = make_adapter(base, tmp_path / "adapter", num_layers=1)
    wanted = adapter_logits(base, adapter)
    out = fused(base, adapter, 8, tmp_path / "out")
    assert furthest(wanted, opened(out)(TOKENS)) < 0.3
    assert furthest(wanted, opened(fused(base, adapter, 16, tmp_path / "d"))(TOKENS)) < 1e-3
    model, _ = mlx_lm.utils.load_model(out)
    modes = {path: m.mode for path, m in model.named_modules() if m.get("scales") is not None}
    assert modes["model.layers.0.self_attn.q_proj"] == "mxfp4"
    assert modes[Q_PROJ] == "affine"


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_the_size_is_known_before_anything_is_written(base: Path, bits: int, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    out = fused(base, adapter, bits, tmp_path / "out")
    assert merge.fused_bytes(base, adapter, bits) == sum(v.nbytes for v in tensors(out).values())


def test_large_models_are_written_in_parts(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(tiny_model_dir, tmp_path / "adapter")
    whole = tensors(fused(tiny_model_dir, adapter, 8, tmp_path / "whole"))
    monkeypatch.setattr(merge, "SHARD_BYTES", 100_000)
    out = fused(tiny_model_dir, adapter, 8, tmp_path / "parts")

    parts = sorted(file.name for file in out.glob("*.safetensors"))
    assert len(parts) > 1
    assert parts[0] == f"model-00001-of-{len(parts):05d}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(parts)
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in whole.values())
    again = tensors(out)
    assert again.keys() == whole.keys() == index["weight_map"].keys()
    assert all(mx.array_equal(again[name], whole[name]) for name in whole)
    mlx_lm.load(str(out))


def test_what_belongs_to_the_model_comes_along_and_nothing_else(tiny_model_dir: Path, tmp_path: Path) -> None:
    base = recast(tiny_model_dir, tmp_path / "base", mx.float16)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool.jinja").write_text("tool")
    for name in ("run.json", "README.md", "hf_quant_config.json", "pytorch_model.bin", "LICENSE"):
        (base / name).write_text("{}")
    out = fused(base, make_adapter(base, tmp_path / "adapter"), 16, tmp_path / "out")
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
        "LICENSE",
        "additional_chat_templates/tool.jinja",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_an_adapter_for_another_model_is_refused(
    tiny_model_dir: Path, quantized_tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_model_dir, tmp_path / "adapter")
    with pytest.raises(PersonaError, match="was made for another model"):
        fused(quantized_tiny_dir(bits=4), adapter, 8, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([4, 8]), st.sampled_from([32, 64]), st.floats(1e-4, 10))
def test_each_weight_goes_to_the_nearest_code_of_its_rounded_scale(
    seed: int, bits: int, group: int, spread: float
) -> None:
    weight = spread * mx.random.normal((3, 128), key=mx.random.key(seed))
    made = merge.quantize(weight, merge.Form(mx.bfloat16, bits, group))
    scales, biases = (made[key].astype(mx.float32) for key in ("scales", "biases"))
    back = mx.dequantize(made["weight"], scales, biases, group, bits)
    low = mx.minimum(biases, biases + (2**bits - 1) * scales)[..., None]
    high = mx.maximum(biases, biases + (2**bits - 1) * scales)[..., None]
    reachable = mx.clip(weight.reshape(3, -1, group), low, high)
    error = mx.abs(reachable - back.reshape(3, -1, group))
    assert float((error - 0.501 * mx.abs(scales)[..., None]).max()) <= 0


def test_blocks_do_not_change_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, form = mx.random.normal((2, 5, 64), key=mx.random.key(1)), merge.Form(mx.float16, 4, 32)
    whole = merge.quantize(weight, form)
    assert whole["weight"].shape == (2, 5, 8)
    monkeypatch.setattr(merge, "_BLOCK", 192)
    parts = merge.quantize(weight, form)
    assert all(mx.array_equal(whole[key], parts[key]) for key in whole)


def test_a_row_of_zeros_stays_zero() -> None:
    made = merge.quantize(mx.zeros((2, 64)), merge.Form(mx.float16, 8, 64))
    back = mx.dequantize(made["weight"], made["scales"], made["biases"], 64, 8)
    assert float(mx.abs(back).max()) == 0


def test_bfloat16_scales_cost_less_than_with_plain_rounding() -> None:
    weight, form = mx.random.normal((64, 256), key=mx.random.key(0)), merge.Form(mx.bfloat16, 8, 64)
    made = merge.quantize(weight, form)

    def error(codes: mx.array, scales: mx.array, biases: mx.array) -> float:
        back = mx.dequantize(codes, scales.astype(mx.float32), biases.astype(mx.float32), 64, 8)
        return float(mx.sqrt(mx.square(back - weight).mean()))

    ours = error(made["weight"], made["scales"], made["biases"])
    assert ours < 0.85 * error(*mx.quantize(weight.astype(mx.bfloat16), 64, 8))
