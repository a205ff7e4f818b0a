"""Losses against golden numbers, against NumPy in float64, and under padding, masking and splitting."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import math
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import llama

from mlx_persona.models import adapters
from mlx_persona.models.heads import row_logits
from mlx_persona.tokens.batches import Row, collate, make_row
from mlx_persona.training import objectives

VOCAB = 97
CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
}


def _model() -> Any:
    """A tiny random llama with a DoRA adapter whose B is not zero."""
    model = llama.Model(llama.ModelArgs.from_dict(CONFIG))
    weights = [
        (k, 0.4 * mx.random.normal(v.shape, key=mx.random.key(i)) + ("norm" in k))
        for i, (k, v) in enumerate(tree_flatten(model.parameters()))
    ]
    model.load_weights(weights)
    adapters.attach(model, adapters.AdapterSpec(2, 2.0, dora=True))
    for i, (_, layer) in enumerate(adapters.adapter_layers(model)):
        layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(100 + i))
    adapters.refresh(model)
    return model


MODEL = _model()
ROWS = row_logits(MODEL)


def to_mx(rows: list[Row], **steps: int) -> objectives.Batch:
    return {name: mx.array(value) for name, value in collate(rows, **steps).items()}


def random_rows(count: int, seed: int = 0) -> list[Row]:
    """Rows of 4 to 19 tokens, about half of them targets, the last one always."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        length = int(rng.integers(4, 20))
        out.append(make_row(rng.integers(0, VOCAB, length).tolist(), [*(rng.random(length - 1) < 0.5).tolist(), True]))
    return out


def numpy_log_probs(row: Row) -> list[float]:
    """log p of each supervised token of one row alone, from full logits in float64."""
    logits = np.asarray(MODEL(mx.array(row.ids[None])), np.float64)[0]  # (L, V)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return [float(log_softmax[t - 1, row.ids[t]]) for t in range(1, len(row.ids)) if row.mask[t]]


def loss_and_grads(objective: objectives.Objective, batch: objectives.Batch, **knobs: float) -> Any:
    """``(loss sum, weight, metrics, gradients by name)``."""
    step = nn.value_and_grad(MODEL, lambda: objective(MODEL, batch, {k: mx.array(v) for k, v in knobs.items()}))
    own = MODEL.trainable_parameters()
    (loss, weight, metrics), grads = step()
    MODEL.update(own)
    return loss.item(), weight.item(), metrics, dict(tree_flatten(grads))


# --- SFT ---------------------------------------------------------------------------------------


def test_sft_is_the_negative_log_softmax_over_exactly_the_masked_tokens() -> None:
    rows = random_rows(5)
    loss, weight, metrics = objectives.sft(ROWS)(MODEL, to_mx(rows), {})
    expected = [p for row in rows for p in numpy_log_probs(row)]
    assert weight.item() == len(expected)
    assert loss.item() == pytest.approx(-sum(expected), rel=1e-5)
    assert metrics == {}


def test_sft_gradients_agree_with_finite_differences() -> None:
    objective, batch = objectives.sft(ROWS), to_mx(random_rows(3))
    _, _, _, grads = loss_and_grads(objective, batch)
    layer = MODEL.layers[0].self_attn.o_proj
    start, step = layer.lora_b, 2e-3
    toward = mx.random.normal(start.shape, key=mx.random.key(5))
    found = []
    for sign in (1, -1):
        layer.lora_b = start + sign * step * toward
        # The cached norm stays as it is: it is a constant of the gradient, too.
        found.append(objective(MODEL, batch, {})[0].item())
    layer.lora_b = start
    expected = (grads["model.layers.0.self_attn.o_proj.lora_b"] * toward).sum().item()
    assert (found[0] - found[1]) / (2 * step) == pytest.approx(expected, rel=0.02)


@given(seed=st.integers(0, 99), length_step=st.integers(1, 50), target_step=st.integers(1, 90))
@settings(max_examples=10, deadline=None)
def test_padding_never_changes_the_loss(seed: int, length_step: int, target_step: int) -> None:
    rows = random_rows(3, seed)
    objective = objectives.sft(ROWS)
    plain, weight, _ = objective(MODEL, to_mx(rows, length_step=1, target_step=1), {})
    padded, same, _ = objective(MODEL, to_mx(rows, length_step=length_step, target_step=target_step), {})
    assert weight.item() == same.item()
    assert padded.item() == pytest.approx(plain.item(), rel=1e-5)


@given(seed=st.integers(0, 99), keep=st.lists(st.booleans(), min_size=20, max_size=20))
@settings(max_examples=10, deadline=None)
def test_a_masked_loss_equals_the_loss_on_the_subset(seed: int, keep: list[bool]) -> None:
    (row,) = random_rows(1, seed)
    mask = np.asarray(keep[: len(row.ids)])
    subset = Row(row.ids, row.mask & mask)
    loss, weight, _ = objectives.sft(ROWS)(MODEL, to_mx([subset]), {})
    everything = Row(row.ids, np.ones_like(row.mask))
    chosen = [p for p, m in zip(numpy_log_probs(everything), subset.mask[1:], strict=True) if m]
    assert weight.item() == len(chosen)
    assert loss.item() == pytest.approx(-sum(chosen), rel=1e-5, abs=1e-6)


