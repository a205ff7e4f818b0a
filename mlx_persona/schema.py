"""Messages, conversations and preference pairs, and their JSONL files.

Everything that crosses a stage boundary is one of these three. Reading is strict:
an error names the file and the line (``train.jsonl:17``), so that it can be mended.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from mlx_persona.errors import PersonaError
from mlx_persona.files import write_pieces

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
# What cleaning writes in place of personal data, [NAME_3]; training leaves it out of the loss.
PLACEHOLDERS = ("NAME", "PHONE", "EMAIL", "ADDRESS", "CARD", "IBAN", "ID", "IP", "URL", "KEY", "COORD")
PLACEHOLDER = re.compile(rf"\[(?:{'|'.join(PLACEHOLDERS)})_[0-9]+\]")
_T = TypeVar("_T", "Conversation", "Pair")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``train=False`` keeps it as context and out of the loss."""

    role: Role
    content: str
    train: bool = True

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this message; ``train`` only where it is false."""
        out: dict[str, Any] = {"role": self.role, "content": self.content}
        if not self.train:
            out["train"] = False
        return out

    @classmethod
    def from_json(cls, value: object) -> Message:
        """Parse one message.

        Raises:
            PersonaError: not an object, an unknown role, or content that is not text.
        """
        if not isinstance(value, dict):
            raise PersonaError(f"a message must be an object, got {type(value).__name__}")
        role, content = value.get("role"), value.get("content")
        if role not in ROLES:
            raise PersonaError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
        _check_text("content", content)
        train = value.get("train", True)
        if not isinstance(train, bool):
            raise PersonaError(f"train must be true or false, got {train!r}")
        return cls(cast(Role, role), cast(str, content), train)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in the order in which they were said; ``meta`` is carried along, never trained on.

    ``meta["weight"]`` (default 1) is how often training draws the conversation, against the others.
    """

    messages: tuple[Message, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this conversation."""
        out: dict[str, Any] = {"messages": [m.to_json() for m in self.messages]}
        if self.meta:
            out["meta"] = self.meta
        return out

    @classmethod
    def from_json(cls, value: object) -> Conversation:
        """Parse one conversation; raises PersonaError."""
        messages = value.get("messages") if isinstance(value, dict) else None
        if not isinstance(messages, list) or not messages:
            raise PersonaError('a conversation must be an object with a non-empty "messages" list')
        meta = cast(dict[str, Any], value).get("meta", {})
        if not isinstance(meta, dict):
            raise PersonaError(f"meta must be an object, got {type(meta).__name__}")
        weight = meta.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise PersonaError(f"meta.weight must be a number >= 0, got {weight!r}")
        return cls(tuple(Message.from_json(m) for m in messages), meta)

    @property
    def trained_replies(self) -> int:
        """How many assistant turns are trained on."""
        return sum(m.role == "assistant" and m.train for m in self.messages)


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with the reply that is wanted and one that is not."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    meta: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this pair."""
        out: dict[str, Any] = {
            "messages": [m.to_json() for m in self.messages],
            "chosen": self.chosen,
            "rejected": self.rejected,
        }
        if self.meta:
            out["meta"] = self.meta
        return out

    @classmethod
    def from_json(cls, value: object) -> Pair:
        """Parse one pair; raises PersonaError."""
        prompt = Conversation.from_json(value)
        sides = [cast(dict[str, Any], value).get(k) for k in ("chosen", "rejected")]
        for key, side in zip(("chosen", "rejected"), sides, strict=True):
            if not isinstance(side, str) or not side.strip():
                raise PersonaError(f"{key} must be non-empty text, got {side!r}")
            _check_text(key, side)
        return cls(prompt.messages, cast(str, sides[0]), cast(str, sides[1]), prompt.meta)


def _check_text(name: str, value: object) -> None:
    """Raise PersonaError unless it is text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise PersonaError(f"{name} must be text, got {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PersonaError(f"{name} is not valid Unicode (half of a surrogate pair)") from error


def read_jsonl(path: Path) -> Iterator[tuple[int, object]]:
    """Yield ``(line number, value)`` for each non-blank line.

    Raises:
        PersonaError: no such file, or a line that is not JSON (named as file:line).
    """
    if not path.is_file():
        raise PersonaError(f"no such file: {path}")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise PersonaError(f"{path}:{number}: not UTF-8 (byte {error.start + 1})") from error
            except json.JSONDecodeError as error:
                raise PersonaError(f"{path}:{number}: not JSON ({error.msg})") from error
            except (ValueError, RecursionError) as error:
                raise PersonaError(f"{path}:{number}: not JSON ({error})") from error
            yield number, value


def _read(path: Path, kind: type[_T]) -> Iterator[_T]:
    for number, value in read_jsonl(path):
        try:
            yield kind.from_json(value)
        except PersonaError as error:
            raise PersonaError(f"{path}:{number}: {error.message}", error.hint) from error


def iter_conversations(path: Path) -> Iterator[Conversation]:
    """The conversations of a JSONL file one by one, as they are read; raises PersonaError naming file:line."""
    return _read(path, Conversation)


def read_conversations(path: Path) -> list[Conversation]:
    """All conversations of a JSONL file; raises PersonaError naming file:line."""
    return list(_read(path, Conversation))


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of a JSONL file; raises PersonaError naming file:line."""
    return list(_read(path, Pair))


def dump_line(value: object) -> str:
    """One JSONL line: UTF-8 as it is, keys in the given order."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def write_jsonl(path: Path, records: Iterable[Conversation | Pair]) -> int:
    """Write records atomically, one per line; returns how many."""
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        for record in records:
            count += 1
            yield dump_line(record.to_json())

    write_pieces(path, lines())
    return count
