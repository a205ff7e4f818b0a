"""A conversation through the model's own chat template: token ids, and which of them are trained on.

Every assistant turn (unless ``train`` is false) is trained on, its ending token included, and nothing
else; the placeholders of personal data in it ([NAME_3]) are not. A conversation that is too long loses
its oldest turns whole, never the end of a reply.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from tokenizers import processors

from mlx_persona.errors import PersonaError
from mlx_persona.schema import PLACEHOLDER, Message
from mlx_persona.tokens.templates import ChatTemplate, Span, Written

# Tokenizing on all cores is meant: else every process that is started later prints a warning about it.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

_REPLY = Message("assistant", "Reply")  # stands for the reply that a prompt asks for


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training row.

    Attributes:
        ids: token ids; the start-of-text token is there once, if the template writes it.
        mask: per id, whether it is a training target.
        text: what ``ids`` were made from.
        cut_turns: turns left out to fit.
        cut_chars: characters cut from the start of the one user turn left, to fit.
        defused: control tokens in the messages that were broken up into plain text.
    """

    ids: list[int]
    mask: list[bool]
    text: str
    cut_turns: int = 0
    cut_chars: int = 0
    defused: int = 0


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One rendering: ``T`` tokens and where they and the turns stand in the text."""

    turns: Sequence[Message]
    spans: Sequence[Span]  # one per turn; the folded system message is no part of the first
    text: str
    ids: list[int]  # (T,)
    starts: np.ndarray[Any, np.dtype[np.int64]]  # (T,) first character of each token
    ends: np.ndarray[Any, np.dtype[np.int64]]  # (T,)

    def before(self, position: int) -> int:
        """How many tokens start before this character."""
        return int(np.searchsorted(self.starts, position))


class Renderer:
    """Renders conversations for one tokenizer.

    Attributes:
        notes: what a user should know about this model's chat template, one sentence each.
    """

    def __init__(self, tokenizer: Any, *, system: str = "", mask_prompt: bool = True) -> None:
        """Probe the tokenizer's chat template.

        Args:
            tokenizer: a transformers fast tokenizer, or mlx-lm's wrapper around one.
            system: the system message of conversations that have none of their own; empty: none.
            mask_prompt: train on the replies only; False trains on every token.

        Raises:
            PersonaError: no chat template, one that cannot be followed, or no fast tokenizer.
        """
        self._template = ChatTemplate(tokenizer, system)
        self._encoder = _encoder(tokenizer, self._template.name)
        self._system = system
        self._mask_prompt = mask_prompt
        self._done: dict[tuple[str, tuple[Message, ...]], tuple[Written, Any]] = {}
        self.notes = self._template.notes

    @property
    def vocabulary(self) -> int:
        """All ids are below it."""
        return int(self._encoder.get_vocab_size(with_added_tokens=True))

    def fingerprint(self) -> str:
        """SHA-256 of what decides the ids and masks, but for the program's own code: tokenizer, template, options."""
        versions = [version(package) for package in ("tokenizers", "transformers", "mlx-lm")]
        facts = [self._encoder.to_str(), *self._template.facts(), self._system, self._mask_prompt, versions]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def prepare(self, conversations: Iterable[Sequence[Message]]) -> None:
        """Write and tokenize conversations that are about to be rendered, all at once: the tokenizer uses all cores.

        Raises:
            PersonaError: the template refuses one of them.
        """
        written: dict[tuple[str, tuple[Message, ...]], Written] = {}
        for messages in conversations:
            system, turns, _ = self._split(messages)
            written[system, tuple(turns)] = self._write(system, turns)
        encodings = self._encoder.encode_batch([w.text for w in written.values()], add_special_tokens=False)
        self._done = dict(zip(written, zip(written.values(), encodings, strict=True), strict=True))

    def render(self, messages: Sequence[Message], max_tokens: int | None = None) -> Rendered | None:
        """Ids and mask of a conversation, of at most ``max_tokens`` ids.

        What does not fit goes in this order: turns after the last trained reply; the oldest exchanges,
        whole, so that a user turn comes first; the start of the last user turn's text. A reply's leading
        blanks go if the tokenizer would join them with the template's text, because no prompt could ever
        ask for such a reply.

        Returns:
            None if the system message and the reply alone are too long.

        Raises:
            PersonaError: the template refuses the conversation, or the mask cannot be derived.
        """
        system, turns, defused = self._split(messages)
        drawn = self._draw(system, turns)
        cut_turns = cut_chars = 0
        if max_tokens is not None and len(drawn.ids) > max_tokens:
            trained = [i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.train]
            last = trained[-1] if trained and self._mask_prompt else len(turns) - 1
            fitted = self._fit(system, turns[: last + 1], max_tokens)
            if fitted is None:
                return None
            drawn, cut_chars = fitted
            cut_turns = len(turns) - len(drawn.turns)
        return Rendered(drawn.ids, self._mask(drawn), drawn.text, cut_turns, cut_chars, defused)

    def prompt(self, messages: Sequence[Message], max_tokens: int | None = None) -> list[int]:
        """Ids up to where the next reply begins, cut as :meth:`render` cuts.

        ``prompt(messages[:-1])`` is what stands before the last reply in ``render(messages)``.

        Raises:
            PersonaError: as :meth:`render`, or the system message alone is too long.
        """
        system, turns, _ = self._split(messages)
        drawn = self._draw(system, turns, asked=True)
        if max_tokens is not None and len(drawn.ids) > max_tokens:
            fitted = self._fit(system, turns, max_tokens, asked=True)
            if fitted is None:
                raise PersonaError(
                    f"a prompt must fit in {max_tokens} tokens, but its system message and last turn do not",
                    "shorten the system message, or allow more tokens (--max-seq-length)",
                )
            drawn = fitted[0]
        return drawn.ids

    def show(self, rendered: Rendered) -> list[tuple[str, bool]]:
        """``(text, trained on)`` per token, for a viewer; the texts join to ``rendered.text``.

        Tokens that share a character (an emoji's bytes) are one piece.
        """
        pieces: list[tuple[str, bool]] = []
        done = 0
        offsets = self._encoder.encode(rendered.text, add_special_tokens=False).offsets
        for (_, end), trained in zip(offsets, rendered.mask, strict=True):
            if end > done:
                pieces.append((rendered.text[done:end], trained))
                done = end
        if done < len(rendered.text):  # characters that the tokenizer drops
            pieces.append((rendered.text[done:], False))
        return pieces

    def _split(self, messages: Sequence[Message]) -> tuple[str, list[Message], int]:
        """``(system message, turns, control tokens broken up)``."""
        total = 0
        safe: list[Message] = []
        for message in messages:
            content, count = self._template.defuse(message.content)
            safe.append(replace(message, content=content) if count else message)
            total += count
        system = self._template.defuse(self._system)[0]
        if safe and safe[0].role == "system":
            system = safe.pop(0).content
        if not safe:
            raise PersonaError("a conversation must have a turn besides the system message, got none")
        return system, safe, total

    def _draw(self, system: str, turns: Sequence[Message], asked: bool = False) -> _Drawn:
        """Render and tokenise once; ``asked`` stops where the reply to ``turns`` would begin."""
        drawn = self._draw_as_is(system, turns, asked)
        joined = [i for i, turn in enumerate(turns) if turn.role == "assistant" and _joined(drawn, drawn.spans[i])]
        if not joined:
            return drawn
        clean = list(turns)
        for i in joined:
            clean[i] = replace(turns[i], content=turns[i].content.lstrip())
        return self._draw_as_is(system, clean, asked)

    def _write(self, system: str, turns: Sequence[Message]) -> Written:
        return self._template.write(self._template.arrange(system, turns))

    def _draw_as_is(self, system: str, turns: Sequence[Message], asked: bool) -> _Drawn:
        done = None if asked else self._done.get((system, tuple(turns)))
        written = done[0] if done else self._write(system, [*turns, _REPLY] if asked else turns)
        text, spans = written.text, list(written.spans)
        if asked:
            text = text[: spans.pop().asked]
        spans = spans[len(spans) - len(turns) :]
        if self._template.folds and system.strip() and turns[0].role == "user":
            own = spans[0].start + len(self._template.fold_prefix(system))
            spans[0] = replace(spans[0], start=min(own, spans[0].end))
        encoding = done[1] if done else self._encoder.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)  # (T, 2)
        return _Drawn(turns, spans, text, list(encoding.ids), offsets[:, 0], offsets[:, 1])

    def _mask(self, drawn: _Drawn) -> list[bool]:
        mask = np.full(len(drawn.ids), not self._mask_prompt)
        for turn, span in zip(drawn.turns, drawn.spans, strict=True):
            if turn.role != "assistant" or not turn.train or not self._mask_prompt:
                continue
            if span.stop is None:
                raise self._template.no_ending()
            mask |= (drawn.starts < span.stop) & (drawn.ends > span.asked)
        for found in PLACEHOLDER.finditer(drawn.text):  # personal data stood there: nothing to learn to say
            mask &= (drawn.starts >= found.end()) | (drawn.ends <= found.start())
        return [bool(flag) for flag in mask]

    def _fit(
        self, system: str, turns: Sequence[Message], max_tokens: int, asked: bool = False
    ) -> tuple[_Drawn, int] | None:
        """The newest of ``turns`` that fit, and the characters cut from a user turn; None if nothing does."""
        drawn = self._draw(system, turns, asked)
        while len(drawn.ids) > max_tokens and (starts := _starts(turns)):
            # One rendering tells how many tokens each exchange costs, so a long conversation is not
            # rendered again for each turn that goes.
            over, first = len(drawn.ids) - max_tokens, drawn.before(drawn.spans[0].start)
            enough = (i for i in starts if drawn.before(drawn.spans[i].start) - first >= over)
            turns = turns[next(enough, starts[-1]) :]
            drawn = self._draw(system, turns, asked)
        whole = len(turns[0].content)
        while len(drawn.ids) > max_tokens:
            shorter = _shorten(drawn, len(drawn.ids) - max_tokens)
            if shorter is None:
                return None
            turns = [shorter, *turns[1:]]
            drawn = self._draw(system, turns, asked)
        return drawn, whole - len(turns[0].content)