@given(seed=st.integers(0, 99), cuts=st.sets(st.integers(1, 5), max_size=5))
@settings(max_examples=5, deadline=None)
def test_micro_batches_add_up_to_one_big_batch(seed: int, cuts: set[int]) -> None:
    rows, objective = random_rows(6, seed), objectives.sft(ROWS)
    loss, weight, _, grads = loss_and_grads(objective, to_mx(rows))
    edges = [0, *sorted(cuts), 6]
    parts = [loss_and_grads(objective, to_mx(rows[a:b])) for a, b in pairwise(edges)]
    assert sum(p[0] for p in parts) == pytest.approx(loss, rel=1e-5)
    assert sum(p[1] for p in parts) == weight
    for name, grad in grads.items():
        total = sum((p[3][name] for p in parts), start=mx.array(0.0))
        assert mx.abs(total - grad).max().item() <= 1e-4 * mx.abs(grad).max().item()


def test_log_probabilities_of_rows_are_sums_over_their_own_tokens() -> None:
    rows = random_rows(4)
    rows[2] = Row(rows[2].ids, np.zeros_like(rows[2].mask))
    sums, counts = objectives.row_log_probs(ROWS, MODEL, to_mx(rows), 4)
    expected = [numpy_log_probs(r) for r in rows]
    np.testing.assert_allclose(np.asarray(sums), [sum(e) for e in expected], rtol=1e-5, atol=1e-6)
    assert counts.tolist() == [len(e) for e in expected]
    losses, weights = objectives.each_row(ROWS)(MODEL, to_mx(rows), {})
    assert losses.tolist() == (-sums).tolist()
    assert weights.tolist() == counts.tolist()


# --- DPO ---------------------------------------------------------------------------------------

CHOSEN, REJECTED = mx.array([-0.5, -10.0, -1.0]), mx.array([-0.1, -30.0, -21.0])
REF_CHOSEN, REF_REJECTED = mx.array([-0.5, -10.1, -0.1]), mx.array([-0.1, -20.1, -0.1])


def golden(smoothing: float = 0.0, beta: float = 0.1) -> list[np.ndarray]:
    out = objectives.dpo_losses(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, mx.array(beta), smoothing)
    return [np.asarray(v) for v in out]


