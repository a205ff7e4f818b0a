"""Conversations that are too long lose their oldest turns, and never the end of a reply."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.tokens.render import Renderer
from tests.tokens.kit import (
    END,
    FIVE,
    render,
    talk,
    tokenizer_of,
    trained_texts,
)

LONG = [f"{w} {w}" for w in ("so", "you", "hello", "there", "Fine", "thanks", "again", "so")]


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("system", ["", "Be kind."])
def test_too_long_loses_its_oldest_exchanges_whole(name: str, system: str) -> None:
    """What is left is the rendering of the newest exchanges alone, and it is the most that fits."""
    renderer = Renderer(tokenizer_of(name), system=system)
    whole = render(renderer, talk(*LONG))
    for kept in (6, 4, 2):
        expected = render(renderer, talk(*LONG[-kept:]))
        for room in (0, 3):
            cut = render(renderer, talk(*LONG), len(expected.ids) + room)
            assert (cut.ids, cut.mask) == (expected.ids, expected.mask)
            assert (cut.cut_turns, cut.cut_chars) == (8 - kept, 0)
        prompt = renderer.prompt(talk(*LONG[-kept:-1]))
        assert renderer.prompt(talk(*LONG[:-1]), len(prompt)) == prompt
    assert render(renderer, talk(*LONG), len(whole.ids)).cut_turns == 0


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("system", ["", "Be kind."])
def test_last_user_turn_is_cut_from_its_start_and_the_reply_never(name: str, system: str) -> None:
    renderer = Renderer(tokenizer_of(name), system=system)
    messages = talk("so", "so", "hello there 😀 again you", "Fine thanks")
    shortest = len(render(renderer, talk(" you", "Fine thanks")).ids)
    cut = render(renderer, messages, shortest)
    assert len(cut.ids) <= shortest
    assert cut.text == render(renderer, talk(" you", "Fine thanks")).text
    assert (cut.cut_turns, cut.cut_chars) == (2, len("hello there 😀 again"))
    assert [t.lstrip() for t in trained_texts(renderer, cut)] == ["Fine thanks" + END[name]]
    for room in range(shortest, len(render(renderer, messages).ids)):
        fitted = render(renderer, messages, room)
        assert len(fitted.ids) <= room
        assert "Fine thanks" + END[name] in fitted.text
        assert "Be kind." in fitted.text or not system
    assert renderer.render(messages, len(render(renderer, talk("", "Fine thanks")).ids) - 1) is None


def test_prompt_whose_system_message_fills_the_room_is_an_error() -> None:
    renderer = Renderer(tokenizer_of("llama3"), system="Be kind. " * 9)
    with pytest.raises(PersonaError, match="a prompt must fit in 20 tokens"):
        renderer.prompt(talk("so"), 20)


def test_turns_after_the_last_trained_reply_go_first() -> None:
    """They train nothing, and are counted."""
    renderer = Renderer(tokenizer_of("llama3"))
    needed = render(renderer, talk("so", "Fine"))
    cut = render(renderer, talk("so", "Fine", "you", "again", untrained=(3,)), len(needed.ids))
    assert (cut.ids, cut.mask, cut.cut_turns) == (needed.ids, needed.mask, 2)


def test_final_reply_survives_when_earlier_ones_are_context() -> None:
    """As for a preference pair: only the last reply is trained on."""
    renderer = Renderer(tokenizer_of("gemma"))
    cut = render(renderer, talk(*LONG, untrained=(1, 3, 5)), 30)
    assert trained_texts(renderer, cut) == ["so so<end_of_turn>"]
    assert cut.cut_turns > 0


def test_long_conversation_is_not_rendered_once_per_dropped_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer(tokenizer_of("llama3"))
    draws: list[int] = []
    original = Renderer._draw_as_is

    def counted(self: Renderer, system: str, turns: Any, asked: bool) -> Any:
        draws.append(len(turns))
        return original(self, system, turns, asked)

    monkeypatch.setattr(Renderer, "_draw_as_is", counted)
    cut = render(renderer, talk(*["so", "Fine"] * 100), 50)
    assert len(cut.ids) <= 50
    assert len(draws) <= 3
