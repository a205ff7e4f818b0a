"""What is personal data and what is not: on labelled made-up messages, on real ones, and case by case."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.redact import Redactor
from data_prep.sources import RawConversation, ReadOptions, chitchat
from mlx_persona.errors import PersonaError
from mlx_persona.models.embedded import fetch_conversations
from mlx_persona.schema import PLACEHOLDER, PLACEHOLDERS
from tests.data_prep import make_labelled
from tests.data_prep.make_labelled import NAMES, OWN

LABELLED = [json.loads(line) for line in make_labelled.PATH.read_text(encoding="utf-8").splitlines()]
REAL_MESSAGES = 20_000
MICROSECONDS = 40


@pytest.fixture(scope="module")
def real() -> list[str]:
    """Real small talk of strangers, spread over the whole file."""
    read = chitchat.read(fetch_conversations(), ReadOptions())
    texts = [m.text for c in read if isinstance(c, RawConversation) for m in c.messages]
    return list(islice(texts[:: len(texts) // REAL_MESSAGES], REAL_MESSAGES))


def redact(text: str, *names: str, own: tuple[str, ...] = (), region: str | None = None) -> str:
    return Redactor(names, own, region).redact(text)


# --- measures ---------------------------------------------------------------------------------------------------


def test_the_labelled_file_is_what_its_generator_writes() -> None:
    written = "".join(map(make_labelled.dump, make_labelled.Maker(make_labelled.SEED).messages()))
    assert make_labelled.PATH.read_text(encoding="utf-8") == written


def test_the_labelled_set_is_large_enough_to_measure_on() -> None:
    spans = Counter(s["type"] for m in LABELLED for s in m["spans"])
    assert len(LABELLED) == 500
    assert set(spans) == set(PLACEHOLDERS)
    assert min(spans.values()) >= 30
    assert 150 <= sum(not m["spans"] for m in LABELLED) <= 185


def found(messages: list[dict[str, Any]]) -> tuple[Counter[str], Counter[str], int]:
    """Spans by type, those of them that are found, and messages that come out exactly as labelled."""
    redactor = Redactor(NAMES, OWN)
    total, hits, exact = Counter[str](), Counter[str](), 0
    for message in messages:
        text, spans = message["text"], message["spans"]
        out = redactor.redact(text)
        pattern, at = "", 0
        for span in spans:
            total[span["type"]] += 1
            clear = text[span["start"] : span["end"]]
            hits[span["type"]] += clear not in out and f"[{span['type']}_" in out
            pattern += re.escape(text[at : span["start"]]) + rf"\[{span['type']}_\d+\]"
            at = span["end"]
        exact += re.fullmatch(pattern + re.escape(text[at:]), out) is not None
    return total, hits, exact


def test_recall_on_the_labelled_set_is_at_least_97_percent_for_every_type() -> None:
    total, hits, exact = found(LABELLED)
    missed = {kind: total[kind] - hits[kind] for kind in total if hits[kind] < 0.97 * total[kind]}
    assert missed == {}
    assert exact >= 0.98 * len(LABELLED)  # the whole span and nothing but the span


def test_recall_holds_for_values_that_nobody_has_looked_at() -> None:
    """The same texts with other values, so that no detector is fitted to the numbers in the file."""
    total, hits, _ = found([m for seed in (101, 102) for m in make_labelled.Maker(seed).messages()])
    assert {kind for kind in total if hits[kind] < 0.97 * total[kind]} == set()


def test_harmless_labelled_messages_stay_as_they_are() -> None:
    redactor = Redactor(NAMES, OWN)
    changed = [m["text"] for m in LABELLED if not m["spans"] and redactor.redact(m["text"]) != m["text"]]
    assert changed == []


def test_real_small_talk_has_at_most_five_false_redactions_in_a_thousand(real: list[str]) -> None:
    """Whoever looks at the whole file finds real numbers and addresses too; in these 20,000 there are none."""
    redactor = Redactor(())
    changed = [text for text in real if redactor.redact(text) != text]
    assert len(real) == REAL_MESSAGES
    assert len(changed) <= 5 * len(real) / 1000
    assert changed == []


@pytest.mark.parametrize("people", [0, 2000])
def test_redaction_takes_at_most_40_microseconds_a_message(real: list[str], people: int) -> None:
    redactor = Redactor(f"Qfirst{i} Zlast{i}" for i in range(people))
    redactor.redact("warm up: 0171 1234567, 4111 1111 1111 1111")
    best = min(seconds(redactor, real[i::4]) for i in range(4))
    assert best / (REAL_MESSAGES / 4) * 1e6 <= MICROSECONDS


def seconds(redactor: Redactor, texts: list[str]) -> float:
    began = time.process_time()
    for text in texts:
        redactor.redact(text)
    return time.process_time() - began


# --- placeholders -----------------------------------------------------------------------------------------------


def test_numbers_go_by_first_appearance_and_one_value_has_one_number() -> None:
    redactor = Redactor(["Tom Berg", "Ida Falk"])
    assert redactor.redact("Ida and Tom, ida@falk.se") == "[NAME_1] and [NAME_2], [EMAIL_1]"
    assert redactor.redact("Tom Berg or tom? IDA@FALK.SE") == "[NAME_2] or [NAME_2]? [EMAIL_1]"
    assert redactor.counts == Counter(NAME=4, EMAIL=2)


def test_one_number_however_it_is_written() -> None:
    redactor = Redactor(["+49 30 123456"])
    assert redactor.redact("+49 171 1234567, 0171/1234567") == "[PHONE_1], [PHONE_1]"
    assert redactor.redact("DE89 3704 0044 0532 0130 00 = de89370400440532013000") == "[IBAN_1] = [IBAN_1]"
    assert redactor.redact("2001:db8::1:2, 2001:0db8:0:0:0:0:1:2") == "[IP_1], [IP_1]"
    assert redactor.redact("tim [at] gmx [dot] de, Tim@gmx.de") == "[EMAIL_1], [EMAIL_1]"


def test_what_looks_like_a_placeholder_stays() -> None:
    assert redact("[NAME_3] wrote to [PHONE_12], not Tom", "Tom") == "[NAME_3] wrote to [PHONE_12], not [NAME_1]"
    assert redact("password: [KEY_1]") == "password: [KEY_1]"


def test_the_audit_counts_and_shows_nothing_in_clear() -> None:
    text = "Tom: +49 171 1234567, Tom"
    one, other = Redactor(["Tom"]), Redactor(["Tom"])
    one.redact(text)
    other.redact(text)
    rows = one.audit()
    assert [(r["type"], r["placeholder"], r["count"]) for r in rows] == [
        ("NAME", "[NAME_1]", 2),
        ("PHONE", "[PHONE_1]", 1),
    ]
    assert all(re.fullmatch("[0-9a-f]{64}", r["sha256"]) for r in rows)
    assert "Tom" not in str(rows)
    assert "171" not in re.sub("[0-9a-f]{64}", "", str(rows))
    assert {r["sha256"] for r in rows}.isdisjoint(r["sha256"] for r in other.audit())


PIECES = st.sampled_from(
    ["Tom", " ", "\n", ", ", "password: ", "0171 1234567", "a@b.de", "[NAME_1]", "4111 1111 1111 1111", "12 Elm St"]
) | st.sampled_from(
    ["https://x.de/?token=a1b2c3d4", "DE89370400440532013000", "52.5200,13.4050", "10.1.2.3", "\x00", "\ud800"]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=8).map("".join))
def test_a_second_redaction_changes_nothing_that_the_first_one_did(text: str) -> None:
    """And nothing at all makes it fail. Placeholders of the first stay with their numbers."""
    redactor = Redactor(["Tom"])
    once = redactor.redact(text)
    kept = Counter(PLACEHOLDER.findall(once))
    assert not kept - Counter(PLACEHOLDER.findall(redactor.redact(once)))


@given(st.lists(st.text(max_size=20), max_size=5), st.lists(st.text(max_size=20), max_size=2), st.text(max_size=30))
def test_any_name_will_do(names: list[str], own: list[str], text: str) -> None:
    Redactor(names, own).redact(" ".join([text, *names]))


@given(st.text(alphabet="abc defghij.,!?'-äß", max_size=60))
def test_words_alone_are_never_changed(text: str) -> None:
    assert redact(text, "Quentin Xylander") == text


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        "1 ",
        "A-",
        "a.",
        "Ab ",
        "(1",
        "x@",
        "1.",
        "/a",
        "password ",
        "AB12",
        "::1",
        "<a@",
        "Street 1 ",
        "\x00",
        "a@b.de ",
        "1.2345,6.7891 ",
    ],
)
def test_a_very_long_line_takes_no_long(piece: str) -> None:
    began = time.process_time()
    redact(piece * (200_000 // len(piece)), "Tom")
    assert time.process_time() - began < 10


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Anna Schmidt", "anna's and Annas, ANNA; Hannah", "[NAME_1]'s and [NAME_1]s, [NAME_1]; Hannah"),
        ("Anna Schmidt", "Anna Schmidt, Schmidt", "[NAME_1], [NAME_1]"),
        ("Jürgen Groß", "Jurgen, JUERGEN, jürgen gross", "[NAME_1], [NAME_1], [NAME_1]"),
        (
            "Will Turner",
            "Will you? will he? I saw Will. Will's car",
            "Will you? will he? I saw [NAME_1]. [NAME_1]'s car",
        ),
        ("May Lin", "in May, May 5th, may I. May Lin, may lin", "in May, May 5th, may I. [NAME_1], [NAME_1]"),
        ("mark", "Mark my words: Mark left. @mark", "Mark my words: [NAME_1] left. @[NAME_1]"),
        ("Jo", "Jo jo jogs", "[NAME_1] jo jogs"),
        ("Pizza Lover", "pizza! Pizza lover came", "pizza! [NAME_1] came"),
        ("Big Dave 🌸", "big deal, Big dave, dave", "big deal, [NAME_1], [NAME_1]"),
        ("Jean-Pierre Dufour", "jean-pierre, Jean Pierre", "[NAME_1], [NAME_1]"),
        ("Giulia De Santis", "De Santis, de la, santis", "[NAME_1], de la, [NAME_1]"),
        ("Dr. Emeka Okafor", "the dr said: Emeka", "the dr said: [NAME_1]"),
        ("Sam (Work)", "work with Sam", "work with [NAME_1]"),
        ("kathi_93", "kathi_93 and kathi", "[NAME_1] and kathi"),
        ("tim#1234", "tim#1234", "[NAME_1]"),
        ("Eva Kuhn <x@y.de>", "Eva, Kuhn", "[NAME_1], [NAME_1]"),
        ("eva.kuhn@firma.de", "eva told firma", "[NAME_1] told firma"),
        ("info@firma.de", "for your info", "for your info"),
        ("王小明", "小明和王小明", "[NAME_1]和[NAME_1]"),
        ("김민준", "민준이랑", "[NAME_1]이랑"),
        ("Олег Смирнов", "олег, Смирнов", "[NAME_1], [NAME_1]"),
        ("José", "Jose, jose\u0301", "[NAME_1], [NAME_1]"),
        ("Mom", "my Mom", "my Mom"),
        ("U02AB3CD4EF", "U02AB3CD4EF", "U02AB3CD4EF"),
        ("283746512345678901", "283746512345678901", "283746512345678901"),
        ("8c1f6f0e-4b8e-4a53-9d0b-0f4d7c2b9a11", "8c1f6f0e-4b8e", "8c1f6f0e-4b8e"),
        ("User 12", "a user", "a user"),
    ],
)
def test_names_are_found_as_people_write_them(name: str, text: str, expected: str) -> None:
    assert redact(text, name) == expected


def test_the_own_name_stays_and_so_do_parts_that_others_share() -> None:
    names = ("Nora Berg", "Lena Berg")
    assert (
        redact("Nora Berg, Lena, Berg, Lena Berg", *names, own=("Nora Berg",)) == "Nora Berg, [NAME_1], Berg, [NAME_1]"
    )


def test_a_first_name_of_two_people_is_neither_of_them() -> None:
    text = "Eva Falk, Eva Kuhn, Eva, Kuhn"
    assert redact(text, "Eva Falk", "Eva Kuhn") == "[NAME_1], [NAME_2], [NAME_3], [NAME_2]"


# --- phone numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "region", "text", "expected"),
    [
        ((), None, "(212) 736-5000 or 212-736-5000", "[PHONE_1] or [PHONE_1]"),
        ((), None, "2127365000", "2127365000"),
        ((), None, "call 2127365000", "call [PHONE_1]"),
        ((), None, "order no. 212-736-5000", "order no. 212-736-5000"),
        ((), None, "06 12 34 56 78", "06 12 34 56 78"),
        (("+33 6 11 22 33 44",), None, "06 12 34 56 78", "[PHONE_1]"),
        ((), "FR", "06 12 34 56 78", "[PHONE_1]"),
        ((), "ES", "mi número es 612 345 678", "mi número es [PHONE_1]"),
        ((), "ES", "612 345 678 personas", "612 345 678 personas"),
        ((), None, "+34 612 345 678; llama al 612 345 679", "[PHONE_1]; llama al [PHONE_2]"),
        ((), None, "https://wa.me/491711234567 tel:+491711234567", "https://wa.me/[PHONE_1] tel:[PHONE_1]"),
        ((), None, "01.02.2024 18:00, 2024-01-02 12:34", "01.02.2024 18:00, 2024-01-02 12:34"),
        (("+abc", "+1"), None, "tel 0171 1234567", "tel [PHONE_1]"),
        ((), None, "01234567890", "01234567890"),
        ((), None, "07 15 23 31 39 42", "07 15 23 31 39 42"),
        ((), None, "https://x.com/a/status/12127365000", "https://x.com/a/status/12127365000"),
    ],
)
def test_phone_numbers_by_country(names: tuple[str, ...], region: str | None, text: str, expected: str) -> None:
    assert redact(text, *names, region=region) == expected


# --- everything else --------------------------------------------------------------------------------------------

JWT = "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxIn0.c2lnbmVk"
RUN = "Zk3x9QpL" + "7vR2mT8w" + "Yb5NcJ4h" + "Gs6DfA1e"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4111-1111-1111-1111.", "[CARD_1]."),
        ("visa 4111111111111111 12/27", "visa [CARD_1] 12/27"),
        ("3782 822463 10005", "[CARD_1]"),
        ("10 11 12 13 14 15 16 17 18", "10 11 12 13 14 15 16 17 18"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("GB82 WEST 1234 5698 7654 32 danke", "[IBAN_1] danke"),
        ("GB82 WEST 1234 5698 7654 33", "GB82 WEST 1234 5698 7654 33"),
        ("212-55-0530", "[ID_1]"),
        ("212550530", "212550530"),
        ("ssn 212550530", "ssn [ID_1]"),
        ("666-12-3456", "666-12-3456"),
        ("AB 12 34 56 C", "[ID_1]"),
        ("QQ 12 34 56 C", "QQ 12 34 56 C"),
        ("12345678Z, 12345678A", "[ID_1], 12345678A"),
        ("X1234567L", "[ID_1]"),
        ("RSSMRA85T10A562S", "[ID_1]"),
        ("111.444.777-35", "[ID_1]"),
        ("bsn 111222333, 111222333 stars", "bsn [ID_1], [ID_1] stars"),
        ("111222333 stars", "111222333 stars"),
        ("passport number C01X00T47", "passport number [ID_1]"),
        ("at 91.12.20.4:80", "at [IP_1]:80"),
        ("version 91.12.20.4", "version 91.12.20.4"),
        ("v1.2.3.4, §1.2.3.4", "v1.2.3.4, §1.2.3.4"),
        ("my ip: 1.2.3.4", "my ip: [IP_1]"),
        ("127.0.0.1 999.1.1.1 10:30:15 a::b std::c", "127.0.0.1 999.1.1.1 10:30:15 a::b std::c"),
        ("fe80::1", "[IP_1]"),
        ("52.5200, 13.4050", "[COORD_1]"),
        ("95.5200, 13.4050", "95.5200, 13.4050"),
        ("1.250, 1.375", "1.250, 1.375"),
        ("gps 52.520, 13.405", "gps [COORD_1]"),
        ('{"lat": 52.5200, "lng": 13.4050}', '{"lat": [COORD_1]}'),
        ("geo:52.5200,13.4050", "geo:[COORD_1]"),
        ("git@github.com:a/b.git a@b logo@2x.png", "git@github.com:a/b.git a@b logo@2x.png"),
        ("<mailto:Al.B+c@d-e.co.uk>", "<mailto:[EMAIL_1]>"),
        ("https://u:pw@h.de/x.", "[URL_1]."),
        ("(https://h.de/reset/Ab3dEf6hIj)", "([URL_1])"),
        ("https://h.de/?a=1&sig=abcd1234", "[URL_1]"),
        ("chat.whatsapp.com/AbCdEf12", "[URL_1]"),
        ("https://h.de/share/holiday-pictures", "https://h.de/share/holiday-pictures"),
        ("https://x7Kp2mQ9vR4tL8wZ3n@h.de/", "[URL_1]"),
        ("https://h.de/x/Ab3dEf6hIj9Kl2Mn5Op", "[URL_1]"),
        ("https://youtu.be/dQw4w9WgXcQ?t=43", "https://youtu.be/dQw4w9WgXcQ?t=43"),
        ("https://h.de/a?mail=al@b.de", "https://h.de/a?mail=[EMAIL_1]"),
        ("password: hunter", "password: [KEY_1]"),
        ("pw is xyz", "pw is [KEY_1]"),
        ("the password is wrong, the pw is not it", "the password is wrong, the pw is not it"),
        ('pass = "blue monkey 7"', 'pass = "[KEY_1]"'),
        ("DB_PASSWORD=abcdef", "DB_PASSWORD=[KEY_1]"),
        ("PIN 4821, pin it", "PIN [KEY_1], pin it"),
        ("Authorization: Bearer abcdef1234567890", "Authorization: Bearer [KEY_1]"),
        (JWT, "[KEY_1]"),
        ("sk-" + RUN, "[KEY_1]"),
        (RUN, "[KEY_1]"),
        ("d41d8cd98f00b204" + "e9800998ecf8427e", "[KEY_1]"),
        ("8c1f6f0e-4b8e-4a53-9d0b-0f4d7c2b9a11", "8c1f6f0e-4b8e-4a53-9d0b-0f4d7c2b9a11"),
        ("#" + RUN, "#" + RUN),
        ("a\n-----BEGIN PRIVATE KEY-----\nAB\nCD\n-----END PRIVATE KEY-----\nb", "a\n[KEY_1]\nb"),
        ("-----BEGIN RSA PRIVATE KEY-----\nABCD", "[KEY_1]"),
    ],
)
def test_numbers_links_and_secrets(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at 1600 Pennsylvania Ave NW, Washington, DC 20500!", "at [ADDRESS_1]!"),
        ("Flat 4, 22 Acacia Avenue, London SE1 7PB", "[ADDRESS_1]"),
        ("123 main st, ok", "[ADDRESS_1], ok"),
        ("Musterstr. 12a, 12345 Musterstadt", "[ADDRESS_1]"),
        ("Straße des 17. Juni 135, 10623 Berlin", "[ADDRESS_1]"),
        ("3 bis, rue des Lilas, 75011 Paris", "[ADDRESS_1]"),
        ("C/ Gran Vía, 28, 2º B", "[ADDRESS_1]"),
        ("abito in via Roma 1", "abito in [ADDRESS_1]"),
        ("Prinsengracht 263, 1016 GV Amsterdam", "[ADDRESS_1]"),
        ("ул. Ленина, д. 5, кв. 12", "[ADDRESS_1]"),
        ("P.O. Box 12", "[ADDRESS_1]"),
        ("Auf Platz 3, Erster Platz 1", "Auf Platz 3, Erster Platz 1"),
        ("Hauptstraße 2024 saniert, Parkplatz 3", "Hauptstraße 2024 saniert, Parkplatz 3"),
        ("a 2 way street, a 4 lane road, a 40 mph road", "a 2 way street, a 4 lane road, a 40 mph road"),
        ("via Zoom 5, 50 av. J.-C.", "via Zoom 5, 50 av. J.-C."),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert redact(text) == expected


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["phonenumbers", "stdnum"])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PersonaError, match=r"redaction needs (phonenumbers|python-stdnum)") as error:
        Redactor(())
    assert error.value.hint == "pip install 'mlx-persona[data]'"


def test_an_unknown_region_is_an_error() -> None:
    with pytest.raises(PersonaError, match="region must be two capital letters of a country, as DE, got 'XX'"):
        Redactor((), region="XX")
