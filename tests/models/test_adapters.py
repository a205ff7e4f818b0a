"""Adapters from attaching to collapsing, against stock mlx-lm and against merged weights."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import granitemoe, llama, mixtral
from mlx_lm.tuner.lora import LoRALinear as StockLoRA

from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters, load
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.lora import LoRALinear, row_dropout
from mlx_persona.tokens import batches
from tests.toy import save_adapter

KINDS = pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
TOKENS = mx.array([[5, 17, 3, 60, 42, 8], [9, 2, 71, 33, 1, 90]])


def normal(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def fill(model: nn.Module, seed: int) -> None:
    """Random weights, large enough for every layer to matter."""
    values = tree_flatten(model.parameters())
    model.load_weights([(k, 0.3 * normal(seed + i, *v.shape) + ("norm" in k)) for i, (k, v) in enumerate(values)])


def tiny(**changes: Any) -> Any:
    """A random llama of 2 layers with a vocabulary of 97."""
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": 97,
        **changes,
    }
    model = llama.Model(llama.ModelArgs.from_dict(config))
    fill(model, 100)
    return model.eval()


def train(model: nn.Module, seed: int = 0) -> None:
    """Stand in for training: move every trainable tensor, and refresh the norms."""
    moved = {}
    for index, (name, value) in enumerate(sorted(adapters.trainable(model).items())):
        step = normal(1000 * seed + index, *value.shape)
        moved[name] = value * (1 + 0.1 * step) if name.endswith(".m") else value + 0.1 * step
    model.load_weights(list(moved.items()), strict=False)
    adapters.refresh(model)


def adapted(dora: bool, model: Any = None, **spec: Any) -> tuple[Any, AdapterSpec]:
    """A model with a trained adapter."""
    model = tiny() if model is None else model
    full = adapters.attach(model, AdapterSpec(**{"rank": 4, "scale": 2.0, "dora": dora, **spec}))
    train(model)
    return model, full


def saved(folder: Path, dora: bool, **spec: Any) -> tuple[Any, AdapterSpec]:
    """A model with a trained adapter, which is also in ``folder``."""
    model, full = adapted(dora, **spec)
    save_adapter(folder, adapters.trainable(model), full)
    return model, full


def near(actual: mx.array, expected: mx.array, relative: float = 1e-4) -> bool:
    return bool(mx.abs(actual - expected).max().item() <= relative * mx.abs(expected).max().item())


# --- attach and detach -------------------------------------------------------------------------


@pytest.mark.parametrize("quantized", [None, (4, 32), (6, 64)], ids=str)
def test_a_lora_layer_equals_stock_whose_scale_is_alpha_over_rank(quantized: tuple[int, int] | None) -> None:
    base = nn.Linear(128, 48, bias=True)
    base.weight, base.bias = normal(1, 48, 128), normal(2, 48)
    if quantized:
        base = nn.QuantizedLinear.from_linear(base, quantized[1], quantized[0])
    alpha, rank = 24.0, 8
    ours = LoRALinear(base, rank, alpha / rank, 0.0, "q", 0)
    ours.lora_b = normal(3, rank, 48)
    stock = StockLoRA.from_base(base, r=rank, scale=3.0)
    assert ours.lora_a.shape == stock.lora_a.shape
    stock.lora_a, stock.lora_b = ours.lora_a, ours.lora_b
    x = normal(4, 2, 5, 128)
    assert near(ours(x), stock(x), 1e-5)

    def loss(layer: Any, a: mx.array, b: mx.array, x: mx.array) -> mx.array:
        layer.lora_a, layer.lora_b = a, b
        return mx.sin(layer(x)).sum()

    wanted = mx.grad(lambda *v: loss(stock, *v), argnums=(0, 1, 2))(stock.lora_a, stock.lora_b, x)
    for mine, theirs in zip(
        mx.grad(lambda *v: loss(ours, *v), argnums=(0, 1, 2))(ours.lora_a, ours.lora_b, x), wanted, strict=True
    ):
        assert near(mine, theirs)


@KINDS
def test_exactly_the_adapter_trains_even_on_a_base_that_was_not_frozen(dora: bool) -> None:
    model = tiny()
    assert adapters.trainable(model)
    adapters.attach(model, AdapterSpec(4, 2.0, dora, num_layers=1))
    attention = [f"self_attn.{p}_proj" for p in "qkvo"]
    layers = [f"model.layers.1.{n}" for n in [*attention, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]]
    parts = ["lora_a", "lora_b", *(["m"] if dora else [])]
    assert set(adapters.trainable(model)) == {f"{layer}.{part}" for layer in layers for part in parts}


@KINDS
def test_a_new_adapter_is_the_base_model_and_detaching_gives_it_back_exactly(dora: bool) -> None:
    model = tiny()
    before, weights = model(TOKENS), dict(tree_flatten(model.parameters()))
    spec = adapters.attach(model, AdapterSpec(4, 2.0, dora))
    assert near(model(TOKENS), before, 1e-5)
    train(model)
    assert not near(model(TOKENS), before, 0.05)
    adapters.attach(model, spec)
    train(model, 1)
    adapters.detach(model)
    after = dict(tree_flatten(model.parameters()))
    assert after.keys() == weights.keys()
    assert mx.array_equal(model(TOKENS), before).item()
    adapters.detach(model)
    assert mx.array_equal(model(TOKENS), before).item()


def test_the_same_seed_gives_the_same_start_and_every_layer_another_one() -> None:
    first, again, other = (
        [layer.lora_a for _, layer in adapters.adapter_layers(adapted_model)]
        for adapted_model in (_attached(0), _attached(0), _attached(2**32 + 7))
    )
    assert all(mx.array_equal(a, b).item() for a, b in zip(first, again, strict=True))
    assert not any(mx.array_equal(a, b).item() for a, b in zip(first, other, strict=True))
    assert not mx.array_equal(first[0], first[1]).item()
    bound = 1 / 64**0.5
    assert 0.9 * bound < mx.abs(first[0]).max().item() <= bound


def _attached(seed: int) -> Any:
    model = tiny()
    adapters.attach(model, AdapterSpec(4, 2.0, dora=False, keys=("self_attn.q_proj", "self_attn.o_proj")), seed)
    return model


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (AdapterSpec(4, 2.0, dora=True, num_layers=3), "num_layers must be <= 2 for this model, got 3"),
        (AdapterSpec(4, 2.0, dora=True, num_layers=0), "num_layers must be -1 or >= 1, got 0"),
        (AdapterSpec(4, 2.0, dora=True, keys=("attn.wq",)), "none of the layers to adapt is in this model: attn.wq"),
    ],
)
def test_an_adapter_that_cannot_be_put_on_is_refused_and_changes_nothing(spec: AdapterSpec, message: str) -> None:
    model = tiny()
    with pytest.raises(PersonaError) as caught:
        adapters.attach(model, spec)
    assert caught.value.message == message
    assert not list(adapters.adapter_layers(model))


class _Block(nn.Module):  # type: ignore[misc]
    """A block whose layer has the name that adapter layers give to their base (as in nemotron-nas)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)


