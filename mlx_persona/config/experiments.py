"""Options of the experiments: many runs, and what they say together."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_persona.config.common import DEFAULT_MODEL, MODEL_HELP
from mlx_persona.errors import PersonaError
from mlx_persona.settings import check, option

SWEEP_PRESETS = ("ranks", "failed-vs-recommended", "beta", "dora-vs-lora", "kl", "tpt-ablation")
SWEEP_MEASURES = ("loss", "style", "prompts")


@dataclass(frozen=True)
class SweepConfig:
    """Many runs that differ in one thing each, with the same seeds."""

    preset: str = option("", "arms that are thought out already (--dry-run shows them)", choices=("", *SWEEP_PRESETS))
    grid: tuple[str, ...] = option(
        (),
        "NAME=V1,V2,...: an arm for each value of an option of the stage; repeatable, all combinations. Of numbers x2 "
        "is twice what --set says; alpha takes rank and 2rank too",
    )
    settings: tuple[str, ...] = option(
        (), "NAME=VALUE: an option of the stage that all arms share; repeatable", flag="--set"
    )
    seeds: str = option("42,137,256", "seeds of every arm, separated by commas")
    stage: str = option("", "what is run (default: the preset's, else sft)", choices=("", "sft", "dpo"))
    match: str = option(
        "", "what all arms have the same of (default: tokens; updates for dpo)", choices=("", "tokens", "updates")
    )
    updates: int | None = option(None, "updates of an arm that --set describes (default: 200)", minimum=1)
    tokens: int | None = option(
        None, "tokens of every arm, with --match tokens (default: what --updates come to)", minimum=1
    )
    model: str = option(DEFAULT_MODEL, MODEL_HELP)
    blocks: int | None = option(
        None, "train a slice of the model: so many of its blocks, evenly spread (default: all)", minimum=1
    )
    data: str = option("data/clean", "folder with train.jsonl, valid.jsonl and test.jsonl")
    out: str = option("", "folder to write to (default: the next free runs/sweep-<n>)")
    resume: str = option("", "sweep to continue: what is finished stays, what failed is tried again")
    measures: tuple[str, ...] = option(
        ("loss", "style"),
        "what every run's adapter is judged by on held-out conversations: loss (per conversation), style (replies "
        "beside the person's), prompts (under shorter system prompts); repeatable",
        flag="--eval",
        choices=SWEEP_MEASURES,
    )
    prompts: int = option(40, "held-out prompts that every run answers, for style and prompts", minimum=10)
    max_tokens: int = option(32, "longest reply to them, in tokens", minimum=1)
    loss_rows: int = option(64, "held-out rows for the loss, evenly spread", minimum=1)
    keep_checkpoints: bool = option(False, "keep the checkpoints of finished runs, and not only their adapters")
    dry_run: bool = option(False, "show the runs and how long they will take, and do nothing")

    def __post_init__(self) -> None:
        check(self)
        if self.tokens is not None and self.match == "updates":
            raise PersonaError("tokens says how much --match tokens gives every arm", "leave --match updates out")
        if self.tokens is not None and self.updates is not None:
            raise PersonaError("updates and tokens both say how long a run is", "give one of them")

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds, in order.

        Raises:
            PersonaError: not whole numbers, none, or one twice.
        """
        parts = [part.strip() for part in self.seeds.split(",") if part.strip()]
        if not parts or not all(part.isascii() and part.isdigit() for part in parts):
            raise PersonaError(f"seeds must be whole numbers, separated by commas, got {self.seeds!r}")
        found = tuple(int(part) for part in parts)
        if len(set(found)) < len(found):
            raise PersonaError(f"seeds must differ, got {self.seeds}")
        return found


@dataclass(frozen=True)
class VerdictsConfig:
    """What finished sweeps say about the claims of phase-aware fine-tuning."""

    sweeps: tuple[str, ...] = option((), "folders of sweeps (default: the newest)", hidden=True)
    seed: int = option(0, "fixes the resampling", minimum=0)

    def __post_init__(self) -> None:
        check(self)
