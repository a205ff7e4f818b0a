"""Options of what is done with a trained adapter."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_persona.config.common import MODEL_HELP
from mlx_persona.errors import PersonaError
from mlx_persona.settings import check, option


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
class CompareConfig:
    """A blind comparison of two sides by somebody who knows the person."""

    a: str = option("", "first side: a run, an adapter, a model, base, or real (the person's own reply)", hidden=True)
    b: str = option("", "second side, as the first", hidden=True)
    n: int = option(20, "held-out prompts to compare on, evenly spread", minimum=1)
    data: str = option("data/clean", "folder with test.jsonl (else valid.jsonl)")
    out: str = option("", "folder to write to (default: the next free runs/compare-<n>)")
    resume: str = option("", "comparison to continue: its folder; the other options stay as they were")
    model: str = option("", MODEL_HELP + ", for base (default: the one of the other side, else the newest run's)")
    system: str | None = option(
        None, "system message of conversations that have none of their own (default: the one trained with)"
    )
    rubric: tuple[str, ...] = option(
        (), "after each choice also rate both replies from 1 to 5 by this, in a few words; repeatable"
    )
    max_tokens: int = option(128, "longest reply, in tokens", minimum=1)
    max_seq_length: int = option(512, "tokens per prompt; longer ones lose their oldest turns", minimum=16)
    temperature: float = option(0.8, "sampling temperature (0: greedy)", minimum=0.0)
    top_p: float = option(0.95, "nucleus sampling mass", above=0.0, maximum=1.0)
    batch_size: int = option(32, "replies written at once", minimum=1)
    seed: int = option(0, "fixes everything random, the order of the replies too", minimum=0)
    judge: str = option(
        "",
        "rates the same replies once all is answered: a server with OpenAI's protocol, like http://127.0.0.1:80/v1 "
        "(default: none, and nothing is sent anywhere)",
    )
    judge_model: str = option("", "which model of the judge's (default: the first that it names)")
    port: int | None = option(
        None, "port of the page on this machine (default: 8765, or the next free one)", minimum=1, maximum=65535
    )
    open: bool = option(True, "open the page in the browser, or print its address only")

    def __post_init__(self) -> None:
        check(self)
        names = [name.strip().lower() for name in self.rubric]
        if "" in names or "choice" in names or len(set(names)) < len(names):
            raise PersonaError(f"rubric must name different things, none of them choice, got {', '.join(self.rubric)}")
        if self.judge_model and not self.judge:
            raise PersonaError("judge_model must come with judge, got no judge", "name its address: --judge URL")


@dataclass(frozen=True)
class ReportConfig:
    """A run as one HTML page, or several side by side."""

    runs: tuple[str, ...] = option((), "runs to report on (default: the newest training run)", hidden=True)
    out: str = option("", "file to write (default: report.html in the run, or beside the runs that are compared)")
    eval: str = option("", "evaluation whose card to show (default: the newest that judged what the run made)")
    open: bool = option(False, "open the page in the browser")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ChartsConfig:
    """The charts of a run, of several, or of a sweep, as files."""

    runs: tuple[str, ...] = option((), "runs or a sweep to draw (default: the newest training run)", hidden=True)
    out: str = option("", "folder to write to (default: charts in the run, or beside the runs that are compared)")
    format: str = option("svg", "of the files; SVG is light or dark as its viewer wants", choices=("svg", "png"))
    dark: bool = option(False, "PNG on dark paper, or on white", flag="--dark/--light")

    def __post_init__(self) -> None:
        check(self)
        if self.dark and self.format == "svg":
            raise PersonaError("dark must come with format png, got svg", "SVG is as dark as its viewer's scheme")


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
class WatchConfig:
    """The page of a run, live while it goes on."""

    run: str = option(
        "",
        "run to watch; it may be one to come (default: the training run that is going, else the newest)",
        hidden=True,
    )
    every: float = option(5.0, "seconds between two looks at the run", minimum=0.5, maximum=3600.0)
    port: int | None = option(
        None, "port of the page on this machine (default: 8765, or the next free one)", minimum=1, maximum=65535
    )
    open: bool = option(True, "open the page in the browser, or print its address only")

    def __post_init__(self) -> None:
        check(self)
