"""How alike texts are, against scikit-learn's TF-IDF and against loops over all pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from mlx_persona.evals.likeness import similarities, spread
from tests.part_kit import ASSISTANT, HOSTILE, PERSON

GROUPS = [PERSON[:4], ASSISTANT[:3], (*PERSON[4:6], *ASSISTANT[3:5])]


def test_similarities_are_those_of_scikit_learn() -> None:
    texts = ["haha yeah im in", "yeah im out", "ok", "hahahaha", "what about you?"]
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(3, 3), sublinear_tf=True).fit_transform(
        [f" {text} " for text in texts]
    )
    assert similarities(texts) == pytest.approx((vectors @ vectors.T).toarray())


def test_case_accents_and_blanks_do_not_count() -> None:
    assert similarities(["Él dijo: no", "el  dijo:\nNO"]) == pytest.approx(np.ones((2, 2)))


def test_nothing_is_like_nothing_and_unlike_everything() -> None:
    assert similarities(["", " \n", "yeah"]) == pytest.approx(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]))
    assert similarities(["", ""]) == pytest.approx(np.ones((2, 2)))
    assert similarities([]).shape == (0, 0)


def test_hostile_texts_are_compared_too() -> None:
    same = similarities(HOSTILE)
    assert np.isfinite(same).all()
    assert np.diag(same) == pytest.approx(1)
    assert same == pytest.approx(same.T)


def test_the_spread_is_the_mean_over_pairs() -> None:
    apart = 1 - similarities([text for group in GROUPS for text in group])
    places = [range(4), range(4, 7), range(7, 11)]
    within = np.mean([np.mean([apart[i, j] for i, j in combinations(place, 2)]) for place in places])
    between = np.mean([np.mean([apart[i, j] for i in a for j in b]) for a, b in combinations(places, 2)])
    found = spread(GROUPS, seed=0)
    assert found.within.value == pytest.approx(within)
    assert found.between.value == pytest.approx(between)
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(within / between)
    low, high = found.ratio.interval
    assert low < found.ratio.value < high


def test_a_redraw_leaves_out_pairs_of_a_question_with_itself() -> None:
    # Of two questions every redraw that holds both has the same pairs between them, however often each is drawn.
    found = spread([PERSON[:2], ASSISTANT[:2]], seed=0)
    assert found.between.draws == pytest.approx(found.between.value)
    assert found.within.draws == pytest.approx(found.within.value)  # once each, with two draws


def test_paraphrases_that_get_any_reply_are_strangers() -> None:
    texts = [*PERSON, *ASSISTANT]
    order = np.random.default_rng(0).permutation(len(texts))
    mixed = [[texts[i] for i in order[k : k + 4]] for k in range(0, 20, 4)]
    found = spread(mixed, seed=0).ratio
    assert found is not None
    assert found.value == pytest.approx(1, abs=0.15)
