"""Tasks beside the plain reply, written by the base model from the person's own conversations.

mlx-persona augment
mlx-persona sft --extra data/augmented

``rewrite``: the base model says a message of the person's in neutral words; to be learnt is the way back, to the
real message. ``contrastive``: the same prompts under other system messages, answered by the base model; to be
learnt is the base model's own reply, so that the person does not speak in every role.

Replies are kept as they are written, in ``partial.jsonl``; the same command continues after a stop.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_persona import ui
from mlx_persona.config import AUGMENT_TASKS, AugmentConfig, SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.phrases import matches
from mlx_persona.generation.engine import Reply, Sampling, replies
from mlx_persona.generation.job import finish, finished, keeping, key_of
from mlx_persona.models.load import identity, load_model, load_tokenizer, resolve_model
from mlx_persona.models.trained import find_trained
from mlx_persona.runs import newest
from mlx_persona.schema import PLACEHOLDER, Conversation, Message, write_jsonl
from mlx_persona.stages.pairs import SPLITS, Candidate, choose, similarity
from mlx_persona.tokens.dataset import common_system, load_split
from mlx_persona.tokens.render import Renderer

REWRITE, CONTRASTIVE = AUGMENT_TASKS
# What the base model is asked. In quotes, or a small model answers the message.
NEUTRAL = (
    "Rewrite the message between the quotes in plain, neutral language. Do not answer it. "
    'Write only the rewritten message, in the language of the message.\n\n"{}"'
)
# What the person's model is asked.
SAY = "Say this the way I would: {}"
# Roles that are not the person's.
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a translator. Say what the user writes in French, and nothing else.",
    "You are a code reviewer. Comment on what the user shows you, briefly and to the point.",
    "You are a travel guide who knows cities, trains and small hotels.",
    "You answer questions about cooking and recipes.",
    "You are a customer service agent of an online shop for furniture. Be polite.",
    "You are a teacher of mathematics. Explain in small steps.",
    "You are a careful editor. Correct the spelling and grammar of what the user writes.",
    "You summarize what the user writes in one sentence.",
    "You are a librarian who recommends books.",
    "You answer in formal English, in at most three sentences.",
    "You are a reference work. State facts, and say so when you do not know.",
)
NONE = ""

_DROPPED = {REWRITE: ("empty", "cut", "similar", "stock", "rambling"), CONTRASTIVE: ("empty", "cut")}
_SKIPPED = {REWRITE: ("short", "placeholder", "long"), CONTRASTIVE: ("empty", "long")}
# A paraphrase of more characters than this many times the original's, and a few for short ones, is none.
_RAMBLING, _SPARE = 3, 40
_YES = r"(?:(?:sure|certainly|of course|absolutely)[!,.]*\s+)?"
_HERE = r"here(?:['’]?s| is| are)\b"
_OPENING = re.compile(
    rf"{_YES}(?:{_HERE}[^:\n]{{0,80}}"
    r"|(?:the )?(?:rewritten |neutral |paraphrased )?(?:message|version|paraphrase|text|rewrite)(?: is)?):\s*",
    re.IGNORECASE,
)
_CANNOT = r"\bi(?:(?: can['’]t| cannot| can not| won['’]t)|(?:['’]m| am) (?:unable|not able) to)\b"
_STOCK = re.compile(
    rf"{_YES}(?:{_HERE}|i(?:['’]ve| have)? (?:rewritten|rewrote|paraphrased)\b)"
    rf"|(?:i['’]m |i am )?sorry\b.{{0,20}}{_CANNOT}"
    rf"|{_CANNOT} (?:help|assist|rewrite|rephrase|paraphrase|fulfil|comply|provide)\b",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "“": "”", "«": "»", "„": "“"}


@dataclass(frozen=True)
class AugmentResult:
    """What was written: conversations of each split, and by task what was ``dropped`` (replies) and ``skipped``.

    ``reused`` says that the files were there already.
    """

    train: int
    valid: int
    tasks: dict[str, dict[str, Any]]
    path: Path
    seconds: float
    reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {**self.__dict__, "path": str(self.path)}


@dataclass(frozen=True)
class Item:
    """One reply to write to ``asked``.

    ``real`` is the person's message (rewrite only), ``messages`` what stands before the reply to learn:
    a rewrite's system message, or a contrastive conversation's prompt. ``prompt`` is ``asked`` in token ids.
    """

    task: str
    split: str
    conversation: str
    messages: tuple[Message, ...]
    asked: tuple[Message, ...]
    real: str = ""
    prompt: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Job:
    """Everything that the replies depend on."""

    model: str
    items: tuple[Item, ...]
    skipped: dict[str, Counter[str]]
    key: str


def augment(config: AugmentConfig) -> AugmentResult:
    """Write ``train.jsonl``, ``valid.jsonl`` and ``report.json`` to ``config.out``.

    Raises:
        PersonaError: no data, no model, nothing to ask, or nothing left.
        Interrupted: after KeyboardInterrupt; the replies so far are kept.
    """
    started, out = time.perf_counter(), Path(config.out)
    job = _plan(config)
    if (report := finished(out, job.key, [f"{split}.jsonl" for split in SPLITS])) is not None:
        ui.info(f"the conversations in {out} are up to date")
        kept = {name: report[name] for name in ("train", "valid", "tasks", "seconds")}
        return AugmentResult(**kept, path=out, reused=True)
    written = _write_replies(config, job, out)
    found, counts = _judge(config, job, written)
    if not found["train"]:
        dropped = ", ".join(f"{task}: {_counted(counts[task]['dropped'])}" for task in counts)
        raise PersonaError(f"nothing is left to train on ({dropped})", "raise --n, --max-tokens or --max-similarity")
    for split in SPLITS:
        write_jsonl(out / f"{split}.jsonl", found[split])
    seconds = round(time.perf_counter() - started, 1)
    result = AugmentResult(len(found["train"]), len(found["valid"]), counts, out, seconds)
    finish(out, job.key, {"model": job.model, **result.to_json()})
    return result


def _counted(counts: dict[str, int]) -> str:
    """``2 cut, 1 similar``, largest first; ``none`` for nothing."""
    return ", ".join(f"{n} {reason}" for reason, n in Counter(counts).most_common() if n) or "none"


def describe(counts: dict[str, Any]) -> str:
    """One line for people on what became of a task."""
    dropped, skipped = _counted(counts["dropped"]), _counted(counts["skipped"])
    return f"{counts['train']} for training, {counts['valid']} held out; dropped: {dropped}; skipped: {skipped}"


def _plan(config: AugmentConfig) -> _Job:
    """Choose what to ask, render it, and name everything by one key."""
    data = {split: load_split(Path(config.data), split) for split in SPLITS}
    model, trained = _base(config)
    wanted: list[Item] = []
    skipped = {task: Counter(dict.fromkeys(_SKIPPED[task], 0)) for task in AUGMENT_TASKS if task in config.tasks}
    for task, counts in skipped.items():
        own = config.system or trained or common_system(data["train"])
        for split, n in zip(SPLITS, (config.n, config.held_out), strict=True):
            chosen = _chosen(config, task, data[split], split, n, counts)
            wanted += _items(task, chosen, _others(data, own) if task == CONTRASTIVE else ())
        if not any(item.task == task and item.split == "train" for item in wanted):
            raise PersonaError(
                f"{config.data} holds no exchange for the task {task} (skipped: {_counted(counts)})",
                "lower --min-chars, or leave the task out with --task" if task == REWRITE else None,
            )
    path = resolve_model(model)
    renderer = Renderer(load_tokenizer(path))
    for note in renderer.notes:
        ui.info(note)
    items = []
    for item in wanted:
        prompt = tuple(renderer.prompt(item.asked))
        if len(prompt) + config.max_tokens > config.max_seq_length:  # cut to fit, it would not be the same question
            skipped[item.task]["long"] += 1
        else:
            items.append(replace(item, prompt=prompt))
    if not any(item.split == "train" for item in items):
        raise PersonaError(
            f"no prompt fits in {config.max_seq_length} tokens with a reply of {config.max_tokens}",
            "raise --max-seq-length or lower --max-tokens",
        )
    depends = {
        "base": identity(path)["sha256"],
        "items": [
            (i.task, i.split, i.conversation, [m.to_json() for m in i.messages], i.real, i.prompt) for i in items
        ],
        "sampling": [config.max_tokens, config.temperature, config.top_p, config.seed],
        "learnt": [SAY, config.max_similarity, config.weight],
    }
    return _Job(model, tuple(items), skipped, key_of(depends))


def _base(config: AugmentConfig) -> tuple[str, str]:
    """The base model, and the system message that the newest SFT run, if it names the model, was trained under."""
    if config.model or newest(("sft",)) is None:
        return config.model or SftConfig().model, ""
    found = find_trained("", "", ("sft",))
    return found.model, found.spec.system


def _chosen(
    config: AugmentConfig, task: str, data: Sequence[Conversation], split: str, n: int, skipped: Counter[str]
) -> list[Candidate]:
    """Exchanges for a task; those that do not suit it are counted."""

    def suits(candidate: Candidate) -> bool:
        if reason := _unsuited(config, task, candidate):
            skipped[reason] += 1
        return not reason

    return choose(data, split, n, config.seed, suits)


def _unsuited(config: AugmentConfig, task: str, candidate: Candidate) -> str:
    """Why an exchange does not suit a task; empty where it does."""
    if task == CONTRASTIVE:
        return "" if candidate.messages[-1].content.strip() else "empty"
    if PLACEHOLDER.search(candidate.chosen):
        return "placeholder"
    return "short" if len(candidate.chosen.strip()) < config.min_chars else ""


def _others(data: dict[str, list[Conversation]], own: str) -> list[str]:
    """System messages to contrast with: every other one is none at all, where the person always speaks under one.

    Args:
        data: the person's conversations.
        own: the system message of those that have none of their own.

    Raises:
        PersonaError: the person speaks under all of ours.
    """
    firsts = (c.messages[0] for conversations in data.values() for c in conversations)
    persons = {(m.content if m.role == "system" else own).strip() for m in firsts}
    others = [system for system in SYSTEMS if system not in persons]
    if not others:
        raise PersonaError(
            "the conversations stand under every system message that contrastive ones could have",
            "name the person's own conversations with --data, not augmented ones",
        )
    return others if NONE in persons else [system for other in others for system in (NONE, other)]


def _items(task: str, chosen: Sequence[Candidate], others: Sequence[str]) -> list[Item]:
    """What to ask the base model about each exchange."""
    items = []
    for number, candidate in enumerate(chosen):
        if task == REWRITE:
            own = candidate.messages[:1] if candidate.messages[0].role == "system" else ()
            real = candidate.chosen.strip()
            asked = (Message("system", NONE), Message("user", NEUTRAL.format(real)))
            items.append(Item(task, candidate.split, candidate.conversation, own, asked, real))
        else:
            # The last turn alone: what the person said before would set the tone for the base model's reply.
            asked = (Message("system", others[number % len(others)]), candidate.messages[-1])
            items.append(Item(task, candidate.split, candidate.conversation, asked, asked))
    return items


def _write_replies(config: AugmentConfig, job: _Job, out: Path) -> dict[int, Reply]:
    """Replies by the number of their item: those kept from before, and the missing ones."""
    with keeping(out, job.key, len(job.items), "augment") as kept:
        if kept.whole:
            return kept.written
        loaded = load_model(job.model)
        for task in job.skipped:
            # The likeliest wording is the neutral one; drawn at random, a small model's paraphrases lose the meaning.
            temperature = 0.0 if task == REWRITE else config.temperature
            sampling = Sampling(config.max_tokens, temperature, config.top_p, config.seed)
            numbers = kept.missing(n for n, item in enumerate(job.items) if item.task == task)
            prompts = [job.items[n].prompt for n in numbers]
            keep = kept.keeper(numbers)
            replies(loaded, prompts, sampling, batch_size=config.batch_size, rows=numbers, on_reply=keep)
    return kept.written


def _judge(
    config: AugmentConfig, job: _Job, written: dict[int, Reply]
) -> tuple[dict[str, list[Conversation]], dict[str, dict[str, Any]]]:
    """Conversations by split, and the counts of each task."""
    found: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    counts: dict[str, dict[str, Any]] = {
        task: {"train": 0, "valid": 0, "dropped": dict.fromkeys(_DROPPED[task], 0), "skipped": dict(skipped)}
        for task, skipped in job.skipped.items()
    }
    for number, reply in sorted(written.items()):
        item = job.items[number]
        text, wrong = paraphrase(reply, item.real, config.max_similarity) if item.task == REWRITE else _own(reply)
        if wrong:
            counts[item.task]["dropped"][wrong] += 1
            continue
        turns = [Message("assistant", text)]
        if item.task == REWRITE:
            turns = [Message("user", SAY.format(text)), Message("assistant", item.real)]
        meta = {"task": item.task, "from": item.conversation, "weight": config.weight}
        found[item.split].append(Conversation((*item.messages, *turns), meta))
        counts[item.task][item.split] += 1
    for task, count in counts.items():
        if not count["train"]:
            ui.warn(f"no {task} conversation is left for training (dropped: {_counted(count['dropped'])})")
    return found, counts


def _own(reply: Reply) -> tuple[str, str]:
    """The base model's reply as it is learnt, and why it is not (empty: it is)."""
    text = reply.text.strip()
    return text, "cut" if reply.cut else "" if text else "empty"


