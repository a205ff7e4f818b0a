"""Raw exports -> clean conversations: the order of the steps.

``mlx-persona clean RAW --me NAME`` calls :func:`clean`. Per conversation, as they are read:

1. chats are cut where nobody wrote for a while (``sessions``);
2. roles: ME is the assistant, everybody else the user (``people``);
3. tool traffic, service lines and empty messages go (``filters``), system prompts go or are replaced;
4. bursts are joined, the person's openers go (``sessions``);
5. replies that are short, meta, pasted or nothing but links are set aside: they stay as context, out of the loss.

Then over all of them, oldest first:

6. personal data becomes placeholders (``redact``), for sources that are full of it, and what the user decided in a
   review is carried out (``review``);
7. exact copies go; boilerplate, near-duplicates and what is over a contact's cap are set aside (``curate``);
8. what follows the last trained reply goes, and so does a conversation without one; the rest is tagged (``tags``);
9. everything is split by time (``split``) and written at once.

Apart from placeholders nothing is rewritten: a kept text is what was typed, without the white space around it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

from data_prep import curate, filters, languages, people, review, sessions, system_prompt
from data_prep.curate import Draft
from data_prep.duplicates import leakage
from data_prep.files import OUTPUTS, QUARANTINE, REDACTIONS, Inputs, Reader, find
from data_prep.page import page
from data_prep.redact import Redactor
from data_prep.report import CleanReport, Ledger
from data_prep.sessions import Turn
from data_prep.sources import Bad, Item, RawChat, RawConversation, Source
from data_prep.split import split
from data_prep.stats import CountTokens
from data_prep.tags import load_rules
from mlx_persona.config import CleanConfig
from mlx_persona.errors import PersonaError
from mlx_persona.schema import Conversation, Message, Role, dump_line, write_jsonl


@dataclass
class Cleaning:
    """One run: what the user asked for, what is known by now, and the account."""

    config: CleanConfig
    inputs: Inputs
    names: frozenset[str] = frozenset()
    redactor: Redactor | None = None
    ledger: Ledger = field(default_factory=Ledger)
    notes: list[str] = field(default_factory=list)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)

    def redacts(self, source: Source) -> bool:
        """Whether personal data in this source becomes placeholders."""
        return self.config.redact == "on" or (self.config.redact == "auto" and source.private)

    def names_in(self, source: Source) -> frozenset[str]:
        """Who is ME there; nobody by name where the export itself says which messages are."""
        return frozenset() if source.private and not source.by_sender else self.names

    def alias(self, source: str, name: str) -> str:
        """A chat's name without the names of people in it."""
        return self.aliases.setdefault((source, name), f"{source}-{len(self.aliases) + 1}")


def list_people(config: CleanConfig) -> list[tuple[str, int]]:
    """Who wrote how many messages, most first. Empty where the export has roles and no names.

    Raises:
        PersonaError: as :func:`clean` does for what it reads.
    """
    return list(people.count(Reader(find(config), config)).items())


def clean(config: CleanConfig, count_tokens: CountTokens | None = None, notes: Sequence[str] = ()) -> CleanReport:
    """Clean ``config.raw`` into ``config.out``: train, valid and test.jsonl, report.json, and what else there is.

    Nothing is written, and nothing that was there is touched, before all of it is ready.

    Args:
        config: what to read, and every rule.
        count_tokens: tells the replies' lengths in tokens; without it the report has none.
        notes: lines for the report, before its own.

    Raises:
        PersonaError: nothing to read, a format that is not known, too many unreadable lines, nobody or
            somebody unknown as ME, a library that is missing, or nothing left after cleaning.
    """
    began = time.perf_counter()
    run = _begin(config)
    run.notes[:0] = notes
    kept = process(Reader(run.inputs, config), run)
    run.ledger.check()
    if not kept:
        raise _nothing_left(run.ledger, config)
    splits = split(kept, config.valid_fraction, config.test_fraction)
    report = run.ledger.report(
        splits,
        out=config.out,
        sources=dict(Counter(source.name for _, source in run.inputs.files)),
        names=sorted(run.names),
        notes=run.notes,
        leaked=_leaked(splits, run),
        count_tokens=count_tokens,
    )
    # The examples in the report have been redacted too by now, and the statistics taken.
    redacted = dict(run.redactor.counts) if run.redactor else {}
    report = replace(report, redacted=redacted, seconds=round(time.perf_counter() - began, 3))
    _write(Path(config.out), splits, run, report)
    return report


