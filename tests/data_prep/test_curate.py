"""Steps over all conversations: copies, caps, ages and dates."""

from __future__ import annotations

import pytest

from data_prep import curate
from data_prep.curate import Draft, Window
from data_prep.sessions import Turn
from data_prep.tags import BUCKETS, TIERS, Condition, Rule, Rules
from mlx_persona.errors import PersonaError

DAY = 86_400.0


def draft(*replies: str, contact: str | None = "bob", start: str | float | None = None, name: str = "x") -> Draft:
    turns = [turn for reply in replies for turn in (Turn("user", f"asks {reply}"), Turn("assistant", reply))]
    return Draft(turns, "messages", name, contact, start)


def asides(*drafts: Draft) -> list[list[str | None]]:
    return [[turn.aside for turn in d.turns if turn.role == "assistant"] for d in drafts]


def test_oldest_first_and_those_without_a_date_before_all() -> None:
    drafts = [draft(name="b", start=5.0), draft(name="n"), draft(name="a", start="1970-01-01"), draft(name="m")]
    assert [d.id for d in curate.ordered(drafts)] == ["n", "m", "a", "b"]


def test_of_copies_the_first_stays() -> None:
    one, same, other = draft("a", name="1"), draft("a", name="2"), draft("b", name="3")
    kept, copies = curate.without_copies([one, same, other])
    assert (kept, copies) == ([one, other], [same])


def test_roles_and_borders_of_turns_are_part_of_what_is_the_same() -> None:
    pair = [Turn("user", "a"), Turn("user", "b")]
    drafts = [
        Draft(turns, "s", "x", None, None)
        for turns in (pair, [Turn("user", "a\nb")], [Turn("assistant", "a"), pair[1]])
    ]
    assert curate.without_copies(drafts)[1] == []


def test_the_cap_keeps_the_latest_replies_of_each_contact() -> None:
    first, other, last = draft("a", "b"), draft("c", contact="cleo"), draft("d", "e")
    alone = draft("f", "g", "h", "i", contact=None)
    curate.cap_contacts([first, other, last, alone], 3)
    assert asides(first, other, last, alone) == [["over_cap", None], [None], [None, None], [None] * 4]


def test_the_same_long_reply_to_everybody_is_boilerplate() -> None:
    text = "I am out of office until Monday, please write to my colleague"
    drafts = [draft(text, f"own words {i}", contact=f"c{i % 3}") for i in range(5)]
    few = [draft("happy birthday to you, my dear!", contact=f"c{i}") for i in range(4)]
    curate.set_boilerplate_aside([*drafts, *few])
    assert asides(*drafts) == [["boilerplate", None]] * 5
    assert asides(*few) == [[None]] * 4


def test_a_near_duplicate_is_learned_once_and_short_replies_as_often_as_they_are_said() -> None:
    long = "so we went all the way up to the lake and then it started to rain like mad"
    drafts = [
        draft(long),
        draft(long + "!"),
        draft(long.upper()),
        draft("ok"),
        draft("ok"),
        draft("something else entirely, sorry"),
    ]
    curate.set_near_duplicates_aside(drafts, 0.8)
    assert asides(*drafts) == [[None], ["near_duplicate"], ["near_duplicate"], [None], [None], [None]]


def test_a_conversation_weighs_half_for_every_half_life() -> None:
    drafts = [draft(start=0.0), draft(start=10 * DAY), draft(start=20 * DAY), draft()]
    curate.weigh_by_age(drafts, 10)
    assert [d.weight for d in drafts] == [0.25, 0.5, 1.0, None]
    with pytest.raises(PersonaError, match="--half-life-days needs dates"):
        curate.weigh_by_age([draft()], 10)


def test_tiers_become_the_weight_of_a_conversation() -> None:
    """The mean over its replies, times the weight by age; a bucket that was given by hand stands."""
    deep = Rule("deep", "tier", "PHILOSOPHICAL_LOW_FREQ", reply=Condition(phrases=(" universe ",)))
    rules = Rules((deep,), dict.fromkeys(TIERS, 1.0) | {"PHILOSOPHICAL_LOW_FREQ": 0.5}, 0.5)
    drafts = [draft("tea is fine", "the universe is large"), draft("tea again", start=1.0)]
    drafts[1].weight = 0.5
    drafts[1].meta["tags_by_hand"] = {"1": 2}
    curate.tag(drafts, rules)
    assert [d.weight for d in drafts] == [0.75, 0.5]
    assert [(t["turn"], t["bucket"], t["tier"]) for d in drafts for t in d.meta["tags"]] == [
        (1, "canonical_voice", "CORE"),
        (3, "canonical_voice", "PHILOSOPHICAL_LOW_FREQ"),
        (1, tuple(BUCKETS)[2], "CORE"),
    ]
    assert "tags_by_hand" not in drafts[1].meta


def test_a_window_holds_whole_days() -> None:
    window = Window.of("2024-01-30", "2024-01-31")
    begin = 1_706_572_800.0  # 2024-01-30 00:00 UTC
    assert [window.holds(t) for t in (begin - 1, begin, begin + 2 * DAY - 1, begin + 2 * DAY, None)] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert Window.of("", "").holds(None)
    assert Window.of("", "").open
    assert Window.of("", "2024-01-30T00:01").holds(begin)
    assert not Window.of("", "2024-01-30T00:01").holds(begin + 60)


@pytest.mark.parametrize(
    ("since", "until", "message"),
    [
        ("soon", "", "--since must be a date such as 2024-01-31, got 'soon'"),
        ("", "31.1.2024", "--until must be a date such as 2024-01-31, got '31.1.2024'"),
        ("2024-02-01", "2024-01-01", "--since must be before --until"),
    ],
)
def test_dates_that_are_none(since: str, until: str, message: str) -> None:
    with pytest.raises(PersonaError) as caught:
        Window.of(since, until)
    assert caught.value.message.startswith(message)


def test_a_chat_that_dominates_is_named() -> None:
    assert curate.lopsided([draft("a", "b", "c", contact="whatsapp-1"), draft("d", contact="whatsapp-2")]) == (
        "whatsapp-1 gives 75% of the replies; --max-per-contact N keeps the latest N of each"
    )
    assert curate.lopsided([draft("a"), draft("b", contact="c")]) is None
    assert curate.lopsided([draft("a", "b")]) is None
    assert curate.lopsided([]) is None
