"""Stock phrases: found in what assistants say, not in what people write."""

from __future__ import annotations

import pytest

from mlx_persona.evals.phrases import PHRASES, matches, stock_phrase_rate

SAID_BY_ASSISTANTS = [
    ("As an AI language model, I don't have personal opinions.", ["as an ai", "i don't have personal"]),
    ("I’m happy to help! Feel free to ask.", ["i'm happy to help", "feel free to"]),
    ("Great question! Here are some tips for you.", ["great question!", "here are some tips"]),
    ("HOW CAN I ASSIST you today?", ["how can i assist"]),
    ("I'd be happy to\nhelp with that.", ["i'd be happy to help"]),
    ("Is there anything else you'd like to know?", ["is there anything else you"]),
    ("Let me know if you have any questions.", ["let me know if you have any"]),
    ("Certainly! It's important to rest.", ["certainly!", "it's important to"]),
    ("Of course! I understand your concern.", ["of course!", "i understand your"]),
    ("I'm sorry to hear that. It sounds like you're tired.", ["i'm sorry to hear", "it sounds like you're"]),
    ("I'm just an AI assistant, here to help.", ["i'm just an ai"]),
    ("Please don't hesitate to reach out.", ["please don't hesitate to"]),
    ("Additionally, it plays a crucial role.", ["additionally,", "plays a crucial role"]),
]
SAID_BY_PEOPLE = [
    "yeah let me know when you get there",
    "haha of course i do, are you happy to be home?",
    "i understand lol",
    "great, question is who pays",
    "im glad you came! thanks for the ride",
    "as an airport kid i love planes",
    "here are the keys",
    "overall it was fun and lastly we ate",
    "i feel free today",
    "Certainly not.",
    "sorry to hear it man",
    "",
]


@pytest.mark.parametrize(("text", "expected"), SAID_BY_ASSISTANTS)
def test_stock_phrases_are_found_in_order(text: str, expected: list[str]) -> None:
    assert matches(text) == expected


@pytest.mark.parametrize("text", SAID_BY_PEOPLE)
def test_what_people_write_holds_none(text: str) -> None:
    assert matches(text) == []


def test_the_rate_is_phrases_per_hundred_replies() -> None:
    assert stock_phrase_rate(["Certainly! Feel free to ask.", "ok", "nah", "lol"]) == 50.0
    assert stock_phrase_rate(SAID_BY_PEOPLE) == 0.0
    assert stock_phrase_rate([]) == 0.0


def test_every_phrase_is_lower_case_with_straight_apostrophes_and_listed_once() -> None:
    assert all(phrase == phrase.lower() and "’" not in phrase for phrase in PHRASES)
    assert len(set(PHRASES)) == len(PHRASES)
