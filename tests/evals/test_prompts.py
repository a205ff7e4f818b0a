"""The same prompts under long, short and no system messages: which are made, what is asked, what it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.evals import style
from mlx_persona.evals.asked import Asked
from mlx_persona.evals.own_sets import read_prompt
from mlx_persona.evals.parts.prompts import (
    DESCRIPTION,
    FULL,
    HEADING,
    NO_PROMPT,
    SLIM,
    TRAINED,
    VARIANTS,
    WORK,
    PromptPart,
    persona_prompt,
    system_prompts,
)
from mlx_persona.schema import Conversation, Message
from tests.part_kit import ASSISTANT, HOSTILE, PERSON, LowerCase, scored, single

PROMPTS = {TRAINED: "be sam", FULL: "word " * 300, SLIM: "word " * 100, WORK: "tool " * 50, NO_PROMPT: ""}


def count(texts: Sequence[str]) -> list[int]:
    """Tokens are words here."""
    return [len(text.split()) for text in texts]


def asked(user: str, real: str) -> Asked:
    return Asked((Message("user", user),), real)


ASKED = [asked(f"question {i}", text) for i, text in enumerate(PERSON)]


def part(attribution: Any = None, **changed: Any) -> PromptPart:
    given: dict[str, Any] = {"asked": ASKED, "person": PERSON, "prompts": PROMPTS, "count": count}
    return PromptPart(**{**given, **changed}, attribution=attribution)


def answers(**said: Sequence[str]) -> list[Any]:
    """Replies variant by variant; the person's where nothing else is given."""
    return single([text for variant in VARIANTS for text in said.get(variant, PERSON)])


def test_a_prompt_is_filled_up_to_its_limit() -> None:
    # Six words each: They:, You:, and two of each side. Two of the description, five of the heading and five examples.
    exchanges = [asked(f"a{i} b{i}", f"c{i} d{i}") for i in range(20)]
    prompt = persona_prompt("be sam", exchanges, count, 37)
    assert prompt.startswith("be sam\n\nYou write exactly like this:\n\nThey: a0 b0\nYou: c0 d0\n\nThey: a1")
    assert count([prompt]) == [37]
    assert "a4" in prompt
    assert "a5" not in prompt
    assert persona_prompt("be sam", exchanges, count, 36).count("They:") == 4


def test_what_should_not_be_shown_is_passed_over() -> None:
    exchanges = [
        asked("who", "it was [NAME_3]"),
        asked("say nothing", "  "),
        asked("", "what?"),
        asked("go on", "word " * 20),  # more than two fifths of the room
        asked("hi there", "hey you"),
    ]
    assert persona_prompt("be sam", exchanges, count, 45) == f"be sam{HEADING}\n\nThey: hi there\nYou: hey you"


def test_a_limit_that_holds_no_example_leaves_the_description() -> None:
    assert persona_prompt("be sam and nobody else", ASKED, count, 3) == "be sam and nobody else"
    assert persona_prompt("be sam", [], count, 900) == "be sam"


def test_the_prompts_of_all_variants() -> None:
    talk = [Message("user", "hi there"), Message("assistant", "hey you")]
    conversations = [Conversation(tuple(talk)) for _ in range(400)]
    made = system_prompts(conversations, count, system="be sam", work="tools")
    assert tuple(made) == VARIANTS
    assert made[TRAINED] == "be sam"
    assert (made[WORK], made[NO_PROMPT]) == ("tools", "")
    assert made[FULL].startswith(made[SLIM])
    full, slim = count([made[FULL], made[SLIM]])
    assert 890 <= full <= 900
    assert 110 <= slim <= 120
    assert made == system_prompts(conversations, count, system="be sam", work="tools")
    own = system_prompts(conversations, count, system="", work="tools", full="my own")
    assert own[FULL] == "my own"
    assert own[SLIM].startswith(DESCRIPTION)


def test_every_variant_asks_the_same_and_replaces_the_system_message() -> None:
    own = Asked((Message("system", "be somebody"), Message("user", "hi")), "hey")
    scripts = part(asked=[own], max_prompt=512).scripts
    assert [script.before[0] for script in scripts] == [
        Message("system", "be somebody"),
        *(Message("system", PROMPTS[variant]) for variant in VARIANTS[1:]),
    ]
    assert {script.before[1:] for script in scripts} == {(Message("user", "hi"),)}
    # The same turns fit: two words of the message trained with make room for those of the others.
    assert [script.max_prompt for script in scripts] == [512, 810, 610, 560, 510]
    assert {script.max_prompt for script in part().scripts} == {None}


def test_who_was_trained_without_a_system_message_is_not_asked_twice_without_one() -> None:
    bare = part(prompts={**PROMPTS, TRAINED: " "})
    assert len(bare.scripts) == 4 * 10
    said = {"base": single([*PERSON * 3, *ASSISTANT]), "sft": single(PERSON * 4)}
    found = scored(bare, said)
    assert list(found["tokens"]) == list(found["models"]["sft"]["variants"]) == list(VARIANTS[1:])
    assert found["models"]["base"]["lost_without_prompt"]["value"] == pytest.approx(style.distance(PERSON, ASSISTANT))
    assert bare.rows(found)[0][0] == "style distance above the floor, full prompt (300 tokens)"
    own = Asked((Message("system", "be somebody"), Message("user", "hi")), "hey")
    assert len(part(prompts={**PROMPTS, TRAINED: ""}, asked=[own]).scripts) == 5


