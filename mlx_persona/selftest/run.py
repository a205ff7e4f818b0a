"""Runs every check, whatever the others come to, and says what a maintainer needs to know of the machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_persona import backend, ui
from mlx_persona.errors import Interrupted
from mlx_persona.selftest import layers, training, use
from mlx_persona.selftest.kit import Measured, activations, dtype_name


class Check(NamedTuple):
    """What is compared, in words, and the function that does it."""

    name: str
    measure: Callable[[], Measured]


@dataclass(frozen=True)
class CheckResult:
    """One row: ``figure`` and ``limit`` are None where the check raised; ``error`` is then its first line."""

    name: str
    passed: bool
    figure: float | None
    limit: float | None
    seconds: float
    error: str = ""

    def row(self) -> list[str]:
        """The row of the table."""
        if self.limit is None:
            return [self.name, "FAILED", self.error, "", f"{self.seconds:.1f}"]
        figure = "not finite" if self.figure is None else f"{self.figure:.1e}"
        return [self.name, "ok" if self.passed else "FAILED", figure, f"{self.limit:.1e}", f"{self.seconds:.1f}"]


@dataclass(frozen=True)
class SelfTest:
    """What every check came to."""

    checks: tuple[CheckResult, ...]
    machine: dict[str, str]

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [c.name for c in self.checks if not c.passed]

    def to_json(self) -> dict[str, Any]:
        """Everything, as a JSON object."""
        return {"passed": not self.failed, "machine": self.machine, "checks": [asdict(c) for c in self.checks]}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people."""
        return ["check", "", "difference", "limit", "seconds"], [c.row() for c in self.checks]


def all_checks() -> Iterator[Check]:
    """Every check that makes sense on this device."""
    for dtype in dict.fromkeys((mx.float32, *activations())):
        yield Check(f"matrix product, {dtype_name(dtype)}", partial(layers.matrix_product, dtype))
    for dtype in activations():
        yield from _layer_checks(dtype)
    yield Check("training, compiled / eager", training.compiled_step)
    for bits, kind in ((4, "llama"), (8, "qwen2")):
        yield Check(f"recomputed blocks, {kind}, {bits} bits", partial(training.recomputed, bits, kind, True, False))
        yield Check(
            f"recomputed, MLP in chunks, {kind}, {bits} bits", partial(training.recomputed, bits, kind, True, True)
        )
    yield Check("resume (bits that differ)", training.resume)
    for kind, bits, dora in (("llama", 4, False), ("llama", 4, True), ("qwen2", 8, True)):
        name = f"{'DoRA' if dora else 'LoRA'} in stock mlx-lm, {kind}, {bits} bits"
        yield Check(name, partial(use.adapter_in_mlx_lm, kind, bits, dora))
    for kind, bits in (("llama", 4), ("qwen2", 8)):
        yield Check(f"batch generation / one by one, {kind}", partial(use.short_generation, kind, bits))


def _layer_checks(dtype: mx.Dtype) -> Iterator[Check]:
    """Those of single layers."""
    name = dtype_name(dtype)
    for bits in (4, 8):
        yield Check(f"quantized product, {bits} bits, {name}", partial(layers.quantized_product, dtype, bits))
    for bits in (4, 8):
        for dora in (False, True):
            what = f"{'DoRA' if dora else 'LoRA'} layer, {bits} bits, {name}"
            yield Check(what, partial(layers.adapter_layer, dtype, bits, dora))
    for tied in (False, True):
        for width in (None, 4):
            what = f"{'tied ' if tied else ''}{f'{width}-bit' if width else 'dense'} head"
            yield Check(f"loss in slabs, {what}, {name}", partial(layers.loss_in_slabs, dtype, tied, width))
    for mask in ("causal", "rows", "one token"):
        yield Check(f"attention, {mask}, {name}", partial(layers.attention_form, dtype, mask))


def run_check(check: Check) -> CheckResult:
    """One row. What a check raises is a row that failed, never a traceback; only the user's Ctrl-C gets through."""
    started = time.perf_counter()
    try:
        figure, limit = check.measure()
    except Interrupted:  # the training loop's word for it; there is no run to resume
        raise KeyboardInterrupt from None
    except Exception as error:  # whatever is broken here is what we want to know
        first = str(error).strip().split("\n")[0]
        text = f"{type(error).__name__}: {first}" if first else type(error).__name__
        return CheckResult(check.name, False, None, None, round(time.perf_counter() - started, 2), text)
    seconds = round(time.perf_counter() - started, 2)
    shown = figure if math.isfinite(figure) else None  # JSON knows no NaN
    return CheckResult(check.name, figure <= limit, shown, limit, seconds)


def selftest(checks: Sequence[Check] | None = None) -> SelfTest:
    """Run all checks, with a progress bar.

    Args:
        checks: None is :func:`all_checks`.
    """
    wanted = list(all_checks()) if checks is None else list(checks)
    results = []
    with ui.progress("selftest", len(wanted)) as bar:
        for check in wanted:
            results.append(run_check(check))
            mx.clear_cache()
            bar.advance(1, check.name)
    return SelfTest(tuple(results), backend.describe_machine())
