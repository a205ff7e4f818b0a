"""The whole path on an embedded model and real conversations: from an export to a page about the persona.

    make demo

Small enough for two CPU cores and twelve minutes; real in every part.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_persona import ui
from mlx_persona.cleaning import clean
from mlx_persona.config import (
    CleanConfig,
    DemoConfig,
    DpoConfig,
    EvalConfig,
    FuseConfig,
    PairsConfig,
    ReportConfig,
    SftConfig,
)
from mlx_persona.errors import PersonaError
from mlx_persona.models.embedded import fetch_conversations, fetch_model
from mlx_persona.report.make import make_report
from mlx_persona.stages.dpo import dpo
from mlx_persona.stages.evaluate import Evaluation, Table, evaluate
from mlx_persona.stages.fuse import FuseResult, fuse
from mlx_persona.stages.pairs import make_pairs
from mlx_persona.stages.sft import sft
from mlx_persona.stages.training import TrainResult

MARKER = ".mlx-persona-demo"
# Tokens per row. Short rows: with little context there is more to learn, and two cores learn it sooner. One reply
# in twelve of the test conversations is too long for it.
ROW = 64


@dataclass
class DemoResult:
    """What the demo came to."""

    folder: Path
    sft: TrainResult
    dpo: TrainResult
    fused: FuseResult
    scores: Evaluation
    page: Path | None
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything as one JSON object."""
        return {
            "folder": str(self.folder),
            "sft": self.sft.to_json(),
            "dpo": self.dpo.to_json(),
            "fuse": self.fused.to_json(),
            "eval": {"path": str(self.scores.folder), **self.scores.to_json()},
            "report": str(self.page) if self.page else None,
            "seconds": self.seconds,
        }

    def tables(self) -> dict[str, Table]:
        """What the evaluation came to, title by title."""
        return self.scores.tables()

    def examples(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """A few prompts with everybody's reply."""
        card = self.scores.card
        assert card is not None  # the quick evaluation looks at style
        return [(e["prompt"], [(k, v) for k, v in e.items() if k != "prompt"]) for e in card.examples(4)]

    def lines(self) -> list[str]:
        """The figures of the stages, for people."""
        more, matched = self.dpo.extra, ""
        if more["accuracy_length_matched"] is not None:
            matched = f", {more['accuracy_length_matched']:.3f} on the {more['pairs_length_matched']} of equal length"
        widths = ", ".join(f"{bits} bits {w['retention']:.4f}" for bits, w in self.fused.to_json()["widths"].items())
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return [
            f"SFT: held-out loss {self.sft.base_eval_loss:.3f} -> {self.sft.eval_loss:.3f} nats per token",
            f"DPO: accuracy {more['accuracy']:.3f} on held-out pairs{matched}; "
            f"chosen replies' loss {more['reference_chosen_loss']:.3f} -> {more['chosen_loss']:.3f}",
            f"Fuse: retention {widths}; chosen: {self.fused.bits} bits",
            f"Time: {spent}",
            f"Scores: {self.scores.folder}/scores.json, every reply: {self.scores.folder}/replies.jsonl",
            *([f"All of it as a page: {self.page}"] if self.page else []),
            f"Everything lies in {self.folder}; talk to it: mlx-persona chat -C {self.folder}",
        ]


def demo(config: DemoConfig) -> DemoResult:
    """Run every stage; the folder is emptied first, if an earlier demo made it.

    Raises:
        PersonaError: the folder holds something else, or a stage failed.
    """
    out = Path(config.out)
    _empty(out)
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name], start = round(time.perf_counter() - start, 1), time.perf_counter()
        ui.info(f"[{name}: {seconds[name]:.0f} s]")

    model, export = str(fetch_model()), fetch_conversations()
    lap("fetch")
    data, runs, pairs = str(out / "data/clean"), out / "runs", str(out / "data/pairs")
    clean(CleanConfig(raw=(str(export),), me=(config.me,), out=data, tags=False, review="", model=model))
    lap("clean")
    tuned = sft(sft_config(config, model, data, str(runs / "sft-1")))
    lap("sft")
    make_pairs(pairs_config(config, model, data, pairs))
    lap("pairs")
    preferred = dpo(dpo_config(config, data, pairs, str(runs / "sft-1"), str(runs / "dpo-1")))
    lap("dpo")
    fused = fuse(fuse_config(data, str(runs / "dpo-1"), str(runs / "fused-1")))
    lap("fuse")
    scores = evaluate(eval_config(config, data), runs)
    lap("eval")
    page = _page(str(runs / "dpo-1"))
    lap("report")
    return DemoResult(out, tuned, preferred, fused, scores, page, seconds)


def sft_config(config: DemoConfig, model: str, data: str, out: str) -> SftConfig:
    """Some minutes of SFT: DoRA of a small rank, conversations in short rows."""
    return SftConfig(
        model=model,
        data=data,
        out=out,
        rank=16,
        dora=True,
        learning_rate=1e-3,
        updates=90,
        batch_size=6,
        grad_accumulation=1,
        max_seq_length=ROW,
        eval_every=45,
        eval_limit=48,
        seed=config.seed,
    )


def pairs_config(config: DemoConfig, model: str, data: str, out: str) -> PairsConfig:
    """Short prompts and replies, enough pairs for one pass."""
    return PairsConfig(
        model=model, data=data, out=out, n=32, n_valid=64, max_tokens=24, max_seq_length=ROW, seed=config.seed
    )


def dpo_config(config: DemoConfig, data: str, pairs: str, adapter: str, out: str) -> DpoConfig:
    """A short DPO with a likelihood term, so that the chosen replies stay likely."""
    return DpoConfig(
        data=data,
        pairs=pairs,
        adapter=adapter,
        out=out,
        learning_rate=4e-5,
        nll_weight=1.0,
        updates=8,
        batch_size=4,
        grad_accumulation=1,
        max_seq_length=ROW,
        eval_every=8,
        seed=config.seed,
    )


def fuse_config(data: str, adapter: str, out: str) -> FuseConfig:
    """Every width is measured, so that the figures can be compared."""
    return FuseConfig(adapter=adapter, out=out, data=data, try_all=True, gate_tokens=384, max_seq_length=ROW)


def eval_config(config: DemoConfig, data: str) -> EvalConfig:
    """The quick evaluation, with replies and rows as long as those trained on."""
    return EvalConfig(data=data, quick=True, max_tokens=32, max_seq_length=ROW, seed=config.seed)


def _page(run: str) -> Path | None:
    """The run as a page; a missing extra is no reason to fail at the end."""
    try:
        return make_report(ReportConfig(runs=(run,))).path
    except PersonaError as error:
        ui.warn("; ".join(part for part in (error.message, error.hint) if part))
        return None


def _empty(out: Path) -> None:
    if out.exists():
        if not (out / MARKER).is_file() and any(out.iterdir()):
            raise PersonaError(f"{out} holds something that no demo made", "give another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARKER).touch()
