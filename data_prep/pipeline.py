"""Raw exports -> clean conversations: the order of the steps.

``mlx-persona clean RAW --me NAME`` calls :func:`clean`. Per conversation:

1. roles: ME is the assistant, everybody else the user (``people``);
2. tool traffic and empty messages go (``filters``), system prompts go or are replaced (``system_prompt``);
3. bursts are joined, the person's openers go (``sessions``);
4. replies that are short or meta are set aside: they stay as context, out of the loss (``filters``);
5. what follows the last trained reply goes, and so does a conversation without one;
6. exact duplicates go. Then everything is split by time (``split``) and written at once.

Nothing is rewritten: a kept text is what was typed, without the white space around it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

from data_prep import filters, people, sessions, system_prompt
from data_prep.files import OUTPUTS, QUARANTINE, Reader, find
from data_prep.report import CleanReport, Ledger
from data_prep.sessions import Turn
from data_prep.sources import Bad, Item, RawChat, RawConversation, Source
from data_prep.split import split
from mlx_persona.config import CleanConfig
from mlx_persona.errors import PersonaError
from mlx_persona.schema import Conversation, Message, Role, dump_line, write_jsonl


def list_people(config: CleanConfig) -> list[tuple[str, int]]:
    """Who wrote how many messages, most first. Empty where the export has roles and no names.

    Raises:
        PersonaError: as :func:`clean` does for what it reads.
    """
    return list(people.count(Reader(find(config), config)).items())


def clean(config: CleanConfig) -> CleanReport:
    """Clean ``config.raw`` into ``config.out``: train, valid and test.jsonl, report.json, quarantine.jsonl if needed.

    Nothing is written, and nothing that was there is touched, before all of it is ready.

    Raises:
        PersonaError: nothing to read, a format that is not known, too many unreadable lines, nobody or
            somebody unknown as ME, or nothing left after cleaning.
    """
    began = time.perf_counter()
    if config.valid_fraction + config.test_fraction >= 1:
        total = config.valid_fraction + config.test_fraction
        raise PersonaError(f"valid_fraction and test_fraction must add up to less than 1, got {total:g}")
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise PersonaError(f"out must be a folder, and {out} is a file")
    inputs = find(config)
    notes = [f"skipped, no chat: {path}" for path in inputs.skipped]
    names: frozenset[str] = frozenset()
    if config.me or inputs.by_sender:
        known = people.count(Reader(inputs, config))
        if known and config.me:
            names = people.resolve(config.me, known)
        elif known and inputs.by_sender:
            raise people.need_me(known)
        elif config.me:
            notes.append("--me has no effect: the export has roles and no names; the assistant is the person")
    ledger = Ledger()
    conversations = list(process(Reader(inputs, config), config, names, ledger))
    ledger.check()
    if not conversations:
        raise _nothing_left(ledger, config)
    splits = split(conversations, config.valid_fraction, config.test_fraction)
    report = ledger.report(
        splits,
        seconds=time.perf_counter() - began,
        out=config.out,
        sources=dict(Counter(source.name for _, source in inputs.files)),
        names=sorted(names),
        notes=notes,
    )
    _write(out, splits, ledger.bad, report)
    return report


def process(
    items: Iterable[tuple[Source, Item]], config: CleanConfig, names: frozenset[str], ledger: Ledger
) -> Iterator[Conversation]:
    """Clean conversations one by one, counting every message in the ledger."""
    seen: set[tuple[tuple[str, str], ...]] = set()
    for source, item in _cut(items, config, names):
        if isinstance(item, Bad):
            ledger.quarantine(item)
            continue
        turns = _clean_one(item, config, names, ledger)
        if not turns:
            continue
        key = filters.content_key(turns)
        if key in seen:
            ledger.drop("duplicate", turns)
            continue
        seen.add(key)
        ledger.keep(turns)
        messages = tuple(
            Message(cast(Role, t.role), t.text, train=t.aside is None)
            for t in system_prompt.replacement(config.system_prompt) + turns
        )
        # What an earlier cleaning wrote about a conversation still holds.
        meta = {"source": source.name, "id": item.id} | ({} if item.start is None else {"start": item.start})
        yield Conversation(messages, meta | item.meta)


def _cut(
    items: Iterable[tuple[Source, Item]], config: CleanConfig, names: frozenset[str]
) -> Iterator[tuple[Source, RawConversation | Bad]]:
    """Chats cut into conversations; everything else as it is."""
    for source, item in items:
        if isinstance(item, RawChat):
            parts = sessions.cut(item, 60 * config.gap_minutes, lambda m: people.is_own(m, names))
            yield from ((source, part) for part in parts)
        else:
            yield source, item


def _clean_one(raw: RawConversation, config: CleanConfig, names: frozenset[str], ledger: Ledger) -> list[Turn]:
    """The turns that stay, without a system prompt; none when the conversation goes."""
    ledger.read += sum(m.parts for m in raw.messages)
    turns = people.assign(raw, names)
    if turns is None:
        ledger.drop("not_in_conversation", (Turn("user", m.text.strip(), m.parts) for m in raw.messages))
        return []
    turns = ledger.sift(turns, filters.message_reason)
    turns = ledger.sift(turns, system_prompt.strip_reason)
    openers, turns = sessions.split_openers(sessions.join_bursts(turns))
    ledger.drop("opener", openers)
    turns = [filters.judge(t, config.min_chars, config.meta_patterns) for t in turns]
    own = [t for t in turns if t.role == "assistant"]
    ledger.replies += len(own)
    ledger.short += sum(filters.is_short(t, config.min_chars) for t in own)
    if not any(t.trained for t in own):
        return ledger.sift(turns, filters.untrained_reason)
    turns, tail = sessions.split_tail(turns)
    ledger.sift(tail, filters.tail_reason)
    return turns


def _nothing_left(ledger: Ledger, config: CleanConfig) -> PersonaError:
    dropped = ", ".join(f"{reason} {n}" for reason, n in ledger.by_reason().items())
    hint = None
    if ledger.dropped["short"] and config.min_chars:
        hint = "--min-chars 0 keeps short replies"
    elif ledger.dropped["opener"] or ledger.dropped["no_trained_reply"]:
        hint = "the person must answer somebody: is --me the right one?"
    return PersonaError(f"no conversation is left of {ledger.read} messages (dropped: {dropped or 'none'})", hint)


def _write(out: Path, splits: dict[str, list[Conversation]], bad: list[Bad], report: CleanReport) -> None:
    """Write everything beside its place and then move it there, the report last."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".clean-", dir=out) as folder:
        part = Path(folder)
        for name, conversations in splits.items():
            write_jsonl(part / f"{name}.jsonl", conversations)
        if bad:
            (part / QUARANTINE).write_text("".join(dump_line(asdict(b)) for b in bad), encoding="utf-8")
        text = json.dumps(report.to_json(), ensure_ascii=False, indent=2) + "\n"
        (part / "report.json").write_text(text, encoding="utf-8")
        for name in OUTPUTS:
            if (part / name).exists():
                (part / name).replace(out / name)
    if not bad:
        (out / QUARANTINE).unlink(missing_ok=True)
