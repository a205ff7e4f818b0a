"""How alike texts are in what they are made of, without a model: n-grams of three characters, TF-IDF, cosine.

It sees shared words, spellings and word endings, and no meaning: "yes, always" and "sure, every day" are strangers to
it. (TF-IDF: Spärck Jones, 1972; characters rather than words because replies are short and misspelt, as in McNamee &
Mayfield, 2004, "Character n-gram tokenization for European language text retrieval".)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_persona.evals.closeness import Resampled, redraws
from mlx_persona.evals.said import plain
from mlx_persona.evals.style import Floats

GRAM = 3
# Below this a mean distance is rounding.
_NOTHING = 1e-9


def similarities(texts: Sequence[str]) -> Floats:
    """Cosine of every text with every other: (N, N), 0 to 1.

    Case, accents and blanks do not count. Two texts of nothing are the same, and nothing is unlike everything else.
    """
    counts = [Counter(_grams(text)) for text in texts]
    columns = {gram: i for i, gram in enumerate(dict.fromkeys(gram for found in counts for gram in found))}
    if not columns:
        return np.ones((len(texts), len(texts)))
    vectors = np.zeros((len(texts), len(columns)))
    for row, found in zip(vectors, counts, strict=True):
        for gram, count in found.items():
            row[columns[gram]] = 1 + np.log(count)
    known = (vectors > 0).sum(axis=0)  # texts with the gram: (G,)
    vectors *= np.log((1 + len(texts)) / (1 + known)) + 1
    lengths = np.linalg.norm(vectors, axis=1)
    vectors /= np.where(lengths > 0, lengths, 1)[:, None]
    same: Floats = np.clip(vectors @ vectors.T, 0, 1)
    same[np.ix_(lengths == 0, lengths == 0)] = 1
    return same


def _grams(text: str) -> list[str]:
    """Every three characters in a row, the blanks around the text included."""
    words = plain(text).split()
    padded = f" {' '.join(words)} " if words else ""
    return [padded[i : i + GRAM] for i in range(len(padded) - GRAM + 1)]


@dataclass(frozen=True)
class Spread:
    """Mean distances (1 - cosine) between replies, resampled over questions.

    Attributes:
        within: between replies to one question asked in several ways.
        between: between replies to different questions.
        ratio: ``within / between``: 0 the same reply however it is asked, 1 no more alike than replies to different
            questions; None where all replies are the same.
    """

    within: Resampled
    between: Resampled
    ratio: Resampled | None


def spread(groups: Sequence[Sequence[str]], seed: int) -> Spread:
    """Measure replies to Q >= 2 questions, each asked in at least two ways.

    Args:
        groups: question by question, the replies.
        seed: fixes the resampling of questions. Pairs of a question with itself, which redrawing makes, are left out.
    """
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    apart = 1 - similarities([text for group in groups for text in group])  # (N, N)
    member = (owner[None] == np.arange(len(groups))[:, None]).astype(np.float64)  # (Q, N)
    sizes = member.sum(axis=1)
    sums = member @ apart @ member.T  # (Q, Q)
    inside = np.diag(sums) / (sizes * (sizes - 1))  # (Q,); a text is 0 from itself
    across = sums / np.outer(sizes, sizes)
    np.fill_diagonal(across, 0)

    counts = redraws(len(groups), seed)  # (K, Q)
    counts = counts[(counts > 0).sum(axis=1) > 1]  # one question alone has no others
    everyone = np.ones((1, len(groups)))
    within = [drawn @ inside / drawn.sum(axis=1) for drawn in (everyone, counts)]
    between = [
        ((drawn @ across) * drawn).sum(axis=1) / (drawn.sum(axis=1) ** 2 - (drawn**2).sum(axis=1))
        for drawn in (everyone, counts)
    ]
    ratio = None
    if between[0][0] > _NOTHING:
        real = between[1] > _NOTHING
        ratio = Resampled(float(within[0][0] / between[0][0]), within[1][real] / between[1][real])
    return Spread(Resampled(float(within[0][0]), within[1]), Resampled(float(between[0][0]), between[1]), ratio)
