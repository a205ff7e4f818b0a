"""What an evaluation looks at, made from its options and the person's data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mlx_persona import ui
from mlx_persona.config import EvalConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.ability import Item, read_items
from mlx_persona.evals.asked import Asked, all_asked
from mlx_persona.evals.attribution import Attribution
from mlx_persona.evals.own_sets import read_bystanders, read_dialogues, read_paraphrases, read_prompt
from mlx_persona.evals.panel import Candidate
from mlx_persona.evals.parts.ability import AbilityPart
from mlx_persona.evals.parts.bystander import BystanderPart
from mlx_persona.evals.parts.consistency import ConsistencyPart
from mlx_persona.evals.parts.leaks import LeakPart
from mlx_persona.evals.parts.probes import ProbePart
from mlx_persona.evals.parts.prompts import Count, PromptPart, system_prompts
from mlx_persona.evals.parts.style import StylePart
from mlx_persona.evals.probes import read_probes, shipped
from mlx_persona.evals.scripts import Part, Script
from mlx_persona.evals.wording import Wording
from mlx_persona.evals.words import fitting_list, read_list
from mlx_persona.models.load import load_tokenizer, resolve_model
from mlx_persona.schema import Conversation
from mlx_persona.stages.canaries import read_canaries
from mlx_persona.tokens.batches import evenly
from mlx_persona.tokens.dataset import load_held_out, load_split

SHIPPED_ITEMS = "ability"
# What is held out of fewer replies says little, whatever is measured.
FEW = 10
# Parts that cannot do without held-out replies.
_NEED_HELD_OUT = {"style", "leaks", "prompts", "bystander", "consistency"}


@dataclass
class Material:
    """The person's data, as far as the chosen parts need it and it is there.

    Attributes:
        path: the held-out file; empty where none was needed.
        held_out: its conversations.
        training: the conversations that were trained on.
        every: all held-out prompts with the person's real reply.
        asked: those that everybody answers, evenly spread.
        attribution: who wrote it; None where that cannot be told.
        notes: what could not be measured, and why.
    """

    path: str = ""
    held_out: Sequence[Conversation] = ()
    training: Sequence[Conversation] = ()
    every: Sequence[Asked] = ()
    asked: Sequence[Asked] = ()
    attribution: Attribution | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, config: EvalConfig) -> Material:
        """Read what the chosen parts need.

        Raises:
            PersonaError: no held-out replies where they are needed.
        """
        found = cls()
        if not _NEED_HELD_OUT.intersection(config.chosen):
            return found
        folder = Path(config.data)
        path, found.held_out = load_held_out(folder, ("test", "valid"))
        found.path, found.every = str(path), all_asked(found.held_out)
        if len(found.every) < 2:
            raise PersonaError(
                f"{path} must hold at least 2 replies that answer something, got {len(found.every)}",
                "hold out more: mlx-persona clean --test-fraction 0.2",
            )
        if path.name == "valid.jsonl":
            found.note("there is no test.jsonl: these replies are those by which training chose its checkpoint")
        if len(found.every) < FEW:
            found.note(f"only {len(found.every)} held-out replies: the intervals are wide, and nothing is proved")
        found.asked = [found.every[i] for i in evenly(len(found.every), config.prompts)]
        try:
            found.training = load_split(folder, "train")
        except PersonaError as error:
            found.note(f"nothing is compared with training replies: {_whole(error)}")
        if found.training:
            found._learn(config.seed)
        return found

    def _learn(self, seed: int) -> None:
        ui.info("learning whose messages are whose")
        try:
            self.attribution = Attribution(self.training, seed)
        except PersonaError as error:
            self.note(f"no attribution: {_whole(error)}")

    def note(self, text: str) -> None:
        """Say, now and in the scores, what could not be measured."""
        ui.warn(text)
        self.notes.append(text)

    @property
    def real(self) -> list[str]:
        """The person's held-out replies that answer something."""
        return [one.real for one in self.every]


