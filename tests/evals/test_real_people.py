"""The measures measure: of real people, each is nearest to themselves and is taken for themselves."""

from __future__ import annotations

import random

import pytest

from data_prep.pipeline import clean
from mlx_persona.config import CleanConfig
from mlx_persona.evals import style
from mlx_persona.evals.attribution import Attribution
from mlx_persona.evals.wording import Wording
from mlx_persona.evals.words import fitting_list
from mlx_persona.models.embedded import fetch_conversations
from mlx_persona.schema import Conversation, read_conversations
from mlx_persona.tokens.batches import evenly

PEOPLE = ("720840be", "0f9fe1f8", "31267496")


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Conversation], list[Conversation]]]:
    """Person -> conversations to learn from and held-out ones, an eighth of them drawn at random.

    Not the newest ones: people change in years, and this is about the measures.
    """
    out = {}
    for who in PEOPLE:
        folder = tmp_path_factory.mktemp(who)
        clean(CleanConfig(raw=(str(fetch_conversations()),), me=(who,), out=str(folder), tags=False, review=""))
        found = [c for name in ("train", "valid", "test") for c in read_conversations(folder / f"{name}.jsonl")]
        random.Random(1).shuffle(found)
        out[who] = found[len(found) // 8 :], found[: len(found) // 8]
    return out


def said(conversations: list[Conversation], role: str, limit: int = 10**9) -> list[str]:
    found = [m.content for c in conversations for m in c.messages if m.role == role and m.train]
    return [found[i] for i in evenly(len(found), limit)]


@pytest.mark.slow
@pytest.mark.parametrize("who", PEOPLE)
def test_a_person_is_nearest_to_themselves_and_taken_for_themselves(
    who: str, chats: dict[str, tuple[list[Conversation], list[Conversation]]]
) -> None:
    train, test = chats[who]
    person = said(train, "assistant")
    own = said(test, "assistant", 100)
    strangers = [said(test, "user", 100), *(said(chats[one][1], "assistant", 100) for one in PEOPLE if one != who)]
    ours, judge = Wording(person, fitting_list(person)), Attribution(train)
    near = ours.compare(own)
    for other in strangers:
        far = ours.compare(other)
        assert style.distance(person, own) < style.distance(person, other)
        for name in ("function words", "openings", "letters"):
            assert near[name].above < far[name].above, name
        assert judge.share(own).interval[0] > judge.share(other).interval[1]
    assert near["letters"].above < 0.002
