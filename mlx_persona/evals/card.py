"""The report card: how far base, SFT, DPO and fused model are from the person's held-out replies.

Every candidate gets the same prompts and the same random keys, and stands beside the person's own figures. The loss
says how well a candidate predicts the real replies; the style distance says how much its own replies look like them
(:mod:`mlx_persona.evals.style`); neither says whether they make sense, so read some.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_persona.evals.asked import Asked
from mlx_persona.evals.attribution import Training
from mlx_persona.evals.figures import PERSON, Figures, table
from mlx_persona.files import write_text
from mlx_persona.schema import dump_line
from mlx_persona.tokens.batches import evenly

SHOWN = 5


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
    """

    data: str
    references: int
    loss_tokens: int
    asked: tuple[Asked, ...]
    figures: dict[str, Figures]
    replies: dict[str, list[str]]
    attribution: Training | None = None

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
            "figures": {label: asdict(column) for label, column in self.figures.items()},
            "replies": self.examples(SHOWN),
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people: a row per figure, a column for people and each candidate."""
        return table(self.figures)

    def write(self, folder: Path) -> None:
        """Write every reply to ``replies.jsonl``, atomically."""
        write_text(folder / "replies.jsonl", "".join(map(dump_line, self.examples(len(self.asked)))))