def make_parts(config: EvalConfig, material: Material, base: Candidate) -> list[Part]:
    """The chosen parts, in order.

    Args:
        config: what to look at, and the user's own files.
        material: the person's data.
        base: the first candidate; its tokenizer counts, and its system message is the one trained with.

    Raises:
        PersonaError: a file of probes, questions or canaries with a mistake.
    """
    chosen = list(config.chosen)
    if "prompts" in chosen and not material.training and not config.prompt:
        material.note("prompts are left out: there is nothing to make a prompt of; name one with --prompt")
        chosen.remove("prompts")
    return [_MAKERS[name](config, material, base) for name in chosen]


@cache
def counter(model: str) -> Count:
    """Counts the tokens of texts as a model does; raises PersonaError for a model without a tokenizer."""
    tokenizer = load_tokenizer(resolve_model(model))
    return lambda texts: [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]


def persona_prompts(config: EvalConfig, material: Material, base: Candidate, count: Count) -> dict[str, str]:
    """The system message of every variant: what was trained with, full, slim, working, none."""
    full, slim = (read_prompt(named) if named else "" for named in (config.prompt, config.slim_prompt))
    work = read_prompt(config.work_prompt)
    return system_prompts(
        material.training, count, system=base.system, work=work, full=full, slim=slim, seed=config.seed
    )


def _style(config: EvalConfig, material: Material, base: Candidate) -> Part:
    functions = read_list(Path(config.function_words)) if config.function_words else fitting_list(material.real)
    if functions is None:
        material.note("no shipped list of function words fits the person's language: name one with --function-words")
    return StylePart(
        material.path,
        material.held_out,
        material.every,
        material.asked,
        Wording(material.real, functions, config.seed),
        material.attribution,
        loss_rows=config.loss_rows,
        max_seq_length=config.max_seq_length,
        seed=config.seed,
    )


def _probes(config: EvalConfig, material: Material, base: Candidate) -> Part:
    return ProbePart(read_probes(config.probes), config.name, config.topic, base.system, config.quick)


def _ability(config: EvalConfig, material: Material, base: Candidate) -> Part:
    return AbilityPart(_items(config), config.quick)


def _items(config: EvalConfig) -> list[Item]:
    named = config.ability
    return read_items(shipped(f"{SHIPPED_ITEMS}.jsonl") if named == SHIPPED_ITEMS else Path(named))


def _leaks(config: EvalConfig, material: Material, base: Candidate) -> Part:
    scripts = [Script(one.before, max_prompt=config.max_seq_length) for one in material.asked]
    training = [m.content for c in material.training for m in c.messages if m.role == "assistant" and m.train]
    held_out = [one.real for one in material.asked]
    planted = read_canaries(Path(config.canaries)) if config.canaries else None
    return LeakPart(scripts, training, held_out, planted)


def _prompts(config: EvalConfig, material: Material, base: Candidate) -> Part:
    count = counter(base.model)
    return PromptPart(
        material.asked,
        material.real,
        persona_prompts(config, material, base, count),
        count,
        material.attribution,
        quick=config.quick,
        max_prompt=config.max_seq_length,
        seed=config.seed,
    )


def _consistency(config: EvalConfig, material: Material, base: Candidate) -> Part:
    return ConsistencyPart(
        material.real,
        read_paraphrases(config.paraphrases),
        read_dialogues(config.dialogues),
        _items(config),
        quick=config.quick,
        seed=config.seed,
    )


def _bystander(config: EvalConfig, material: Material, base: Candidate) -> Part:
    return BystanderPart(
        material.asked,
        material.real,
        read_bystanders(config.bystanders),
        base.system,
        counter(base.model),
        material.attribution,
        quick=config.quick,
        max_prompt=config.max_seq_length,
        seed=config.seed,
    )


_MAKERS: dict[str, Callable[[EvalConfig, Material, Candidate], Part]] = {
    "style": _style,
    "probes": _probes,
    "ability": _ability,
    "leaks": _leaks,
    "prompts": _prompts,
    "consistency": _consistency,
    "bystander": _bystander,
}


def _whole(error: PersonaError) -> str:
    """An error's text with its hint."""
    return "; ".join(part for part in (error.message, error.hint) if part)
