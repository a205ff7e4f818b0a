"""Every check of the selftest passes as things are, and fails when what it looks at is broken."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map

from mlx_persona.generation import batch
from mlx_persona.models import adapters, attention, cross_entropy, dora, lora, quantized, token_chunks
from mlx_persona.selftest import kit, layers, training, use
from mlx_persona.selftest.kit import Measured
from mlx_persona.selftest.run import all_checks, run_check
from mlx_persona.training import checkpoint, loop

Patch = pytest.MonkeyPatch
F32 = mx.float32


@pytest.fixture
def eager(monkeypatch: Patch) -> None:
    """Nothing is compiled: the C++ compiler takes ten seconds, and here only what is around it is tested."""
    monkeypatch.setattr(mx, "compile", loop._as_is)


def test_every_check_passes_here(eager: None) -> None:
    results = [run_check(check) for check in all_checks()]
    assert [r for r in results if not r.passed] == []
    assert len({r.name for r in results}) == len(results) >= 25


@pytest.mark.slow
def test_the_compiled_step_is_the_eager_one() -> None:
    figure, limit = training.compiled_step()
    assert figure <= limit == 4 * 1e-4


def _products(m: Patch) -> None:
    right = mx.array.__matmul__
    m.setattr(mx.array, "__matmul__", lambda a, b: right(a, b) * 1.001)


def _no_gradient_through_a_product(m: Patch) -> None:
    right = quantized.product
    m.setattr(quantized, "product", lambda layer, x: right(layer, mx.stop_gradient(x)))


def _scale(m: Patch) -> None:
    right = lora.plus_low_rank

    def wrong(x: Any, y: Any, a: Any, b: Any, scale: float, *rest: Any) -> Any:
        return right(x, y, a, b, 1.01 * scale, *rest)

    m.setattr(lora, "plus_low_rank", wrong)
    m.setattr(dora, "plus_low_rank", wrong)


def _stale_norms(m: Patch) -> None:
    m.setattr(dora.DoRALinear, "refresh", lambda self: None)


def _loss_without_its_target(m: Patch) -> None:
    right = cross_entropy.dense

    def wrong(head: Any, parts: Any) -> mx.array:
        out = right(head, parts)
        return mx.zeros_like(out) if len(out) == layers._TOKENS else out

    m.setattr(cross_entropy, "dense", wrong)


def _loss_without_a_slab(m: Patch) -> None:
    m.setattr(cross_entropy, "range", lambda start, size, rows: range(start, size - rows, rows), raising=False)


def _score_gradient(m: Patch) -> None:
    m.setattr(attention, "_score_push", lambda p, by_weight, mean: p * by_weight)


def _no_mask(m: Patch) -> None:
    m.setattr(attention, "_bias", lambda *_: None)


def _attention_scale(m: Patch) -> None:
    right = mx.fast.scaled_dot_product_attention
    m.setattr(mx.fast, "scaled_dot_product_attention", lambda *a, scale, mask: right(*a, scale=1.1 * scale, mask=mask))


def _compiled_update_is_lost(m: Patch) -> None:
    m.setattr(mx, "compile", lambda f, **_: (lambda *_: None) if f.__name__ == "apply" else f)


def _recomputed_gradient(m: Patch) -> None:
    m.setattr(mx, "checkpoint", lambda f: lambda own, x, *a, **k: f(own, mx.stop_gradient(x), *a, **k))


def _chunks_in_the_wrong_order(m: Patch) -> None:
    right = token_chunks.pairwise
    m.setattr(token_chunks, "pairwise", lambda edges: reversed(list(right(edges))))


def _forgotten_optimizer(m: Patch) -> None:
    right = checkpoint.restore

    def wrong(run: Any, model: Any, optimizer: Any) -> Any:
        state = right(run, model, optimizer)
        optimizer.state = tree_map(mx.zeros_like, optimizer.state)
        return state

    m.setattr(checkpoint, "restore", wrong)


def _saved_scale(m: Patch) -> None:
    right = adapters.write_adapter
    m.setattr(adapters, "write_adapter", lambda at, weights, spec: right(at, weights, replace(spec, scale=2.5)))


def _positions(m: Patch) -> None:
    m.setattr(batch._Places, "offset", property(lambda self: self._owner.offsets + (self._owner.offsets > 24)))


BROKEN = [
    (_products, partial(layers.matrix_product, F32)),
    (_no_gradient_through_a_product, partial(layers.quantized_product, F32, 4)),
    (_scale, partial(layers.adapter_layer, F32, 4, False)),
    (_scale, partial(layers.adapter_layer, F32, 8, True)),
    (_stale_norms, partial(layers.adapter_layer, F32, 4, True)),
    (_loss_without_its_target, partial(layers.loss_in_slabs, F32, False, None)),
    (_loss_without_a_slab, partial(layers.loss_in_slabs, F32, True, 4)),
    (_score_gradient, partial(layers.attention_form, F32, "causal")),
    (_no_mask, partial(layers.attention_form, F32, "rows")),
    (_attention_scale, partial(layers.attention_form, F32, "one token")),
    (_compiled_update_is_lost, training.compiled_step),
    (_recomputed_gradient, partial(training.recomputed, 4, "llama", True, False)),
    (_chunks_in_the_wrong_order, partial(training.recomputed, 8, "qwen2", True, True)),
    (_forgotten_optimizer, training.resume),
    (_saved_scale, partial(use.adapter_in_mlx_lm, "llama", 4, False)),
    (_saved_scale, partial(use.adapter_in_mlx_lm, "qwen2", 8, True)),
    (_positions, partial(use.short_generation, "llama", 4)),
]


@pytest.mark.parametrize(("breaks", "check"), BROKEN, ids=[breaks.__name__[1:] for breaks, _ in BROKEN])
def test_what_is_broken_fails_its_check(
    breaks: Callable[[Patch], None], check: Callable[[], Measured], monkeypatch: Patch
) -> None:
    breaks(monkeypatch)
    figure, limit = check()
    assert not figure <= limit


def test_every_kind_of_check_has_been_seen_to_fail() -> None:
    def name(measure: Any) -> str:
        return str(getattr(measure, "func", measure).__name__)

    assert {name(check.measure) for check in all_checks()} == {name(check) for _, check in BROKEN}


def _product_as_on_a_gpu(
    x: mx.array, w: mx.array, scales: mx.array, biases: mx.array, transpose: bool, **kind: Any
) -> Any:
    """Weights rounded to the type of the scales and sums in float32; the CPU's own kernel sums in 16 bits."""
    weight = mx.dequantize(w, scales, biases, **kind)
    return x @ (weight.T if transpose else weight)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=kit.dtype_name)