def test_a_layer_called_linear_is_an_adapter_like_any_other() -> None:
    model = nn.Module()
    model.layers = [_Block(), _Block()]
    spec = adapters.attach(model, AdapterSpec(2, 1.0, dora=True))
    assert spec.keys == ("linear",)
    assert [name for name, _ in adapters.adapter_layers(model)] == ["layers.1.linear", "layers.0.linear"]
    adapters.attach(model, spec)
    assert len(list(adapters.adapter_layers(model))) == 2
    adapters.detach(model)
    assert isinstance(model.layers[0].linear, nn.Linear)


def test_a_model_without_linear_layers_has_nothing_to_adapt() -> None:
    model = nn.Module()
    model.layers = [nn.RMSNorm(4)]
    with pytest.raises(PersonaError, match="none of the layers to adapt is in this model: no linear layers"):
        adapters.attach(model, AdapterSpec(2, 1.0, dora=True))


MIXTRAL = {
    "model_type": "mixtral",
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
}
GRANITE_MOE = {
    **MIXTRAL,
    "model_type": "granitemoe",
    "logits_scaling": 1.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "max_position_embeddings": 64,
    "attention_bias": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "num_experts_per_tok": 2,
}


@pytest.mark.parametrize(
    ("kind", "config"), [(mixtral, MIXTRAL), (granitemoe, GRANITE_MOE)], ids=["mixtral", "granite"]
)
def test_the_routers_of_a_mixture_of_experts_are_left_alone(kind: Any, config: dict[str, Any]) -> None:
    """Mixtral's router is the linear layer ``gate``; Granite's lies in a module, ``router.layer``."""
    model = kind.Model(kind.ModelArgs.from_dict(config))
    fill(model, 300)
    model(TOKENS)
    spec = adapters.attach(model, AdapterSpec(2, 1.0, dora=False))
    experts = [f"block_sparse_moe.switch_mlp.{p}_proj" for p in ("down", "gate", "up")]
    assert sorted(spec.keys) == [*experts, *(f"self_attn.{p}_proj" for p in "koqv")]
    train(model)
    assert mx.isfinite(model(TOKENS)).all().item()


