"""The quick report card: how far base, SFT, DPO and fused model are from the person's held-out replies.

Every candidate gets the same rows, the same prompts and the same random keys, and stands beside the person's
own figures and those of the people who write to them. The loss says how well a candidate predicts the real replies;
style and wording say how much its own replies look like them (:mod:`mlx_persona.evals.style`, ``wording``), and
attribution whose they are taken for; none says whether they make sense, so read some. docs/evaluation.md explains them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_persona import ui
from mlx_persona.config import CardConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.asked import Asked, all_asked
from mlx_persona.evals.attribution import Attribution, Training
from mlx_persona.evals.figures import OTHERS, PERSON, Figures, Said, figures, table
from mlx_persona.evals.wording import Wording
from mlx_persona.evals.words import fitting_list, read_list
from mlx_persona.files import write_text
from mlx_persona.generation import engine
from mlx_persona.models.adapters import detach, load_adapter
from mlx_persona.models.heads import row_logits
from mlx_persona.models.load import LoadedModel, load_model
from mlx_persona.schema import Conversation, dump_line
from mlx_persona.tokens.batches import Row, collate, evenly, ordered_batches
from mlx_persona.tokens.dataset import conversation_rows, load_held_out, load_split
from mlx_persona.tokens.render import Renderer
from mlx_persona.training.objectives import token_log_probs

LOSS_BATCH = 8
SHOWN = 5
# A split-half floor of fewer replies says nothing.
MIN_REPLIES = 10


@dataclass(frozen=True)
class Candidate:
    """One model to judge: ``label`` is ``base``, ``sft``, ``dpo`` or ``fused``; ``model`` as ``--model`` takes it."""

    label: str
    model: str
    adapter: Path | None = None


@dataclass(frozen=True)
class Card:
    """The whole report card.

    Attributes:
        data: the held-out file.
        references: how many of the person's replies the styles are compared with.
        loss_tokens: how many tokens the losses are means over.
        asked: the prompts, in the order of ``replies``.
        figures: label -> column; the person's comes first, then that of the people who write to them.
        replies: label -> one reply per prompt.
        attribution: what the classifier learned from; None without one.
        notes: what could not be measured, and why.
    """

    data: str
    references: int
    loss_tokens: int
    asked: tuple[Asked, ...]
    figures: dict[str, Figures]
    replies: dict[str, list[str]]
    attribution: Training | None = None
    notes: tuple[str, ...] = ()

    @property
    def floor(self) -> float:
        """The person's split-half floor."""
        return self.figures[PERSON].style_distance

    def examples(self, limit: int) -> list[dict[str, str]]:
        """Evenly spread prompts (their last turn) with the real reply and everybody's."""
        out = []
        for i in evenly(len(self.asked), limit):
            said = {label: texts[i] for label, texts in self.replies.items()}
            out.append({"prompt": self.asked[i].before[-1].content, PERSON: self.asked[i].real, **said})
        return out

    def to_json(self) -> dict[str, Any]:
        """The card as one JSON object, with a few of the replies."""
        return {
            "data": self.data,
            "n": len(self.asked),
            "references": self.references,
            "loss_tokens": self.loss_tokens,
            "floor": self.floor,
            "attribution": asdict(self.attribution) if self.attribution else None,
            "notes": list(self.notes),
            "figures": {label: asdict(column) for label, column in self.figures.items()},
            "replies": self.examples(SHOWN),
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people: a row per figure, a column for people and each candidate."""
        return table(self.figures)

    def write(self, folder: Path) -> None:
        """Write ``replies.jsonl`` (every reply) and then ``scores.json``, each atomically."""
        write_text(folder / "replies.jsonl", "".join(map(dump_line, self.examples(len(self.asked)))))
        write_text(folder / "scores.json", json.dumps(self.to_json(), ensure_ascii=False, indent=2) + "\n")


def report_card(config: CardConfig, candidates: Sequence[Candidate], system: str) -> Card:
    """Judge the candidates on held-out conversations. Each model is loaded once, one at a time.

    Args:
        config: what to read, how many prompts, how to sample.
        candidates: in the order of the columns, with labels of their own.
        system: the system message of conversations that have none of their own, as in training.

    Raises:
        PersonaError: no held-out data or too little; candidates that share a label or no tokenizer; a model or
            an adapter that does not load.
    """
    labels = [candidate.label for candidate in candidates]
    if not labels or len({*labels, PERSON, OTHERS}) != len(labels) + 2:
        raise PersonaError(
            f"candidates must have labels of their own, none of them {PERSON!r} or {OTHERS!r}; got {labels}"
        )
    path, conversations = load_held_out(Path(config.data), ("test", "valid"))
    every = all_asked(conversations)
    if len(every) < MIN_REPLIES:
        raise PersonaError(
            f"{path} must hold at least {MIN_REPLIES} replies that answer something, got {len(every)}",
            "hold out more: mlx-persona clean --test-fraction 0.2",
        )
    asked = [every[i] for i in evenly(len(every), config.n)]
    real = [one.real for one in every]
    notes: list[str] = []
    wording, attribution = _wording(config, real, notes), _attribution(config, notes)
    scores = _Scores(config, conversations, asked, system)
    for name in dict.fromkeys(candidate.model for candidate in candidates):
        scores.judge(name, [candidate for candidate in candidates if candidate.model == name])
    others = [message.content for c in conversations for message in c.messages if message.role == "user"]
    said = {OTHERS: Said([others[i] for i in evenly(len(others), len(asked))])}
    said |= {label: scores.said[label] for label in labels}
    return Card(
        data=str(path),
        references=len(real),
        loss_tokens=scores.loss_tokens,
        asked=tuple(asked),
        figures=figures(real, said, wording, attribution, config.seed),
        replies={label: list(scores.said[label].texts) for label in labels},
        attribution=attribution.training if attribution else None,
        notes=tuple(notes),
    )


def _wording(config: CardConfig, real: Sequence[str], notes: list[str]) -> Wording:
    """The person's wording, with the function words that the user names or, where one fits, a shipped list."""
    functions = read_list(Path(config.function_words)) if config.function_words else fitting_list(real)
    if functions is None:
        _note(notes, "no shipped list of function words fits the person's language: name one with --function-words")
    return Wording(real, functions, config.seed)


def _attribution(config: CardConfig, notes: list[str]) -> Attribution | None:
    """A classifier trained on the training conversations; None, and why, where there can be none."""
    ui.info("report card: learning whose messages are whose")
    try:
        return Attribution(load_split(Path(config.data), "train"), config.seed)
    except PersonaError as error:
        _note(notes, "no attribution: " + "; ".join(part for part in (error.message, error.hint) if part))
        return None


def _note(notes: list[str], text: str) -> None:
    ui.warn(text)
    notes.append(text)


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


class _Scores:
    """What the models say and predict, gathered one model at a time."""

    def __init__(
        self, config: CardConfig, conversations: Sequence[Conversation], asked: Sequence[Asked], system: str
    ) -> None:
        self._config = config
        self._conversations = conversations
        self._asked = asked
        self._system = system
        self._seen: list[list[int]] | None = None  # the token ids of the first model's rows and prompts
        self.loss_tokens = 0
        self.said: dict[str, Said] = {}

    def judge(self, name: str, candidates: Sequence[Candidate]) -> None:
        """Load a model, judge it with each adapter in turn, and let go of it."""
        ui.info(f"report card: loading {name}")
        loaded = load_model(name)
        rows, prompts = self._rendered(loaded, name)
        for candidate in candidates:
            if candidate.adapter is not None:
                load_adapter(loaded.model, candidate.adapter, loaded.identity)
            self._judge_one(loaded, candidate.label, rows, prompts)
            if candidate.adapter is not None:
                detach(loaded.model)
        del loaded
        mx.clear_cache()

    def _rendered(self, loaded: LoadedModel, name: str) -> tuple[list[Row], list[list[int]]]:
        """The rows to predict and the prompts to answer, which must be the same for every model."""
        length = self._config.max_seq_length
        renderer = Renderer(loaded.tokenizer, system=self._system)
        found = conversation_rows(self._conversations, renderer, length).rows
        rows = [found[i] for i in evenly(len(found), self._config.loss_rows)]
        if not rows:
            raise PersonaError(
                f"no held-out conversation fits in {length} tokens", "allow more tokens (--max-seq-length)"
            )
        prompts = [renderer.prompt(one.before, length) for one in self._asked]
        seen = [*(row.ids.tolist() for row in rows), *prompts]
        if self._seen is not None and seen != self._seen:
            raise PersonaError(f"candidates must share a tokenizer and a chat template, but those of {name} differ")
        self._seen = seen
        self.loss_tokens = sum(row.targets for row in rows)
        return rows, prompts

    def _judge_one(self, loaded: LoadedModel, label: str, rows: list[Row], prompts: list[list[int]]) -> None:
        config = self._config
        sampling = engine.Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)
        with ui.progress(f"report card: {label}", len(rows) + len(prompts)) as bar:
            loss = mean_loss(loaded.model, rows, bar.advance)
            replies = engine.replies(
                loaded, prompts, sampling, batch_size=config.batch_size, on_reply=lambda *_: bar.advance()
            )
        self.said[label] = Said([reply.text.strip() for reply in replies], [reply.cut for reply in replies], loss)
