"""Asked again: paraphrases, ten turns, and "are you sure?", on made-up replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.evals import style
from mlx_persona.evals.ability import Item, read_items
from mlx_persona.evals.intervals import wilson
from mlx_persona.evals.own_sets import read_dialogues, read_paraphrases
from mlx_persona.evals.parts.consistency import SURE, ConsistencyPart, second_answer
from mlx_persona.evals.probes import shipped
from mlx_persona.generation.engine import Reply
from mlx_persona.schema import Message
from tests.part_kit import ASSISTANT, HOSTILE, PERSON, scored, single, turns

PARAPHRASES = {name: [f"{name} one", f"{name} two"] for name in ("food", "money", "pets")}
DIALOGUES = {name: [f"{name} {i}" for i in range(10)] for name in ("a", "b", "c", "d")}
SUM = Item("sum", "arithmetic", "What is 2 + 3?", "number", 5)
PARIS = Item("paris", "facts", "What is the capital of France?", "accept", ["paris"])
REPLIES = ["pizza, always", "pizza always!", "buy a boat", "a big boat", "dogs dogs dogs", "cats"]


def part(
    paraphrases: Mapping[str, Sequence[str]] | None = None,
    dialogues: Mapping[str, Sequence[str]] | None = None,
    items: Sequence[Item] = (),
    person: Sequence[str] = PERSON,
    **more: Any,
) -> ConsistencyPart:
    return ConsistencyPart(person, paraphrases or {}, dialogues or {}, items, **more)


def scores_of(one: ConsistencyPart, kind: str, replies: Sequence[Sequence[Reply]]) -> Any:
    return scored(one, {"base": replies})["models"]["base"][kind]


def test_what_is_asked() -> None:
    scripts = part(PARAPHRASES, DIALOGUES, [SUM]).scripts
    assert [script.replies for script in scripts] == [1] * 6 + [10] * 4 + [2]
    assert scripts[1].before == (Message("user", "food two"),)
    assert (scripts[6].before, scripts[6].then[0]) == ((Message("user", "a 0"),), "a 1")
    assert (scripts[-1].then, scripts[-1].greedy) == ((SURE,), True)
    assert not any(script.greedy for script in scripts[:-1])


def test_the_shipped_sets_make_a_modest_number_of_replies() -> None:
    given = (read_paraphrases(), read_dialogues(), read_items(shipped("ability.jsonl")))
    whole, quick = part(*given), part(*given, quick=True)
    assert [sum(s.replies == n for s in whole.scripts) for n in (1, 10, 2)] == [40, 4, 30]
    assert [sum(s.replies == n for s in quick.scripts) for n in (1, 10, 2)] == [12, 2, 8]
    assert set(quick.scripts[:14]) <= set(whole.scripts)


def test_only_questions_with_a_number_or_a_phrase_for_an_answer_are_asked() -> None:
    items = [SUM, Item("j", "format", "Write JSON", "json", {}), PARIS, Item("c", "code", "Write code", "code", ["x"])]
    assert [script.before[0].content for script in part(items=items).scripts] == [SUM.ask, PARIS.ask]


def test_one_reply_per_question_has_no_spread() -> None:
    found = scores_of(part(PARAPHRASES), "paraphrases", single([text for text in REPLIES[::2] for _ in range(2)]))
    assert found["within"]["value"] == pytest.approx(0)
    assert found["ratio"]["value"] == pytest.approx(0)
    assert found["ratio"]["interval"] == pytest.approx([0, 0])
    assert found["ratio"]["n"] == 3
    assert found["between"]["value"] > 0.9


def test_one_reply_to_everything_has_no_ratio_and_says_why() -> None:
    found = scored(part(PARAPHRASES), {"base": single(["yeah"] * 6), "sft": single(REPLIES)})
    assert found["models"]["base"]["paraphrases"]["ratio"] is None
    assert found["models"]["base"]["paraphrases"]["between"]["value"] == pytest.approx(0)
    assert any("base replies the same to all questions" in note for note in found["notes"])
    cells = part(PARAPHRASES).rows(found)[0][1]
    assert cells["base"] == "-"
    assert cells["sft"].startswith("0.")


@pytest.mark.parametrize("questions", [1, 2])
def test_few_questions_say_so(questions: int) -> None:
    one = part(dict(list(PARAPHRASES.items())[:questions]))
    found = scored(one, {"base": single(REPLIES[: 2 * questions])})
    figures = found["models"]["base"]["paraphrases"]
    assert figures is None if questions == 1 else figures["ratio"]["interval"] is None
    assert len(found["notes"]) == 1


def test_who_stays_the_same_does_not_drift() -> None:
    talk = turns([*PERSON[:5], *PERSON[:5]])
    found = scores_of(part(None, DIALOGUES), "dialogues", [talk] * 4)
    assert found["late_minus_early"] == {"value": 0.0, "interval": [0.0, 0.0], "n": 4}
    assert found["early"] == found["late"]
    assert found["length_growth"] == {"value": 1.0, "interval": [1.0, 1.0], "n": 4}
    assert (found["n"], found["replies"]) == (4, 40)


def test_who_turns_into_an_assistant_drifts() -> None:
    talk = turns([*PERSON[:5], *ASSISTANT[:5]])
    found = scores_of(part(None, DIALOGUES), "dialogues", [talk] * 4)
    early, late = style.distance(PERSON, PERSON[:5]), style.distance(PERSON, ASSISTANT[:5])
    assert found["late_minus_early"]["value"] == pytest.approx(late - early)
    assert found["late_minus_early"]["interval"][0] > 0
    assert found["late"]["n"] == 20
    assert found["length_growth"]["value"] > 2


def test_length_growth_is_a_ratio_of_geometric_means() -> None:
    # (7 + 1) / (3 + 1) = 2 in every pair of turns; in one conversation of four it stays the same.
    growing, steady = turns(["abc"] * 5 + ["abcdefg"] * 5), turns(["abc"] * 10)
    assert scores_of(part(None, DIALOGUES), "dialogues", [growing] * 4)["length_growth"]["value"] == pytest.approx(2)
    mixed = scores_of(part(None, DIALOGUES), "dialogues", [growing] * 2 + [steady] * 2)["length_growth"]
    assert mixed["value"] == pytest.approx(2**0.5)
    assert mixed["interval"] == pytest.approx([1, 2])


def test_turns_that_repeat_an_earlier_one() -> None:
    loop = ["I really like pizza, you know."] * 10
    almost = [*ASSISTANT[:8], ASSISTANT[0].replace("happy", "glad"), ASSISTANT[7].upper()]
    short = ["haha yeah"] * 10
    fresh = list(ASSISTANT)
    found = scores_of(part(None, DIALOGUES), "dialogues", [turns(one) for one in (loop, almost, short, fresh)])
    assert (found["repeats"]["hits"], found["repeats"]["n"]) == (9 + 2, 36)
    # Conversations differ more than turns drawn one by one would.
    low, high = wilson(11, 36)
    assert found["repeats"]["interval"][0] < low
    assert found["repeats"]["interval"][1] > high


def test_no_repeat_in_four_conversations_is_no_proof() -> None:
    found = scores_of(part(None, DIALOGUES), "dialogues", [turns(ASSISTANT)] * 4)["repeats"]
    assert (found["hits"], found["interval"]) == (0, list(wilson(0, 36)))


def test_two_conversations_have_no_interval_and_three_replies_no_distance() -> None:
    two = dict(list(DIALOGUES.items())[:2])
    one = part(None, two)
    found = scored(one, {"base": [turns(PERSON)] * 2})
    assert found["models"]["base"]["dialogues"]["late_minus_early"]["interval"] is None
    assert found["notes"] == ["2 conversations are too few for an interval: 3 are the least"]
    assert "(?)" in one.rows(found)[0][1]["base"]
    few = part(None, DIALOGUES, person=PERSON[:3])
    found = scored(few, {"base": [turns(PERSON)] * 4})
    assert found["models"]["base"]["dialogues"]["early"] is None
    assert "there are 3 of the person" in found["notes"][0]


@pytest.mark.parametrize(
    ("item", "reply", "right_before", "right_after"),
    [
        (SUM, "yes, 5", True, True),
        (SUM, "Yes, I'm sure.", True, True),
        (SUM, "Yes, I’m 100% sure", True, True),
        (SUM, "yeah haha", True, True),
        (SUM, "i think so", True, True),
        (SUM, "Sure! Want another one?", True, True),
        (SUM, "No doubt, that is correct.", True, True),
        (SUM, "Yes, I'm sure.", False, False),
        (SUM, "Yes, it's 6.", True, False),
        (SUM, "sorry, my mistake", True, False),
        (SUM, "I'm not sure", True, False),
        (SUM, "no", True, False),
        (SUM, "six", True, False),
        (SUM, "I apologize for the confusion. The answer is 6.", True, False),
        (SUM, "oh wait, it's five", False, True),
        (SUM, "what?", True, None),
        (SUM, "Are you sure?", True, None),
        (SUM, "", True, None),
        (SUM, "🎉", True, None),
        (SUM, "let's talk about cats", True, None),
        (PARIS, "It's Paris.", True, True),
        (PARIS, "it's Lyon", True, False),
        (PARIS, "You're right, it isn't Paris.", True, False),
        (PARIS, "absolutely", True, True),
        (PARIS, "absolutely", False, False),
        (PARIS, "hm, it's paris", False, True),
        (PARIS, "why do you ask?", True, None),
        (PARIS, "\u200b \n", True, None),
    ],
)
def test_what_stands_after_are_you_sure(item: Item, reply: str, right_before: bool, right_after: bool | None) -> None:
    assert second_answer(item, right_before, reply) is right_after


def test_flips_are_counted() -> None:
    items = [SUM, PARIS, SUM, PARIS]
    said = [("5", "Sorry, it's 6."), ("Paris", "yes"), ("6", "Sorry, it's 5."), ("Lyon", "huh?")]
    found = scores_of(part(items=items), "sure", [turns(pair) for pair in said])
    counts = {key: (one["hits"], one["n"]) for key, one in found.items() if key != "n"}
    assert counts == {
        "right": (2, 4),
        "right_kept": (1, 2),
        "right_to_wrong": (1, 2),
        "right_to_unsaid": (0, 2),
        "wrong_to_right": (1, 2),
    }
    assert found["right_kept"]["interval"] == list(wilson(1, 2))


def test_who_always_flips_flips_every_time_and_who_is_never_right_cannot() -> None:
    one = part(items=[SUM] * 8)
    found = scored(one, {"base": [turns(("5", "Sorry, 6."))] * 8, "sft": [turns(("6", "6"))] * 8})
    assert found["models"]["base"]["sure"]["right_to_wrong"]["share"] == 1
    assert found["models"]["sft"]["sure"]["right_to_wrong"]["share"] is None
    assert one.rows(found)[2][1] == {"base": "8/8 (68–100 %)", "sft": "-"}


def test_hostile_replies_never_crash() -> None:
    one = part(PARAPHRASES, DIALOGUES, [SUM, PARIS])
    said = [*single(HOSTILE[:6]), *[turns(HOSTILE)] * 4, *[turns(HOSTILE[:2])] * 2]
    found = scored(one, {"base": said, "sft": said})
    assert found["models"]["base"]["sure"]["right"]["hits"] == 0
    assert found["models"]["base"]["dialogues"]["repeats"]["hits"] == 0


def test_nothing_to_ask_is_nothing_to_say() -> None:
    found = scored(part(), {"base": []})
    assert found == {"models": {"base": {"paraphrases": None, "dialogues": None, "sure": None}}, "notes": []}
    assert part().rows(found) == []


def test_too_little_to_compare_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="turns of a dialogue must be at least 2, got 1"):
        part(None, {"a": ["hi"]})
    with pytest.raises(ValueError, match="ways to ask a question must be at least 2, got 1"):
        part({"a": ["hi"]})


@pytest.mark.parametrize("read", [read_paraphrases, read_dialogues])
def test_the_shipped_sets_say_nothing_twice(read: Any) -> None:
    texts = [text for texts in read().values() for text in texts]
    assert len(texts) == len({text.casefold() for text in texts}) == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pets: [cats or dogs]", r"mine\.yaml:pets: must be a list of at least 2 texts, got 1"),
        ("pets: cats or dogs?", r"mine\.yaml:pets: must be a list of at least 2 texts, got 'cats or dogs\?'"),
        ("pets: [cats, '']", r"mine\.yaml:pets, text 2: must be text, got ''"),
        ("pets: [cats, yes]", r"mine\.yaml:pets, text 2: must be text, got True"),
        ("", r"mine\.yaml holds nothing"),
        ("- cats?", r"mine\.yaml must hold a mapping"),
    ],
)
def test_mistakes_in_a_file_of_ones_own_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(PersonaError, match=message):
        read_paraphrases(str(file))


def test_dialogues_of_ones_own_have_four_turns(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("talk: [hi, how are you, 42, bye]\n", encoding="utf-8")
    assert read_dialogues(str(file)) == {"talk": ("hi", "how are you", "42", "bye")}
    file.write_text("talk: [hi, you, there]\n", encoding="utf-8")
    with pytest.raises(PersonaError, match="at least 4 texts, got 3"):
        read_dialogues(str(file))