# --- saving, loading, stock mlx-lm -------------------------------------------------------------


@pytest.mark.parametrize("bits", [None, 4], ids=["dense", "4-bit"])
@pytest.mark.parametrize("num_layers", [-1, 1])
@KINDS
def test_a_saved_adapter_opens_in_stock_mlx_lm_with_the_same_logits(
    dora: bool,
    num_layers: int,
    bits: int | None,
    tiny_model_dir: Path,
    quantized_tiny_dir: Callable[..., Path],
    tmp_path: Path,
) -> None:
    base = quantized_tiny_dir(bits) if bits else tiny_model_dir
    loaded = load.load_model(str(base))
    model, spec = saved(tmp_path / "adapter", dora, model=loaded.model, num_layers=num_layers, base=loaded.identity)
    theirs, _ = mlx_lm.load(str(base), adapter_path=str(tmp_path / "adapter"))
    theirs.set_dtype(mx.float32)
    expected = theirs(TOKENS)
    assert mx.abs(model(TOKENS) - expected).max().item() < 1e-3 * max(1.0, mx.abs(expected).max().item())
    fresh = load.load_model(str(base))
    assert not near(fresh.model(TOKENS), expected, 0.05)
    assert adapters.load_adapter(fresh.model, tmp_path / "adapter", fresh.identity) == spec
    assert mx.array_equal(fresh.model(TOKENS), model(TOKENS)).item()
    assert adapters.trainable(fresh.model) == {}


@KINDS
def test_an_adapter_made_by_stock_without_keys_can_be_continued_and_stacked_on(dora: bool, tmp_path: Path) -> None:
    """Stock mlx-lm's configuration names no keys; what we save or stack from it must."""
    model, full = saved(tmp_path / "adapter", dora)
    config = json.loads((tmp_path / "adapter" / adapters.CONFIG).read_text())
    del config["lora_parameters"]["keys"], config["base_model"], config["system"], config["alpha"]
    (tmp_path / "adapter" / adapters.CONFIG).write_text(json.dumps(config))
    again = tiny()
    spec = adapters.load_adapter(again, tmp_path / "adapter", {"name": "any", "sha256": "0"})
    assert spec == full
    assert near(again(TOKENS), model(TOKENS), 1e-6)
    stacked = adapters.attach(again, replace(spec, keys=()))
    assert stacked.keys == full.keys
    train(again, 1)
    weights, one = adapters.collapse(again, stacked)
    single = tiny()
    adapters.attach(single, one)
    adapters.load_weights(single, weights, tmp_path)
    assert near(single(TOKENS), again(TOKENS))


def test_half_precision_tensors_are_trained_in_float32(tmp_path: Path) -> None:
    model, spec = adapted(True)
    half = {k: v.astype(mx.float16) for k, v in adapters.trainable(model).items()}
    save_adapter(tmp_path / "adapter", half, spec)
    again = tiny()
    adapters.load_adapter(again, tmp_path / "adapter", None)
    assert {layer.lora_a.dtype for _, layer in adapters.adapter_layers(again)} == {mx.float32}
    assert near(again(TOKENS), model(TOKENS), 0.02)


