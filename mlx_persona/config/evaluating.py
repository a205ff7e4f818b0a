"""The options of ``eval``."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_persona.config.common import MODEL_HELP
from mlx_persona.errors import PersonaError
from mlx_persona.settings import check, option

PARTS = ("style", "probes", "ability", "leaks", "prompts", "consistency", "bystander")
QUICK_PARTS = PARTS[:4]


@dataclass(frozen=True)
class EvalConfig:
    """Is it them? Models beside the real person on held-out conversations."""

    runs: tuple[str, ...] = option(
        (), "runs, adapters or models to judge (default: the newest sft, dpo and fused run)", hidden=True
    )
    data: str = option("data/clean", "folder with test.jsonl (else valid.jsonl) and train.jsonl")
    out: str = option("", "folder to write to (default: the next free runs/eval-<n>)")
    quick: bool = option(False, "style, probes, ability and leaks only, and a smaller part of each")
    parts: tuple[str, ...] = option(
        (), f"what to look at, of {', '.join(PARTS)}; repeatable (default: everything)", choices=PARTS
    )
    checkpoints: bool = option(False, "judge every checkpoint of one run by loss, style and ability instead")
    model: str = option("", MODEL_HELP + ", for base (default: the one that the first run was trained on)")
    n: int | None = option(None, "held-out prompts to answer (default: 100, with --quick 40)", minimum=10)
    loss_rows: int = option(64, "held-out rows for the loss, evenly spread (0: no loss)", minimum=0)
    max_tokens: int = option(64, "longest reply, in tokens", minimum=1)
    max_seq_length: int = option(256, "tokens per held-out conversation, and per prompt to answer", minimum=16)
    temperature: float = option(
        0.8, "sampling temperature (0: greedy); questions of ability are always greedy", minimum=0.0
    )
    top_p: float = option(0.95, "nucleus sampling mass", above=0.0, maximum=1.0)
    batch_size: int = option(64, "replies written at once", minimum=1)
    function_words: str = option(
        "",
        "file with the function words of your language, separated by spaces or lines (default: the shipped list that "
        "fits: de, en, es, fr)",
    )
    prompt: str = option("", "file with a system prompt that describes the person (default: made from their messages)")
    slim_prompt: str = option("", "file with a short one (default: the same with fewer messages)")
    work_prompt: str = option("", "file with a system prompt as the model will work under (default: the shipped tools)")
    probes: str = option("probes", "the shipped probes or work, or a YAML file of your own in the same form")
    ability: str = option("ability", "the shipped questions, or a JSONL file of your own in the same form")
    name: str = option("", "what the probes call the person (default: nothing)")
    topic: str = option("music", "what the probes say the person likes to talk about")
    paraphrases: str = option("", "YAML file: question -> ways to ask it (default: the shipped ones)")
    dialogues: str = option("", "YAML file: conversation -> what is said to the model, turn by turn (default: shipped)")
    bystanders: str = option("", "YAML file: character -> system message (default: the shipped ones)")
    canaries: str = option("", "folder that mlx-persona canaries wrote and sft --extra was given (default: none)")
    judge: str = option(
        "",
        "rates voice and naturalness: a server with OpenAI's protocol, like http://127.0.0.1:80/v1 (default: none)",
    )
    judge_model: str = option("", "which model of the judge's (default: the first that it names)")
    seed: int = option(0, "fixes everything random", minimum=0)

    def __post_init__(self) -> None:
        check(self)
        if self.checkpoints and len(self.runs) > 1:
            raise PersonaError(f"--checkpoints judges one run, got {len(self.runs)}")
        if self.checkpoints and self.parts:
            raise PersonaError("--checkpoints has parts of its own: style and ability")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The parts to do, in order."""
        if self.checkpoints:
            return "style", "ability"
        return tuple(part for part in PARTS if part in (self.parts or (QUICK_PARTS if self.quick else PARTS)))

    @property
    def prompts(self) -> int:
        """How many held-out prompts everybody answers."""
        return self.n or (40 if self.quick else 100)