def test_dpo_golden_numbers() -> None:
    """Margins are 0.1 · ((chosen - reference) - (rejected - reference)).

    Pair 1: 0.1 · (0 - 0) = 0. Pair 2: 0.1 · (0.1 - (-9.9)) = 1. Pair 3: 0.1 · (-0.9 - (-20.9)) = 2.
    So the losses are -log σ(0) = log 2, -log σ(1) = log(1 + 1/e), -log σ(2) = log(1 + 1/e²).
    """
    losses, good, bad = golden()
    np.testing.assert_allclose(losses, [math.log(2), math.log1p(math.exp(-1)), math.log1p(math.exp(-2))], rtol=1e-5)
    np.testing.assert_allclose(losses, [0.693147, 0.313262, 0.126928], rtol=1e-5)
    np.testing.assert_allclose(good, [0.0, 0.01, -0.09], atol=1e-6)
    np.testing.assert_allclose(bad, [0.0, -0.99, -2.09], atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_label_smoothing_mixes_in_the_flipped_loss(smoothing: float, beta: float) -> None:
    """cDPO: (1 - ε)(-log σ(h)) + ε(-log σ(-h))."""
    h = beta * np.array([0.0, 10.0, 20.0])
    expected = (1 - smoothing) * np.log1p(np.exp(-h)) + smoothing * np.log1p(np.exp(h))
    np.testing.assert_allclose(golden(smoothing, beta)[0], expected, rtol=1e-5)


def test_the_gradient_raises_the_chosen_and_lowers_the_rejected() -> None:
    """d loss / d chosen = -β σ(-h); d loss / d rejected is its negative (Rafailov et al., section 4)."""

    def total(chosen: mx.array, rejected: mx.array) -> mx.array:
        return objectives.dpo_losses(chosen, rejected, REF_CHOSEN, REF_REJECTED, mx.array(0.1), 0.0)[0].sum()

    good, bad = mx.grad(total, argnums=(0, 1))(CHOSEN, REJECTED)
    expected = -0.1 / (1 + np.exp([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(np.asarray(good), expected, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(bad), -expected, rtol=1e-5)


def test_extreme_margins_stay_finite() -> None:
    far = mx.array([1e4, -1e4])
    losses, _, _ = objectives.dpo_losses(far, -far, mx.zeros(2), mx.zeros(2), mx.array(1.0), 0.1)
    np.testing.assert_allclose(np.asarray(losses), [0.1 * 2e4, 0.9 * 2e4], rtol=1e-6)


def pair_batch(count: int = 3) -> tuple[objectives.Batch, list[Row], np.ndarray]:
    rows = random_rows(2 * count, seed=4)
    reference = np.random.default_rng(1).normal(-40, 5, 2 * count)
    batch = to_mx(rows)
    batch["reference"] = mx.array(reference.astype(np.float32))
    batch["matched"] = mx.array([1.0, 0.0, 1.0])
    return batch, rows, reference


@pytest.mark.parametrize("nll_weight", [0.0, 0.3])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_dpo_objective_equals_numpy_on_full_logits(nll_weight: float, smoothing: float) -> None:
    batch, rows, reference = pair_batch()
    token = [numpy_log_probs(r) for r in rows]
    sums = np.array([sum(t) for t in token])
    rewards = 0.2 * (sums - reference)
    h = rewards[:3] - rewards[3:]
    losses = (1 - smoothing) * np.logaddexp(0, -h) + smoothing * np.logaddexp(0, h)
    nll = -sums[:3]
    lengths = np.array([len(t) for t in token[:3]])
    loss, weight, metrics, grads = loss_and_grads(objectives.dpo(ROWS, smoothing, nll_weight), batch, beta=0.2)
    assert weight == 3
    assert loss == pytest.approx(losses.sum() + nll_weight * (nll / lengths).sum(), rel=1e-4)
    each, ones = objectives.each_pair(ROWS, smoothing, nll_weight)(MODEL, batch, {"beta": mx.array(0.2)})
    np.testing.assert_allclose(np.asarray(each), losses + nll_weight * nll / lengths, rtol=1e-4)
    assert ones.tolist() == [1, 1, 1]
    matched = np.array([1, 0, 1])
    expected = {
        "accuracy": [(h > 0).sum(), 3],
        "accuracy_matched": [((h > 0) * matched).sum(), 2],
        "margin": [h.sum(), 3],
        "chosen_reward": [rewards[:3].sum(), 3],
        "rejected_reward": [rewards[3:].sum(), 3],
        "chosen_loss": [nll.sum(), lengths.sum()],
    }
    assert metrics.keys() == expected.keys()
    for name, pair in expected.items():
        np.testing.assert_allclose(np.asarray(metrics[name]), pair, rtol=1e-4, err_msg=name)
    assert all(mx.isfinite(g).all().item() for g in grads.values())


def test_a_compiled_objective_sees_beta_change() -> None:
    batch, _, _ = pair_batch()
    objective = objectives.dpo(ROWS, 0.0, 0.0)
    compiled = mx.compile(lambda b, k: objective(MODEL, b, k), inputs=[MODEL.state])
    for beta in (0.1, 0.4):
        knobs = {"beta": mx.array(beta)}
        assert compiled(batch, knobs)[0].item() == pytest.approx(objective(MODEL, batch, knobs)[0].item(), rel=1e-4)


def test_at_the_reference_itself_the_loss_is_log_two_and_a_step_down_the_gradient_widens_the_margin() -> None:
    rows = random_rows(6, seed=4)
    batch = to_mx(rows)
    batch["reference"] = objectives.row_log_probs(ROWS, MODEL, batch, 6)[0]
    batch["matched"] = mx.ones(3)
    objective = objectives.dpo(ROWS, 0.0, 0.0)
    loss, _, metrics, grads = loss_and_grads(objective, batch, beta=0.1)
    assert loss == pytest.approx(3 * math.log(2), rel=1e-5)
    assert metrics["accuracy"].tolist() == [0.0, 3.0]
    own = adapters.trainable(MODEL)
    MODEL.load_weights([(k, own[k] - 1e-3 * g) for k, g in grads.items()], strict=False)
    _, _, moved = objective(MODEL, batch, {"beta": mx.array(0.1)})
    MODEL.load_weights(list(own.items()), strict=False)
    assert moved["margin"][0].item() > 0


def test_the_gradient_of_dpo_adds_up_over_micro_batches() -> None:
    batch, rows, reference = pair_batch()
    objective = objectives.dpo(ROWS, 0.1, 0.2)
    loss, _, _, grads = loss_and_grads(objective, batch, beta=0.2)
    total, summed = 0.0, None
    for i in range(3):
        part = to_mx([rows[i], rows[3 + i]])
        part["reference"] = mx.array(reference[[i, 3 + i]].astype(np.float32))
        part["matched"] = mx.ones(1)
        one, _, _, own = loss_and_grads(objective, part, beta=0.2)
        total += one
        summed = own if summed is None else tree_map(lambda a, b: a + b, summed, own)
    assert total == pytest.approx(loss, rel=1e-4)
    assert summed is not None
    for name, grad in grads.items():
        assert mx.abs(summed[name] - grad).max().item() <= 1e-3 * mx.abs(grad).max().item()
