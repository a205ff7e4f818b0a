"""Options of the demo and of what measures the program itself."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_persona.config.common import DEFAULT_MODEL, MODEL_HELP
from mlx_persona.settings import check, option


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
