"""Held-out prompts: what was said before a reply, and what the person really said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_persona.schema import Conversation, Message


@dataclass(frozen=True)
class Asked:
    """A held-out prompt: what was said before a reply, and what the person really said."""

    before: tuple[Message, ...]
    real: str


def all_asked(conversations: Sequence[Conversation]) -> list[Asked]:
    """Every trained reply that answers a user's turn, in order."""
    return [
        Asked(conversation.messages[:i], message.content)
        for conversation in conversations
        for i, message in enumerate(conversation.messages)
        if message.role == "assistant" and message.train and i and conversation.messages[i - 1].role == "user"
    ]