def test_the_configuration_comes_back_as_it_was() -> None:
    spec = AdapterSpec(8, 2.5, True, 3, 0.1, ("self_attn.q_proj",), {"name": "org/base", "sha256": "ab"}, "Be kind.")
    value = json.loads(json.dumps(spec.to_json()))
    assert AdapterSpec.from_json(value, Path("x")) == spec
    assert value["alpha"] == 20.0
    assert value["lora_parameters"]["scale"] == 2.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved(tmp_path / "adapter", True, base={"name": "org/right", "sha256": "right"})
    return tmp_path / "adapter"


def _refused(folder: Path, model: Any = None, sha: str = "right") -> PersonaError:
    with pytest.raises(PersonaError) as caught:
        adapters.load_adapter(model or tiny(), folder, {"name": "org/here", "sha256": sha})
    return caught.value


def _rewrite(folder: Path, change: Callable[[dict[str, mx.array]], None]) -> None:
    weights = adapters.read_weights(folder / adapters.WEIGHTS)
    change(weights)
    mx.save_safetensors(str(folder / adapters.WEIGHTS), weights)


M = "model.layers.0.mlp.up_proj.m"


def test_a_missing_tensor_is_named(folder: Path) -> None:
    _rewrite(folder, lambda w: w.__delitem__(M))
    error = _refused(folder)
    assert error.message == f"{folder} does not fit this model: missing {M} (1 tensors differ)"
    assert error.hint is not None
    assert "--model" in error.hint


def test_an_unknown_tensor_is_named(folder: Path) -> None:
    _rewrite(folder, lambda w: w.update({"model.layers.7.q.lora_a": mx.zeros((2, 2))}))
    assert "unexpected model.layers.7.q.lora_a (1 tensors differ)" in _refused(folder).message


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    _rewrite(folder, lambda w: w.update({M: mx.zeros((3,))}))
    assert f"{M} must have shape (96,), got (3,)" in _refused(folder).message


def test_an_adapter_of_another_model_is_refused_naming_both(folder: Path) -> None:
    error = _refused(folder, sha="other")
    assert error.message == f"{folder} was made for another model: org/right, not org/here"
    assert error.hint == "use --model org/right"


def test_a_model_of_other_sizes_is_refused_where_the_identity_is_not_checked(folder: Path) -> None:
    with pytest.raises(PersonaError, match="does not fit this model"):
        adapters.load_adapter(tiny(hidden_size=32), folder, None)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    file = folder / adapters.WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000])
    assert f"{file} is truncated or corrupt" in _refused(folder).message
    file.write_bytes(b"")
    assert f"{file} is truncated or corrupt" in _refused(folder).message
    file.unlink()
    assert _refused(folder).message == f"no such file: {file}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no adapter in {folder}: adapter_config.json is missing"),
        ("{", "{file} is not JSON: "),
        ("[1]", "{file} is not an adapter's configuration: "),
        ("{}", "{file} is not an adapter's configuration: KeyError('fine_tune_type')"),
        (
            '{"fine_tune_type": "full", "lora_parameters": {}}',
            "{file}: fine_tune_type must be lora or dora, got 'full'",
        ),
    ],
)
def test_a_bad_configuration_is_refused(text: str | None, message: str, folder: Path) -> None:
    file = folder / adapters.CONFIG
    file.unlink()
    if text is not None:
        file.write_text(text)
    assert _refused(folder).message.startswith(message.format(folder=folder, file=file))


# --- strength ----------------------------------------------------------------------------------


def _merged(model: Any) -> Any:
    """The base model with every adapted layer's merged weight in place: an independent forward."""
    merged = tiny()
    weights = {f"{name}.weight": layer.merged_weight() for name, layer in adapters.adapter_layers(model)}
    merged.load_weights(list(weights.items()), strict=False)
    return merged


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
@KINDS
def test_strength_interpolates_the_weights(dora: bool, strength: float) -> None:
    model, _ = adapted(dora)
    base = tiny()
    full = {name: layer.merged_weight() for name, layer in adapters.adapter_layers(model)}
    plain = dict(tree_flatten(base.parameters()))
    wanted = {
        f"{name}.weight": plain[f"{name}.weight"] + strength * (w - plain[f"{name}.weight"]) for name, w in full.items()
    }
    base.load_weights(list(wanted.items()), strict=False)
    adapters.set_strength(model, strength)
    assert near(model(TOKENS), base(TOKENS))
    for name, layer in adapters.adapter_layers(model):
        assert near(layer.merged_weight(), wanted[f"{name}.weight"], 1e-5)


