"""Preference pairs: chosen is the person's real reply, rejected what a model says to the same prompt.

mlx-persona pairs

Replies are kept as they are written, in ``partial.jsonl``; the same command continues after a stop.
"""

from __future__ import annotations

import difflib
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mlx_persona import ui
from mlx_persona.awake import awake
from mlx_persona.config import PairsConfig
from mlx_persona.errors import PersonaError
from mlx_persona.files import write_text
from mlx_persona.generation.chat import find_model
from mlx_persona.generation.engine import Reply, Sampling, replies
from mlx_persona.generation.job import REPORT, Kept, finish, finished, keeping, key_of
from mlx_persona.models import adapters
from mlx_persona.models.load import LoadedModel, identity, load_model, load_tokenizer, resolve_model
from mlx_persona.runs import adapter_hash, newest, resolve_adapter
from mlx_persona.schema import Conversation, Message, Pair, write_jsonl
from mlx_persona.stages.training import agree
from mlx_persona.tokens.dataset import load_split
from mlx_persona.tokens.render import Renderer
from mlx_persona.training.distributed import Group, joined

SPLITS = ("train", "valid")
# Ranks that write together hand rank 0 their replies after this many batches: what a stop can lose.
ROUND = 4
# At most this many pairs from one conversation, where there are conversations enough.
_FEW = 4


@dataclass(frozen=True)
class PairsResult:
    """What was written.

    ``dropped_similar`` and ``dropped_empty`` count pairs, ``skipped`` prompts that do not fit in
    ``max_seq_length``; ``reused`` says that the pairs were there already.
    """

    train: int
    valid: int
    dropped_similar: int
    dropped_empty: int
    skipped: int
    path: Path
    seconds: float
    reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {**self.__dict__, "path": str(self.path)}


@dataclass(frozen=True)
class Candidate:
    """A real reply and what stood before it; ``prompt`` are the token ids to answer."""

    split: str
    conversation: str
    messages: tuple[Message, ...]
    chosen: str
    prompt: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Job:
    """Everything that the replies depend on."""

    model: str
    adapter: Path | None
    sources: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    skipped: int
    key: str


def make_pairs(config: PairsConfig) -> PairsResult:
    """Write ``train.jsonl``, ``valid.jsonl`` and ``report.json`` to ``config.out``.

    Raises:
        PersonaError: no data, no model, or no pair left.
        Interrupted: after KeyboardInterrupt; the replies so far are kept.
    """
    with joined() as group:
        return _make_pairs(config, group)


def _make_pairs(config: PairsConfig, group: Group) -> PairsResult:
    started, out = time.perf_counter(), Path(config.out)
    job = _plan(config)
    agree(group, config, {"the prompts or the model": job.key})
    done = group.first(lambda: _reusable(out, job.key))
    if done is not None:
        ui.info(f"the pairs in {out} are up to date")
    else:
        written = _write_replies(config, job, out, group)
        done = group.first(lambda: _finish(config, job, written, started))
    for name in (*(f"{split}.jsonl" for split in SPLITS), REPORT):
        _everywhere(group, out / name)
    return PairsResult(**{**done, "path": out})


def _everywhere(group: Group, path: Path) -> None:
    """Give rank 0's file to the machines that lack it: training reads it there."""
    if group.size > 1:
        text = group.first(lambda: path.read_text(encoding="utf-8"))
        if group.rank and not (path.is_file() and path.read_text(encoding="utf-8") == text):
            write_text(path, text)


def _finish(config: PairsConfig, job: _Job, written: dict[int, Reply], started: float) -> dict[str, Any]:
    """Judge the replies and write the pairs; returns the result as a JSON object."""
    out = Path(config.out)
    pairs, dropped = _judge(job, written, config.max_similarity)
    if not pairs["train"]:
        raise PersonaError(
            f"no pair is left: {dropped['similar']} are too alike and {dropped['empty']} empty",
            "raise --max-similarity or --n",
        )
    for split in SPLITS:
        write_jsonl(out / f"{split}.jsonl", pairs[split])
    seconds = round(time.perf_counter() - started, 1)
    counts = (len(pairs["train"]), len(pairs["valid"]), dropped["similar"], dropped["empty"], job.skipped)
    result = PairsResult(*counts, out, seconds)
    finish(out, job.key, {"model": job.model, "rejected_from": config.rejected_from, **result.to_json()})
    return result.to_json()


