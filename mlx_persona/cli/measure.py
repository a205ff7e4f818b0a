"""``eval``, the benchmarks and ``doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mlx_persona import ui
from mlx_persona.cli.options import command
from mlx_persona.config import (
    BenchConfig,
    BlocksBenchConfig,
    CleanBenchConfig,
    DataBenchConfig,
    DoctorConfig,
    DpoBenchConfig,
    EvalConfig,
    GenerateBenchConfig,
    LossBenchConfig,
    PhaseBenchConfig,
)
from mlx_persona.errors import PersonaError

if TYPE_CHECKING:
    from mlx_persona.selftest.run import SelfTest


def _eval(config: EvalConfig, as_json: bool) -> None:
    from mlx_persona.evals.choice import spoken
    from mlx_persona.stages.evaluate import evaluate

    found = evaluate(config)
    if as_json:
        ui.json_out({"path": str(found.folder), **found.to_json()})
        return
    for title, table in found.tables().items():
        ui.table_out(title.capitalize(), *table)
    for line in spoken(found.choice or {}):
        ui.text_out(line)
    ui.text_out(str(found.folder))


def _bench(config: BenchConfig, as_json: bool) -> None:
    from mlx_persona.benchmarks.step import bench

    result = bench(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    title = f"One pass over {result.rows} rows, {result.tokens:,} tokens ({result.gflops:.0f} GFLOP/s)"
    ui.table_out(title, *result.table())


def _bench_loss(config: LossBenchConfig, as_json: bool) -> None:
    from mlx_persona.benchmarks.loss import bench_loss

    result = bench_loss(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    ui.table_out(f"Training to a held-out loss of {result.target:.4f}", *result.table())


def _bench_phase(config: PhaseBenchConfig, as_json: bool) -> None:
    from mlx_persona.benchmarks.phase import bench_phase

    result = bench_phase(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    ui.table_out(f"The phase controller in {result.updates} updates", *result.table())


def _bench_blocks(config: BlocksBenchConfig, as_json: bool) -> None:
    from mlx_persona.benchmarks.blocks import bench_blocks

    result = bench_blocks(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    ui.table_out(f"{config.blocks} blocks of a 7B's shape, {config.seq} tokens", *result.table())
    for side, peaks in result.parts.items():
        ui.table_out(f"Peak of {side}", ["part", "MB"], [[part, f"{peak / 1e6:.0f}"] for part, peak in peaks.items()])


def _bench_dpo(config: DpoBenchConfig, as_json: bool) -> None:
    from mlx_persona.benchmarks.dpo import bench_dpo

    result = bench_dpo(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    ui.table_out(f"DPO on {result.pairs} pairs", *result.table())


def _bench_generate(config: GenerateBenchConfig, as_json: bool) -> None:
    from mlx_persona.benchmarks.generation import bench_generate

    result = bench_generate(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    ui.table_out(f"Writing {result.prompts} replies, ours against stock mlx-lm", *result.table())


def _bench_clean(config: CleanBenchConfig, as_json: bool) -> None:
    from data_prep.bench import bench_clean
    from mlx_persona.models.embedded import fetch_conversations

    result = bench_clean(config, fetch_conversations())
    if as_json:
        ui.json_out(result.to_json())
        return
    columns = ["pass", "seconds", "us per message", "x json.loads", "peak MB", "limit", "limit"]
    ui.table_out(f"Cleaning {result.messages:,} messages", columns, result.rows())


def _bench_data(config: DataBenchConfig, as_json: bool) -> None:
    from mlx_persona.benchmarks.data import bench_data
    from mlx_persona.models.embedded import fetch_conversations

    result = bench_data(config, fetch_conversations())
    if as_json:
        ui.json_out(result.to_json())
        return
    title = f"{result.conversations:,} conversations ({result.file_mb:.0f} MB, tokens {result.cache_mb:.0f} MB)"
    ui.table_out(title, *result.table())


def _doctor(config: DoctorConfig, as_json: bool) -> None:
    from mlx_persona.backend import describe_machine, doctor

    report = doctor(config.seconds)
    checks = _selftest() if config.selftest else None
    if as_json:
        ui.json_out({**report.to_json(), **({"selftest": checks.to_json()} if checks else {})})
    else:
        rows = [*describe_machine().items(), ("fp32 matrix products", f"{report.gflops:g} GFLOP/s")]
        ui.table_out("This machine", ["", ""], rows)
        for problem in report.problems:
            ui.warn(problem)
        if checks:
            ui.table_out("Selftest", *checks.table())
    if checks and checks.failed:
        raise PersonaError(
            f"{len(checks.failed)} of {len(checks.checks)} checks failed: {'; '.join(checks.failed)}",
            "paste both tables into a bug report",
        )


def _selftest() -> SelfTest:
    from mlx_persona.selftest.run import selftest

    return selftest()


commands: dict[str, click.Command] = {
    "eval": command(
        "eval",
        EvalConfig,
        _eval,
        "Is it them? Base, SFT, DPO and fused model beside the real person.",
        [click.Argument(["runs"], nargs=-1, metavar="[RUN]...")],
    ),
    "bench": command("bench", BenchConfig, _bench, "Measure our training step against stock mlx-lm's, here and now."),
    "bench-loss": command(
        "bench-loss",
        LossBenchConfig,
        _bench_loss,
        "Measure how soon our training is as good as so many steps of stock mlx-lm's, here and now.",
    ),
    "bench-phase": command(
        "bench-phase", PhaseBenchConfig, _bench_phase, "Measure what the phase controller and its evaluations take."
    ),
    "bench-blocks": command(
        "bench-blocks",
        BlocksBenchConfig,
        _bench_blocks,
        "Measure training steps and memory of blocks of a 7B model's shape, with random 4-bit weights.",
    ),
    "bench-dpo": command(
        "bench-dpo", DpoBenchConfig, _bench_dpo, "Measure our DPO against mlx-lm-lora's (if installed), here and now."
    ),
    "bench-generate": command(
        "bench-generate",
        GenerateBenchConfig,
        _bench_generate,
        "Measure writing many replies against stock mlx-lm, one by one and in batches, here and now.",
    ),
    "bench-clean": command(
        "bench-clean", CleanBenchConfig, _bench_clean, "Measure cleaning against a bare json.loads pass, here and now."
    ),
    "bench-data": command(
        "bench-data", DataBenchConfig, _bench_data, "Measure how fast a big file of conversations is ready to train on."
    ),
    "doctor": command("doctor", DoctorConfig, _doctor, "Measure what this machine can do, and say what to mend."),
}
