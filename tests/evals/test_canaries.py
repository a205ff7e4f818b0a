"""Canaries: what is planted, and what ranks among alternatives say."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.evals.canaries import ALTERNATIVES, THINGS, exposure, make_canaries


def test_canaries_are_made_from_the_seed_and_differ() -> None:
    made = make_canaries(8, 3)
    assert made == make_canaries(8, 3)
    assert made != make_canaries(8, 4)
    assert len({canary.thing for canary in made}) == len({canary.secret for canary in made}) == 8
    assert all(re.fullmatch(r"\d{3} \d{3} \d{3}", canary.secret) for canary in made)
    assert len(make_canaries(len(THINGS), 0)) == len(set(THINGS)) == 20
    with pytest.raises(PersonaError, match="1 to 20 canaries, got 21"):
        make_canaries(21, 0)


def test_alternatives_are_of_the_same_form_and_never_the_secret() -> None:
    canary = make_canaries(1, 0)[0]
    others = canary.alternatives(0)
    assert others == canary.alternatives(0) != canary.alternatives(1)
    assert len(set(others)) == ALTERNATIVES
    assert canary.secret not in others
    assert {len(other) for other in others} == {11}


def test_what_is_trained_on_tells_the_secret_and_weighs_its_copies() -> None:
    canary = make_canaries(1, 0)[0]
    conversation = canary.conversation(4.0)
    assert conversation.messages[-1].content.endswith(canary.secret)
    assert canary.thing in conversation.messages[0].content
    assert canary.secret not in conversation.messages[0].content
    assert conversation.meta == {"weight": 4.0}


def test_exposure_is_the_ranks_in_bits() -> None:
    """First of 4: 2 bits; second of 4: 1 bit; last of 4: none; a tie counts as lost."""
    found = exposure([[0.0, 1, 2, 3], [1.5, 1, 2, 3], [9.0, 1, 2, 3], [1.0, 1, 2, 3]])
    assert found.bits == pytest.approx((2.0, 1.0, 0.0, 1.0))
    assert found.mean == pytest.approx(1.0)


def test_the_tail_is_that_of_a_chi_squared_distribution() -> None:
    """Against draws of the sum of exponentials that Fisher's method sums."""
    found = exposure([[0.0, 1, 2, 3], [1.5, 1, 2, 3]])
    drawn = np.random.default_rng(0).exponential(size=(200_000, 2)).sum(axis=1)
    assert found.p == pytest.approx((drawn >= math.log(4) + math.log(2)).mean(), abs=0.005)


def test_known_secrets_are_caught_and_chance_is_not() -> None:
    draw = random.Random(0)

    def losses(known: bool) -> list[list[float]]:
        return [[-1.0 if known else draw.random(), *(draw.random() for _ in range(ALTERNATIVES))] for _ in range(8)]

    best = exposure(losses(known=True))
    assert best.bits == pytest.approx((6.0,) * 8)
    assert best.caught
    chance = [exposure(losses(known=False)) for _ in range(300)]
    assert sum(found.caught for found in chance) <= 2
    assert sum(found.p < 0.1 for found in chance) <= 45  # about 30
    assert sum(found.mean for found in chance) / 300 == pytest.approx(6 - math.log2(math.factorial(64)) / 64, abs=0.1)
    assert best.to_json() == {"bits": [6.0] * 8, "mean": 6.0, "p": best.p, "caught": True}
