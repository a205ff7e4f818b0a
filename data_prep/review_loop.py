"""Step through cleaned replies and decide about each, by one key: ``mlx-persona review``.

The terminal is handed in, so that this runs without one. A decision is on the disk before the next reply is
shown; nothing is lost by stopping.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_prep import review as decide
from data_prep.review import Action, Decision, Reply
from data_prep.tags import BUCKETS
from mlx_persona.config import ReviewConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.schema import Conversation, read_conversations

SPLITS = ("train", "valid", "test")
# What is shown before a reply: so many turns, of each at most so many characters.
CONTEXT_TURNS = 6
CONTEXT_CHARS = 600
ENTER = ("\r", "\n")
DIGITS = {str(number): name for number, name in enumerate(BUCKETS, 1)}
HELP = (
    "k, space, enter: keep it.  d: drop it, it stays as context.  e: edit it.  t and a digit: tag it with a bucket.\n"
    "u: undo, any number of times.  s: skip it, undecided.  q: quit.  Every decision is saved at once."
)
END = "that was the last one: q or enter quits, u undoes"
_SPEAKERS = {"user": "them", "assistant": "me", "system": "system"}
_DONE = {"keep": "kept", "drop": "dropped", "edit": "edited", "tag": "tagged"}


@dataclass(frozen=True, slots=True)
class Card:
    """A reply to decide about, as it is shown.

    Attributes:
        title: where in the sample it is, what was dropped so far, and what was decided about it before.
        context: ``(who, text)`` of the turns before it, the oldest first.
        reply: its whole text.
    """

    title: str
    context: tuple[tuple[str, str], ...]
    reply: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What was decided in one sitting, and how much of the sample is ``left`` undecided."""

    decided: int
    kept: int
    dropped: int
    edited: int
    tagged: int
    left: int
    file: str

    def to_json(self) -> dict[str, Any]:
        """The JSON object: one key per field."""
        return asdict(self)


def review(
    config: ReviewConfig,
    *,
    read_key: Callable[[], str],
    show: Callable[[Card | str], None],
    edit: Callable[[str], str | None],
) -> Summary:
    """Ask about a sample of the trained replies in ``config.data``, and write every decision to ``config.file``.

    Args:
        config: which replies, and how many of them.
        read_key: the next key; EOFError quits.
        show: shows a reply, or a line of news.
        edit: has the user change a text; None for no change.

    Raises:
        PersonaError: no data, no trained reply in it, or a bad line in the file of decisions.
        Interrupted: after KeyboardInterrupt; the decisions so far are kept.
        OSError: a decision cannot be written; those before it are kept.
    """
    file = Path(config.file)
    decisions = decide.read_decisions(file)
    replies = decide.sample(_conversations(Path(config.data)), config.n, config.seed, decide.decided_keys(decisions))
    if not replies:
        raise PersonaError(f"{config.data} has no reply that is trained on", "clean with other filters")
    sitting = _Sitting(replies, decisions, file, read_key, show, edit)
    try:
        sitting.run()
    except KeyboardInterrupt:
        done = f"{sitting.summary().decided} of {len(replies)} decided"
        raise Interrupted(f"stopped: {done}, and kept in {file}", "the same command continues from there") from None
    return sitting.summary()


def _conversations(folder: Path) -> list[Conversation]:
    paths = [path for name in SPLITS if (path := folder / f"{name}.jsonl").is_file()]
    if not paths:
        raise PersonaError(f"no data: {folder / 'train.jsonl'} is missing", "mlx-persona clean EXPORT --me NAME")
    return [conversation for path in paths for conversation in read_conversations(path)]


@dataclass
class _Sitting:
    """The replies, and a step for each that was passed: its decision, or None where it was skipped."""

    replies: list[Reply]
    decisions: dict[str, Decision]
    file: Path
    read_key: Callable[[], str]
    show: Callable[[Card | str], None]
    edit: Callable[[str], str | None]
    steps: list[Decision | None] = field(default_factory=list)

    def run(self) -> None:
        """Until the user quits."""
        shown = -1
        while True:
            if shown != len(self.steps):
                shown = len(self.steps)
                self.show(END if self._at_end else self._card())
            try:
                pressed = self.read_key().lower()
                if pressed == "q" or (self._at_end and pressed in ENTER):
                    return
                self._press(pressed)
            except EOFError:
                return

    def summary(self) -> Summary:
        """What was decided, without what was undone."""
        done = Counter(_DONE[step.action] for step in self.steps if step is not None)
        known = decide.decided_keys(self.decisions) | {step.key for step in self.steps if step is not None}
        left = sum(reply.key not in known for reply in self.replies)
        counts = {name: done[name] for name in _DONE.values()}
        return Summary(decided=done.total(), **counts, left=left, file=str(self.file))

    @property
    def _at_end(self) -> bool:
        return len(self.steps) == len(self.replies)

    @property
    def _reply(self) -> Reply:
        return self.replies[len(self.steps)]

    def _card(self) -> Card:
        reply = self._reply
        title = f"{len(self.steps) + 1} of {len(self.replies)}, {self.summary().dropped} dropped"
        if before := self.decisions.get(reply.key):
            title += f"; before: {_DONE[before.action]}"
            title += f" {before.bucket}" if before.bucket is not None else ""
        messages = reply.conversation.messages[max(reply.place - CONTEXT_TURNS, 0) : reply.place]
        context = tuple((_SPEAKERS[m.role], _shortened(m.content)) for m in messages)
        return Card(title, context, reply.text)

    def _press(self, pressed: str) -> None:
        if pressed == "u":
            self._undo()
        elif pressed == "?":
            self.show(HELP)
        elif self._at_end:
            self.show(END)
        elif pressed in ("k", " ", *ENTER):
            self._decide("keep")
        elif pressed == "d":
            self._decide("drop")
        elif pressed == "e":
            self._change()
        elif pressed == "t":
            self._tag()
        elif pressed == "s":
            self.steps.append(None)
        else:
            self.show("? shows the keys")

    def _decide(self, action: Action, **more: Any) -> None:
        decision = Decision(self._reply.key, action, _now(), **more)
        decide.append(self.file, decision)
        self.steps.append(decision)

    def _undo(self) -> None:
        if not self.steps:
            self.show("nothing to undo")
            return
        if (step := self.steps[-1]) is not None:
            decide.append(self.file, Decision(step.key, "undo", _now()))
        self.steps.pop()

    def _change(self) -> None:
        old = self._reply.text
        new = (self.edit(old) or "").strip()
        if not new or new == old.strip():
            self.show("nothing was changed")
            return
        self._decide("edit", text=new, becomes=decide.key(self._reply.before, new))

    def _tag(self) -> None:
        self.show("which bucket? " + "  ".join(f"{digit}: {name}" for digit, name in DIGITS.items()))
        digit = self.read_key()
        if digit in DIGITS:
            self._decide("tag", bucket=DIGITS[digit])
        else:
            self.show("none of them, so it is not tagged")


def _shortened(text: str) -> str:
    return text if len(text) <= CONTEXT_CHARS else f"... {text[-CONTEXT_CHARS:]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
