"""What the adapter of every run is judged by: the same held-out conversations, prompts and random keys for all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_persona.config import EvalConfig, SweepConfig
from mlx_persona.evals.panel import BASE, Asking, Candidate, Panel, Present
from mlx_persona.evals.parts.prompts import PromptPart
from mlx_persona.evals.parts.style import LOSS_BATCH, StylePart
from mlx_persona.evals.scripts import Answers, Part, Script, TableRow
from mlx_persona.files import write_text
from mlx_persona.generation.engine import Sampling
from mlx_persona.generation.job import PARTIAL
from mlx_persona.models.heads import row_logits
from mlx_persona.models.trained import find_trained
from mlx_persona.schema import Conversation, dump_line
from mlx_persona.stages.parts import Material, make_parts
from mlx_persona.tokens.batches import Row, collate, evenly, ordered_batches
from mlx_persona.tokens.dataset import conversation_rows, load_held_out
from mlx_persona.training.objectives import row_log_probs

TEMPERATURE, TOP_P, BATCH = 0.8, 0.95, 64
Floats = NDArray[np.float64]


def row_losses(model: Any, rows: Sequence[Row]) -> Floats:
    """Summed cross-entropy over each row's supervised tokens, in nats, and their number: (N, 2)."""
    logits = row_logits(model)
    found = np.zeros((len(rows), 2))
    for members in ordered_batches([len(row.ids) for row in rows], LOSS_BATCH):
        batch = {key: mx.array(value) for key, value in collate([rows[i] for i in members]).items()}
        sums, counts = row_log_probs(logits, model, batch, len(members))
        found[list(members)] = np.stack([-np.asarray(sums), np.asarray(counts)], axis=1)
    return found


class HeldOutLoss:
    """The loss on the person's replies, conversation by conversation, so that runs can be compared in pairs."""

    name = "held-out"
    everyone = True
    scripts: Sequence[Script] = ()

    def __init__(self, conversations: Sequence[Conversation], rows: int, max_seq_length: int) -> None:
        self._conversations, self._rows, self._max_seq_length = conversations, rows, max_seq_length
        self._found: dict[str, list[list[float]]] = {}

    def measure(self, present: Present) -> None:
        """Keep ``[nats, tokens]`` of every conversation."""
        rows: list[Row] = []
        owner: list[int] = []
        for number, conversation in enumerate(self._conversations):
            own = conversation_rows([conversation], present.renderer, self._max_seq_length + present.extra).rows
            rows += own
            owner += [number] * len(own)
        chosen = evenly(len(rows), self._rows)
        sums = np.zeros((len(self._conversations), 2))
        np.add.at(sums, [owner[i] for i in chosen], row_losses(present.loaded.model, [rows[i] for i in chosen]))
        self._found[present.candidate.label] = [[float(a), float(b)] for a, b in sums]

    def score(self, answers: Answers) -> dict[str, Any]:
        """Label -> ``[nats, tokens]`` of every conversation."""
        return {label: self._found[label] for label in answers}

    def rows(self, scores: Mapping[str, Any]) -> list[TableRow]:
        """None: a sweep has a table of its own."""
        return []


@dataclass
class Measures:
    """Measures one adapter after another.

    Attributes:
        parts: what is asked and measured.
        model: the base model's folder.
        folder: where replies are kept, a folder for each run.
        notes: what cannot be measured, and why.
    """

    parts: Sequence[Part]
    model: str
    folder: Path
    sampling: Sampling
    notes: list[str] = field(default_factory=list)
    _base: dict[str, Answers] = field(default_factory=dict)

    @classmethod
    def make(cls, config: SweepConfig, model: str, folder: Path, system: str, max_seq_length: int) -> Measures:
        """What ``config.measures`` names.

        Args:
            config: the sweep's options.
            model: the base model's folder.
            folder: where replies are kept.
            system: what the runs are trained with.
            max_seq_length: tokens per held-out row and per prompt, as in training.

        Raises:
            PersonaError: no held-out replies.
        """
        wanted = tuple(name for name in ("style", "prompts") if name in config.measures)
        sampling = Sampling(config.max_tokens, TEMPERATURE, TOP_P, 0)
        parts: list[Part] = []
        notes: list[str] = []
        if "loss" in config.measures:
            _, held_out = load_held_out(Path(config.data), ("test", "valid"))
            parts.append(HeldOutLoss(held_out, config.loss_rows, max_seq_length))
        if wanted:
            asking = EvalConfig(
                data=config.data,
                parts=wanted,
                n=config.prompts,
                loss_rows=1,  # the loss has a part of its own here
                max_tokens=config.max_tokens,
                max_seq_length=max_seq_length,
            )
            material = Material.read(asking)
            parts += make_parts(asking, material, Candidate(BASE, model, None, system))
            notes = material.notes
        found = cls(parts, model, folder, sampling, notes)
        if parts:
            found._base = found._ask(Candidate(BASE, model, None, system))
        return found

    @property
    def base(self) -> dict[str, Any]:
        """The base model's figures."""
        return self._figures(BASE, self._base) if self.parts else {}

    def of(self, name: str, run: Path) -> dict[str, Any]:
        """The figures of a finished run's adapter; its replies are written to ``replies.jsonl``.

        Raises:
            PersonaError: the adapter does not load.
            Interrupted: after KeyboardInterrupt; the replies so far are kept.
        """
        if not self.parts:
            return {}
        found = find_trained(str(run), self.model, ())
        answers = self._ask(Candidate(name, found.model, found.adapter, found.spec.system))
        figures = self._figures(name, answers)
        lines = [
            {"part": part.name, "asked": [m.to_json() for m in script.before], "reply": replies[0].text}
            for part in self.parts
            for script, replies in zip(part.scripts, answers[part.name][name], strict=True)
        ]
        write_text(self.folder / name / "replies.jsonl", "".join(map(dump_line, lines)))
        (self.folder / name / PARTIAL).unlink(missing_ok=True)
        return figures

    def _ask(self, candidate: Candidate) -> dict[str, Answers]:
        found = Panel([candidate], self.parts, Asking(self.sampling, BATCH)).ask(self.folder / candidate.label)
        return dict(found)

    def _figures(self, label: str, answers: Mapping[str, Answers]) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for part in self.parts:
            own = {label: answers[part.name][label]}
            if isinstance(part, HeldOutLoss):
                losses = part.score(own)[label]
                figures["held_out"] = losses
                figures["held_out_loss"] = sum(a for a, _ in losses) / sum(b for _, b in losses)
            elif isinstance(part, StylePart):
                column = part.card(own).figures[label]
                figures["style_distance"] = column.style_distance
                figures["style_interval"] = column.style_interval
                figures["above_floor"] = column.above_floor
                figures["attribution"] = asdict(column.attribution) if column.attribution else None
                figures["cut_share"] = column.cut_share
            elif isinstance(part, PromptPart):
                both = {BASE: self._base[part.name][BASE], **own}
                figures["prompts"] = part.score(both)
        return json.loads(json.dumps(figures))  # as it will be read from the file
