"""Answers that are right or wrong by rule, and the shipped questions."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.evals import ability
from mlx_persona.evals.ability import Item, numbers_in, read_items, retention, tallies
from mlx_persona.evals.intervals import Tally
from mlx_persona.evals.probes import shipped

ITEMS = read_items(shipped("ability.jsonl"))


def item(ask: str = "What is 17 + 25?", **check: Any) -> Item:
    (name, wanted), *rest = check.items()
    return Item("one", "any", ask, name, wanted, **dict(rest))


def test_numbers_are_read_in_digits_and_in_words() -> None:
    text = "From -3 and 1,250.5 to forty-two, a hundred, two hundred and six or minus nine; 3.5.1 and x2 are none"
    assert numbers_in(text) == ([-3, 1250.5, 3.5], [42, 206, -9])
    assert numbers_in("17-25=-8")[0] == [17, 25, -8]
    assert numbers_in("nothing here, someone often") == ([], [])


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("42", True),
        ("17 + 25 = 42.", True),
        ("17+20=37, 37+5=42", True),
        ("it's forty two", True),
        ("that one is 42", True),
        ("seventeen plus twenty-five is forty-two", True),
        ("42, easy. I learned that when I was 6", True),
        ("the sum of 17 and 25 is 42", True),
        ("41", False),
        ("17 + 25 = 43", False),
        ("17 + 25", False),
        ("420", False),
        ("4.2", False),
        ("not sure", False),
        ("", False),
    ],
)
def test_a_number_is_the_answer_and_no_echo_of_the_question(reply: str, right: bool) -> None:
    assert item(number=42).right(reply) == right


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Paris.", True),
        ('It is called "Paris"', True),
        ("Paris's the one", True),
        ("PARIS", True),
        ("not Paris", False),
        ("Paris? Paris is wrong", True),  # asserted once
        ("Parisian", False),
        ("Paris or Rome", False),
        ("", False),
    ],
)
def test_a_fact_is_asserted_and_nothing_that_spoils_it(reply: str, right: bool) -> None:
    assert item("Which city?", accept=["paris"], reject=("rome",)).right(reply) == right


@pytest.mark.parametrize(
    ("wanted", "reply", "right"),
    [
        ({"a": 1}, '{"a": 1}', True),
        ({"a": 1}, '```json\n{"a":1}\n```', True),
        ({"a": 1}, 'Here: ```\n{"a":1}\n``` done', True),
        ({"a": 1}, 'Sure: {"a": 1}', False),
        ({"a": 1}, '{"a": 1, "b": 2}', False),
        ({"a": 1}, '{"a": true}', False),
        ([1, 2], "[1, 2]", True),
        ([1, 2], "[2, 1]", False),
        ([1, 2], "[" * 100_000, False),
        ({"a": 1}, "", False),
    ],
)
def test_json_is_compared_by_value(wanted: Any, reply: str, right: bool) -> None:
    assert item(json=wanted).right(reply) == right


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("len(xs)", True),
        ("`len( xs )`", True),
        ("You use ```python\nn = len(xs)\nprint(n)\n``` for that.", True),
        (">>> len(xs)\n3", True),
        ("The expression:\nlen(xs)\nas you know", True),
        ("len(ys)", False),
        ("use len on xs", False),
        ("len xs", False),
        ("`len(xs`", False),
        ("(" * 100_000, False),
        ("len(xs)" + " " * 100_000 + "# long", False),
        ("\0", False),
        ("", False),
    ],
)
def test_code_is_parsed_and_compared_without_its_layout(reply: str, right: bool) -> None:
    assert item(code=["len(xs)"]).right(reply) == right


def test_code_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was run")

    for name in ("eval", "exec"):
        monkeypatch.setattr(f"builtins.{name}", refuse)
    assert not item(code=["len(xs)"]).right("```python\nraise SystemExit\n```")


def test_a_pattern_must_fit_the_whole_reply() -> None:
    assert item(pattern=r"\W*green\W*").right(" green. \n")
    assert not item(pattern=r"\W*green\W*").right("it is green")


def test_the_shipped_questions_are_well_formed() -> None:
    counts = Counter(one.kind for one in ITEMS)
    assert counts.keys() == {"arithmetic", "facts", "format", "code"}
    assert sum(counts.values()) >= 200
    assert min(counts.values()) >= 40
    assert len({one.id for one in ITEMS}) == len({one.ask for one in ITEMS}) == len(ITEMS)


@pytest.mark.parametrize("one", ITEMS, ids=lambda one: one.id)
def test_no_shipped_question_is_answered_by_its_own_words_or_by_nothing(one: Item) -> None:
    assert not one.right(one.ask)
    assert not one.right("")
    assert not one.right("I don't know.")


@pytest.mark.parametrize("one", [one for one in ITEMS if one.check != "pattern"], ids=lambda one: one.id)
def test_each_shipped_answer_is_accepted_when_it_is_given(one: Item) -> None:
    answers = {
        "number": lambda: [str(one.wanted), f"It is {one.wanted}."],
        "json": lambda: [json.dumps(one.wanted)],
        "code": lambda: [f"`{code}`" for code in one.wanted],
        "accept": lambda: [f"It's {text}!" for text in one.wanted if not set(text) & set("(?[\\")],
    }[one.check]()
    for answer in answers:
        assert one.right(answer), answer


def test_shipped_sums_and_programs_come_out_as_python_computes_them() -> None:
    """Every "What is A <sign> B?" and every printed expression, worked out here."""
    checked = 0
    words = {" x ": " * ", " times ": " * ", " divided by ": " / "}
    for one in (one for one in ITEMS if one.check == "number"):
        text = one.ask.removeprefix("What is ").removeprefix("What does this Python code print? ").rstrip("?")
        for word, sign in words.items():
            text = text.replace(word, sign)
        text = text.removeprefix("print(").removesuffix(")") if text.startswith("print(") else text
        try:
            ast.parse(text, mode="eval")
        except SyntaxError:
            continue
        assert eval(text) == one.wanted, one.ask
        checked += 1
    assert checked >= 30


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "1: an item must be an object"),
        ('{"id": "a", "kind": "k", "ask": ""}', "1: ask must be text"),
        ('{"id": "a", "kind": "k", "ask": "?"}', "1: an item must have one of number, accept, pattern, json, code"),
        ('{"id": "a", "kind": "k", "ask": "?", "number": 1, "json": 1}', "got number, json"),
        ('{"id": "a", "kind": "k", "ask": "?", "number": "1"}', "number must be a number, got '1'"),
        ('{"id": "a", "kind": "k", "ask": "?", "accept": "x"}', "accept must be a list of texts"),
        ('{"id": "a", "kind": "k", "ask": "?", "accept": []}', "accept must hold at least one answer"),
        ('{"id": "a", "kind": "k", "ask": "?", "accept": ["(x"]}', "must be a regular expression"),
        ('{"id": "a", "kind": "k", "ask": "?", "pattern": "(x"}', "pattern must be a regular expression"),
        ('{"id": "a", "kind": "k", "ask": "?", "code": ["a b"]}', "code must be Python, got 'a b'"),
        ('{"id": "a", "kind": "k", "ask": "?", "acept": ["x"]}', "unknown key 'acept'"),
        ("", "holds no question"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(line)
    with pytest.raises(PersonaError, match=r"mine\.jsonl") as caught:
        read_items(path)
    assert message in caught.value.message


def test_two_questions_must_not_share_an_id(tmp_path: Path) -> None:
    line = '{"id": "a", "kind": "k", "ask": "?", "number": 1}\n'
    (tmp_path / "mine.jsonl").write_text(line + line)
    with pytest.raises(PersonaError, match=r"mine\.jsonl:2: id 'a' is there twice"):
        read_items(tmp_path / "mine.jsonl")


def test_scores_are_counted_by_kind_and_on_what_the_base_got_right() -> None:
    items = [Item(str(i), kind, "?", "number", 1) for i, kind in enumerate("aabb")]
    assert tallies(items, [True, False, True, True]) == {"a": Tally(1, 2), "b": Tally(2, 2), "all": Tally(3, 4)}
    kept = retention([True, True, False, False], [True, False, True, False])
    assert (kept.kept, kept.gained) == (Tally(1, 2), Tally(1, 2))
    assert tuple(ability._RIGHT) == ability.CHECKS