def _plan(config: PairsConfig) -> _Job:
    """Choose the prompts, render them, and name everything by one key."""
    chosen = [
        candidate
        for split, count in zip(SPLITS, (config.n, config.held_out), strict=True)
        for candidate in choose(load_split(Path(config.data), split), split, count, config.seed)
    ]
    if not any(c.split == "train" for c in chosen):
        raise PersonaError(f"no reply in {config.data} has a user turn before it", "pairs need real exchanges")
    model, adapter = _models(config)
    path = resolve_model(model)
    trained = adapters.read_spec(adapter).system if adapter else ""
    renderer = Renderer(load_tokenizer(path), system=config.system or trained)
    for note in renderer.notes:
        ui.info(note)
    candidates = render_candidates(chosen, renderer, config.max_seq_length - config.max_tokens)
    skipped = len(chosen) - len(candidates)
    if not any(c.split == "train" for c in candidates):
        raise PersonaError(
            f"no prompt fits in {config.max_seq_length} tokens with a reply of {config.max_tokens}",
            "raise --max-seq-length or lower --max-tokens",
        )
    sources = ("base", "sft") if config.rejected_from == "both" else (config.rejected_from,)
    depends = {
        "base": identity(path)["sha256"],
        "adapter": adapter_hash(adapter) if adapter and "sft" in sources else "",
        "sources": sources,
        "prompts": [(c.split, c.conversation, c.prompt, c.chosen) for c in candidates],
        "sampling": [config.max_tokens, config.temperature, config.top_p, config.seed],
        "max_similarity": config.max_similarity,
    }
    return _Job(model, adapter, sources, tuple(candidates), skipped, key_of(depends))


def _models(config: PairsConfig) -> tuple[str, Path | None]:
    """The base model, and the adapter that writes replies or, at least, tells the system message."""
    if config.rejected_from == "base":
        return find_model(config.model, config.adapter, ("sft",))
    run = config.adapter or newest(("sft",))
    if not run:
        raise PersonaError(
            f"--rejected-from {config.rejected_from} needs an SFT adapter, and there is no run",
            "train one with: mlx-persona sft  (or name one with --adapter)",
        )
    return find_model(config.model, str(resolve_adapter(str(run))), ("sft",))


def choose(
    conversations: Sequence[Conversation],
    split: str,
    n: int,
    seed: int,
    suits: Callable[[Candidate], bool] = lambda candidate: True,
) -> list[Candidate]:
    """``n`` trained replies, spread evenly over the conversations, the same for the same seed.

    A reply counts when a user turn stands right before it and it ``suits``. Its prompt begins with the
    system message, if there is one, and the first user turn.
    """
    draw = random.Random(f"{seed} {split}")
    pools = []
    for number, conversation in enumerate(conversations, 1):
        name = str(conversation.meta.get("id", f"{split}:{number}"))
        pool = [candidate for candidate in _candidates(conversation, split, name) if suits(candidate)]
        draw.shuffle(pool)
        pools.append(pool)
    draw.shuffle(pools)
    most = max(_FEW, math.ceil(n / max(1, len(pools))))
    rounds = [pool[i] for i in range(most) for pool in pools if i < len(pool)]
    return rounds[:n]


def _candidates(conversation: Conversation, split: str, name: str) -> list[Candidate]:
    system = tuple(replace(m, train=True) for m in conversation.messages[:1] if m.role == "system")
    turns = conversation.messages[len(system) :]
    users = [i for i, turn in enumerate(turns) if turn.role == "user"]
    if not users:
        return []
    turns = turns[users[0] :]
    found = []
    for i, turn in enumerate(turns):
        if turn.role == "assistant" and turn.train and turn.content.strip() and turns[i - 1].role == "user":
            prompt = (*system, *(replace(m, train=True) for m in turns[:i]))
            found.append(Candidate(split, name, prompt, turn.content))
    return found


