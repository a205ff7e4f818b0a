"""Options of the demo and of what measures the program itself."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_persona.config.common import DEFAULT_MODEL, MODEL_HELP
from mlx_persona.settings import check, option


@dataclass(frozen=True)
class BenchConfig:
    """Our training step against stock mlx-lm's: one pass over the same rows, each with its own batches."""

    model: str = option(DEFAULT_MODEL, MODEL_HELP)
    data: str = option("data/clean", "folder with train.jsonl")
    rank: int = option(64, "rank of the adapter", minimum=1)
    dora: bool = option(True, "DoRA or plain LoRA", flag="--dora/--lora")
    batch_size: int = option(4, "rows per micro-batch", minimum=1)
    batch_tokens: int | None = option(
        None,
        "tokens per micro-batch of ours, padding included (instead of --batch-size, which stock keeps)",
        minimum=16,
    )
    max_seq_length: int = option(512, "longer rows are left out, in tokens", minimum=16)
    rows: int = option(400, "one message and its answer each; a random choice, in whole micro-batches", minimum=1)
    steps: int | None = option(
        None, "a shorter pass: so many micro-batches of these rows, the same rows on both sides", minimum=1
    )
    compiled: bool = option(
        False, "compile our step (stock's always is): runs of 400 micro-batches and more do so by themselves"
    )
    rounds: int = option(3, "rounds, alternating; the median is reported", minimum=1)
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class PhaseBenchConfig:
    """What the phase controller takes of a step, and its evaluations of a run."""

    model: str = option(DEFAULT_MODEL, MODEL_HELP)
    data: str = option("data/clean", "folder with train.jsonl and valid.jsonl")
    rank: int = option(8, "rank of the adapter", minimum=1)
    dora: bool = option(False, "DoRA or plain LoRA", flag="--dora/--lora")
    learning_rate: float = option(1e-3, "peak learning rate", above=0.0)
    updates: int = option(100, "updates of the run", minimum=10)
    batch_size: int = option(4, "rows per update", minimum=1)
    max_seq_length: int = option(128, "tokens per row", minimum=16)
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class LossBenchConfig:
    """How long ours takes to the held-out loss that stock mlx-lm reaches in so many steps."""

    model: str = option(DEFAULT_MODEL, MODEL_HELP)
    data: str = option("data/clean", "folder with train.jsonl and valid.jsonl")
    rank: int = option(64, "rank of the adapter", minimum=1)
    dora: bool = option(True, "DoRA or plain LoRA", flag="--dora/--lora")
    learning_rate: float = option(2e-4, "peak learning rate of ours", above=0.0)
    stock_learning_rate: float | None = option(
        None,
        "stock's, which is constant (default: that of ours; Adam there does not correct its bias, so that in the "
        "first hundred steps the same rate acts 3 to 6 times as strongly)",
        above=0.0,
    )
    max_seq_length: int = option(512, "tokens per row", minimum=16)
    batch_size: int = option(4, "rows per micro-batch", minimum=1)
    steps: int = option(100, "steps that stock makes", minimum=1)
    stock_rows: str = option(
        "cut",
        "cut: conversations are cut between turns to fit, as ours are, and stock trains the last reply of each row; "
        "whole: as mlx_lm.lora reads the file, which cuts long ones off at the end, reply and all",
        choices=("cut", "whole"),
    )
    batch_tokens: int | None = option(
        None,
        "tokens per micro-batch of ours, padding included (instead of --batch-size, which stock keeps)",
        minimum=16,
    )
    updates: int = option(60, "updates that ours is planned for; it stops when it is as good as stock", minimum=1)
    grad_accumulation: int = option(1, "micro-batches per update of ours", minimum=1)
    warmup: float = option(0.05, "share of ours' updates for linear warm-up", minimum=0.0, maximum=0.9)
    final_lr: float = option(0.1, "ours' learning rate at the end, as a share of the peak", minimum=0.0, maximum=1.0)
    eval_every: int = option(5, "updates of ours between evaluations; none of them is timed", minimum=1)
    eval_limit: int = option(64, "at most this many held-out rows, evenly spread", minimum=1)
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class BlocksBenchConfig:
    """Training steps of a model of Qwen2.5-7B's shape with random 4-bit weights, and what they need."""

    blocks: int = option(2, "transformer blocks (the 7B has 28)", minimum=1)
    vocab: int = option(152064, "tokens in the vocabulary", minimum=64)
    seq: int = option(512, "tokens of the one sequence of a micro-batch; the second half is trained on", minimum=16)
    pair: bool = option(False, "DPO instead: a pair, each side with half of --seq tokens and half of those a reply")
    side: tuple[str, ...] = option(
        ("ours-dora", "ours-lora"),
        "what to measure; repeatable. Stock on a CPU takes minutes per step",
        choices=("ours-dora", "ours-lora", "stock-dora", "stock-lora"),
    )
    rank: int = option(64, "rank of the adapter; alpha is twice that", minimum=1)
    accumulation: int = option(1, "micro-batches per update", minimum=1)
    checkpoint: bool = option(False, "recompute activations; ours takes long MLPs in parts then")
    optimizer: str = option("adamw", "ours' optimizer (stock has adamw)", choices=("adamw", "lion", "adafactor"))
    steps: int = option(2, "updates per round; the first is timed only where it is the only one", minimum=1)
    rounds: int = option(1, "rounds, alternating; the median is reported", minimum=1)
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class DpoBenchConfig:
    """Our DPO against mlx-lm-lora's, where that is installed, on the same pairs."""

    model: str = option(DEFAULT_MODEL, MODEL_HELP)
    pairs: str = option("data/pairs", "folder with train.jsonl, as pairs writes one")
    n: int = option(64, "pairs, in whole micro-batches", minimum=1)
    rank: int = option(64, "rank of the adapter", minimum=1)
    dora: bool = option(False, "DoRA or plain LoRA", flag="--dora/--lora")
    beta: float = option(0.1, "strength of the pull to the reference", above=0.0)
    batch_size: int = option(4, "pairs per micro-batch", minimum=1)
    max_seq_length: int = option(256, "tokens of prompt and reply", minimum=16)
    rounds: int = option(3, "rounds, alternating; the median is reported", minimum=1)
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class GenerateBenchConfig:
    """Writing many replies, against stock mlx-lm one by one and in plain batches, on the same prompts."""

    model: str = option(DEFAULT_MODEL, MODEL_HELP)
    data: str = option("data/clean", "folder with train.jsonl")
    n: int = option(256, "prompts: real turns, chosen as for pairs", minimum=1)
    one_by_one: int = option(24, "how many of them stock writes one by one, spread evenly", minimum=1)
    max_tokens: int = option(96, "longest reply, in tokens", minimum=1)
    max_seq_length: int = option(256, "tokens of prompt and reply; longer prompts lose their oldest turns", minimum=16)
    temperature: float = option(0.8, "sampling temperature (0: greedy)", minimum=0.0)
    top_p: float = option(0.95, "nucleus sampling mass", above=0.0, maximum=1.0)
    batch_size: int = option(32, "replies that ours writes at once", minimum=1)
    stock_batch_size: int = option(16, "prompts per call of stock's batch_generate", minimum=1)
    rounds: int = option(1, "rounds, alternating; the median is reported", minimum=1)
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
class DataBenchConfig:
    """From a big file of conversations to the first micro-batch, with and without the token cache."""

    model: str = option(DEFAULT_MODEL, MODEL_HELP)
    conversations: int = option(1_000_000, "size of the file, in conversations of six messages", minimum=1000)
    out: str = option("", "folder to keep the file and its token cache in (default: a temporary one)")
    seed: int = option(0, "fixes which real messages stand where", minimum=0)

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
    selftest: bool = option(False, "also check training and generation here against plain forms, for a bug report")

    def __post_init__(self) -> None:
        check(self)