def test_quick_asks_a_quarter_and_never_more_than_forty() -> None:
    many = [asked(f"question {i}", "yeah") for i in range(500)]
    whole, quick = part(asked=many).scripts, part(asked=many, quick=True).scripts
    assert (len(whole), len(quick)) == (40 * 5, 10 * 5)
    assert set(quick) <= set(whole)


def test_quality_lost_is_the_difference_of_distances() -> None:
    found = scored(part(), {"base": answers(slim=ASSISTANT[:5] + PERSON[5:], none=ASSISTANT), "sft": answers()})
    base, sft = found["models"]["base"], found["models"]["sft"]
    slim, none = style.distance(PERSON, ASSISTANT[:5] + PERSON[5:]), style.distance(PERSON, ASSISTANT)
    lost = base["lost_per_100_tokens"]
    assert lost["full_to_slim"]["value"] == pytest.approx(slim / 2)  # 200 tokens saved
    assert lost["slim_to_none"]["value"] == pytest.approx(none - slim)
    assert base["lost_without_prompt"]["value"] == pytest.approx(none)
    assert not base["lost_without_prompt"]["includes_zero"]
    assert base["kept_without_prompt"] is None
    assert sft["lost_without_prompt"] == {"value": 0.0, "interval": [0.0, 0.0], "n": 10, "includes_zero": True}
    floor = style.split_half_floor(PERSON, 10)
    assert base["variants"][NO_PROMPT]["distance"]["value"] == pytest.approx(none - floor)
    assert sft["variants"][NO_PROMPT]["distance"]["value"] == 0
    assert [one["tokens"] for one in sft["variants"].values()] == [2, 300, 100, 50, 0]


def test_a_persona_in_the_weights_keeps_all_and_one_in_the_prompt_nothing() -> None:
    said = {"base": answers(none=ASSISTANT), "sft": answers(), "dpo": answers(none=ASSISTANT)}
    models = scored(part(), said)["models"]
    assert models["sft"]["kept_without_prompt"] == {"value": 1.0, "interval": [1.0, 1.0], "n": 10}
    assert models["dpo"]["kept_without_prompt"] == {"value": 0.0, "interval": [0.0, 0.0], "n": 10}


def test_where_training_brought_nothing_nothing_can_be_kept() -> None:
    whole = dict.fromkeys(VARIANTS, ASSISTANT)
    found = scored(part(), {"base": answers(**whole), "sft": answers(**whole)})
    assert found["models"]["sft"]["kept_without_prompt"] is None
    assert any(note.startswith("sft under the full prompt is not clearly nearer") for note in found["notes"])


def test_attribution_per_variant() -> None:
    found = scored(part(LowerCase()), {"base": answers(none=ASSISTANT), "sft": answers()})
    base = found["models"]["base"]["variants"]
    assert (base[FULL]["attributed"]["share"], base[NO_PROMPT]["attributed"]["share"]) == (1, 0)
    assert base[FULL]["attributed"]["n"] == 10
    rows = part().rows(found)
    assert rows[1] == ("  rather the person's than others'", {"base": "100 % (72–100 %)", "sft": "100 % (72–100 %)"})
    assert rows[0][0] == "style distance above the floor, prompt of training (2 tokens)"


def test_a_prompt_that_saves_nothing_has_no_loss_per_token() -> None:
    found = scored(part(prompts={**PROMPTS, SLIM: PROMPTS[FULL]}), {"base": answers()})
    assert found["models"]["base"]["lost_per_100_tokens"]["full_to_slim"] is None
    assert "the slim prompt (300 tokens) saves nothing against full (300)" in found["notes"]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_three_held_out_replies_are_too_few_and_say_so(n: int) -> None:
    few = part(asked=ASKED[:n], person=PERSON[:n])
    said = single([text for _ in VARIANTS for text in PERSON[:n]])
    found = scored(few, {"base": said, "sft": said})
    assert f"there are {n} of the person and {n} of a model" in found["notes"][0]
    assert found["models"]["sft"]["variants"][FULL]["distance"] is None
    assert {cell for _, cells in few.rows(found) for cell in cells.values()} == {"-"}


def test_hostile_replies_are_measured_too() -> None:
    found = scored(part(LowerCase()), {"base": answers(**dict.fromkeys(VARIANTS, HOSTILE)), "sft": answers()})
    assert found["models"]["base"]["variants"][NO_PROMPT]["distance"]["value"] > 0


def test_the_shipped_working_prompt_is_long_and_about_tools() -> None:
    prompt = read_prompt()
    assert prompt.startswith("You are an autonomous assistant")
    assert "<!--" not in prompt
    assert 3000 < len(prompt) < 5000


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("<!-- a note -->\n# Tools\nuse them\n", encoding="utf-8")
    assert read_prompt(str(file)) == "# Tools\nuse them"
    file.write_text("<!-- only a note -->\n", encoding="utf-8")
    with pytest.raises(PersonaError, match=r"mine\.txt holds no prompt"):
        read_prompt(str(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PersonaError, match="not UTF-8"):
        read_prompt(str(file))
    with pytest.raises(PersonaError, match=r"nowhere\.txt: No such file"):
        read_prompt(str(tmp_path / "nowhere.txt"))