@KINDS
def test_strength_one_is_the_adapter_and_zero_the_base_model_bit_for_bit(dora: bool) -> None:
    model, _ = adapted(dora)
    full = model(TOKENS)
    adapters.set_strength(model, 0.0)
    assert near(model(TOKENS), tiny()(TOKENS), 1e-6)
    adapters.set_strength(model, 1.0)
    assert mx.array_equal(model(TOKENS), full).item()


@KINDS
def test_the_merged_weight_of_a_stack_agrees_with_its_forward(dora: bool) -> None:
    model, spec = adapted(not dora)
    adapters.attach(model, replace(spec, dora=dora, rank=3, scale=1.5))
    train(model, 1)
    assert near(_merged(model)(TOKENS), model(TOKENS))


def test_a_compiled_function_sees_the_strength_change() -> None:
    model, _ = adapted(True)
    compiled = mx.compile(lambda tokens: model(tokens), inputs=[model.state])
    for strength in (1.0, 0.3, 0.8, 0.0, 1.0):
        adapters.set_strength(model, strength)
        assert near(compiled(TOKENS), model(TOKENS), 1e-5)


# --- stacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [False, True], ids=["on-lora", "on-dora"])
@pytest.mark.parametrize("outer", [False, True], ids=["lora", "dora"])
def test_a_stack_collapses_into_one_adapter_that_stock_opens(
    outer: bool, inner: bool, tiny_model_dir: Path, tmp_path: Path
) -> None:
    loaded = load.load_model(str(tiny_model_dir))
    model, spec = adapted(inner, loaded.model, rank=4, scale=2.0, base=loaded.identity)
    below = model(TOKENS)
    spec = adapters.attach(model, replace(spec, rank=3, scale=0.7, dora=outer), seed=1)
    assert near(model(TOKENS), below, 1e-5)
    assert all(".linear." not in name for name in adapters.trainable(model))
    train(model, 1)
    weights, one = adapters.collapse(model, spec)
    assert (one.rank, one.scale, one.dora) == (7, 0.7, inner or outer)
    save_adapter(tmp_path / "one", weights, one)
    theirs, _ = mlx_lm.load(str(tiny_model_dir), adapter_path=str(tmp_path / "one"))
    fresh = load.load_model(str(tiny_model_dir))
    adapters.load_adapter(fresh.model, tmp_path / "one", fresh.identity)
    assert not near(model(TOKENS), below, 0.05)
    assert near(fresh.model(TOKENS), model(TOKENS))
    assert near(theirs(TOKENS), model(TOKENS), 1e-3)


@pytest.mark.parametrize("outer", [False, True], ids=["lora", "dora"])
def test_rows_of_zeros_and_negative_magnitudes_collapse_too(outer: bool) -> None:
    model = tiny()
    for block in model.layers:
        block.mlp.up_proj.weight[3] = 0
    model, spec = adapted(True, model)
    for _, layer in adapters.adapter_layers(model):
        layer.m[1] = -layer.m[1]
    for block in model.layers:  # as training leaves it: no gradient ever reaches it
        block.mlp.up_proj.lora_b[:, 3] = 0
        assert block.mlp.up_proj.m[3].item() == 0
    adapters.refresh(model)
    spec = adapters.attach(model, replace(spec, dora=outer))
    train(model, 1)
    weights, one = adapters.collapse(model, spec)
    assert all(mx.isfinite(w).all().item() for w in weights.values())
    single = tiny()
    for block in single.layers:
        block.mlp.up_proj.weight[3] = 0
    adapters.attach(single, one)
    adapters.load_weights(single, weights, Path("one"))
    assert near(single(TOKENS), model(TOKENS))


