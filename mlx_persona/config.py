"""Every option of every stage, with its default, unit and bounds: one frozen dataclass per stage.

Precedence: these defaults < ``--config FILE.yaml`` < flags (or keyword arguments in Python).
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_persona.errors import PersonaError
from mlx_persona.settings import check, option

SOURCES = (
    *("whatsapp", "telegram", "imessage", "discord", "slack", "meta", "mbox", "agent"),
    *("csv", "chitchat", "messages", "sharegpt", "completion"),
)
CSV_COLUMNS = ("text", "sender", "time", "chat", "id", "answers")
AUGMENT_TASKS = ("rewrite", "contrastive")
DEFAULT_MODEL = "mlx-community/Qwen2.5-7B-Instruct-4bit"
MODEL_HELP = "base model: a local MLX directory, a Hugging Face repo, or a llama-family .gguf file"


@dataclass(frozen=True)
class CleanConfig:
    """Raw export -> conversations."""

    raw: tuple[str, ...] = option((), "files or folders to read", hidden=True)
    me: tuple[str, ...] = option((), "whose replies to learn: the name or id in the export; repeatable")
    source: str = option("auto", "format of the export", choices=("auto", *SOURCES))
    groups: bool = option(False, "read iMessage group chats too")
    columns: tuple[str, ...] = option(
        (), "of a CSV file: text=NAME, and sender, time, chat, id or answers likewise; repeatable", flag="--column"
    )
    gap_minutes: float = option(
        30.0, "a chat is cut into conversations where nobody writes for so long, in minutes", above=0.0
    )
    out: str = option("data/clean", "folder to write to")
    system_prompt: str = option("none", "'none' strips system prompts; any other text replaces them")
    since: str = option("", "only conversations that begin on this day or later (2024-01-31)")
    until: str = option("", "only conversations that begin on this day or earlier")
    min_chars: int = option(10, "shorter replies are not trained on (0 keeps all), in characters", minimum=0)
    max_chars: int = option(4000, "longer replies are not trained on (0 keeps all), in characters", minimum=0)
    drop_links: bool = option(True, "replies of nothing but links are not trained on", flag="--drop-links/--keep-links")
    drop_code: bool = option(True, "pasted code and logs are not trained on", flag="--drop-code/--keep-code")
    languages: tuple[str, ...] = option(
        (), "only replies that may be in this language, by its ISO 639-1 code (en); repeatable", flag="--language"
    )
    near_duplicates: float = option(
        0.8, "replies more alike than this (Jaccard, 0.5 to 1) are learned once (0: off)", minimum=0.0, maximum=1.0
    )
    max_per_contact: int = option(0, "learn at most the latest N replies of each chat (0: all)", minimum=0)
    half_life_days: float = option(
        0.0, "a conversation this many days older is drawn half as often in training (0: all alike)", minimum=0.0
    )
    redact: str = option(
        "auto",
        "personal data becomes placeholders; auto: for messengers, mail and agent logs",
        choices=("auto", "on", "off"),
    )
    region: str = option("", "country of phone numbers without a country code, as US or DE (default: guessed)")
    meta_patterns: tuple[str, ...] = option(
        ("[Request interrupted", "[No response", "No response requested"),
        "replies that contain one of these are not trained on",
        flag="--meta-pattern",
    )
    valid_fraction: float = option(0.1, "share of the conversations for validation", minimum=0.0, maximum=0.5)
    test_fraction: float = option(
        0.1, "share of the conversations held out for the report card", minimum=0.0, maximum=0.5
    )
    tags: bool = option(True, "tag replies by rules; their tiers become sampling weights in training")
    tag_rules: str = option("", "YAML file with rules of your own, in place of data_prep/rules/tags.yaml")
    review: str = option("data/review.jsonl", "decisions of mlx-persona review to carry out, if the file exists")
    max_bad_lines: float = option(0.05, "more unreadable lines than this share is an error", minimum=0.0, maximum=1.0)

    def __post_init__(self) -> None:
        check(self)
        if 0 < self.near_duplicates < 0.5:
            raise PersonaError(f"near_duplicates must be 0 or 0.5 to 1, got {self.near_duplicates:g}")
        for pair in self.columns:
            key, _, name = pair.partition("=")
            if key not in CSV_COLUMNS or not name:
                raise PersonaError(
                    f"--column must be one of {', '.join(CSV_COLUMNS)}, '=' and a column's name; got {pair!r}",
                    "for example --column text=Message --column sender=Author",
                )


@dataclass(frozen=True)
class ReviewConfig:
    """Replies to decide about, one by one."""

    data: str = option("data/clean", "folder with cleaned conversations")
    file: str = option("data/review.jsonl", "where the decisions are kept; the next clean carries them out")
    n: int = option(50, "replies to show, evenly over the conversations, those not decided first", minimum=1)
    seed: int = option(0, "fixes which replies", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class _TrainConfig:
    """What SFT and DPO share."""

    model: str = option(DEFAULT_MODEL, MODEL_HELP)
    data: str = option("data/clean", "folder with train.jsonl and valid.jsonl")
    out: str = option("", "run directory (default: the next free runs/<stage>-<n>)")
    resume: str = option("", "run directory to continue, bit-identically, from its last checkpoint")
    system: str = option("", "system message for conversations that have none of their own")
    dropout: float = option(0.0, "dropout on the adapter's input", minimum=0.0, maximum=0.9)
    learning_rate: float = option(2e-4, "peak learning rate of AdamW", above=0.0)
    warmup: float = option(0.05, "share of the updates for linear warm-up", minimum=0.0, maximum=0.9)
    final_lr: float = option(
        0.1, "learning rate at the end of the cosine, as a share of the peak", minimum=0.0, maximum=1.0
    )
    weight_decay: float = option(0.01, "AdamW's decoupled weight decay", minimum=0.0)
    clip: float = option(1.0, "clip the gradient to this global norm (0: off)", minimum=0.0)
    updates: int | None = option(None, "optimizer updates (instead of --epochs)", minimum=1)
    epochs: float = option(2.0, "passes over the data, when --updates is not given", above=0.0)
    iters: int | None = option(None, "micro-batches, as mlx-lm counts; converted to updates", minimum=1)
    batch_size: int = option(1, "conversations (or pairs) per micro-batch", minimum=1)
    grad_accumulation: int = option(8, "micro-batches per update, weighted by their tokens", minimum=1)
    max_seq_length: int = option(1024, "tokens per row; longer conversations are split between turns", minimum=16)
    grad_checkpoint: bool | None = option(
        None, "recompute activations to save memory (default: on for models over 1 B parameters)"
    )
    eval_every: int | None = option(None, "updates between evaluations (default: 5 % of the run)", minimum=1)
    eval_limit: int = option(64, "at most this many held-out rows per evaluation, evenly spread", minimum=1)
    patience: int = option(5, "stop after this many evaluations without a better loss (0: never)", minimum=0)
    keep_last: int = option(2, "checkpoints to keep besides the best one", minimum=1)
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SftConfig(_TrainConfig):
    """Supervised fine-tuning on the person's replies."""

    rank: int = option(64, "rank of the adapter", minimum=1)
    alpha: float | None = option(None, "effective scale is alpha / rank (default: 2 x rank)", above=0.0)
    dora: bool = option(True, "DoRA (magnitude and direction) or plain LoRA", flag="--dora/--lora")
    num_layers: int = option(-1, "adapt the last N blocks; -1 is all", minimum=-1)
    mask_prompt: bool = option(True, "train on the person's replies only, or on every token")
    extra: tuple[str, ...] = option(
        (), "a further folder whose train.jsonl is trained on too, as augment writes one; repeatable"
    )