def paraphrase(reply: Reply, real: str, max_similarity: float) -> tuple[str, str]:
    """A paraphrase without the words around it, and why it is not used.

    Returns:
        The text, and one of ``empty``, ``cut``, ``similar`` (hardly differs from the real message), ``stock``
        (a refusal, or assistants' phrases that are not the person's), ``rambling`` (far too long), or nothing.
    """
    text, wrong = _own(reply)
    if wrong:
        return text, wrong
    text = _bare(text, real)
    if not text:
        return text, "empty"
    if similarity(text, real) > max_similarity:
        return text, "similar"
    if (_STOCK.match(text) and not _STOCK.match(real)) or len(matches(text)) > len(matches(real)):
        return text, "stock"
    return text, "rambling" if len(text) > _RAMBLING * len(real) + _SPARE else ""


def _bare(text: str, real: str) -> str:
    """The text without an opening ("Here is the message:") and quotes that the real message does not have."""
    first, _, rest = text.partition("\n")
    if rest.strip() and first.rstrip().endswith(":") and not real.partition("\n")[0].rstrip().endswith(":"):
        text = rest.strip()
    opening = _OPENING.match(text)
    if opening and not _OPENING.match(real) and not _STOCK.match(real):
        text = text[opening.end() :].strip()
    close = _QUOTES.get(text[:1])
    if close and text[0] != real[:1]:
        # Behind the closing quote, only a comment on a line of its own may follow.
        inside, quote, _ = f"{text}\n"[1:].partition(f"{close}\n")
        text = inside.strip() if quote else text
    return text
