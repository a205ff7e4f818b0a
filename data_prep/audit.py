"""A look at what redaction did: samples of what was replaced, and of what might have been missed.

    mlx-persona clean --audit

It reads what a cleaning wrote, so no personal data that was replaced is ever shown.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.files import REDACTIONS
from mlx_persona.errors import PersonaError
from mlx_persona.schema import PLACEHOLDER, read_conversations, read_jsonl

SAMPLES = 5
_AROUND = 40
# What personal data is made of: four digits in a row of digits and signs, an @ or a link, a long word with digits.
_SUSPECT = re.compile(r"(?:\d[ ./()-]{0,2}){4,}|\S@\S|://|(?=\S*\d)\S{16,}")


@dataclass(frozen=True)
class Audit:
    """How often each type was replaced, and texts around placeholders and around what looks like personal data.

    Attributes:
        counts: type -> replacements.
        values: type -> different values.
        replaced: type -> texts around a placeholder.
        left: texts around what was left and looks like personal data.
        suspects: how many messages hold such a thing.
    """

    counts: dict[str, int]
    values: dict[str, int]
    replaced: dict[str, list[str]]
    left: list[str]
    suspects: int

    def to_json(self) -> dict[str, Any]:
        """The audit as a JSON object."""
        return asdict(self)


def audit(folder: Path, seed: int = 0, samples: int = SAMPLES) -> Audit:
    """Samples of a cleaned folder, drawn at random by ``seed``.

    Raises:
        PersonaError: no cleaned data there, or it was not redacted.
    """
    if not (folder / REDACTIONS).is_file():
        raise PersonaError(
            f"{folder / REDACTIONS} is missing: nothing there was redacted", "clean with: mlx-persona clean --redact on"
        )
    counts: Counter[str] = Counter()
    values: Counter[str] = Counter()
    for _, entry in read_jsonl(folder / REDACTIONS):
        if isinstance(entry, dict):
            counts[str(entry.get("type"))] += int(entry.get("count", 0))
            values[str(entry.get("type"))] += 1
    found: dict[str, list[str]] = {}
    left: list[str] = []
    suspects = 0
    for name in ("train", "valid", "test"):
        for conversation in read_conversations(folder / f"{name}.jsonl"):
            for message in conversation.messages:
                for match in PLACEHOLDER.finditer(message.content):
                    kind = match[0][1:].rpartition("_")[0]
                    found.setdefault(kind, []).append(_around(message.content, match))
                suspect = _SUSPECT.search(PLACEHOLDER.sub(lambda m: " " * len(m[0]), message.content))
                if suspect is not None:
                    suspects += 1
                    left.append(_around(message.content, suspect))
    draw = random.Random(seed)
    replaced = {kind: draw.sample(texts, min(samples, len(texts))) for kind, texts in sorted(found.items())}
    return Audit(dict(counts), dict(values), replaced, draw.sample(left, min(samples, len(left))), suspects)


def _around(text: str, match: re.Match[str]) -> str:
    start, end = max(0, match.start() - _AROUND), match.end() + _AROUND
    cut = " ".join(text[start:end].split())
    return f"{'...' if start else ''}{cut}{'...' if end < len(text) else ''}"