def _begin(config: CleanConfig) -> Cleaning:
    """Check what can be checked before reading, and find out who is there."""
    if config.valid_fraction + config.test_fraction >= 1:
        total = config.valid_fraction + config.test_fraction
        raise PersonaError(f"valid_fraction and test_fraction must add up to less than 1, got {total:g}")
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise PersonaError(f"out must be a folder, and {out} is a file")
    run = Cleaning(config, find(config))
    run.notes += [f"skipped, no chat: {path}" for path in run.inputs.skipped]
    redacts = any(run.redacts(source) for _, source in run.inputs.files)
    if config.me or run.inputs.by_sender or redacts:
        known = people.count(Reader(run.inputs, config))
        if known and config.me:
            run.names = people.resolve(config.me, known)
        elif known and run.inputs.by_sender:
            raise people.need_me(known)
        elif config.me:
            run.notes.append("--me has no effect: the export has roles and no names; the assistant is the person")
        if redacts:
            others = [name for name in known if name not in run.names]
            run.redactor = Redactor(others, own=run.names, region=config.region or None)
            run.ledger.hide = run.redactor.redact
    return run


def process(items: Iterable[tuple[Source, Item]], run: Cleaning) -> list[Conversation]:
    """All steps between reading and splitting, oldest conversation first; every message ends in the ledger."""
    drafts = _finish(curate.ordered(_read(items, run)), run)
    return [_conversation(draft, run.config) for draft in drafts]


def _read(items: Iterable[tuple[Source, Item]], run: Cleaning) -> Iterator[Draft]:
    """Every conversation with a reply to learn; every other message is in the ledger already."""
    config, ledger = run.config, run.ledger
    window = curate.Window.of(config.since, config.until)
    rules = filters.Rules(config.min_chars, config.meta_patterns, config.max_chars, config.drop_links, config.drop_code)
    wanted = languages.check_codes(config.languages) if config.languages else frozenset()
    for source, item in _cut(items, run):
        if isinstance(item, Bad):
            hide = run.redactor if run.redacts(source) else None
            ledger.quarantine(replace(item, text=hide.redact(item.text)) if hide else item)
            continue
        turns = _turns(item, run.names_in(source), ledger)
        if not turns:
            continue
        chat = item.meta.get("chat")
        draft = Draft(turns, source.name, item.id, chat if isinstance(chat, str) else None, item.start, item.meta)
        if not window.holds(draft.time):
            ledger.drop("outside_dates", turns)
            continue
        draft.turns = [_judged(turn, rules, wanted) for turn in turns]
        own = [turn for turn in draft.turns if turn.role == "assistant"]
        ledger.count_replies(own, config.min_chars)
        if any(turn.trained for turn in own):
            yield draft
        else:
            ledger.sift(draft.turns, filters.untrained_reason)


def _judged(turn: Turn, rules: filters.Rules, wanted: frozenset[str]) -> Turn:
    turn = filters.judge(turn, rules)
    if wanted and turn.trained and (reason := languages.other_language(turn.text, wanted)):
        return replace(turn, aside=reason)
    return turn


def _cut(items: Iterable[tuple[Source, Item]], run: Cleaning) -> Iterator[tuple[Source, RawConversation | Bad]]:
    """Chats cut into conversations; everything else as it is."""
    for source, item in items:
        if isinstance(item, RawChat):
            own = partial(people.is_own, names=run.names_in(source))
            parts = sessions.cut(item, 60 * run.config.gap_minutes, own)
            yield from ((source, part) for part in parts)
        else:
            yield source, item


def _turns(raw: RawConversation, names: frozenset[str], ledger: Ledger) -> list[Turn]:
    """The joined turns of one conversation that stay, without a system prompt; none when the conversation goes."""
    ledger.read += sum(m.parts for m in raw.messages)
    turns = people.assign(raw, names)
    if turns is None:
        ledger.drop("not_in_conversation", (Turn("user", m.text.strip(), m.parts) for m in raw.messages))
        return []
    turns = ledger.sift(turns, lambda turn: filters.message_reason(turn) or system_prompt.strip_reason(turn))
    openers, turns = sessions.split_openers(sessions.join_bursts(turns))
    ledger.drop("opener", openers)
    return turns


