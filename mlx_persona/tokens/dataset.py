"""Conversations of a file -> rows of token ids and masks, with an account of what was cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mlx_persona.errors import PersonaError
from mlx_persona.schema import Conversation, Message, read_conversations
from mlx_persona.tokens.batches import Row, make_row
from mlx_persona.tokens.render import Rendered, Renderer
from mlx_persona.tokens.store import RowSequence, Stored

_AT_ONCE = 256  # conversations that are tokenized together
CLEAN_HINT = "make it with: mlx-persona clean EXPORT --me NAME  (or: make clean-data RAW=... ME=...)"
FEW_HINT = "mlx-persona clean holds some out where there are three conversations or more"


@dataclass
class Account:
    """What happened to the conversations that were made into rows.

    ``split``: rows begun because a conversation was too long; ``cut``: replies in no row, because not
    even their own exchange fits; ``defused``: control tokens that people had typed, broken up;
    ``targets``: tokens that are trained on.
    """

    conversations: int = 0
    split: int = 0
    cut: int = 0
    defused: int = 0
    targets: int = 0


@dataclass(frozen=True)
class Rows:
    """Rows ready to be batched, and what happened on the way."""

    rows: RowSequence
    account: Account

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.rows.tokens

    @property
    def targets(self) -> int:
        """Tokens that are trained on."""
        return self.account.targets

    def describe(self) -> str:
        """One line for people."""
        account = self.account
        line = f"{account.conversations} conversations, {len(self.rows)} rows, "
        line += f"{self.tokens} tokens, {self.targets} trained on"
        if account.split:
            line += f"; {account.split} rows continue a conversation that was too long for one"
        if account.cut:
            line += f"; {account.cut} replies are too long for a row and left out"
        if account.defused:
            line += f"; {account.defused} control tokens in the text are broken up"
        return line


def windows(messages: tuple[Message, ...], renderer: Renderer, max_tokens: int) -> tuple[list[Rendered], int]:
    """A conversation as rows of at most ``max_tokens``, cut between turns, every reply in one row.

    The newest turns that fit make the last row; what was cut in front of them is cut again, so
    old replies are learnt too, with what fits of their context.

    Returns:
        The rows, newest first, and the number of replies in none: they do not fit, even with no more
        than what follows the last user turn before them.
    """
    head = messages[:1] if messages[0].role == "system" else ()
    turns = _to_last_reply(messages[len(head) :])
    rows: list[Rendered] = []
    lost = 0
    while turns:
        rendered = renderer.render((*head, *turns), max_tokens)
        if rendered is None:
            turns, lost = _to_last_reply(turns[:-1]), lost + 1
            continue
        rows.append(rendered)
        turns = _to_last_reply(turns[: rendered.cut_turns])
    return rows, lost


def _to_last_reply(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages up to the last reply that is trained on; none where there is no such reply."""
    end = len(messages)
    while end and not (messages[end - 1].role == "assistant" and messages[end - 1].train):
        end -= 1
    return messages[:end]


def rows_of(
    conversations: Iterable[Conversation], renderer: Renderer, max_tokens: int, account: Account
) -> Iterator[Row]:
    """Rows for SFT as they are made, counted in ``account``: each weighs what its conversation's ``meta`` says."""
    for conversation in _prepared(conversations, renderer):
        parts, lost = windows(conversation.messages, renderer, max_tokens)
        account.conversations += 1
        account.cut += lost
        account.split += max(0, len(parts) - 1)
        account.defused += max((p.defused for p in parts), default=0)
        weight = float(conversation.meta.get("weight", 1.0))
        for part in reversed(parts):
            row = make_row(part.ids, part.mask, weight)
            if row.targets:
                account.targets += row.targets
                yield row


def _prepared(conversations: Iterable[Conversation], renderer: Renderer) -> Iterator[Conversation]:
    """The same conversations, tokenized together in advance."""
    coming = iter(conversations)
    while chunk := list(islice(coming, _AT_ONCE)):
        renderer.prepare(said for c in chunk if (said := _to_last_reply(c.messages)))
        yield from chunk


def conversation_rows(conversations: Iterable[Conversation], renderer: Renderer, max_tokens: int) -> Rows:
    """Rows for SFT in memory, each as often as its conversation's ``meta["weight"]`` says."""
    account = Account()
    return Rows(Stored.of(list(rows_of(conversations, renderer, max_tokens, account))), account)


class NoReply(PersonaError):  # noqa: N818  (what the user is told, as its parent)
    """A file of conversations that is missing, or in which nothing is trained on."""

    def __init__(self, path: Path) -> None:
        problem = f"{path} holds no reply to train on" if path.is_file() else f"no data: {path} is missing"
        super().__init__(problem, CLEAN_HINT if path.stem == "train" or not path.is_file() else FEW_HINT)


def load_split(folder: Path, name: str) -> list[Conversation]:
    """``<folder>/<name>.jsonl``; raises NoReply when it is missing or holds no trained reply."""
    path = folder / f"{name}.jsonl"
    conversations = read_conversations(path) if path.is_file() else []
    if not any(c.trained_replies for c in conversations):
        raise NoReply(path)
    return conversations


def load_held_out(folder: Path, names: Sequence[str]) -> tuple[Path, list[Conversation]]:
    """The first of these splits that holds a trained reply, its file and its conversations.

    Raises:
        PersonaError: none of them does.
    """
    for name in names:
        path = folder / f"{name}.jsonl"
        if path.is_file():
            conversations = [c for c in read_conversations(path) if c.trained_replies]
            if conversations:
                return path, conversations
    files = " or ".join(f"{name}.jsonl" for name in names)
    raise PersonaError(f"{folder} must hold held-out replies in {files}, got none", FEW_HINT)


def common_system(conversations: Iterable[Conversation]) -> str:
    """The system message that most conversations begin with; empty where most have none."""
    counts = Counter(system_of(c) for c in conversations)
    return counts.most_common(1)[0][0] if counts else ""


def system_of(conversation: Conversation) -> str:
    """The system message that a conversation begins with, or an empty one."""
    first = conversation.messages[0]
    return first.content if first.role == "system" else ""
