"""Options of the training stages."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_persona.config.common import DEFAULT_MODEL, MODEL_HELP
from mlx_persona.config.phases import NAMES, make_profile
from mlx_persona.errors import PersonaError
from mlx_persona.settings import check, option


@dataclass(frozen=True)
class _TrainConfig:
    """What SFT and DPO share."""

    model: str = option(DEFAULT_MODEL, MODEL_HELP)
    data: str = option("data/clean", "folder with train.jsonl and valid.jsonl")
    out: str = option("", "run directory (default: the next free runs/<stage>-<n>)")
    resume: str = option("", "run directory to continue, bit-identically, from its last checkpoint")
    system: str = option("", "system message for conversations that have none of their own")
    dropout: float = option(0.0, "dropout on the adapter's input", minimum=0.0, maximum=0.9)
    learning_rate: float = option(2e-4, "peak learning rate", above=0.0)
    warmup: float = option(0.05, "share of the updates for linear warm-up", minimum=0.0, maximum=0.9)
    final_lr: float = option(
        0.1, "learning rate at the end of the cosine, as a share of the peak", minimum=0.0, maximum=1.0
    )
    optimizer: str = option(
        "adamw",
        "adamw keeps 8 bytes per trained parameter; lion 4 (use a third of the learning rate); adafactor next to none",
        choices=("adamw", "lion", "adafactor"),
    )
    weight_decay: float = option(0.01, "decoupled weight decay", minimum=0.0)
    clip: float = option(1.0, "clip the gradient to this global norm (0: off)", minimum=0.0)
    updates: int | None = option(None, "optimizer updates (instead of --epochs)", minimum=1)
    epochs: float = option(2.0, "passes over the data, when --updates is not given", above=0.0)
    iters: int | None = option(None, "micro-batches, as mlx-lm counts; converted to updates", minimum=1)
    tokens: int | None = option(
        None, "tokens to train on (instead of --updates); the learning rate then goes by tokens too", minimum=1
    )
    batch_size: int = option(1, "conversations (or pairs) per micro-batch", minimum=1)
    grad_accumulation: int = option(8, "micro-batches per update, weighted by their tokens", minimum=1)
    max_seq_length: int = option(1024, "tokens per row; longer conversations are split between turns", minimum=16)
    grad_checkpoint: str = option(
        "auto",
        "recompute activations of blocks to save memory: on (all), off, a number of blocks, or auto (the fewest "
        "that make the run fit)",
        bare="on",
    )
    eval_every: int | None = option(
        None,
        "updates between evaluations (default: 2 % of the run, more where that would take a tenth of its time)",
        minimum=1,
    )
    eval_limit: int = option(64, "at most this many held-out rows per evaluation, evenly spread", minimum=1)
    patience: int = option(10, "stop after this many evaluations without a better loss (0: never)", minimum=0)
    phase: str = option(
        "observe",
        "phases of training: observe tells them, control also acts on them (learning rate, batch, stop, choice of the "
        "checkpoint)",
        choices=("off", "observe", "control"),
    )
    phase_profile: str = option("paper", "what counts as a phase, and what is done in it", choices=NAMES)
    phase_set: tuple[str, ...] = option((), "a number of the profile, NAME=VALUE; repeatable")
    keep_last: int = option(2, "checkpoints to keep besides the best one", minimum=1)
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)
        make_profile(self.phase_profile, self.phase_set)  # refuses what it does not know
        if self.tokens is not None and (self.updates is not None or self.iters is not None):
            raise PersonaError("tokens must be left out where updates or iters are given", "give one of them")
        wanted = self.grad_checkpoint
        if wanted not in ("auto", "on", "off") and not (wanted.isascii() and wanted.isdigit()):
            raise PersonaError(f"grad_checkpoint must be auto, on, off or a number of blocks, got {wanted!r}")


@dataclass(frozen=True)
class SftConfig(_TrainConfig):
    """Supervised fine-tuning on the person's replies."""

    rank: int = option(64, "rank of the adapter", minimum=1)
    alpha: float | None = option(None, "effective scale is alpha / rank (default: 2 x rank)", above=0.0)
    dora: bool = option(True, "DoRA (magnitude and direction) or plain LoRA", flag="--dora/--lora")
    num_layers: int = option(-1, "adapt the last N blocks; -1 is all", minimum=-1)
    mask_prompt: bool = option(True, "train on the person's replies only, or on every token")
    select: str = option(
        "auto",
        "which checkpoint becomes the adapter: the one with the lowest loss, the one whose replies sound most like the "
        "person (takes a while longer), or the eligible one of phase S2; auto is phase under control, else loss",
        choices=("auto", "loss", "style", "phase"),
    )
    extra: tuple[str, ...] = option(
        (), "a further folder whose train.jsonl is trained on too, as augment writes one; repeatable"
    )
    batch_tokens: int | None = option(
        None, "tokens per micro-batch, padding included, of rows of like length (instead of --batch-size)", minimum=16
    )
    kl: float = option(
        0.0,
        "weight of a KL anchor: KL(model || base) per supervised token, in nats, is added to the loss, and logged "
        "apart (0: off; a forward pass of the base per batch otherwise: a third to a half more time)",
        minimum=0.0,
    )
    packing: bool = option(
        False, "put short rows together into sequences of up to --max-seq-length; none of them sees another"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.select == "phase" and self.phase == "off":
            raise PersonaError("select must not be phase where phase is off", "use --phase observe")
        if self.batch_tokens is not None and self.batch_size != 1:
            raise PersonaError(
                f"batch_size must be left out where batch_tokens is {self.batch_tokens}, got {self.batch_size}",
                "rows per micro-batch follow from --batch-tokens",
            )


@dataclass(frozen=True)
class DpoConfig(_TrainConfig):
    """Preference training from the SFT adapter."""

    model: str = option("", MODEL_HELP + " (default: the SFT run's)")
    adapter: str = option("", "adapter or run to start from (default: the newest SFT run)")
    pairs: str = option("data/pairs", "folder with the pairs; made when missing")
    fresh: bool = option(False, "train a new adapter, stacked on the frozen SFT one or on --model alone")
    rank: int | None = option(None, "rank of a --fresh adapter (default: 32)", minimum=1)
    alpha: float | None = option(None, "alpha of a --fresh adapter (default: 2 x rank)", above=0.0)
    dora: bool | None = option(None, "kind of a --fresh adapter (default: as the SFT one)", flag="--dora/--lora")
    beta: float = option(0.1, "strength of the pull to the reference", above=0.0)
    label_smoothing: float = option(0.0, "assumed share of flipped preferences", minimum=0.0, maximum=0.49)
    nll_weight: float = option(0.0, "weight of an extra likelihood term on the chosen replies", minimum=0.0)
    learning_rate: float = option(1e-5, "peak learning rate", above=0.0)
    epochs: float = option(1.0, "passes over the pairs, when --updates is not given", above=0.0)
    eval_limit: int = option(200, "at most this many held-out pairs per evaluation, evenly spread", minimum=1)


@dataclass(frozen=True)
class PlanConfig(SftConfig):
    """What a stage will cost: the options of sft, and which stage on what machine."""

    stage: str = option("sft", "what to plan", choices=("sft", "dpo", "pairs", "fuse"))
    memory: str = option("", "memory of the machine to plan for, such as 16GB (default: this machine's)")
    device: str = option(
        "auto", "what it computes on; auto is this machine's", choices=("auto", "cpu", "metal", "cuda")
    )
    rows: int | None = option(None, "rows (or pairs) of data to assume where there is none yet", minimum=1)
