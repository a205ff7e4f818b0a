"""Does it repeat its training data? Runs of words that replies share with the replies that were trained on.

A shared run means little by itself, since people repeat themselves and each other: held-out replies of the same
person, which the model cannot have learnt, say how long such runs are anyway.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_persona.evals.intervals import Tally
from mlx_persona.evals.said import plain
from mlx_persona.schema import PLACEHOLDER

# A run of so many words is counted as copied: longer than nearly all that people say twice.
COPIED = 8
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """What some replies share with the training replies.

    Attributes:
        copied: replies with a shared run of at least ``COPIED`` words.
        longest: the longest shared run, in words.
        run: its words.
        placeholders: replies that say a placeholder of personal data, [NAME_3].
    """

    copied: Tally
    longest: int
    run: str
    placeholders: Tally

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "copied": self.copied.to_json(),
            "longest": self.longest,
            "run": self.run,
            "placeholders": self.placeholders.to_json(),
        }


def words(text: str) -> list[str]:
    """The words of a text, in lower case and without marks."""
    return _WORDS.findall(plain(text))


def shared_runs(texts: Sequence[str], corpus: Sequence[str]) -> list[tuple[str, ...]]:
    """The longest run of words that each text shares with some text of the corpus (the first of equals).

    Runs grow by a word at a time, and only what shared the last length is looked at again.
    """
    asked, known = [words(text) for text in texts], [words(text) for text in corpus]
    best: list[tuple[str, ...]] = [()] * len(asked)
    left: Sequence[int] = range(len(asked))
    length = 1
    while left and known:
        runs = {run for i in left for run in _runs(asked[i], length)}
        hits: set[tuple[str, ...]] = set()
        rest = []
        for text in known:
            if found := runs.intersection(_runs(text, length)):
                hits |= found
                rest.append(text)
        for i in left:
            best[i] = next((run for run in _runs(asked[i], length) if run in hits), best[i])
        left, known = [i for i in left if len(best[i]) == length], rest
        length += 1
    return best


def _runs(text: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + length]) for i in range(len(text) - length + 1)]


def overlap(replies: Sequence[str], training: Sequence[str]) -> Overlap:
    """Compare replies with the replies that were trained on."""
    runs = shared_runs(replies, training)
    longest = max(runs, key=len, default=())
    return Overlap(
        copied=Tally(sum(len(run) >= COPIED for run in runs), len(runs)),
        longest=len(longest),
        run=" ".join(longest),
        placeholders=Tally(sum(PLACEHOLDER.search(reply) is not None for reply in replies), len(replies)),
    )
