"""Style: how far each model's replies are from the person's held-out ones, and how well it predicts those."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_persona.errors import PersonaError
from mlx_persona.evals.asked import Asked
from mlx_persona.evals.attribution import Attribution
from mlx_persona.evals.card import Card
from mlx_persona.evals.figures import OTHERS, Said, figures
from mlx_persona.evals.panel import Present
from mlx_persona.evals.scripts import Answers, Script, TableRow
from mlx_persona.evals.wording import Wording
from mlx_persona.models.heads import row_logits
from mlx_persona.schema import Conversation
from mlx_persona.tokens.batches import Row, collate, evenly, ordered_batches
from mlx_persona.tokens.dataset import conversation_rows
from mlx_persona.training.objectives import token_log_probs

LOSS_BATCH = 8


class StylePart:
    """The held-out prompts, asked of everybody; their answers become the report card."""

    name = "style"
    everyone = True

    def __init__(
        self,
        data: str,
        conversations: Sequence[Conversation],
        every: Sequence[Asked],
        asked: Sequence[Asked],
        wording: Wording,
        attribution: Attribution | None,
        *,
        loss_rows: int,
        max_seq_length: int,
        seed: int,
    ) -> None:
        """Choose what is compared.

        Args:
            data: the held-out file.
            conversations: what it holds.
            every: all their prompts, whose real replies the models' are compared with.
            asked: those that the models are asked.
            wording: of the real replies.
            attribution: who wrote it, or None where that cannot be told.
            loss_rows: rows for the loss, evenly spread; 0: no loss.
            max_seq_length: tokens per conversation and per prompt.
            seed: fixes every draw.
        """
        self.asked, self._every = tuple(asked), every
        self._data, self._conversations = data, conversations
        self.scripts = [Script(one.before, max_prompt=max_seq_length) for one in asked]
        self._wording, self._attribution = wording, attribution
        self._loss_rows, self._max_seq_length, self._seed = loss_rows, max_seq_length, seed
        self._loss: dict[str, float] = {}
        self._loss_tokens = 0

    def measure(self, present: Present) -> None:
        """The loss on the person's real replies, if it is asked for."""
        if not self._loss_rows:
            return
        length = self._max_seq_length + present.extra
        said = [replace(c, messages=tuple(present.candidate.said(c.messages))) for c in self._conversations]
        found = conversation_rows(said, present.renderer, length).rows
        rows = [found[i] for i in evenly(len(found), self._loss_rows)]
        if not rows:
            raise PersonaError(
                f"no held-out conversation fits in {length} tokens", "allow more tokens (--max-seq-length)"
            )
        self._loss[present.candidate.label] = mean_loss(present.loaded.model, rows, present.counting("loss", len(rows)))
        self._loss_tokens = sum(row.targets for row in rows)

    def card(self, answers: Answers) -> Card:
        """The report card."""
        real = [one.real for one in self._every]
        others = [m.content for c in self._conversations for m in c.messages if m.role == "user"]
        said = {OTHERS: Said([others[i] for i in evenly(len(others), len(self.asked))])}
        for label, replies in answers.items():
            first = [reply for reply, *_ in replies]
            texts, cut = [reply.text.strip() for reply in first], [reply.cut for reply in first]
            said[label] = Said(texts, cut, self._loss.get(label))
        return Card(
            data=self._data,
            references=len(real),
            loss_tokens=self._loss_tokens,
            asked=self.asked,
            figures=figures(real, said, self._wording, self._attribution, self._seed),
            replies={label: list(said[label].texts) for label in answers},
            attribution=self._attribution.training if self._attribution else None,
        )

    def score(self, answers: Answers) -> dict[str, Any]:
        """The card as JSON values."""
        return self.card(answers).to_json()

    def rows(self, scores: Mapping[str, Any]) -> list[TableRow]:
        """None: the card has a table of its own (:meth:`Card.table`)."""
        return []


def mean_loss(model: Any, rows: Sequence[Row], on_batch: Callable[[int], None] | None = None) -> float:
    """Mean cross-entropy over all supervised tokens of the rows, in nats; batches add up exactly.

    Args:
        model: any mlx-lm model.
        rows: rendered conversations with at least one supervised token among them.
        on_batch: called with the number of rows that were just scored.
    """
    logits_at = row_logits(model)
    total, count = 0.0, 0
    for members in ordered_batches([len(row.ids) for row in rows], LOSS_BATCH):
        batch = {key: mx.array(value) for key, value in collate([rows[i] for i in members]).items()}
        log_probs = np.array(token_log_probs(logits_at, model, batch) * batch["weights"])  # (P,)
        total -= float(log_probs.sum(dtype=np.float64))
        count += sum(rows[i].targets for i in members)
        if on_batch:
            on_batch(len(members))
    return total / count
