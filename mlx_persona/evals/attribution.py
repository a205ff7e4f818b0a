"""Whose is it rather? How often a text is more like the person's messages than like those of who writes to them.

Authorship attribution as usual: the n-grams of one to three characters of a text, weighted by TF-IDF, and logistic
regression on them (Stamatatos, 2009, "A survey of modern authorship attribution methods"; Sanderson & Guenter, 2006,
on short texts). It learns from the real messages of both sides in the training conversations, never from held-out ones.

Length must not decide. It learns from messages up to the length of the person's longer replies (their 90th
percentile), equally many of every length on both sides, so that length says nothing; and texts to be judged are cut to
that length, so that a model gains nothing by writing much. Longer messages are not cut but left out of the training: a
text without its end would be a sign of length. Needs scikit-learn (the extra ``eval``).

It knows two sides only, so an exaggeration of the person is the person's more often than the person's own texts are.
Whether a text could be the person's is another question (:mod:`mlx_persona.evals.lineup`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlx_persona.errors import PersonaError
from mlx_persona.evals.intervals import wilson
from mlx_persona.schema import PLACEHOLDER, Conversation

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MIN_MESSAGES, MAX_MESSAGES = 50, 3000
FOLDS = 5
# Messages count as equally long within a tenth.
LENGTH_STEP = 1.1
LONGER = 0.9
# What its share is called.
LEANING = "rather the person's than others'"
HINT = "pip install 'mlx-persona[eval]'"


@dataclass(frozen=True)
class Share:
    """How often something was so: ``share`` of ``n``, 0 to 1, with its 95 % interval (Wilson, 1927)."""

    share: float
    interval: tuple[float, float]
    n: int

    @classmethod
    def of(cls, count: int, n: int) -> Share:
        """``count`` of ``n`` (at least 1)."""
        return cls(count / n, wilson(count, n), n)


@dataclass(frozen=True)
class Training:
    """What the classifier learned from, and how good it is.

    Attributes:
        messages: real messages of each side, of equal lengths.
        max_chars: the longest of them; texts to be judged are cut to it.
        accuracy: of messages of conversations that it had not seen (cross-validation); 0.5 would be chance.
    """

    messages: int
    max_chars: int
    accuracy: Share


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    conversation: int


class Attribution:
    """A classifier of the person's real messages against other people's, trained when it is made.

    Args:
        conversations: of training: assistant turns that are trained on are the person's, user turns other people's.
        seed: fixes which messages are left out.

    Raises:
        PersonaError: scikit-learn is missing, or there are too few messages of either side.
    """

    def __init__(self, conversations: Sequence[Conversation], seed: int = 0) -> None:
        _check_installed()
        person, others = _sides(conversations)
        if not person or not others:
            raise PersonaError("train.jsonl must hold replies of the person and messages of others")
        self._max_chars = int(np.quantile([len(said.text) for said in person], LONGER))
        person, others = _matched(self._short(person), self._short(others), np.random.default_rng(seed))
        for who, side in (("the person's", person), ("others'", others)):
            if len(side) < MIN_MESSAGES or len({said.conversation for said in side}) < FOLDS:
                raise PersonaError(
                    f"train.jsonl must hold at least {MIN_MESSAGES} of {who} messages, as long as the other side's, "
                    f"in {FOLDS} conversations; got {len(side)}"
                )
        texts = [said.text for said in (*person, *others)]
        labels = [True] * len(person) + [False] * len(others)
        accuracy = _cross_validated(texts, labels, [said.conversation for said in (*person, *others)])
        self.training = Training(len(person), self._max_chars, accuracy)
        self._classifier = _classifier().fit(texts, labels)

    def share(self, texts: Sequence[str]) -> Share:
        """How many of some texts (at least one) are rather the person's than others'; an empty one is nobody's."""
        short = [shortened(text, self._max_chars) for text in texts]
        theirs = self.lean(short) > 0
        return Share.of(sum(bool(one) for one, text in zip(theirs, short, strict=True) if text), len(texts))

    def lean(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """To which side each of N texts leans, as it is: the log-odds of the person, (N,), above 0 for the person."""
        odds: NDArray[np.float64] = self._classifier.decision_function(texts)
        return odds

    def _short(self, side: Sequence[_Said]) -> list[_Said]:
        return [said for said in side if len(said.text) <= self._max_chars]


def _check_installed() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise PersonaError("telling whose text it is needs scikit-learn", HINT) from None


def _classifier() -> Pipeline:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    ngrams = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False, sublinear_tf=True, min_df=3)
    return make_pipeline(ngrams, LogisticRegression(max_iter=1000))


def _cross_validated(texts: Sequence[str], labels: Sequence[bool], groups: Sequence[int]) -> Share:
    """How many messages of conversations that it has not learned from are told right."""
    from sklearn.model_selection import StratifiedGroupKFold

    right = 0
    for train, test in StratifiedGroupKFold(FOLDS).split(texts, labels, groups):
        fitted = _classifier().fit([texts[i] for i in train], [labels[i] for i in train])
        right += int(np.sum(fitted.predict([texts[i] for i in test]) == np.array(labels)[test]))
    return Share.of(right, len(texts))


def _sides(conversations: Sequence[Conversation]) -> tuple[list[_Said], list[_Said]]:
    """What the person said and what others said, without empty messages."""
    person, others = [], []
    for number, conversation in enumerate(conversations):
        for message in conversation.messages:
            said = _Said(_plain(message.content), number)
            if not said.text:
                continue
            if message.role == "assistant" and message.train:
                person.append(said)
            elif message.role == "user":
                others.append(said)
    return person, others


def shortened(text: str, limit: int) -> str:
    """The beginning of a text, at most ``limit`` characters, without placeholders of personal data."""
    return _cut(_plain(text), limit)


def _plain(text: str) -> str:
    """A text without placeholders of personal data."""
    return PLACEHOLDER.sub(" ", text).strip()


def _cut(text: str, limit: int) -> str:
    """The beginning of a text, at most ``limit`` characters and whole words where there is a space to cut at."""
    if len(text) <= limit:
        return text
    whole = text[: limit + 1].rsplit(None, 1)[0]
    return whole[:limit]


def _matched(
    person: Sequence[_Said], others: Sequence[_Said], rng: np.random.Generator
) -> tuple[list[_Said], list[_Said]]:
    """As many messages of each length on both sides, at most ``MAX_MESSAGES`` in all on each, drawn at random."""
    sides = []
    for side in (person, others):
        by_length: dict[int, list[_Said]] = defaultdict(list)
        for i in rng.permutation(len(side)):
            by_length[int(math.log(len(side[i].text)) / math.log(LENGTH_STEP))].append(side[i])
        sides.append(by_length)
    first, second = sides
    counts = {length: min(len(first[length]), len(second[length])) for length in sorted({*first} & {*second})}
    # The same share of every length where there are too many.
    keep = min(1.0, MAX_MESSAGES / max(1, sum(counts.values())))
    kept = {length: int(count * keep) for length, count in counts.items()}
    return (
        [said for length, count in kept.items() for said in first[length][:count]],
        [said for length, count in kept.items() for said in second[length][:count]],
    )
