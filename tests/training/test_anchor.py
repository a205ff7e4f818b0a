"""SFT with a KL anchor: what is minimised, what is logged, and that the base is the model without its adapters."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import gemma2, llama

from mlx_persona.models import adapters
from mlx_persona.models.adapters import AdapterSpec
from mlx_persona.models.checkpointing import checkpoint_blocks
from mlx_persona.models.heads import RowLogits, row_logits
from mlx_persona.models.token_chunks import chunk_mlps
from mlx_persona.runs import Run
from mlx_persona.stages.sft import sft, to_mx
from mlx_persona.tokens.batches import Row, collate_packed, make_row
from mlx_persona.training import objectives
from mlx_persona.training.loop import Loop
from mlx_persona.training.objectives import Batch
from tests.toy import events, info, sft_config
from tests.training.test_loop import CONFIG, Toy

VOCAB, LAMBDA = 97, 0.3
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
}
KINDS = ("tied", "untied", "4 bits", "soft-capped")


def base_model(kind: str = "tied") -> Any:
    """A random model, the same on every call."""
    if kind == "soft-capped":
        args = {**SIZES, "model_type": "gemma2", "head_dim": 16, "final_logit_softcapping": 30.0}
        model: Any = gemma2.Model(gemma2.ModelArgs.from_dict(args))
    else:
        args = {**SIZES, "model_type": "llama", "tie_word_embeddings": kind != "untied"}
        model = llama.Model(llama.ModelArgs.from_dict(args))
    weights = [
        (k, 0.3 * mx.random.normal(v.shape, key=mx.random.key(i)) + ("norm" in k))
        for i, (k, v) in enumerate(tree_flatten(model.parameters()))
    ]
    model.load_weights(weights)
    if kind == "4 bits":
        nn.quantize(model, group_size=32, bits=4)
    return model.eval()


def adapted(kind: str = "tied", dora: bool = True) -> Any:
    """The same with an adapter on it that changes much: with DoRA the magnitudes too."""
    model = base_model(kind)
    adapters.attach(model, AdapterSpec(2, 2.0, dora))
    move(model, 100)
    return model


def move(model: Any, seed: int) -> None:
    """Stand in for training."""
    moved = {}
    for i, (name, value) in enumerate(sorted(adapters.trainable(model).items())):
        step = mx.random.normal(value.shape, key=mx.random.key(seed + i))
        moved[name] = value * (1 + 0.3 * step) if name.endswith(".m") else value + 0.1 * step
    model.load_weights(list(moved.items()), strict=False)
    adapters.refresh(model)


def random_rows(count: int, seed: int = 0) -> list[Row]:
    """Rows of 4 to 19 tokens, about half of them targets, the last one always."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 20, count)
    return [make_row(rng.integers(0, VOCAB, n).tolist(), [*(rng.random(n - 1) < 0.5).tolist(), True]) for n in lengths]


def log_probs(model: Any, row: Row) -> np.ndarray:
    """Over the vocabulary at each supervised token of one row alone, in float64: (P, V)."""
    logits = np.asarray(model(mx.array(row.ids[None])), np.float64)[0]
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: np.ndarray = (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))[:-1][row.mask[1:]]
    return found


def run_of(objective: objectives.Objective, model: Any, batch: Batch) -> Any:
    """``(loss sum, weight, metrics, gradients by name)``."""
    own = model.trainable_parameters()
    (loss, weight, metrics), grads = nn.value_and_grad(model, lambda: objective(model, batch, {}))()
    model.update(own)
    return loss.item(), weight.item(), {k: v.tolist() for k, v in metrics.items()}, dict(tree_flatten(grads))


def close(actual: dict[str, mx.array], expected: dict[str, mx.array], relative: float = 1e-3) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert mx.abs(actual[name] - value).max().item() <= relative * mx.abs(value).max().item() + 1e-6, name


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_cross_entropy_and_the_divergence_from_the_model_without_adapter(
    kind: str, dora: bool, training: bool
) -> None:
    """From full logits, in float64, of two models; the base never had an adapter."""
    model, rows = adapted(kind, dora), random_rows(4)
    logits = row_logits(model)
    assert logits.in_slabs == (kind != "soft-capped")
    model.train(training)
    loss, weight, metrics = objectives.sft(logits, LAMBDA)(model, to_mx(rows), {})
    model.eval()
    base, cross_entropy, divergence = base_model(kind), 0.0, 0.0
    for row in rows:
        log_p, log_q = log_probs(model, row), log_probs(base, row)
        cross_entropy -= log_p[np.arange(row.targets), row.ids[1:][row.mask[1:]]].sum()
        divergence += float((np.exp(log_p) * (log_p - log_q)).sum())
    count = sum(row.targets for row in rows)
    assert divergence > 0.1 * count
    assert weight.item() == count
    assert metrics["loss"].tolist() == pytest.approx([cross_entropy, count], rel=1e-4)
    assert metrics["kl"].tolist() == pytest.approx([divergence, count], rel=1e-4)
    assert loss.item() == pytest.approx(cross_entropy + LAMBDA * divergence, rel=1e-4)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", ["tied", "untied", "4 bits"])
def test_its_gradient_is_that_of_the_plain_form(kind: str, dora: bool) -> None:
    """In slabs and with the gradient formed in the forward pass, against all logits and automatic differentiation."""
    model, batch = adapted(kind, dora).train(), to_mx(random_rows(4))
    plain = objectives.sft(RowLogits(split=False, in_slabs=False), LAMBDA)
    expected = run_of(plain, model, batch)
    found = run_of(objectives.sft(row_logits(model), LAMBDA), model, batch)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    close(found[3], expected[3])


