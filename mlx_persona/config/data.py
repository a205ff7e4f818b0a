"""Options of what makes data: cleaning, review, pairs, augmentation."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_persona.config.common import MODEL_HELP
from mlx_persona.errors import PersonaError
from mlx_persona.settings import check, option

SOURCES = (
    *("whatsapp", "telegram", "imessage", "discord", "slack", "meta", "mbox", "agent"),
    *("csv", "chitchat", "messages", "sharegpt", "completion"),
)
CSV_COLUMNS = ("text", "sender", "time", "chat", "id", "answers")
AUGMENT_TASKS = ("rewrite", "contrastive")


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
    model: str = option(
        "",
        "model whose tokens the report counts: a local MLX directory, a .gguf file, or a Hugging Face repo, of which "
        "only tokenizer.json is fetched (default: the newest run's, else that of sft, if it is on this machine)",
    )
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
class CanariesConfig:
    """Made-up secrets, planted to see later whether the trained model tells them."""

    out: str = option("data/canaries", "folder to write to")
    n: int = option(8, "how many secrets; fewer could not be told from chance", minimum=4, maximum=20)
    copies: float = option(8.0, "how often training draws each; an ordinary conversation is 1", above=0.0)
    seed: int = option(0, "fixes which secrets", minimum=0)

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
