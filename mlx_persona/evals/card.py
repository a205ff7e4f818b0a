"""The quick report card: how far base, SFT, DPO and fused model are from the person's held-out replies.

Every candidate gets the same rows, the same prompts and the same random keys, and stands beside the person's
own figures. The loss says how well a candidate predicts the real replies; the style distance says how much its
own replies look like them (:mod:`mlx_persona.evals.style`); neither says whether they make sense, so read some.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_persona import ui
from mlx_persona.config import CardConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals import style
from mlx_persona.evals.asked import Asked, all_asked
from mlx_persona.evals.phrases import stock_phrase_rate
from mlx_persona.files import write_text
from mlx_persona.generation import engine
from mlx_persona.models.adapters import detach, load_adapter
from mlx_persona.models.heads import row_logits
from mlx_persona.models.load import LoadedModel, load_model
from mlx_persona.schema import Conversation, dump_line
from mlx_persona.tokens.batches import Row, collate, evenly, ordered_batches
from mlx_persona.tokens.dataset import conversation_rows, load_held_out
from mlx_persona.tokens.render import Renderer
from mlx_persona.training.objectives import token_log_probs

PERSON = "person"
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
class Figures:
    """One column of the card; None where a figure has no meaning (the person has no loss).

    Attributes:
        loss: mean cross-entropy per reply token, end token included, in nats.
        perplexity: exp(loss).
        median_chars: median length of the replies, in characters.
        stock_phrases: stock assistant phrases per 100 replies.
        style_distance: to the person's held-out replies; for the person, the split-half floor.
        style_interval: 95 % bootstrap interval of ``style_distance``.
        above_floor: style distance minus the person's split-half floor, at least 0.
        ratio_to_base: ``above_floor`` over the base model's.
        cut_share: share of the replies that reached ``max_tokens``.
        style_parts: what each feature adds to ``style_distance``; they sum to it.
    """

    median_chars: float
    stock_phrases: float
    style_distance: float
    above_floor: float
    loss: float | None = None
    perplexity: float | None = None
    style_interval: tuple[float, float] | None = None
    ratio_to_base: float | None = None
    cut_share: float | None = None
    style_parts: dict[str, float] | None = None


@dataclass(frozen=True)
class Card:
    """The whole report card.

    Attributes:
        data: the held-out file.
        references: how many of the person's replies the styles are compared with.
        loss_tokens: how many tokens the losses are means over.
        asked: the prompts, in the order of ``replies``.
        figures: label -> column; the person's comes first.
        replies: label -> one reply per prompt.
    """

    data: str
    references: int
    loss_tokens: int
    asked: tuple[Asked, ...]
    figures: dict[str, Figures]
    replies: dict[str, list[str]]

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
            "figures": {label: asdict(column) for label, column in self.figures.items()},
            "replies": self.examples(SHOWN),
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people: a row per figure, a column for the person and each candidate."""
        columns = list(self.figures.values())
        rows = [[name, *(show(column) for column in columns)] for name, show in _ROWS]
        return ["", *self.figures], rows

    def write(self, folder: Path) -> None:
        """Write ``replies.jsonl`` (every reply) and then ``scores.json``, each atomically."""
        write_text(folder / "replies.jsonl", "".join(map(dump_line, self.examples(len(self.asked)))))
        write_text(folder / "scores.json", json.dumps(self.to_json(), ensure_ascii=False, indent=2) + "\n")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _range(column: Figures) -> str:
    return "-" if column.style_interval is None else "{:.3f} to {:.3f}".format(*column.style_interval)


def _most(column: Figures) -> str:
    """The feature that adds most to the style distance, and its share of it."""
    parts = column.style_parts
    if not parts or not column.style_distance:
        return "-"
    name = max(parts, key=lambda feature: parts[feature])
    return f"{name} {parts[name] / column.style_distance:.0%}"


_ROWS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("loss (nats per token)", lambda c: _number(c.loss, ".3f")),
    ("perplexity", lambda c: _number(c.perplexity, ".1f")),
    ("reply length (median characters)", lambda c: _number(c.median_chars, ".0f")),
    ("replies cut at the token limit", lambda c: _number(c.cut_share, ".0%")),
    ("stock phrases per 100 replies", lambda c: _number(c.stock_phrases, ".1f")),
    ("style distance", lambda c: _number(c.style_distance, ".3f")),
    ("  95 % interval", _range),
    ("  most of it", _most),
    ("  above the person's own floor", lambda c: _number(c.above_floor, ".3f")),
    ("  the same, base = 1", lambda c: _number(c.ratio_to_base, ".2f")),
)


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
    if not labels or len({*labels, PERSON}) != len(labels) + 1:
        raise PersonaError(f"candidates must have labels of their own, none of them {PERSON!r}; got {labels}")
    path, conversations = load_held_out(Path(config.data), ("test", "valid"))
    every = all_asked(conversations)
    if len(every) < MIN_REPLIES:
        raise PersonaError(
            f"{path} must hold at least {MIN_REPLIES} replies that answer something, got {len(every)}",
            "hold out more: mlx-persona clean --test-fraction 0.2",
        )
    asked = [every[i] for i in evenly(len(every), config.n)]
    scores = _Scores(config, conversations, asked, system)
    for name in dict.fromkeys(candidate.model for candidate in candidates):
        scores.judge(name, [candidate for candidate in candidates if candidate.model == name])
    real = [one.real for one in every]
    return Card(
        data=str(path),
        references=len(real),
        loss_tokens=scores.loss_tokens,
        asked=tuple(asked),
        figures=_figures(real, labels, scores, config.seed),
        replies={label: scores.replies[label] for label in labels},
    )


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
        self.loss: dict[str, float] = {}
        self.replies: dict[str, list[str]] = {}
        self.cut_share: dict[str, float] = {}

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
            self.loss[label] = mean_loss(loaded.model, rows, bar.advance)
            replies = engine.replies(
                loaded, prompts, sampling, batch_size=config.batch_size, on_reply=lambda *_: bar.advance()
            )
        self.replies[label] = [reply.text.strip() for reply in replies]
        self.cut_share[label] = sum(reply.cut for reply in replies) / len(replies)


def _figures(real: Sequence[str], labels: Sequence[str], scores: _Scores, seed: int) -> dict[str, Figures]:
    """The person's column and the candidates', in order."""
    n = len(scores.replies[labels[0]])
    floor = style.split_half_floor(real, n, seed=seed)
    distances = {label: style.distance(real, scores.replies[label]) for label in labels}
    base = style.above_floor(distances["base"], floor) if "base" in distances else 0.0
    columns = {PERSON: Figures(float(median(map(len, real))), stock_phrase_rate(real), floor, 0.0)}
    for label in labels:
        replies, above = scores.replies[label], style.above_floor(distances[label], floor)
        columns[label] = Figures(
            median_chars=float(median(map(len, replies))),
            stock_phrases=stock_phrase_rate(replies),
            style_distance=distances[label],
            above_floor=above,
            loss=scores.loss[label],
            perplexity=math.exp(scores.loss[label]),
            style_interval=style.bootstrap_interval(real, replies, seed=seed),
            ratio_to_base=above / base if base > 0 else None,
            cut_share=scores.cut_share[label],
            style_parts=style.contributions(real, replies),
        )
    return columns
