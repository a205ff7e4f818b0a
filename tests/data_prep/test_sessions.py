"""Chats are cut where nobody wrote for a while; a late answer finds its question."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from data_prep import sessions
from data_prep.sessions import cut
from data_prep.sources import Bad, RawChat, RawConversation, RawMessage

GAP = 1800.0


def said(text: str, time: float | None = None, by: str = "bob", **more: str) -> RawMessage:
    return RawMessage(text, sender=by, time=time, **more)  # type: ignore[arg-type]


def parts(*messages: RawMessage | Bad, gap: float = GAP) -> list[RawConversation]:
    found = cut(RawChat("chat", iter(messages)), gap, lambda m: m.sender == "me")
    return [part for part in found if isinstance(part, RawConversation)]


def texts(found: Iterable[RawConversation]) -> list[list[str]]:
    return [[m.text for m in part.messages] for part in found]


def test_a_gap_longer_than_the_limit_cuts_and_one_as_long_does_not() -> None:
    found = parts(said("a", 0), said("b", GAP), said("c", 2 * GAP + 1), said("d", 2 * GAP + 1))
    assert texts(found) == [["a", "b"], ["c", "d"]]
    assert [(part.id, part.start, part.meta) for part in found] == [
        ("chat#1", 0, {"chat": "chat"}),
        ("chat#2", 2 * GAP + 1, {"chat": "chat"}),
    ]


def test_messages_without_a_clock_go_on_and_the_gap_is_to_the_last_one_with() -> None:
    assert texts(parts(said("a", 0), said("b"), said("c", 10), said("d", 10 + GAP + 1))) == [["a", "b", "c"], ["d"]]
    found = parts(said("a"), said("b"))
    assert texts(found) == [["a", "b"]]
    assert found[0].start is None


def test_a_late_reply_of_ones_own_stands_beside_a_copy_of_what_it_answers() -> None:
    found = parts(
        said("did you see it?", 0, id="1"),
        said("lunch?", 9000, id="2"),
        said("yes I did", 9001, by="me", answers="1"),
        said("ok", 9002, by="me"),
    )
    assert texts(found) == [["did you see it?"], ["did you see it?", "yes I did"], ["lunch?", "ok"]]
    assert [m.parts for m in found[1].messages] == [0, 1]
    assert found[1].start == 9001
    assert sum(m.parts for part in found for m in part.messages) == 4


def test_only_an_answer_of_ones_own_to_somebody_elses_words_is_moved() -> None:
    asked = said("q", 0, id="1")
    assert texts(parts(asked, said("x", 9000), said("a", 9001, answers="1"))) == [["q"], ["x", "a"]]
    assert texts(parts(asked, said("x", 5), said("a", 6, by="me", answers="1"))) == [["q", "x", "a"]]
    assert texts(parts(asked, said("x", 9000), said("a", 9001, by="me", answers="7"))) == [["q"], ["x", "a"]]
    mine = said("q", 0, by="me", id="1")
    assert texts(parts(mine, said("x", 9000), said("a", 9001, by="me", answers="1"))) == [["q"], ["x", "a"]]
    photo = said("", 0, id="1", kind="media")
    assert texts(parts(photo, said("x", 9000), said("a", 9001, by="me", answers="1"))) == [[""], ["x", "a"]]


def test_only_so_many_messages_are_remembered(monkeypatch: object) -> None:
    monkeypatch.setattr(sessions, "REMEMBERED", 2)  # type: ignore[attr-defined]
    chat = [said(str(i), float(i), id=str(i)) for i in range(4)]
    late = [said(f"to {i}", 9000.0 + i, by="me", answers=str(i)) for i in range(4)]
    assert texts(parts(*chat, *late)) == [["0", "1", "2", "3"], ["2", "to 2"], ["3", "to 3"], ["to 0", "to 1"]]


def test_bad_lines_pass_through_in_their_place() -> None:
    bad = Bad("f", 3, "why", "text")
    items = list(cut(RawChat("c", iter([said("a", 0), bad, said("b", 1)])), GAP, lambda m: False))
    assert items[0] == bad
    assert isinstance(items[1], RawConversation)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 20_000)),
            st.sampled_from(["me", "bob"]),
            st.one_of(st.none(), st.integers(0, 30)),
        ),
        max_size=30,
    )
)
def test_every_message_is_in_one_conversation_and_copies_count_for_nothing(
    drawn: list[tuple[int | None, str, int | None]],
) -> None:
    chat = [
        RawMessage(str(i), sender=by, time=time, id=str(i), answers=None if to is None else str(to))
        for i, (time, by, to) in enumerate(drawn)
    ]
    found = parts(*chat)
    counted = sorted(int(m.text) for part in found for m in part.messages if m.parts)
    assert counted == list(range(len(chat)))
    for part in found:
        order = [int(m.text) for m in part.messages]
        assert order == sorted(order)