def render_candidates(chosen: Sequence[Candidate], renderer: Renderer, room: int) -> list[Candidate]:
    """The candidates whose prompts fit in ``room`` tokens, with their token ids."""
    kept = []
    for candidate in chosen:
        try:
            ids = renderer.prompt(candidate.messages, room)
        except PersonaError:
            continue
        kept.append(replace(candidate, prompt=tuple(ids)))
    return kept


def _reusable(out: Path, key: str) -> dict[str, Any] | None:
    """The result of an earlier run with the same key as a JSON object, if its files are there."""
    report = finished(out, key, [f"{split}.jsonl" for split in SPLITS])
    if report is None:
        return None
    return {**{f.name: report[f.name] for f in fields(PairsResult)}, "reused": True}


def _write_replies(config: PairsConfig, job: _Job, out: Path, group: Group) -> dict[int, Reply]:
    """Replies by number (candidate x sources + source): those kept from before, and the missing ones.

    They are kept and returned on rank 0; the others, which write their share of them, return none.
    """
    total = len(job.candidates) * len(job.sources)
    step = total if group.size == 1 else ROUND * config.batch_size * group.size
    with awake(), keeping(out, job.key, total, "pairs") if group.rank == 0 else nullcontext() as kept:
        missing = group.first(lambda: kept.missing(range(total)) if kept else None)
        if missing:
            loaded = load_model(job.model)
        for place, source in enumerate(job.sources if missing else ()):
            if source == "sft" and job.adapter is not None:
                adapters.load_adapter(loaded.model, job.adapter, loaded.identity)
            numbers = [n for n in missing if n % len(job.sources) == place]
            for start in range(0, len(numbers), step):
                _write_round(config, job, loaded, numbers[start : start + step], kept, group)
    return kept.written if kept else {}


def _write_round(
    config: PairsConfig, job: _Job, loaded: LoadedModel, numbers: Sequence[int], kept: Kept | None, group: Group
) -> None:
    """Each rank writes its share of these replies, and rank 0 keeps them all: its own as they come."""
    mine = numbers[group.rank :: group.size]
    keep = kept.keeper(numbers) if kept is not None else _leave
    prompts = [job.candidates[n // len(job.sources)].prompt for n in mine]
    sampling = Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)

    def on_reply(index: int, reply: Reply) -> None:
        keep(index * group.size + group.rank, reply)

    written = replies(loaded, prompts, sampling, batch_size=config.batch_size, rows=mine, on_reply=on_reply)
    for rank, theirs in enumerate(group.gather(written)):
        for index, reply in enumerate(theirs if rank else ()):
            keep(index * group.size + rank, Reply(*reply))


def _leave(index: int, reply: Reply) -> None:
    """Rank 0 keeps it."""


def _judge(job: _Job, written: dict[int, Reply], max_similarity: float) -> tuple[dict[str, list[Pair]], Counter[str]]:
    """Pairs by split, and how many were dropped because their sides are alike or one is empty."""
    pairs: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    dropped: Counter[str] = Counter()
    for number, reply in sorted(written.items()):
        candidate = job.candidates[number // len(job.sources)]
        source = job.sources[number % len(job.sources)]
        rejected = reply.text.strip()
        if not rejected:
            dropped["empty"] += 1
        elif similarity(candidate.chosen, rejected) > max_similarity:
            dropped["similar"] += 1
        else:
            meta: dict[str, Any] = {"from": source, "conversation": candidate.conversation}
            if reply.cut:
                meta["cut"] = True  # it did not end there: DPO must not learn that it did
            pairs[candidate.split].append(Pair(candidate.messages, candidate.chosen, rejected, meta))
    return pairs, dropped


def similarity(one: str, other: str) -> float:
    """How alike two texts are, 0 to 1 (difflib's ratio), whatever their case and blanks."""
    a, b = (" ".join(text.casefold().split()) for text in (one, other))
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