def test_the_anchor_alone_pulls_back_to_the_base() -> None:
    """A step down the gradient of a huge λ makes the divergence smaller, one of λ = 0 does not."""
    model, batch = adapted().train(), to_mx(random_rows(4))
    logits, own = row_logits(model), adapters.trainable(model)
    divergences = []
    for weight in (0.0, 1e4):
        grads = run_of(objectives.sft(logits, weight), model, batch)[3]
        length = float(mx.sqrt(sum(((g * g).sum() for g in grads.values()), start=mx.array(0.0))))
        model.load_weights([(k, own[k] - 0.05 / length * g) for k, g in grads.items()], strict=False)
        adapters.refresh(model)
        divergences.append(run_of(objectives.sft(logits, 1.0), model, batch)[2]["kl"][0])
        model.load_weights(list(own.items()), strict=False)
        adapters.refresh(model)
    start = run_of(objectives.sft(logits, 1.0), model, batch)[2]["kl"][0]
    assert divergences[1] < 0.95 * start
    assert divergences[1] < divergences[0]


def test_micro_batches_add_up_to_one_big_batch() -> None:
    model, rows = adapted().train(), random_rows(6)
    objective = objectives.sft(row_logits(model), LAMBDA)
    whole = run_of(objective, model, to_mx(rows))
    parts = [run_of(objective, model, to_mx(rows[a:b])) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert sum(p[0] for p in parts) == pytest.approx(whole[0], rel=1e-5)
    for name in ("loss", "kl"):
        assert np.sum([p[2][name] for p in parts], axis=0).tolist() == pytest.approx(whole[2][name], rel=1e-5)
    close({k: sum((p[3][k] for p in parts), start=mx.array(0.0)) for k in whole[3]}, whole[3])


def test_packed_rows_give_what_separate_rows_give() -> None:
    model, rows = adapted().train(), random_rows(4)
    objective = objectives.sft(row_logits(model), LAMBDA)
    packed = {k: mx.array(v) for k, v in collate_packed([rows[:3], rows[3:]]).items() if k != "segments"}
    found, expected = run_of(objective, model, packed), run_of(objective, model, to_mx(rows))
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    close(found[3], expected[3])


def test_recomputed_blocks_give_the_same_gradients() -> None:
    """Their backward pass runs the blocks again, when the bypass is over; long MLPs go in parts."""
    model, batch = adapted().train(), to_mx(random_rows(4))
    objective = objectives.sft(row_logits(model), LAMBDA)
    expected = run_of(objective, model, batch)
    checkpoint_blocks(model)
    chunk_mlps(model, 5)
    found = run_of(objective, model, batch)
    assert found[2] == {k: pytest.approx(v, rel=1e-5) for k, v in expected[2].items()}
    close(found[3], expected[3])


def test_the_base_of_a_stack_is_the_model_below_all_adapters() -> None:
    """And the base drops nothing, whatever the dropout on the adapter's input is."""
    model, batch = adapted(), to_mx(random_rows(4))
    adapters.attach(model, AdapterSpec(2, 2.0, dora=False, dropout=0.5))
    move(model, 300)
    with adapters.bypassed(model):
        model.train()
        assert mx.array_equal(model(batch["tokens"]), base_model()(batch["tokens"])).item()
        model.eval()
    assert not mx.allclose(model(batch["tokens"]), base_model()(batch["tokens"]), atol=0.1).item()


def _losses(path: Path, model: Any, kl: float, compiled: bool) -> list[dict[str, Any]]:
    spec = adapters.attach(model, AdapterSpec(4, 2.0, dora=True))
    run = Run.create(path, {}, {})
    config = replace(CONFIG, learning_rate=2e-2, compiled=compiled)
    Loop(model, objectives.sft(row_logits(model), kl), Toy(), config, run, spec, {}).run()
    run.close()
    return [e for e in events(path) if e["event"] in ("train", "eval")]


def test_a_compiled_step_bypasses_the_adapter_too_and_both_losses_are_logged(tmp_path: Path) -> None:
    eager, compiled = (_losses(tmp_path / str(c), base_model(), 1.0, c) for c in (False, True))
    assert eager[0]["kl"] == eager[1]["kl"] == 0  # a new adapter is the base model
    assert eager[-1]["kl"] > 1e-3
    for one, other in zip(eager, compiled, strict=True):
        for key in ("loss", "kl"):
            assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-6)


def test_a_run_of_sft_stays_nearer_to_its_base_with_an_anchor(model: Path, data: Path, tmp_path: Path) -> None:
    """Without it nothing is logged or changed; with it the loss in ``metrics.jsonl`` stays the cross-entropy."""
    found = {
        kl: sft(sft_config(model, data, tmp_path / str(kl), learning_rate=2e-2, updates=12, kl=kl))
        for kl in (0.0, 0.5, 4.0)
    }
    assert not any("kl" in e for e in events(found[0.0].run))
    (plain, _), (weak, _) = (events(found[kl].run, "train")[:2] for kl in (0.0, 0.5))
    assert weak["loss"] == pytest.approx(plain["loss"], rel=1e-5)  # the same model still, and the same batch
    plain, weak, strong = (events(result.run, "eval")[-1] for result in found.values())
    assert 0 < strong["kl"] < 0.7 * weak["kl"]
    assert strong["loss"] > weak["loss"] > plain["loss"]
    assert found[0.5].extra == {"kl": info(found[0.5].run)["kl"]}
    assert found[0.0].extra == {}
