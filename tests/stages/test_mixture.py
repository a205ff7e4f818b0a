"""A mixture of experts through the stages: trained, opened by stock mlx-lm, stacked on, fused; and what is refused."""

from __future__ import annotations

from pathlib import Path

import mlx_persona.backend  # noqa: F401

# isort: split

import mlx.core as mx
import mlx_lm
import pytest

from mlx_persona.config import FuseConfig, PlanConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.load import load_model
from mlx_persona.models.quantized import dense_weight
from mlx_persona.stages.dpo import dpo
from mlx_persona.stages.fuse import fuse
from mlx_persona.stages.plan import plan
from mlx_persona.stages.sft import sft
from mlx_persona.stages.training import TrainResult
from tests.models.moe_kit import MIXTURES
from tests.toy import dpo_config, events, sft_config, write_data, write_model, write_pairs

TOKENS = mx.random.randint(0, 259, (2, 40), key=mx.random.key(0))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small Qwen2-MoE and data for it."""
    folder = tmp_path_factory.mktemp("mixture")
    write_model(folder / "model", config=MIXTURES["qwen2"])
    write_data(folder / "data/clean")
    write_pairs(folder / "pairs")
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> TrainResult:
    """A LoRA of eight updates, held to its base."""
    config = sft_config(place / "model", place / "data/clean", place / "runs/sft-1", dora=False, kl=0.05)
    return sft(config)


def test_it_learns_and_opens_in_stock_mlx_lm(place: Path, trained: TrainResult) -> None:
    assert trained.eval_loss < trained.base_eval_loss - 0.5
    assert events(trained.run, "eval")[-1]["kl"] > 0
    names = mx.load(str(trained.adapter / adapters.WEIGHTS)).keys()
    assert sum("switch_mlp" in name for name in names) == 2 * 3 * 2  # two blocks, three projections, A and B
    assert not any(".gate." in name or "shared_expert_gate" in name for name in names)
    stock, _ = mlx_lm.load(str(place / "model"), adapter_path=str(trained.adapter))
    ours = load_model(str(place / "model"))
    adapters.load_adapter(ours.model, trained.adapter, ours.identity)
    assert mx.allclose(stock(TOKENS), ours.model(TOKENS), atol=2e-3)


def test_dpo_goes_on_with_it_and_stacks_on_it(place: Path, trained: TrainResult) -> None:
    for fresh in (False, True):
        rank = {"rank": 2} if fresh else {}
        config = dpo_config(trained.adapter, place / "pairs", place / f"runs/dpo-{fresh}", fresh=fresh, **rank)
        result = dpo(config)
        spec = adapters.read_spec(result.adapter)
        assert (spec.dora, spec.rank) == (False, 6 if fresh else 4)
        stock, _ = mlx_lm.load(str(place / "model"), adapter_path=str(result.adapter))
        assert mx.isfinite(stock(TOKENS)).all().item()
    with pytest.raises(PersonaError, match="DoRA cannot be trained on the experts"):
        dpo(dpo_config(trained.adapter, place / "pairs", place / "runs/dpo-dora", fresh=True, dora=True))


@pytest.mark.parametrize("bits", [16, 8])
def test_fused_experts_say_what_the_adapter_says(
    bits: int, place: Path, trained: TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    out = place / f"fused-{bits}"
    fuse(FuseConfig(adapter=str(trained.run), bits=str(bits), out=str(out), gate_tokens=32, max_seq_length=128))
    fused, _ = mlx_lm.load(str(out))
    ours = load_model(str(place / "model"))
    base = ours.model(TOKENS)
    adapters.load_adapter(ours.model, trained.adapter, ours.identity)
    if bits == 16:
        moved = mx.abs(ours.model(TOKENS) - base).mean().item()
        assert mx.abs(fused(TOKENS) - ours.model(TOKENS)).mean().item() < 0.01 * moved
    layers, theirs = dict(adapters.adapter_layers(ours.model)), dict(fused.named_modules())
    experts = [path for path in layers if "switch_mlp" in path]
    assert len(experts) == 6
    for path in experts:
        wanted = layers[path].merged_weight()
        # 8 bits: at most a step, of a range of twice the largest weight in 255 (MLX puts one end on the grid).
        off = mx.abs(dense_weight(theirs[path]) - wanted).max().item()
        assert off <= (1e-6 if bits == 16 else 2 / 255) * mx.abs(wanted).max().item()


def test_dora_is_refused_with_a_way_out(place: Path) -> None:
    for refused in (
        lambda: sft(sft_config(place / "model", place / "data/clean", place / "runs/no")),
        lambda: plan(PlanConfig(model=str(place / "model"), data=str(place / "data/clean"))),
    ):
        with pytest.raises(PersonaError, match="DoRA cannot be trained on the experts") as caught:
            refused()
        assert "--lora" in str(caught.value.hint)
    assert not (place / "runs/no").exists()
    lora = plan(PlanConfig(model=str(place / "model"), data=str(place / "data/clean"), dora=False))
    assert lora.fits