def _starts(turns: Sequence[Message]) -> list[int]:
    """Where a conversation may begin after a cut: at a later user turn, or, without one, at its end."""
    users = [i for i, turn in enumerate(turns) if i > 0 and turn.role == "user"]
    return users or ([len(turns) - 1] if len(turns) > 1 and turns[0].role != "user" else [])


def _shorten(drawn: _Drawn, over: int) -> Message | None:
    """The first turn without the first ``over`` tokens of its text; None if it is no user turn or too short."""
    turn, span = drawn.turns[0], drawn.spans[0]
    first = drawn.before(span.start)
    if turn.role != "user" or drawn.before(span.end) - first <= over:
        return None
    at = max(int(drawn.ends[first + over - 1]), span.start + 1)
    return replace(turn, content=drawn.text[at : span.end])


def _joined(drawn: _Drawn, span: Span) -> bool:
    """Whether a token holds both a reply's leading blank and the text before the reply."""
    if not drawn.text[span.start : span.start + 1].isspace():
        return False
    return bool(np.any((drawn.starts < span.asked) & (drawn.ends > span.asked)))


def _encoder(tokenizer: Any, name: str) -> Any:
    """The Rust tokenizer, with offsets that count every character and no truncation or padding."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise PersonaError(
            f"the tokenizer of {name} must be a fast one (tokenizer.json), got {type(tokenizer).__name__}"
        )
    # Some post-processors trim blanks off the offsets, so that a blank belongs to no token.
    offsets = backend.encode("a \n b", add_special_tokens=False).offsets
    covered = {at for start, end in offsets for at in range(start, end)}
    if len(covered) == 5 and not backend.truncation and not backend.padding:
        return backend
    own = copy.deepcopy(backend)
    own.post_processor = processors.Sequence([])
    own.no_truncation()
    own.no_padding()
    return own
