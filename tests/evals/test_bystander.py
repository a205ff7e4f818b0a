"""Other characters than the person: who is asked for, and whose the replies are taken for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.evals import style
from mlx_persona.evals.asked import Asked
from mlx_persona.evals.intervals import wilson
from mlx_persona.evals.own_sets import read_bystanders
from mlx_persona.evals.parts.bystander import BystanderPart
from mlx_persona.schema import Message
from tests.part_kit import ASSISTANT, HOSTILE, PERSON, LowerCase, scored, single

ASKED = [Asked((Message("user", f"question {i}"),), text) for i, text in enumerate(PERSON)]
CHARACTERS = {"pirate": "be a pirate", "coder": "write code only please", "king": "be king"}


def part(attribution: Any = None, **changed: Any) -> BystanderPart:
    given: dict[str, Any] = {
        "asked": ASKED,
        "person": PERSON,
        "characters": CHARACTERS,
        "system": "be sam",
        "count": lambda texts: [len(text.split()) for text in texts],
    }
    return BystanderPart(**{**given, **changed}, attribution=attribution)


def test_the_prompts_go_round_among_the_characters_and_are_asked_as_trained_too() -> None:
    own = Asked((Message("system", "be sam"), Message("user", "hi")), "hey")
    scripts = part(asked=[own] * 4, max_prompt=100).scripts
    assert [script.before[0].content for script in scripts[:4]] == [*CHARACTERS.values(), "be a pirate"]
    assert [script.max_prompt for script in scripts] == [101, 102, 100, 101, *[100] * 4]
    assert {script.before[1:] for script in scripts} == {(Message("user", "hi"),)}
    assert {script.before for script in scripts[4:]} == {own.before}


def test_full_and_quick_ask_thirty_and_ten() -> None:
    many = [Asked((Message("user", f"question {i}"),), "yeah") for i in range(200)]
    assert (len(part(asked=many).scripts), len(part(asked=many, quick=True).scripts)) == (60, 20)


def test_who_is_always_the_person_has_leaked_and_who_plays_along_has_not() -> None:
    said = {
        "base": single([*ASSISTANT, *ASSISTANT]),
        "sft": single([*PERSON, *PERSON]),
        "dpo": single([*ASSISTANT, *PERSON]),
    }
    models = scored(part(LowerCase()), said)["models"]
    assert [models[label]["rate"]["share"] for label in said] == [0, 1, 0]
    assert [models[label]["own_rate"]["share"] for label in said] == [0, 1, 1]
    assert models["sft"]["rate"]["interval"] == list(wilson(10, 10))
    assert models["sft"]["led_away"] == {"value": 0.0, "interval": [0.0, 0.0], "n": 10}
    assert models["dpo"]["led_away"]["value"] == pytest.approx(style.distance(PERSON, ASSISTANT))
    assert models["dpo"]["led_away"]["interval"][0] > 0
    assert models["sft"]["distance"]["value"] == 0


def test_each_character_has_a_rate_of_its_own() -> None:
    texts = [PERSON[i] if i % 3 == 0 else ASSISTANT[i] for i in range(10)]  # the pirate alone is the person
    found = scored(part(LowerCase()), {"base": single([*texts, *PERSON])})["models"]["base"]["by_character"]
    assert {name: (one["share"], one["n"]) for name, one in found.items()} == {
        "pirate": (1, 4),
        "coder": (0, 3),
        "king": (0, 3),
    }


def test_without_a_classifier_there_are_distances_and_a_note() -> None:
    found = scored(part(), {"base": single([*ASSISTANT, *PERSON])})
    assert found["models"]["base"]["rate"] is None
    assert found["models"]["base"]["distance"]["value"] > 0
    assert any("no bystander rate" in note for note in found["notes"])
    assert [title for title, _ in part().rows(found)] == [
        "style distance above the floor, as another character",
        "  under the message of training",
        "  difference",
    ]


@pytest.mark.parametrize("n", [0, 3])
def test_too_few_held_out_prompts_say_so(n: int) -> None:
    few = part(LowerCase(), asked=ASKED[:n], person=PERSON[:n])
    found = scored(few, {"base": single([*PERSON[:n], *PERSON[:n]])})
    assert f"there are {n} of the person and {n} of a model" in found["notes"][0]
    assert found["models"]["base"]["distance"] is None
    assert found["models"]["base"]["rate"] == (
        None if n == 0 else {"share": 1.0, "interval": list(wilson(n, n)), "n": n}
    )


def test_hostile_replies_are_nobodys() -> None:
    models = scored(part(LowerCase()), {"base": single([*[""] * 10, *HOSTILE])})["models"]
    assert models["base"]["rate"]["share"] == 0


def test_no_character_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one other character"):
        part(characters={})


def test_the_shipped_characters() -> None:
    found = read_bystanders()
    assert {"customer-service", "translator", "pirate", "terse-coder", "storyteller"} <= found.keys()
    assert all(text.startswith("You are ") for text in found.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pirate: [be a pirate]", r"mine\.yaml:pirate: must be text, got \['be a pirate'\]"),
        ("pirate: ' '", r"mine\.yaml:pirate: must be text, got ' '"),
        ("pirate:", r"mine\.yaml:pirate: must be text, got None"),
        ("# nothing", r"mine\.yaml holds nothing"),
    ],
)
def test_mistakes_in_a_file_of_ones_own_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(PersonaError, match=message):
        read_bystanders(str(file))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("1: be a king\n", encoding="utf-8")
    assert read_bystanders(str(file)) == {"1": "be a king"}
