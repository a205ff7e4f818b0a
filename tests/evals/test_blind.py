"""A blind comparison's logic: order, keys, undo, what is read back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_persona.errors import PersonaError
from mlx_persona.evals.blind.session import CHOICE, Answer, Item, Session, Step, first_sides
from mlx_persona.schema import Message


def item(number: int, first: str) -> Item:
    before = (Message("user", f"question {number}?"),)
    return Item(before, {"a": f"a{number}", "b": f"b{number}"}, {"a": False, "b": number == 1}, first)


def session(firsts: str = "abba", rubric: tuple[str, ...] = ()) -> Session:
    return Session(tuple(item(i, first) for i, first in enumerate(firsts)), rubric)


def pressed(start: Session, keys: str) -> Session:
    for key in keys:
        start = start.pressed(key)
    return start


@pytest.mark.parametrize("n", [1, 2, 7, 20, 101])
def test_each_side_stands_first_in_half_of_the_items_in_an_order_that_the_seed_fixes(n: int) -> None:
    order = first_sides(n, 3)
    assert order == first_sides(n, 3)
    assert (order.count("a"), order.count("b")) == ((n + 1) // 2, n // 2)
    if n > 7:
        assert order not in (first_sides(n, 4), sorted(order), sorted(order, reverse=True))


def test_a_key_chooses_what_stood_there() -> None:
    done = pressed(session("abba"), "121t")
    assert [answer.value for answer in done.answers] == ["a", "a", "b", "tie"]
    assert done.done
    assert done.current is None
    assert [done.chosen(i) for i in range(4)] == ["a", "a", "b", "tie"]
    assert session("ab").chosen(0) is None


def test_the_rubric_asks_about_the_first_reply_and_then_the_second_by_each_measure() -> None:
    start = session("ba", ("warm", "short"))
    asked = [start.step(i) for i in range(start.steps)]
    assert asked[:6] == [
        *(Step(0, CHOICE), Step(0, "warm", "b"), Step(0, "warm", "a"), Step(0, "short", "b"), Step(0, "short", "a")),
        Step(1, CHOICE),
    ]
    now = pressed(start, "25s41")
    assert [answer.value for answer in now.answers] == ["a", 5, None, 4, 1]
    assert (now.items_done, now.current) == (1, Step(1, CHOICE))
    assert pressed(now, "1").items_done == 1


@pytest.mark.parametrize(("keys", "wrong"), [("", "3"), ("", "s"), ("", ""), ("1", "t"), ("1", "0"), ("1", "6")])
def test_a_key_that_means_nothing_here_is_refused(keys: str, wrong: str) -> None:
    now = pressed(session("ab", ("warm",)), keys)
    with pytest.raises(PersonaError, match="the key must be one of"):
        now.pressed(wrong)


def test_nothing_can_be_answered_after_the_end() -> None:
    with pytest.raises(PersonaError, match="answered already"):
        pressed(session("a"), "11")


@given(st.text(alphabet="12tu", max_size=30))
def test_undo_is_as_if_the_key_had_never_been_pressed(keys: str) -> None:
    now, kept = session("abbaab"), ""
    for key in keys:
        if key == "u":
            now, kept = now.undone(), kept[:-1]
        elif not now.done:
            now, kept = now.pressed(key), kept + key
    assert now == pressed(session("abbaab"), kept)


def test_answers_come_back_from_what_was_written() -> None:
    now = pressed(session("ab", ("warm",)), "1s52")
    written = json.loads(json.dumps([answer.to_json() for answer in now.answers]))
    assert written[:2] == [
        {"item": 0, "ask": "choice", "value": "a"},
        {"item": 0, "ask": "warm", "side": "a", "value": None},
    ]
    assert session("ab", ("warm",)).resumed(written) == now


@pytest.mark.parametrize(
    "answer",
    [
        "a",
        {},
        {"item": 1, "ask": "choice", "value": "a"},
        {"item": 0, "ask": "warm", "side": "a", "value": 3},
        {"item": 0, "ask": "choice", "value": "c"},
        {"item": 0, "ask": "choice", "value": 1},
        {"item": 0, "ask": "choice", "value": "a", "more": 1},
    ],
)
def test_answers_to_other_questions_are_not_taken(answer: Any) -> None:
    with pytest.raises(PersonaError, match="answer 1 does not belong"):
        session("ab", ("warm",)).resumed([answer])


@pytest.mark.parametrize("value", [0, 6, True, 2.0, "3"])
def test_a_rating_read_back_is_a_whole_number_from_1_to_5(value: object) -> None:
    choice = {"item": 0, "ask": "choice", "value": "tie"}
    with pytest.raises(PersonaError, match="answer 2 does not belong"):
        session("a", ("warm",)).resumed([choice, {"item": 0, "ask": "warm", "side": "a", "value": value}])


def test_more_answers_than_questions_are_not_taken() -> None:
    answer = Answer(Step(0, CHOICE), "a").to_json()
    with pytest.raises(PersonaError, match="answer 2 does not belong"):
        session("a").resumed([answer, answer])


def test_an_item_comes_back_from_what_was_written() -> None:
    one = item(1, "b")
    assert Item.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert one.shown == ("b", "a")


@pytest.mark.parametrize(
    "change",
    [
        {"before": None},
        {"before": [{"role": "user"}]},
        {"replies": {"a": "x"}},
        {"replies": {"a": "x", "b": 1}},
        {"cut": {"a": False, "b": "no"}},
        {"cut": None},
        {"first": "c"},
        {"first": []},
    ],
)
def test_a_damaged_item_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PersonaError):
        Item.from_json({**item(0, "a").to_json(), **change})
    for other in ([], "x", None):
        with pytest.raises(PersonaError):
            Item.from_json(other)
