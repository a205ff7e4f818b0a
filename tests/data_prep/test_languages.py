"""Which language a text is in, and when that is not sure."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import languages
from data_prep.languages import check_codes, language, other_language, shares
from mlx_persona.errors import PersonaError

SAID = {
    "en": "yeah sure, I can come over after work and we will have a look at it together",
    "de": "ja klar, ich komm dann so gegen acht bei dir vorbei wenn das für dich passt",
    "fr": "ouais carrément, on se retrouve devant le ciné à huit heures si tu veux",
    "es": "qué va, si al final no fuimos porque estaba lloviendo un montón todo el día",
    "pl": "dobra to widzimy się o ósmej pod kinem, tylko nie spóźnij się znowu",
    "ru": "ладно тогда встретимся в восемь у метро, только не опаздывай опять",
    "uk": "та не знаю ще, завтра подивимось якщо буде час і гарна погода",
    "ar": "والله ما أعرف لسه، نشوف بكرة إذا عندي وقت أجي",
    "zh": "好的那我们八点在电影院门口见,别又迟到了",
    "ja": "まだわからないけど、明日時間があったら行くね",
    "ko": "그럼 여덟시에 영화관 앞에서 만나자 늦지마 알겠지",
}


@pytest.mark.parametrize("code", SAID)
def test_a_sentence_has_its_language(code: str) -> None:
    assert language(SAID[code]) == code


@pytest.mark.parametrize("text", ["", "ok", "123 456 " * 20, "haha nice", "😂" * 60, "?!" * 60, "hahaha jajaja " * 20])
def test_a_text_with_few_words_has_none(text: str) -> None:
    assert language(text) is None


@pytest.mark.parametrize("pair", ["en de", "en es", "fr en", "de ru"])
def test_a_mixed_text_has_none(pair: str) -> None:
    one, two = pair.split()
    assert language(f"{SAID[one]}\n{SAID[two]}") is None


def test_forty_bytes_of_letters_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "_best", lambda text: ("xx", 1.0))
    assert [language(f"1, 2 {'abc' * 13}{more}") for more in ("", "d")] == [None, "xx"]
    assert [language("где" * 6 + more) for more in ("г", "гд")] == [None, "xx"]
    assert language("hahaha JAJAJA!! xDDD mmmm " * 20) is None


def test_the_library_must_be_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    for confidence, expected in ((0.89, None), (0.9, "xx")):
        monkeypatch.setattr(languages, "_best", lambda text, sure=confidence: ("xx", sure))
        assert language(SAID["en"]) == expected


def test_urls_names_and_laughter_do_not_count() -> None:
    noise = "https://example.org/wiki/das-ist-kein-englisch-und-hier-steht-nichts @jemandanders #feierabend hahahahaha"
    assert language(noise) is None
    assert language(f"{noise} {SAID['en']} {noise}") == "en"


def test_only_the_beginning_of_a_huge_text_is_read() -> None:
    assert language(f"{SAID['en']} " * 20 + f"{SAID['de']} " * 1000) == "en"


@given(st.text())
@settings(max_examples=50)
def test_any_text_has_a_known_language_or_none(text: str) -> None:
    code = language(text)
    assert code is None or check_codes([code]) == {code}


def test_the_shares_add_up_and_name_the_unsure() -> None:
    said = [SAID["en"], SAID["de"], SAID["en"], "ok", SAID["en"]]
    found = shares(said)
    assert found == {"en": 0.6, "de": 0.2, "unsure": 0.2}
    assert list(found) == ["en", "de", "unsure"]
    assert shares(iter(())) == {}


def test_only_what_is_surely_in_another_language_is_set_aside() -> None:
    wanted = frozenset({"en", "fr"})
    assert other_language(SAID["de"], wanted) == "language"
    assert [other_language(text, wanted) for text in (SAID["en"], SAID["fr"], "ja klar")] == [None, None, None]


def test_a_language_like_a_wanted_one_is_not_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "language", lambda text: text)
    assert other_language("nb", frozenset({"da"})) is None
    assert other_language("nb", frozenset({"sv"})) == "language"
    assert other_language("sv", frozenset({"da"})) == "language"


def test_codes_are_checked() -> None:
    assert check_codes([" EN", "de"]) == {"en", "de"}
    with pytest.raises(PersonaError) as caught:
        check_codes(["en", "english"])
    assert caught.value.message == "--language must be an ISO 639-1 code that can be told from others, got 'english'"
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("there are af, ar, az, ")


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if lingua were not installed; the detector that was built is built again afterwards."""
    monkeypatch.setitem(sys.modules, "lingua", None)
    languages._detector.cache_clear()
    yield
    languages._detector.cache_clear()


@pytest.mark.usefixtures("without_library")
def test_a_missing_library_is_named() -> None:
    for call in (lambda: language(SAID["en"]), lambda: check_codes(["en"])):
        with pytest.raises(PersonaError) as caught:
            call()
        assert caught.value.message == "telling languages apart needs lingua-language-detector"
        assert caught.value.hint == "pip install 'mlx-persona[data]'"
