"""``augment``, ``sft``, ``pairs``, ``dpo`` and ``fuse``."""

from __future__ import annotations

from typing import Any

import click

from mlx_persona import ui
from mlx_persona.cli.options import command
from mlx_persona.config import AugmentConfig, DpoConfig, FuseConfig, PairsConfig, PlanConfig, SftConfig
from mlx_persona.stages.augment import augment, describe
from mlx_persona.stages.dpo import dpo
from mlx_persona.stages.fuse import fuse
from mlx_persona.stages.pairs import make_pairs
from mlx_persona.stages.plan import plan
from mlx_persona.stages.sft import sft
from mlx_persona.stages.training import TrainResult


def _print_training(result: TrainResult, as_json: bool, following: str) -> None:
    if as_json:
        ui.json_out(result.to_json())
        return
    ui.info(
        f"evaluation loss {result.base_eval_loss:.4f} -> {result.eval_loss:.4f} (best at update {result.best_update}), "
        f"{result.tokens_per_second:.0f} tokens/s, peak {result.peak_bytes / 1e9:.2f} GB"
    )
    for name, value in result.extra.items():
        if value is not None:
            ui.info(f"{name.replace('_', ' ')}: {value:.4g}")
    ui.info(f"next: {following}")
    ui.text_out(str(result.run))


def _plan(config: PlanConfig, as_json: bool) -> None:
    result = plan(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    ui.table_out(f"Plan of {result.stage}", ["", ""], result.rows())
    for one in result.advice:
        ui.text_out(f"{'fits' if one.fits else 'no  '}  {one.peak_bytes / 1e9:6.2f} GB  with {one.change}")


def _sft(config: SftConfig, as_json: bool) -> None:
    _print_training(sft(config), as_json, "mlx-persona dpo")


def _dpo(config: DpoConfig, as_json: bool) -> None:
    _print_training(dpo(config), as_json, "mlx-persona fuse, or mlx-persona chat")


def _pairs(config: PairsConfig, as_json: bool) -> None:
    _print_result(make_pairs(config), as_json)


def _augment(config: AugmentConfig, as_json: bool) -> None:
    result = augment(config)
    if as_json:
        ui.json_out(result.to_json())
        return
    for task, counts in result.tasks.items():
        ui.info(f"{task}: {describe(counts)}")
    ui.info(f"next: mlx-persona sft --extra {result.path}")
    ui.text_out(str(result.path))


def _fuse(config: FuseConfig, as_json: bool) -> None:
    _print_result(fuse(config), as_json)


def _print_result(result: Any, as_json: bool) -> None:
    shown = result.to_json()
    if as_json:
        ui.json_out(shown)
        return
    for name, value in shown.items():
        if name != "path" and not isinstance(value, dict):
            ui.info(f"{name.replace('_', ' ')}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    for bits, figures in shown.get("widths", {}).items():
        ui.info(f"{bits} bits: retention {figures['retention']:.4f}, KL {figures['kl']:.2e}")
    ui.text_out(shown["path"])


commands: dict[str, click.Command] = {
    "augment": command(
        "augment",
        AugmentConfig,
        _augment,
        "Write tasks beside the plain reply, to train on with sft --extra: the person's wording of neutral text, "
        "and the base model's replies in other roles.",
    ),
    "plan": command(
        "plan", PlanConfig, _plan, "What a stage will take, before it runs: memory, time, tokens, updates, advice."
    ),
    "sft": command("sft", SftConfig, _sft, "Fine-tune an adapter on the person's replies; writes runs/sft-<n>."),
    "pairs": command(
        "pairs", PairsConfig, _pairs, "Write preference pairs: the person's real reply against the base model's."
    ),
    "dpo": command(
        "dpo", DpoConfig, _dpo, "Train on preferences from the SFT adapter; makes missing pairs; writes runs/dpo-<n>."
    ),
    "fuse": command(
        "fuse", FuseConfig, _fuse, "Merge an adapter into a standalone model, if enough of its effect survives."
    ),
}