def _finish(drafts: Sequence[Draft], run: Cleaning) -> list[Draft]:
    """The steps over all conversations, oldest first; what is left is counted as kept."""
    config, ledger = run.config, run.ledger
    private = {source.name for _, source in run.inputs.files if run.redacts(source)}
    for draft in drafts:
        if draft.source in private and run.redactor is not None:
            _hide(draft, run, run.redactor)
    _carry_out_review(drafts, run)
    drafts, copies = curate.without_copies(drafts)
    for copy in copies:
        ledger.drop("duplicate", copy.turns)
    curate.set_boilerplate_aside(drafts)
    if config.max_per_contact:  # first, or a reply may be set aside for an earlier one that then goes too
        curate.cap_contacts(drafts, config.max_per_contact)
    if config.near_duplicates:
        try:
            curate.set_near_duplicates_aside(drafts, config.near_duplicates)
        except PersonaError as error:  # what does not need it works without it
            run.notes.append(f"near-duplicates were not looked for: {error.message}; {error.hint}")
    if config.half_life_days:
        curate.weigh_by_age(drafts, config.half_life_days)
    kept = []
    for draft in drafts:
        if not curate.trained(draft):
            ledger.sift(draft.turns, filters.untrained_reason)
            continue
        draft.turns, tail = sessions.split_tail(draft.turns)
        ledger.sift(tail, filters.tail_reason)
        ledger.keep(draft.turns)
        kept.append(draft)
    if config.tags:
        curate.tag(kept, load_rules(Path(config.tag_rules) if config.tag_rules else None))
    if note := curate.lopsided(kept):
        run.notes.append(note)
    return kept


def _carry_out_review(drafts: Sequence[Draft], run: Cleaning) -> None:
    """What the user decided in ``mlx-persona review``, if there is such a file."""
    path = Path(run.config.review)
    if run.config.review and path.is_file():
        counts = review.apply(drafts, review.read_decisions(path))
        done = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        run.notes.append(f"review ({path}): {done or 'nothing to carry out'}")


def _hide(draft: Draft, run: Cleaning, redactor: Redactor) -> None:
    """Placeholders in the text, and no names in the conversation's own name."""
    draft.turns = [replace(turn, text=redactor.redact(turn.text)) for turn in draft.turns]
    _, _, number = draft.id.rpartition("#")
    contact = run.alias(draft.source, draft.contact or draft.id)
    draft.id = f"{contact}#{number}" if draft.contact is not None else contact
    draft.meta = {key: value for key, value in draft.meta.items() if key not in ("chat", "id")}
    if draft.contact is not None:
        draft.contact = draft.meta["chat"] = contact


def _conversation(draft: Draft, config: CleanConfig) -> Conversation:
    """A draft as it is written; what an earlier cleaning wrote about it still holds."""
    turns = system_prompt.replacement(config.system_prompt) + draft.turns
    messages = tuple(Message(cast(Role, t.role), t.text, train=t.aside is None) for t in turns)
    meta = {"source": draft.source, "id": draft.id} | ({} if draft.start is None else {"start": draft.start})
    meta |= draft.meta
    if draft.weight is not None:
        meta["weight"] = round(draft.weight, 6)
    return Conversation(messages, meta)


def _leaked(splits: dict[str, list[Conversation]], run: Cleaning) -> int | None:
    """How many held-out replies are nearly one that is trained on; None where nobody looked."""
    if not run.config.near_duplicates:
        return None
    replies = {
        name: [m.content for c in conversations for m in c.messages if m.role == "assistant" and m.train]
        for name, conversations in splits.items()
    }
    try:
        return leakage(replies, run.config.near_duplicates)
    except PersonaError:  # the notes say that the library is missing
        return None


def _nothing_left(ledger: Ledger, config: CleanConfig) -> PersonaError:
    dropped = ", ".join(f"{reason} {n}" for reason, n in ledger.by_reason().items())
    hint = None
    if ledger.dropped["short"] and config.min_chars:
        hint = "--min-chars 0 keeps short replies"
    elif ledger.dropped["opener"] or ledger.dropped["no_trained_reply"]:
        hint = "the person must answer somebody: is --me the right one?"
    return PersonaError(f"no conversation is left of {ledger.read} messages (dropped: {dropped or 'none'})", hint)


def _write(out: Path, splits: dict[str, list[Conversation]], run: Cleaning, report: CleanReport) -> None:
    """Write everything beside its place and then move it there, the report last."""
    bad = run.ledger.bad
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".clean-", dir=out) as folder:
        part = Path(folder)
        for name, conversations in splits.items():
            write_jsonl(part / f"{name}.jsonl", conversations)
        if bad:
            (part / QUARANTINE).write_text("".join(dump_line(asdict(b)) for b in bad), encoding="utf-8")
        if run.redactor is not None:
            lines = "".join(map(dump_line, run.redactor.audit()))
            (part / REDACTIONS).write_text(lines, encoding="utf-8")
        account = report.to_json()
        (part / "report.html").write_text(page(account), encoding="utf-8")
        text = json.dumps(account, ensure_ascii=False, indent=2) + "\n"
        (part / "report.json").write_text(text, encoding="utf-8")
        for name in OUTPUTS:
            if (part / name).exists():
                (part / name).replace(out / name)
            elif name in (QUARANTINE, REDACTIONS):
                (out / name).unlink(missing_ok=True)