# --- dropout -----------------------------------------------------------------------------------


def row_keys(count: int, update: int = 7) -> mx.array:
    return mx.array(batches.row_keys(0, 0, update, range(count)))


def test_the_mask_of_a_row_depends_on_nothing_but_the_row() -> None:
    x, keys = mx.ones((3, 10, 32)), row_keys(3)
    whole = row_dropout(x, 0.5, keys, 99)
    padded = row_dropout(mx.ones((3, 17, 32)), 0.5, keys, 99)
    assert mx.array_equal(padded[:, :10], whole).item()
    other = row_dropout(mx.ones((2, 10, 32)), 0.5, keys[mx.array([2, 0])], 99)
    assert mx.array_equal(other, whole[mx.array([2, 0])]).item()


def test_masks_differ_between_layers_rows_and_positions_and_keep_the_mean() -> None:
    x, keys = mx.ones((4, 64, 128)), row_keys(4)
    one, other_layer = row_dropout(x, 0.3, keys, 2**32 - 1), row_dropout(x, 0.3, keys, 5)
    masks = np.asarray(one).reshape(-1, 128)
    assert len({row.tobytes() for row in masks}) == len(masks)
    assert not mx.array_equal(one, other_layer).item()
    assert set(np.unique(masks)) == {0.0, np.float32(1 / 0.7)}
    assert masks.mean() == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(masks.mean(axis=0), 1.0, atol=0.2)
    agree = ((masks[:-1] > 0) == (masks[1:] > 0)).mean()  # independent: 0.7² + 0.3²
    assert agree == pytest.approx(0.58, abs=0.02)


@pytest.fixture
def dropping() -> Any:
    model, _ = adapted(True, dropout=0.5)
    return model.train()


def test_dropout_is_off_in_eval_and_needs_row_keys_in_training(dropping: Any) -> None:
    without, _ = adapted(True)
    with pytest.raises(RuntimeError, match="row keys"):
        dropping(TOKENS)
    adapters.set_row_keys(dropping, row_keys(2))
    assert not near(dropping(TOKENS), without(TOKENS), 0.01)
    assert mx.array_equal(dropping.eval()(TOKENS), without(TOKENS)).item()


def test_a_compiled_function_sees_new_row_keys_and_new_norms(dropping: Any) -> None:
    compiled = mx.compile(lambda tokens: dropping(tokens), inputs=[dropping.state])
    seen = []
    for update in range(3):
        adapters.set_row_keys(dropping, row_keys(2, update))
        seen.append(compiled(TOKENS))
        assert near(seen[-1], dropping(TOKENS), 1e-5)
    assert not near(seen[0], seen[1], 0.01)
    train(dropping, 5)
    assert near(compiled(TOKENS), dropping(TOKENS), 1e-5)
    assert not near(compiled(TOKENS), seen[-1], 0.01)


@KINDS
def test_the_frozen_adapter_below_a_new_one_drops_nothing(dora: bool, tmp_path: Path) -> None:
    """The reference of a fresh DPO adapter is the whole SFT adapter, not a random half of it."""
    model, spec = saved(tmp_path / "adapter", dora, dropout=0.5)
    again = tiny()
    loaded = adapters.load_adapter(again, tmp_path / "adapter", None)
    assert loaded.dropout == 0.5
    adapters.attach(again, replace(spec, dropout=0.0))
    adapters.refresh(again.train())
    assert near(again(TOKENS), model(TOKENS), 1e-5)
    adapters.attach(model, spec)
    model.train()
    adapters.set_row_keys(model, row_keys(2))
    assert mx.isfinite(model(TOKENS)).all().item()


def test_a_line_for_people_says_kind_rank_alpha_and_scale() -> None:
    assert adapters.describe(AdapterSpec(8, 2.0, dora=True)) == "DoRA, rank 8, alpha 16, scale 2, all blocks"
    line = adapters.describe(AdapterSpec(8, 0.5, dora=False, num_layers=4))
    assert line == "LoRA, rank 8, alpha 4, scale 0.5, the last 4 blocks"
