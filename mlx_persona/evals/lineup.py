"""Could it be the person's? Replies put among the person's own, and an examiner who says which are whose.

The examiner sees the person's held-out replies and those of one column, learns from four fifths of both what tells
them apart, and judges the last fifth, in turn (five-fold cross-validation). How often it goes wrong is how well the
column passes for the person. This is the classifier two-sample test (Friedman, 2003; Lopez-Paz & Oquab, 2017,
"Revisiting classifier two-sample tests"). With ``missed``, the person's replies taken for the column's, and ``taken``,
the column's taken for the person's, ``missed + taken`` is 1 for an examiner who can but guess and 0 for one who is
always right; it estimates, from above, 1 - the total variation distance of the two kinds of replies, and is the same as
1 - half the proxy A-distance (Ben-David et al., 2007).

Unlike the classifier of the person against others (:mod:`mlx_persona.evals.attribution`) this has no side on which more
is better: replies that have the person's habits in every line are told from the person's as well as those that have
none. Nobody passes better than the person, in expectation.

What the examiner sees: n-grams of one to three characters, weighted by TF-IDF; the habits of the style distance but for
the length; and how far the text leans to the person rather than to those who write to them, of which the training
conversations tell more than the few replies here. Logistic regression, both sides weighing the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from mlx_persona.evals import style
from mlx_persona.evals.attribution import Attribution, Share, shortened
from mlx_persona.evals.intervals import wilson

FOLDS = 5
# The person's replies that a column is put among, at most: more change little and take long.
REFERENCE = 400
# How often the person's own replies are parted, for the ceiling.
DRAWS = 3
# An examiner who has seen fewer replies of either side has learned nothing.
MIN_REPLIES = 10
_HABITS = [i for i, name in enumerate(style.FEATURES) if not name.endswith("(log)")]


class Lineup:
    """The person's held-out replies, among which others are put.

    Args:
        real: the person's replies.
        attribution: the classifier of the person against those who write to them, trained on other conversations.
        n: how many replies a column has; the person's own are put among the rest of theirs in the same number, or
            half of them where there are fewer.
        seed: fixes which of the person's replies are drawn, and the folds.
    """

    def __init__(self, real: Sequence[str], attribution: Attribution, n: int, seed: int = 0) -> None:
        self._attribution, self._seed = attribution, seed
        self._limit = attribution.training.max_chars
        known = [text for text in real if shortened(text, self._limit)]
        size = min(n, len(known) // 2)
        rng = np.random.default_rng(seed)
        self._draws = []
        for _ in range(DRAWS):
            mixed = [known[i] for i in rng.permutation(len(known))]
            self._draws.append((mixed[:size], mixed[size : size + REFERENCE]))

    def own(self) -> Share | None:
        """How well the person's own replies pass for the person's: the ceiling, near 1; None if there are too few.

        The mean over random partings of them; the interval is that of one parting.
        """
        judged = [self._judged(reference, said, self._limit) for said, reference in self._draws]
        found = [one for one in judged if one is not None]
        if not found:
            return None
        missed, taken = np.mean(found, axis=0)
        said, reference = self._draws[0]
        return _share(missed, taken, len(reference), len(said))

    def share(self, texts: Sequence[str], cut: Sequence[bool] = ()) -> Share | None:
        """How well some texts pass for the person's: 1 if the examiner can but guess, 0 if it always knows.

        Args:
            texts: the column's. An empty one is known not to be the person's.
            cut: for each text, whether it was broken off. Then neither side is seen beyond the length at which half of
                those were, so that a missing end betrays nobody.

        Returns:
            The share, of ``n`` texts, or None where either side has fewer than ``MIN_REPLIES``.
        """
        broken = [len(text) for text, was in zip(texts, cut, strict=True) if was and text] if cut else []
        limit = min(self._limit, int(median(broken))) if broken else self._limit
        _, reference = self._draws[0]
        judged = self._judged(reference, texts, limit)
        return None if judged is None else _share(*judged, len(reference), len(texts))

    def _judged(self, reference: Sequence[str], said: Sequence[str], limit: int) -> tuple[float, float] | None:
        """``(missed, taken)``: the shares of the person's and of the other replies that are judged wrong."""
        if min(len(reference), len(said)) < MIN_REPLIES:
            return None
        theirs = [shortened(text, limit) for text in reference]
        others = [text for text in (shortened(text, limit) for text in said) if text]
        if len(others) < FOLDS:
            return 0.0, 0.0
        sides = np.repeat([True, False], [len(theirs), len(others)])
        guesses = _guesses(self._features([*theirs, *others]), sides, self._seed)
        return float(np.mean(~guesses[sides])), int(np.sum(guesses[~sides])) / len(said)

    def _features(self, texts: Sequence[str]) -> Any:
        """What the examiner sees of N texts: a sparse matrix (N, G + H) of G n-grams and H habits."""
        from scipy.sparse import csr_matrix, hstack
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.preprocessing import StandardScaler

        grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False, sublinear_tf=True)
        seen = np.column_stack([style.profile(texts).values[:, _HABITS], self._attribution.lean(texts)])  # (N, H)
        # The n-grams of a text have length 1, and so have its habits on average.
        habits = StandardScaler().fit_transform(seen) / np.sqrt(seen.shape[1])
        return hstack([grams.fit_transform(texts), csr_matrix(habits)]).tocsr()


def _guesses(features: Any, sides: Any, seed: int) -> Any:
    """Whether each text is taken for the person's by an examiner who has not learned from it: (N,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    examiner = LogisticRegression(max_iter=1000, class_weight="balanced")
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return cross_val_predict(examiner, features, sides, cv=folds).astype(bool)


def _share(missed: float, taken: float, n_missed: int, n_taken: int) -> Share:
    """``missed + taken``, at most 1, with its 95 % interval (Newcombe, 1998, Statistics in Medicine 17:873, method 10).

    That one is of a difference of two shares, here ``taken - (1 - missed) = share - 1``, made of the two Wilson
    intervals. It takes the judged texts for independent.
    """
    spans = [(share, *wilson(round(share * n), n)) for share, n in ((missed, n_missed), (taken, n_taken))]
    below = np.sqrt(sum((share - low) ** 2 for share, low, _ in spans))
    above = np.sqrt(sum((high - share) ** 2 for share, _, high in spans))
    share = missed + taken
    low, high = (float(np.clip(bound, 0, 1)) for bound in (share - below, share + above))
    return Share(min(1.0, share), (low, high), n_taken)
