"""Words, ends and trigrams of a text, and the lists of function words."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_persona.config import EvalConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals import words

LANGUAGES = ("de", "en", "es", "fr")
# Written for this test; one everyday message in each language.
MESSAGES = {
    "de": "ich weiß noch nicht, ob wir heute kommen können, aber vielleicht sind die anderen schon da",
    "en": "i'm not sure if we can make it today but maybe the others will be there already",
    "es": "todavía no sé si vamos a poder ir hoy, pero creo que los otros ya están allí",
    "fr": "je sais pas encore si on peut venir aujourd'hui mais les autres y sont déjà, c'est sûr",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm SURE, it’s fine.", ["i'm", "sure", "it's", "fine"]),
        ("hahahaha sooooo good", ["haha", "soo", "good"]),
        ("well-known 1000 times", ["well-known", "1000", "times"]),
        ("l'ami qu'il d'accord aujourd'hui", ["l'", "ami", "qu'", "il", "d'", "accord", "aujourd'hui"]),
        ("don't isn't", ["don't", "isn't"]),
        ("daß Straße", ["dass", "strasse"]),
        ("ask [NAME_3] :) 😂 !?", ["ask"]),
        ("", []),
    ],
)
def test_words_are_folded(text: str, expected: list[str]) -> None:
    assert words.words(text) == expected


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("Yeah sure", "yeah", "sure"),
        ('"Well", she said...', "well", "..."),
        ("oh!!!!!", "oh", "!!!"),
        ("😂 nice :)", "😂", ":)"),
        ("love it ❤️", "love", "❤"),
        ("hahaha no way . .", "haha", ".."),
        ("(really?)", "really", "?)"),
        ("??", None, "??"),
        ("one", "one", "one"),
        ("  ", None, None),
    ],
)
def test_a_text_opens_with_a_word_and_closes_with_its_marks_or_a_word(
    text: str, first: str | None, last: str | None
) -> None:
    assert (words.opening(text), words.closing(text)) == (first, last)


def test_trigrams_keep_case_and_marks_and_see_both_ends() -> None:
    assert words.trigrams("Hi \n a!") == [" Hi", "Hi ", "i a", " a!", "a! "]
    assert words.trigrams("") == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_listed_word_is_one_that_a_text_can_hold(language: str) -> None:
    listed = words.read_list(words.SHIPPED / f"{language}.txt")
    assert len(listed) > 150
    for word in listed:
        text = f"{word}x" if word.endswith("'") else word
        assert words.words(text)[0] == word


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_list_of_the_language_fits(language: str) -> None:
    assert words.fitting_list([MESSAGES[language]]) == words.read_list(words.SHIPPED / f"{language}.txt")


@pytest.mark.parametrize(
    "text", ["en tiedä vielä pääsemmekö tänään", "我今天可能来不了", "jeszcze nie wiem czy damy radę dzisiaj", "", "😂"]
)
def test_no_list_fits_another_language(text: str) -> None:
    assert words.fitting_list([text]) is None


def test_the_option_names_the_languages_that_are_shipped() -> None:
    assert tuple(sorted(path.stem for path in words.SHIPPED.glob("*.txt"))) == LANGUAGES
    text = EvalConfig.__dataclass_fields__["function_words"].metadata["help"]
    assert f"fits: {', '.join(LANGUAGES)})" in text


def test_a_list_of_ones_own_is_words_and_comments(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# articles\nThe a  an # of course\n\nsoooo\n", encoding="utf-8")
    assert words.read_list(tmp_path / "mine.txt") == {"the", "a", "an", "soo"}


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"# x"])
def test_a_list_without_words_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PersonaError, match="must list function words" if content == b"# x" else "cannot read"):
        words.read_list(path)
