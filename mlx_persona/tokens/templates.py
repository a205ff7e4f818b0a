"""A model's own chat template: what it writes, and where in it each message stands.

A template is a foreign program. It may trim contents, refuse a system message, or write one of its
own. So it is watched: rendered once with a unique marker in place of every content, which gives the
fixed text around the messages, and once with the real contents, which must be that fixed text with the
contents filled in. The places of the contents follow, and with them the loss mask.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from mlx_persona.errors import PersonaError
from mlx_persona.schema import Message, Role

# Where a template asks for a date, runs must still repeat. Llama 3.1's own template falls back to this one.
FIXED_DATE = "26 Jul 2024"
FOLD = "\n\n"
_FOLLOW_HINT = "use a model whose chat template writes every turn as it is, or replace its chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Span:
    """Where one message stands in the rendered text, in characters.

    Attributes:
        start, end: the content, as the template wrote it.
        asked: a reply's first character that is not part of the generation prompt. Mistral writes a
            space between the two: there ``asked`` is ``start - 1``, elsewhere it is ``start``.
        stop: just after the ending token, or None where no such token follows.
    """

    start: int
    end: int
    asked: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class Written:
    """A rendered conversation and the place of every message in it."""

    text: str
    spans: tuple[Span, ...]


class ChatTemplate:
    """The chat template of a tokenizer, probed once.

    Attributes:
        name: the tokenizer's name or path, for messages.
        folds: there is no usable system role; the system message goes in front of the first user turn.
        notes: what a user should know about this template, one sentence each.
    """

    def __init__(self, tokenizer: Any, system: str = "") -> None:
        """Probe the template.

        Args:
            tokenizer: a transformers fast tokenizer, or mlx-lm's wrapper around one.
            system: the system message of conversations that have none.

        Raises:
            PersonaError: no chat template, or one that cannot be followed; named.
        """
        self.name: str = getattr(tokenizer, "name_or_path", "") or "this tokenizer"
        source = getattr(tokenizer, "chat_template", None)
        if not getattr(tokenizer, "has_chat_template", source is not None):
            raise PersonaError(
                f"the tokenizer of {self.name} must have a chat template, got none",
                "use the model's instruct or chat variant, or put its chat_template.jinja beside the tokenizer",
            )
        self._tokenizer = tokenizer
        self._source = str(source or "")
        # A person's replies hold no reasoning, so templates that ask whether to think are told not to.
        self._options: dict[str, Any] = {"enable_thinking": False}
        if "date_string" in self._source:
            self._options["date_string"] = FIXED_DATE
        self._writes_date = "strftime_now" in self._source and "date_string" not in self._source
        self._control = _control_tokens(tokenizer, self._source)
        self._skeletons: dict[tuple[Role, ...], tuple[str, ...]] = {}
        self._ending = self._probe_ending()
        self._lead, asks_otherwise = self._probe_generation()
        self.folds = not self._has_system_role()
        self._writes_own, self._empty_helps = self._probe_silence()
        self.notes = self._describe(system, asks_otherwise)

    def arrange(self, system: str, turns: Sequence[Message]) -> list[Message]:
        """The messages to hand to the template: the system message made explicit, or folded.

        The result is ``turns``, its first message changed at most, after at most one message more.
        """
        if not system.strip():
            return [Message("system", ""), *turns] if self._empty_helps else list(turns)
        if not self.folds:
            return [Message("system", system), *turns]
        if turns and turns[0].role == "user":
            return [replace(turns[0], content=self.fold_prefix(system) + turns[0].content), *turns[1:]]
        return [Message("user", system), *turns]

    def fold_prefix(self, system: str) -> str:
        """What stands before the first user turn's own text where the template folds."""
        return system.strip() + FOLD

    def facts(self) -> list[str]:
        """What decides how this template writes a conversation, but for the program's own code."""
        today = date.today().isoformat() if self._writes_date else ""
        return [self._source, repr(getattr(self._tokenizer, "special_tokens_map", "")), today]

    def defuse(self, text: str) -> tuple[str, int]:
        """Break up control tokens that somebody typed: ``<|im_end|>`` becomes ``< |im_end|>``.

        Returns:
            The text without control tokens, and how many were broken up.
        """
        total = 0
        while self._control is not None:
            text, count = self._control.subn(lambda m: m[0][0] + " " + m[0][1:], text)
            total += count
            if count == 0:
                break
        return text, total

    def write(self, messages: Sequence[Message]) -> Written:
        """Render, and find every message in the text.

        Raises:
            PersonaError: the template refuses the messages, or changes them by more than trimming.
        """
        fixed = self._skeleton(tuple(m.role for m in messages))
        text = self._render([(m.role, m.content) for m in messages])
        spans: list[Span] = []
        at = len(fixed[0])
        followed = text.startswith(fixed[0])
        for number, message in enumerate(messages, 1):
            after = fixed[number]
            place = _find(text, at, message.content, after, final=number == len(messages)) if followed else None
            if place is None:
                raise PersonaError(
                    f"the chat template of {self.name} changes the text of message {number} ({message.role}) "
                    "by more than trimming it, so the loss mask cannot be derived",
                    _FOLLOW_HINT,
                )
            start, end = place
            asked = start - len(self._lead) if fixed[number - 1].endswith(self._lead) else start
            spans.append(Span(start, end, asked, self._stop(text, end)))
            at = end + len(after)
        return Written(text, tuple(spans))

    def no_ending(self) -> PersonaError:
        """The error for a reply that no ending token follows."""
        return PersonaError(
            f"the chat template of {self.name} must write an ending token right after every reply, got none: "
            "the loss mask cannot be derived",
            _FOLLOW_HINT,
        )

    def _stop(self, text: str, end: int) -> int | None:
        """Just after the ending token of a reply whose content ends at ``end``."""
        match = self._ending.match(text, end) if self._ending else None
        return match.end() if match else None

    def _render(self, messages: Sequence[tuple[Role, str]], generation: bool = False) -> str:
        chat = [{"role": role, "content": content} for role, content in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=generation, **self._options
            )
        except Exception as error:  # a template is foreign code: it may raise anything
            roles = ", ".join(role for role, _ in messages[:6])
            reason = " ".join(str(error).split())
            raise PersonaError(
                f"the chat template of {self.name} refuses a conversation ({roles}): {reason}"
            ) from error
        return str(text)

    def _skeleton(self, roles: tuple[Role, ...]) -> tuple[str, ...]:
        """The fixed text before, between and after messages with these roles: len(roles) + 1 pieces."""
        if roles in self._skeletons:
            return self._skeletons[roles]
        markers = [_marker(i) for i in range(len(roles))]
        rest = self._render(list(zip(roles, markers, strict=True)))
        pieces: list[str] = []
        for number, (role, marker) in enumerate(zip(roles, markers, strict=True), 1):
            before, found, rest = rest.partition(marker)
            if not found or marker in rest:
                raise PersonaError(
                    f"the chat template of {self.name} leaves out, moves or repeats message {number} ({role}), "
                    "so the loss mask cannot be derived",
                    _FOLLOW_HINT,
                )
            pieces.append(before)
        fixed = (*pieces, rest)
        if not self._writes_date:  # else it is stale after midnight
            self._skeletons[roles] = fixed
        return fixed

    def _probe_ending(self) -> re.Pattern[str] | None:
        """What ends a reply: the control token after the last one, with the space that Llama 2 puts before it."""
        after = self._skeleton(("user", "assistant"))[-1]
        token = self._control.match(after.lstrip()) if self._control else None
        return re.compile(rf"\s*{re.escape(token[0])}") if token else None

    def _probe_generation(self) -> tuple[str, bool]:
        """``(text between the generation prompt and a reply, the two do not fit together)``."""
        before, between, _ = self._skeleton(("user", "assistant"))
        before += _marker(0) + between
        asked = self._render([("user", _marker(0))], generation=True)
        lead = before[len(asked) :]
        return (lead, False) if before.startswith(asked) and not lead.strip() else ("", True)

    def _has_system_role(self) -> bool:
        """Whether a system message stands first, however long the conversation goes on.

        Gemma 2 refuses it. Mistral 7B v0.3 writes it before the last user turn, and only while no reply
        follows: a model trained on that would never see it.
        """
        try:
            self._skeleton(("system", "user", "assistant", "user", "assistant"))
            self._skeleton(("system", "user", "assistant"))
        except PersonaError:
            return False
        return True

    def _probe_silence(self) -> tuple[list[str], bool]:
        """``(the template's own words when there is no system message, an empty one removes some)``."""
        own = self._own_words(self._skeleton(("user", "assistant"))[0])
        if not own or self.folds:
            return own, False
        empty = [Message("system", ""), Message("user", _marker(1)), Message("assistant", _marker(2))]
        try:
            written = self.write(empty)
        except PersonaError:  # an empty system message is not written as such
            return own, False
        left = self._own_words(written.text[: written.spans[1].start])
        return (own, True) if len(left) < len(own) else (left, False)

    def _own_words(self, head: str) -> list[str]:
        """Lines of two words or more in the text before the first user turn: no mere role names."""
        bare = self._control.sub("\n", head) if self._control else head
        return [line.strip() for line in bare.splitlines() if len(line.split()) > 1]

    def _describe(self, system: str, asks_otherwise: bool) -> tuple[str, ...]:
        notes: list[str] = []
        own = " ".join(self._writes_own)
        if self.folds:
            notes.append(
                f"the chat template of {self.name} has no system role that lasts: "
                "a system message is put in front of the first user turn"
            )
        if self._empty_helps:
            if not system.strip():
                notes.append(
                    f"the chat template of {self.name} would write a system message of its own ({own!r}): "
                    "an empty one is given instead"
                )
        elif own:
            notes.append(f"the chat template of {self.name} always writes {own!r}")
        if self._writes_date:
            notes.append(f"the chat template of {self.name} may write today's date: two days may give two results")
        elif "strftime_now" in self._source:
            notes.append(f"the chat template of {self.name} asks for a date: it is always told {FIXED_DATE}")
        if asks_otherwise:
            notes.append(
                f"the generation prompt of {self.name} is not what its chat template writes before a reply: "
                "other programs may ask the model in a way that it was not trained on"
            )
        return tuple(notes)


def _marker(index: int) -> str:
    """A content that no template holds, trims or looks for."""
    return f"Zq{index}jWx"


def _control_tokens(tokenizer: Any, source: str) -> re.Pattern[str] | None:
    """Matches the text of every special token, and of every added one that the template writes itself."""
    found = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if len(token.content) > 1 and token.content.strip() and (token.special or token.content in source)
    }
    longest_first = sorted(found, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first))) if found else None


def _find(text: str, at: int, content: str, after: str, final: bool) -> tuple[int, int] | None:
    """Where ``content``, with none or some of its outer blanks gone, stands at ``at`` and is followed by ``after``."""
    core = content.strip()
    split = content.find(core) if core else len(content)
    lead, trail = content[:split], content[split + len(core) :]
    for cut in range(len(lead) + 1):
        body = lead[cut:] + core
        if not text.startswith(body, at):
            continue
        for left in range(len(trail), -1, -1):
            end = at + len(body) + left
            fits = text.startswith(trail[:left] + after, at + len(body))
            if fits and (not final or end + len(after) == len(text)):
                return at, end
    return None
