"""Decisions by hand about replies: a file of them, which replies to ask about, and what they do to a cleaning.

A reply is known by a hash of what was said before it and of itself, so that a decision outlives other cleanings.
``data_prep.review_loop`` asks for decisions; ``clean`` calls :func:`apply`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, cast

from data_prep.curate import Draft
from data_prep.sources.base import ASSISTANT
from data_prep.tags import BUCKETS
from mlx_persona.errors import PersonaError
from mlx_persona.schema import PLACEHOLDER, Conversation, dump_line

Action = Literal["keep", "drop", "edit", "tag", "undo"]
ACTIONS: tuple[Action, ...] = ("keep", "drop", "edit", "tag", "undo")
REASON, TAGS = "reviewed", "tags_by_hand"
_KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of a reply.

    Attributes:
        key: the reply, as :func:`key` names it.
        action: ``undo`` takes back the latest decision about this reply that still stands.
        when: the time of the decision, as ISO 8601.
        text: what an ``edit`` puts in the reply's place.
        becomes: the key of the reply with that text: cleaned data already have it.
        bucket: of a ``tag``, one of ``tags.BUCKETS``.
    """

    key: str
    action: Action
    when: str = ""
    text: str | None = None
    becomes: str | None = None
    bucket: str | None = None

    def to_json(self) -> dict[str, object]:
        """The JSON object, without what is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: object) -> Decision:
        """Parse one; keys that are not known are left alone.

        Raises:
            PersonaError: not an object, an unknown action, a key that is none, or without what its action needs.
        """
        if not isinstance(value, dict):
            raise PersonaError(f"a decision must be an object, got {type(value).__name__}")
        action, when = value.get("action"), value.get("when", "")
        if action not in ACTIONS:
            raise PersonaError(f"action must be one of {', '.join(ACTIONS)}, got {action!r}")
        if not isinstance(when, str):
            raise PersonaError(f"when must be text, got {when!r}")
        made = cls(_checked_key("key", value.get("key")), action, when)
        if action == "edit":
            text = _checked_text(value.get("text"))
            return replace(made, text=text, becomes=_checked_key("becomes", value.get("becomes")))
        if action == "tag":
            bucket = value.get("bucket")
            if not isinstance(bucket, str) or bucket not in BUCKETS:
                raise PersonaError(f"bucket must be one of {', '.join(BUCKETS)}, got {bucket!r}")
            return replace(made, bucket=bucket)
        return made


def _checked_key(name: str, value: object) -> str:
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise PersonaError(f"{name} must be 16 hexadecimal digits, got {value!r}")
    return value


def _checked_text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise PersonaError(f"text must be non-empty text, got {value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PersonaError("text is not valid Unicode (half of a surrogate pair)") from error
    return value


def key(prompt_text: str, reply_text: str) -> str:
    """Names a reply by what was said just before it ("" for nothing) and by itself.

    White space does not count, nor do the numbers of placeholders: another cleaning may number people otherwise.
    """
    prompt, reply = _normal(prompt_text), _normal(reply_text)
    # With a length, no prompt can run over into the reply.
    return hashlib.blake2b(f"{len(prompt)} {prompt} {reply}".encode(), digest_size=8).hexdigest()


def _normal(text: str) -> str:
    return " ".join(PLACEHOLDER.sub(lambda found: found[0].rpartition("_")[0], text).split())


def read_decisions(path: Path) -> dict[str, Decision]:
    """The decisions that stand, by key; none where there is no file.

    Later lines win, and an undo brings back what it stands after. A last line that was cut off is ignored.

    Raises:
        PersonaError: another bad line (named as file:line), or a file that cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PersonaError(f"cannot read {path}: {error.strerror}") from error
    *lines, last = data.split(b"\n")
    if not _is_torn(last):
        lines.append(last)
    made: dict[str, list[Decision]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        decision = _parse(line, f"{path}:{number}")
        stack = made.setdefault(decision.key, [])
        if decision.action != "undo":
            stack.append(decision)
        elif stack:
            stack.pop()
    return {name: stack[-1] for name, stack in made.items() if stack}


def _parse(line: bytes, where: str) -> Decision:
    hint = "mend that line, or delete it"
    try:
        return Decision.from_json(json.loads(line.decode("utf-8-sig")))
    except PersonaError as error:
        raise PersonaError(f"{where}: {error.message}", hint) from error
    except (ValueError, RecursionError) as error:
        raise PersonaError(f"{where}: not JSON", hint) from error


def _is_torn(line: bytes) -> bool:
    """Whether a line without its newline was cut off: no beginning of a JSON object is JSON."""
    try:
        json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return True
    return False


def append(path: Path, decision: Decision) -> None:
    """Add one line, which is on the disk when this returns; a line that was cut off before goes.

    Raises:
        OSError: the disk is full, or the file cannot be written; what was there is unharmed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _end_last_line(file)
        file.write(dump_line(decision.to_json()).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def _end_last_line(file: BinaryIO) -> None:
    if not file.seek(0, os.SEEK_END):
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    whole = file.read()
    start = whole.rfind(b"\n") + 1
    if _is_torn(whole[start:]):
        file.truncate(start)
    else:
        file.write(b"\n")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of a cleaned conversation."""

    conversation: Conversation
    place: int

    @property
    def text(self) -> str:
        """What the person said."""
        return self.conversation.messages[self.place].content

    @property
    def before(self) -> str:
        """What was said just before. A system prompt is not: the next cleaning may have another one."""
        message = self.conversation.messages[self.place - 1] if self.place else None
        return "" if message is None or message.role == "system" else message.content

    @property
    def key(self) -> str:
        """Its name, see :func:`key`."""
        return key(self.before, self.text)


def sample(conversations: Sequence[Conversation], n: int, seed: int, decided: Collection[str]) -> list[Reply]:
    """At most ``n`` trained replies to ask about, each once though it was said twice.

    Those that are not decided come first. Then every conversation gives one before any gives a second. The
    order is drawn from the seed and the replies alone: a reply that was decided leaves the others as they were.
    """
    found: list[tuple[bool, int, bytes, Reply]] = []
    seen: set[str] = set()
    for conversation in conversations:
        own = {reply.key: reply for reply in reversed(_trained(conversation))}
        new = sorted(own.keys() - seen, key=lambda name: _draw(seed, name))
        seen |= own.keys()
        # Not by a reply's own draw: the longest conversation would have the most tries at being first.
        turn = _draw(seed, f"conversation {min(new, default='')}")
        found += [(name in decided, rank, turn, own[name]) for rank, name in enumerate(new)]
    found.sort(key=lambda one: one[:3])
    return [reply for *_, reply in found[:n]]


def _trained(conversation: Conversation) -> list[Reply]:
    own = enumerate(conversation.messages)
    return [Reply(conversation, place) for place, m in own if m.role == ASSISTANT and m.train]


def _draw(seed: int, what: str) -> bytes:
    return hashlib.blake2b(f"{seed} {what}".encode(), digest_size=8).digest()


def decided_keys(decisions: Mapping[str, Decision]) -> set[str]:
    """Every reply that needs no more asking: those decided about, and what the edited ones became."""
    return {*decisions, *(d.becomes for d in decisions.values() if d.becomes is not None)}


def apply(drafts: Sequence[Draft], decisions: Mapping[str, Decision]) -> dict[str, int]:
    """Do what was decided; call it once personal data are placeholders, as they were when it was decided.

    A dropped reply is set aside as "reviewed", an edited one gets its new text, and a tagged one gets
    ``meta["tags_by_hand"][place] = bucket`` (places are text, counted from 0 without a system prompt). A
    decision about an edited reply holds for the text that the edit gave it. Replies that are set aside already
    are only edited.

    Returns:
        How many replies were ``kept``, ``dropped``, ``edited`` and ``tagged``, and how many decisions were
        ``unmatched``: their replies are not here.
    """
    counts = Counter(kept=0, dropped=0, edited=0, tagged=0)
    matched: set[str] = set()
    for draft in drafts if decisions else ():
        tags: dict[str, str] = {}
        # From the last to the first: what stands before a reply must still be as it was.
        for place in range(len(draft.turns) - 1, -1, -1):
            turn = draft.turns[place]
            if turn.role != ASSISTANT:
                continue
            before = draft.turns[place - 1].text if place else ""
            text, last = _settle(before, turn.text, decisions, matched)
            if text != turn.text:
                draft.turns[place] = replace(turn, text=text)
                counts["edited"] += 1
            if last is None or not turn.trained:
                continue
            if last.action == "drop":
                draft.set_aside(place, REASON)
                counts["dropped"] += 1
            elif last.action == "tag":
                tags[str(place)] = cast(str, last.bucket)
                counts["tagged"] += 1
            else:
                counts["kept"] += 1
        if tags:
            draft.meta[TAGS] = dict(reversed(tags.items()))
    return {**counts, "unmatched": len(decisions.keys() - matched)}


def _settle(
    before: str, text: str, decisions: Mapping[str, Decision], matched: set[str]
) -> tuple[str, Decision | None]:
    """``(text, decision)``: the text after all edits, and the one decision about it that is no edit, if any."""
    passed: set[str] = set()  # an edit may lead back to the first text
    while (name := key(before, text)) in decisions and name not in passed:
        passed.add(name)
        matched.add(name)
        if decisions[name].action != "edit":
            return text, decisions[name]
        text = cast(str, decisions[name].text)
    return text, None