class _Counts:
    """How many replies to write for training and for validation."""

    n: int
    n_valid: int | None

    @property
    def held_out(self) -> int:
        """Replies for validation: where nothing is said, a fifth of those for training, at most 200."""
        return self.n_valid or min(200, max(1, self.n // 5))


@dataclass(frozen=True)
class PairsConfig(_Counts):
    """Chosen = the person's real reply, rejected = what a model says."""

    model: str = option("", MODEL_HELP + " (default: the newest SFT run's)")
    data: str = option("data/clean", "folder with train.jsonl and valid.jsonl")
    out: str = option("data/pairs", "folder to write to")
    adapter: str = option("", "adapter or run for --rejected-from sft and both (default: the newest SFT run)")
    rejected_from: str = option("base", "who writes the rejected replies", choices=("base", "sft", "both"))
    system: str = option("", "system message for conversations that have none of their own")
    n: int = option(500, "pairs for training", minimum=1)
    n_valid: int | None = option(None, "pairs for validation (default: a fifth of n, at most 200)", minimum=1)
    max_tokens: int = option(96, "longest rejected reply, in tokens", minimum=1)
    max_seq_length: int = option(1024, "tokens of prompt and reply; longer prompts lose their oldest turns", minimum=16)
    temperature: float = option(0.8, "sampling temperature (0: greedy)", minimum=0.0)
    top_p: float = option(0.95, "nucleus sampling mass", above=0.0, maximum=1.0)
    max_similarity: float = option(
        0.9, "pairs whose sides are more alike than this (0 to 1) are dropped", minimum=0.0, maximum=1.0
    )
    batch_size: int = option(32, "replies written at once", minimum=1)
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class AugmentConfig(_Counts):
    """Tasks beside the plain reply, written by the base model."""

    model: str = option("", MODEL_HELP + " (default: the newest SFT run's, else that of sft)")
    data: str = option("data/clean", "folder with train.jsonl and valid.jsonl")
    out: str = option("data/augmented", "folder to write to")
    tasks: tuple[str, ...] = option(
        AUGMENT_TASKS,
        "rewrite: from neutral words to the person's; contrastive: base replies in other roles; repeatable",
        flag="--task",
        choices=AUGMENT_TASKS,
    )
    system: str = option("", "system message that the person is trained under (default: the run's or the data's)")
    n: int = option(200, "replies to write for training, per task", minimum=1)
    n_valid: int | None = option(
        None, "replies to write for validation, per task (default: a fifth of n, at most 200)", minimum=1
    )
    weight: float = option(0.5, "how often training draws such a conversation; a plain one is 1", above=0.0)
    min_chars: int = option(20, "shorter replies of the person are not rewritten, in characters", minimum=1)
    max_tokens: int = option(256, "longest reply, in tokens; what is cut there is dropped", minimum=1)
    max_seq_length: int = option(1024, "tokens of prompt and reply; longer ones are skipped", minimum=16)
    temperature: float = option(
        0.7, "sampling temperature of contrastive replies (0: greedy); rewrites are greedy", minimum=0.0
    )
    top_p: float = option(0.95, "nucleus sampling mass of contrastive replies", above=0.0, maximum=1.0)
    max_similarity: float = option(
        0.9, "paraphrases more like the real message than this (0 to 1) are dropped", minimum=0.0, maximum=1.0
    )
    batch_size: int = option(32, "replies written at once", minimum=1)
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)
        if not self.tasks:
            raise PersonaError(f"tasks must name at least one of {', '.join(AUGMENT_TASKS)}, got none")


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
    learning_rate: float = option(1e-5, "peak learning rate of AdamW", above=0.0)
    epochs: float = option(1.0, "passes over the pairs, when --updates is not given", above=0.0)
    eval_limit: int = option(200, "at most this many held-out pairs per evaluation, evenly spread", minimum=1)


@dataclass(frozen=True)
class FuseConfig:
    """Adapter -> standalone model, with a parity gate."""

    adapter: str = option("", "adapter or run to merge (default: the newest DPO or SFT run)")
    model: str = option("", MODEL_HELP + " (default: the one the adapter was made for)")
    out: str = option("", "folder to write to (default: the next free runs/fused-<n>)")
    bits: str = option(
        "auto", "width of the fused weights; auto is the narrowest that passes", choices=("auto", "4", "8", "16")
    )
    try_all: bool = option(False, "with auto: measure every width, not only up to the first that passes")
    force: bool = option(False, "write the named width even if it fails the gate")
    min_retention: float = option(
        0.9, "the gate: share of the adapter's effect that must survive", minimum=0.0, maximum=1.0
    )
    data: str = option("data/clean", "held-out conversations for the gate")
    gate_tokens: int = option(768, "held-out reply tokens to compare distributions on", minimum=16)
    max_seq_length: int = option(512, "tokens per held-out conversation", minimum=16)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class GenerateConfig:
    """Talk to the base model, an adapter, or a fused model."""

    model: str = option("", MODEL_HELP + " (default: the newest run's)")
    adapter: str = option("", "adapter or run; 'none' for the base model (default: the newest run)")
    system: str | None = option(None, "system message (default: the one trained with)")
    max_tokens: int = option(256, "longest reply, in tokens", minimum=1)
    temperature: float = option(0.7, "sampling temperature (0: greedy)", minimum=0.0)
    top_p: float = option(0.95, "nucleus sampling mass", above=0.0, maximum=1.0)
    strength: float = option(1.0, "how much of the adapter: 0 is the base model, 1 the person")
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class CardConfig:
    """A quick report card: the person's held-out replies against each model's."""

    data: str = option("data/clean", "folder with test.jsonl (else valid.jsonl)")
    out: str = option("", "folder to write to (default: the next free runs/eval-<n>)")
    n: int = option(100, "held-out prompts to answer", minimum=10)
    loss_rows: int = option(64, "held-out rows for the loss, evenly spread", minimum=1)
    max_tokens: int = option(64, "longest reply, in tokens", minimum=1)
    max_seq_length: int = option(512, "tokens per held-out conversation, and per prompt to answer", minimum=16)
    temperature: float = option(0.8, "sampling temperature (0: greedy)", minimum=0.0)
    top_p: float = option(0.95, "nucleus sampling mass", above=0.0, maximum=1.0)
    batch_size: int = option(64, "replies written at once", minimum=1)
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class BenchConfig:
    """Our training step against stock mlx-lm's, on the same rows."""

    model: str = option(DEFAULT_MODEL, MODEL_HELP)
    data: str = option("data/clean", "folder with train.jsonl")
    rank: int = option(64, "rank of the adapter", minimum=1)
    dora: bool = option(False, "DoRA or plain LoRA", flag="--dora/--lora")
    batch_size: int = option(4, "conversations per micro-batch", minimum=1)
    max_seq_length: int = option(256, "tokens per conversation", minimum=16)
    steps: int = option(6, "timed steps of each per round", minimum=1)
    rounds: int = option(3, "rounds, alternating; the median is reported", minimum=1)
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class CleanBenchConfig:
    """Cleaning against a bare json.loads pass over the same file."""

    messages: int = option(1_000_000, "size of the file, in messages", minimum=1000)
    seed: int = option(0, "fixes which real messages stand where", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ShowConfig:
    """A conversation with the trained tokens coloured."""

    model: str = option("", MODEL_HELP + " (default: the newest run's)")
    data: str = option("data/clean/train.jsonl", "file with conversations")
    number: int = option(1, "which conversation of the file, counted from 1", minimum=1)
    system: str = option("", "system message for conversations that have none of their own")
    mask_prompt: bool = option(True, "train on the person's replies only, or on every token")
    max_seq_length: int = option(1024, "tokens per row; longer conversations are split between turns", minimum=16)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class DemoConfig:
    """The whole path on an embedded model and real conversations."""

    me: str = option("720840be", "whose replies to learn, in the embedded conversations")
    out: str = option("demo", "folder for data and runs; emptied first")
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class DoctorConfig:
    """What this machine can do."""

    seconds: float = option(0.5, "how long to measure matrix products, in seconds", above=0.0)

    def __post_init__(self) -> None:
        check(self)
