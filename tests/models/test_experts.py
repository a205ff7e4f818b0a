"""LoRA on the experts of a mixture, against stock mlx-lm and against merged weights; routers stay as they are."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.lora import LoRASwitchLinear
from mlx_lm.tuner.utils import load_adapters

from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.adapters import ROUTERS, AdapterSpec
from mlx_persona.models.checkpointing import checkpoint_blocks
from mlx_persona.models.heads import row_logits
from mlx_persona.models.lora_experts import LoRAExperts
from mlx_persona.models.merge import write_fused
from mlx_persona.models.token_chunks import chunk_mlps
from mlx_persona.planner.cost import Work, training_flops
from mlx_persona.planner.memory import Setup, trainable
from mlx_persona.planner.shapes import shapes
from mlx_persona.training import objectives
from tests.models.moe_kit import MIXTURES, mixture
from tests.toy import save_adapter, write_model

ALL = pytest.mark.parametrize("name", sorted(MIXTURES))
TOKENS = mx.random.randint(0, 259, (2, 24), key=mx.random.key(0))  # 48 tokens to 2 experts each: sorted from 64 on
SPEC = AdapterSpec(4, 2.0, dora=False)


def near(actual: mx.array, expected: mx.array, relative: float = 1e-4) -> bool:
    return bool(mx.abs(actual - expected).max().item() <= relative * mx.abs(expected).max().item())


def train(model: Any, seed: int = 100) -> None:
    """Stand in for training: move every trainable tensor."""
    own = sorted(adapters.trainable(model).items())
    steps = [0.1 * mx.random.normal(value.shape, key=mx.random.key(seed + i)) for i, (_, value) in enumerate(own)]
    model.load_weights([(name, value + step) for (name, value), step in zip(own, steps, strict=True)], strict=False)


def adapted(name: str) -> tuple[Any, AdapterSpec]:
    """A mixture with a trained adapter."""
    model = mixture(name)
    spec = adapters.attach(model, SPEC)
    train(model)
    return model, spec


def merged(model: Any) -> Any:
    """The model with the weights that fusing would write."""
    layers = [(f"{path}.weight", layer.merged_weight()) for path, layer in adapters.adapter_layers(model)]
    adapters.detach(model)
    model.load_weights(layers, strict=False)
    return model


@pytest.mark.parametrize("in_order", [False, True], ids=["as they come", "sorted"])
@pytest.mark.parametrize("kind", ["dense", "bias", "4 bits"])
def test_a_layer_and_its_gradients_are_those_of_stock(kind: str, in_order: bool) -> None:
    base: Any = SwitchLinear(64, 48, 5, bias=kind == "bias")
    base.weight = mx.random.normal((5, 48, 64), key=mx.random.key(1))
    if kind == "bias":
        base.bias = mx.random.normal((5, 48), key=mx.random.key(2))
    if kind == "4 bits":
        base = base.to_quantized(group_size=32, bits=4)
    indices = mx.array([3, 0, 0, 4, 2, 3, 3])
    indices = mx.sort(indices) if in_order else indices
    x = mx.random.normal((7, 1, 64), key=mx.random.key(3))
    ours = LoRAExperts(base, 8, 3.0, 0.0, "up", 0)
    ours.lora_b = mx.random.normal((5, 48, 8), key=mx.random.key(4))
    stock = LoRASwitchLinear.from_base(base, r=8, scale=3.0)
    assert (ours.lora_a.shape, ours.lora_b.shape) == (stock.lora_a.shape, stock.lora_b.shape)
    weights = (ours.lora_a, ours.lora_b, x)

    def loss(layer: Any, a: mx.array, b: mx.array, x: mx.array) -> mx.array:
        layer.lora_a, layer.lora_b = a, b
        return mx.sin(layer(x, indices, sorted_indices=in_order)).sum()

    found, wanted = (
        mx.grad(lambda *v, layer=layer: loss(layer, *v), argnums=(0, 1, 2))(*weights) for layer in (ours, stock)
    )
    assert all(near(mine, theirs) for mine, theirs in zip(found, wanted, strict=True))
    assert mx.abs(found[0][1]).max().item() == 0  # no token went to expert 1
    for layer in (ours, stock):
        layer.lora_a, layer.lora_b = weights[:2]
    assert near(ours(x, indices, sorted_indices=in_order), stock(x, indices, sorted_indices=in_order), 1e-5)


@ALL
def test_every_expert_is_adapted_and_no_router(name: str) -> None:
    model = mixture(name)
    spec = adapters.attach(model, SPEC)
    experts = [path for path, layer in adapters.adapter_layers(model) if isinstance(layer, LoRAExperts)]
    with_experts = [b for b in model.layers if any(isinstance(m, LoRAExperts) for m in b.modules())]
    assert len(experts) == 3 * len(with_experts) == (3 if name == "qwen3" else 6)
    assert {path.rsplit(".", 1)[-1] for path in experts} == {"gate_proj", "up_proj", "down_proj"}
    # Attention and the MLPs beside the experts are adapted as ever.
    assert {f"self_attn.{p}_proj" for p in "qkvo"} <= set(spec.keys)
    parts = {"qwen2": "mlp.shared_expert", "qwen3": "mlp", "gemma4": "mlp"}
    if name in parts:
        assert f"{parts[name]}.down_proj" in spec.keys
    assert not any(ROUTERS & set(path.split(".")) for path in adapters.trainable(model))


def _steps(model: Any, count: int) -> list[float]:
    """Losses of some steps of plain gradient descent on one batch."""
    batch = {
        "tokens": TOKENS[:, :-1],
        "positions": mx.arange(46),
        "targets": TOKENS[:, 1:].reshape(-1),
        "weights": mx.ones((46,)),
    }
    objective = objectives.sft(row_logits(model))
    model.train()
    found = []
    for _ in range(count):
        own = model.trainable_parameters()
        (loss, _, _), grads = nn.value_and_grad(model, lambda: objective(model, batch, {}))()
        model.update(own)
        own, flat = adapters.trainable(model), dict(tree_flatten(grads))
        model.load_weights([(k, own[k] - 1e-3 * flat[k]) for k in flat], strict=False)
        mx.eval(model.state)
        found.append(loss.item())
    return found


@ALL
def test_it_learns_and_nothing_but_the_adapter_changes(name: str) -> None:
    model = mixture(name)
    before = dict(tree_flatten(model.parameters()))
    adapters.attach(model, SPEC)
    start = adapters.trainable(model)
    losses = _steps(model, 5)
    assert losses[-1] < losses[0] - 0.1
    for path, layer in adapters.adapter_layers(model):
        if isinstance(layer, LoRAExperts):
            moved = mx.abs(layer.lora_b - start[f"{path}.lora_b"]).max(axis=(1, 2))
            assert (moved > 0).sum().item() >= 2, path  # of four experts, those that tokens went to
    adapters.detach(model)
    after = dict(tree_flatten(model.parameters()))
    assert after.keys() == before.keys()
    assert all(mx.array_equal(after[k], before[k]).item() for k in before)


@ALL
@pytest.mark.parametrize("bits", [None, 4], ids=["dense", "4-bit"])
def test_a_saved_adapter_opens_in_stock_mlx_lm_and_here(name: str, bits: int | None, tmp_path: Path) -> None:
    models = [mixture(name) for _ in range(3)]
    if bits:
        for one in models:
            nn.quantize(one, group_size=32, bits=bits)
    model, theirs, again = models
    spec = adapters.attach(model, SPEC)
    train(model)
    save_adapter(tmp_path / "adapter", adapters.trainable(model), spec)
    plain = theirs(TOKENS)
    load_adapters(theirs, str(tmp_path / "adapter"))
    assert near(model(TOKENS), theirs.eval()(TOKENS))
    assert not near(plain, theirs(TOKENS), 0.05)
    assert adapters.load_adapter(again, tmp_path / "adapter", None) == spec
    assert mx.array_equal(again(TOKENS), model(TOKENS)).item()
    assert adapters.trainable(again) == {}


def test_an_adapter_of_stock_with_dropout_opens_too(tmp_path: Path) -> None:
    model, spec = adapted("qwen2")
    save_adapter(tmp_path / "adapter", adapters.trainable(model), spec)
    file = tmp_path / "adapter" / adapters.CONFIG
    config = json.loads(file.read_text())
    config["lora_parameters"]["dropout"] = 0.1
    file.write_text(json.dumps(config))
    again = mixture("qwen2")
    assert adapters.load_adapter(again, tmp_path / "adapter", None).dropout == 0.1
    assert mx.array_equal(again(TOKENS), model(TOKENS)).item()


@ALL
def test_merged_experts_are_the_adapter_at_any_strength(name: str) -> None:
    for strength in (1.0, 0.5):
        model, _ = adapted(name)
        adapters.set_strength(model, strength)
        expected = model(TOKENS)
        assert near(merged(model)(TOKENS), expected)


@pytest.mark.parametrize("bits", [16, 8])
def test_quantized_experts_are_merged_from_their_codes(bits: int, tmp_path: Path) -> None:
    write_model(tmp_path / "base", config=MIXTURES["qwen2"])
    stored, _ = mlx_lm.utils.load_model(tmp_path / "base")
    nn.quantize(stored, group_size=32, bits=4)
    mx.save_safetensors(str(tmp_path / "base/model.safetensors"), dict(tree_flatten(stored.parameters())))
    config = {**MIXTURES["qwen2"], "quantization": {"group_size": 32, "bits": 4}}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    model, _ = mlx_lm.utils.load_model(tmp_path / "base")
    base = model(TOKENS)
    spec = adapters.attach(model, SPEC)
    train(model)
    save_adapter(tmp_path / "adapter", adapters.trainable(model), spec)
    (tmp_path / "fused").mkdir()
    write_fused(tmp_path / "base", tmp_path / "adapter", bits, tmp_path / "fused")
    fused, _ = mlx_lm.utils.load_model(tmp_path / "fused")
    kind = SwitchLinear if bits == 16 else QuantizedSwitchLinear
    assert type(fused.layers[0].mlp.switch_mlp.up_proj) is kind
    off, moved = (mx.abs(one - model(TOKENS)).mean().item() for one in (fused(TOKENS), base))
    assert off < (1e-4 if bits == 16 else 0.4) * moved


def test_bypassed_or_at_strength_zero_it_is_the_base_model() -> None:
    model, _ = adapted("gemma4")
    base = mixture("gemma4")(TOKENS)
    with adapters.bypassed(model):
        assert mx.array_equal(model(TOKENS), base).item()
    adapters.set_strength(model, 0.0)
    assert mx.array_equal(model(TOKENS), base).item()


def test_a_stack_collapses_into_one_adapter(tmp_path: Path) -> None:
    model, spec = adapted("qwen2")
    outer = adapters.attach(model, AdapterSpec(2, 0.5, dora=False, keys=spec.keys))
    train(model, 500)
    weights, one = adapters.collapse(model, outer)
    assert one.rank == 6
    single = mixture("qwen2")
    adapters.attach(single, one)
    adapters.load_weights(single, weights, tmp_path)
    assert near(single(TOKENS), model(TOKENS))
    assert near(merged(model)(TOKENS), single(TOKENS))


@pytest.mark.parametrize("name", ["qwen2", "gemma4"])
def test_recomputed_blocks_give_the_same_steps(name: str) -> None:
    found = []
    for recompute in (False, True):
        model, _ = adapted(name)
        if recompute:
            checkpoint_blocks(model)
            chunk_mlps(model, 5)
        found.append(_steps(model, 3))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        (AdapterSpec(4, 2.0, dora=True), "DoRA cannot be trained on the experts", "--lora"),
        (AdapterSpec(4, 2.0, dora=False, dropout=0.1), "dropout is not possible on the experts", "--dropout"),
    ],
    ids=["dora", "dropout"],
)
def test_what_stock_cannot_hold_is_refused_and_changes_nothing(spec: AdapterSpec, message: str, hint: str) -> None:
    model, below = adapted("qwen3")
    trained = adapters.trainable(model).keys()
    with pytest.raises(PersonaError, match=message) as caught:
        adapters.attach(model, spec)
    assert hint in str(caught.value.hint)
    assert adapters.trainable(model).keys() == trained
    attention = tuple(key for key in below.keys if key.startswith("self_attn"))
    assert adapters.attach(mixture("qwen3"), AdapterSpec(4, 2.0, dora=True, keys=attention)).dora


def test_a_continued_adapter_may_not_begin_to_drop() -> None:
    model, _ = adapted("qwen2")
    (layer, *_) = [layer for _, layer in adapters.adapter_layers(model) if isinstance(layer, LoRAExperts)]
    with pytest.raises(PersonaError, match="dropout is not possible on the experts"):
        layer.set_dropout(0.1)
    layer.set_dropout(0.0)


@ALL
def test_the_planner_counts_every_expert_and_works_with_those_that_are_active(name: str) -> None:
    model, spec = adapted(name)
    found = shapes(MIXTURES[name])
    assert trainable(found, 4, dora=False) == sum(v.size for v in adapters.trainable(model).values())
    kept = {path: value for path, value in adapters.trainable(model).items() if "self_attn" in path}
    attention = tuple(key for key in spec.keys if key.startswith("self_attn"))
    assert trainable(found, 4, dora=False, keys=attention) == sum(v.size for v in kept.values())
    # Per token: 2 of 4 experts, so half of their A and B; 6 operations each (forward, and backward by x, A and B).
    experts = sum(v.size for path, v in adapters.trainable(model).items() if v.ndim == 3)
    active = trainable(found, 4, dora=False) - experts // 2
    work = Work(1000.0, 0.0, 0.0, 24)
    more = training_flops(found, Setup(4, False), work) - training_flops(found, Setup(0, False), work)
    assert more == 6 * active * 1000
