"""Conversations of a file -> rows of token ids and masks, with an account of what was cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_persona.errors import PersonaError
from mlx_persona.schema import Conversation, Message, read_conversations
from mlx_persona.tokens.batches import Row, make_row
from mlx_persona.tokens.render import Rendered, Renderer

CLEAN_HINT = "make it with: mlx-persona clean EXPORT --me NAME  (or: make clean-data RAW=... ME=...)"


@dataclass(frozen=True)
class Rows:
    """Rows ready to be batched, and what happened on the way.

    ``split``: rows begun because a conversation was too long; ``cut``: replies in no row, because not
    even their own exchange fits; ``defused``: control tokens that people had typed, broken up.
    """

    rows: tuple[Row, ...]
    conversations: int
    split: int = 0
    cut: int = 0
    defused: int = 0

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row."""
        return tuple(len(r.ids) for r in self.rows)

    @property
    def tokens(self) -> int:
        """All tokens."""
        return sum(self.lengths)

    @property
    def targets(self) -> int:
        """Tokens that are trained on."""
        return sum(r.targets for r in self.rows)

    def describe(self) -> str:
        """One line for people."""
        line = f"{self.conversations} conversations, {len(self.rows)} rows, "
        line += f"{self.tokens} tokens, {self.targets} trained on"
        if self.split:
            line += f"; {self.split} rows continue a conversation that was too long for one"
        if self.cut:
            line += f"; {self.cut} replies are too long for a row and left out"
        if self.defused:
            line += f"; {self.defused} control tokens in the text are broken up"
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
    turns = messages[len(head) :]
    rows: list[Rendered] = []
    lost = 0
    while any(m.role == "assistant" and m.train for m in turns):
        while not (turns[-1].role == "assistant" and turns[-1].train):
            turns = turns[:-1]
        rendered = renderer.render((*head, *turns), max_tokens)
        if rendered is None:
            turns, lost = turns[:-1], lost + 1
            continue
        rows.append(rendered)
        turns = turns[: rendered.cut_turns]
    return rows, lost


def conversation_rows(conversations: Iterable[Conversation], renderer: Renderer, max_tokens: int) -> Rows:
    """Rows for SFT, each as often as its conversation's ``meta["weight"]`` says."""
    rows: list[Row] = []
    count = split = cut = defused = 0
    for conversation in conversations:
        parts, lost = windows(conversation.messages, renderer, max_tokens)
        count += 1
        cut += lost
        split += max(0, len(parts) - 1)
        defused += max((p.defused for p in parts), default=0)
        weight = float(conversation.meta.get("weight", 1.0))
        rows += [row for row in (make_row(p.ids, p.mask, weight) for p in reversed(parts)) if row.targets]
    return Rows(tuple(rows), count, split, cut, defused)


def load_split(folder: Path, name: str) -> list[Conversation]:
    """``<folder>/<name>.jsonl``; raises PersonaError when it is missing or holds no trained reply."""
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        raise PersonaError(f"no data: {path} is missing", CLEAN_HINT)
    conversations = read_conversations(path)
    if not any(c.trained_replies for c in conversations):
        raise PersonaError(f"{path} holds no reply to train on", CLEAN_HINT)
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
    raise PersonaError(f"{folder} must hold held-out replies in {files}, got none", CLEAN_HINT)


def common_system(conversations: Iterable[Conversation]) -> str:
    """The system message that most conversations begin with; empty where most have none."""
    counts = Counter(c.messages[0].content if c.messages[0].role == "system" else "" for c in conversations)
    return counts.most_common(1)[0][0] if counts else ""