def test_16_bit_limits_hold_for_rounding_alone(dtype: Any, monkeypatch: Patch) -> None:
    for module in (kit, quantized, cross_entropy, attention):
        monkeypatch.setattr(module, "on_cpu", lambda: False)
    monkeypatch.setattr(mx, "quantized_matmul", _product_as_on_a_gpu)
    measured = [
        layers.matrix_product(dtype),
        *(layers.quantized_product(dtype, bits) for bits in (4, 8)),
        *(layers.adapter_layer(dtype, bits, True) for bits in (4, 8)),
        *(layers.loss_in_slabs(dtype, tied, 4) for tied in (False, True)),
        layers.attention_form(dtype, "one token"),
    ]
    assert [m for m in measured if not 0 < m.figure < m.limit / 2] == []


def test_a_gpu_is_checked_in_16_bits_and_its_products_in_32_too(monkeypatch: Patch) -> None:
    monkeypatch.setattr(kit, "on_cpu", lambda: False)
    names = [check.name for check in all_checks()]
    assert [n for n in names if n.startswith("matrix product")] == [
        f"matrix product, {name}" for name in ("float32", "bfloat16", "float16")
    ]
    assert "DoRA layer, 4 bits, bfloat16" in names
    assert "DoRA layer, 4 bits, float32" not in names
    assert kit.limit(mx.bfloat16) == 12 / 512 > kit.limit(mx.float16) == kit.limit(mx.float32) == 12 / 2048


@pytest.mark.parametrize(
    ("got", "expected", "figure"),
    [([1.0, 2.0], [1.0, 4.0], 0.5), ([0.0, 0.0], [0.0, 0.0], 0.0), ([0.0, 1.0], [0.0, 0.0], float("inf"))],
)
def test_a_distance_is_a_share_of_the_largest_element(got: list[float], expected: list[float], figure: float) -> None:
    assert kit.distance([mx.array(got)], [mx.array(expected)]) == figure


def test_a_nan_is_never_hidden_and_shapes_must_agree() -> None:
    nan, one = mx.array([float("nan")]), mx.array([1.0])
    for pair in ([nan, one], [one, nan]):
        assert kit.distance(pair, [one, one]) != kit.distance(pair, [one, one])
    with pytest.raises(ValueError, match="shape"):
        kit.distance([mx.zeros((2, 1))], [mx.zeros((1, 2))])


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_replies_of_the_small_models_differ_and_end_at_different_lengths(kind: str, monkeypatch: Patch) -> None:
    """Or the check of generation would see neither a wrong place nor a wrong position."""
    seen: list[list[int]] = []
    monkeypatch.setattr(use, "_regret", lambda loaded, prompt, reply: seen.append(list(reply)) or 0.0)
    use.short_generation(kind, 4)
    assert len({len(reply) for reply in seen}) >= 3
    assert sum(len(set(reply)) for reply in seen) >= 30
