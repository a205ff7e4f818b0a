"""WhatsApp's exports: how dates are written, who speaks, what WhatsApp itself wrote, and whatever bytes there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.sources import Bad, Head, whatsapp
from data_prep.sources.base import DELETED, MEDIA, SERVICE
from data_prep.sources.whatsapp_words import bare
from tests.data_prep.whatsapp_kit import FIXTURES, only, rows

# Exports as they are.


def test_a_group_from_an_iphone_in_the_united_states():
    zed, mara, unknown = "~ Zed", "Mara Quill", "+1 (555) 010-0199"
    notice = "Messages and calls are end-to-end encrypted. Only people in this chat can read, listen to, or share them."
    assert rows(only(FIXTURES / "ios_en_us_group.txt")) == [
        ("2024-01-09 21:58:02", "Hike club", notice, SERVICE),
        ("2024-01-09 21:58:02", "Hike club", "Mara Quill created this group", SERVICE),
        ("2024-01-09 21:58:40", "Hike club", "Mara Quill added you", SERVICE),
        ("2024-01-09 21:59:11", mara, "hey all 👋", None),
        ("2024-01-09 21:59:30", zed, "who is in for saturday?\nbring:\n- water\n- boots", None),
        ("2024-01-09 22:00:05", mara, "", MEDIA),
        ("2024-01-09 22:01:00", mara, "the view from there", None),
        ("2024-01-10 00:03:00", unknown, "@Mara Quill count me in", None),
        ("2024-01-10 12:04:00", mara, "", DELETED),
        ("2024-01-10 12:05:00", zed, "", DELETED),
        ("2024-01-13 07:15:09", mara, "", MEDIA),
        ("2024-01-13 07:16:00", zed, "", MEDIA),
        ("2024-01-13 07:20:00", zed, "", MEDIA),
        ("2024-01-13 07:21:00", mara, "[1/13/24, 7:20] Zed: you said so", None),
    ]


def test_an_iphone_in_germany():
    notice = "Nachrichten und Anrufe sind Ende-zu-Ende-verschlüsselt. Nur Personen in diesem Chat können sie lesen."
    assert rows(only(FIXTURES / "ios_de.txt")) == [
        ("2024-02-03 21:05:33", "Ole Brandt", notice, SERVICE),
        ("2024-02-03 21:05:33", "Ole Brandt", "Moin", None),
        ("2024-02-03 21:06:00", "Ole Brandt", "", MEDIA),
        ("2024-02-03 21:06:20", "Ole Brandt", "so sieht es aus", None),
        ("2024-02-04 08:00:00", "Tilda", "Na, wie war's?\n\nErzähl mal", None),
        ("2024-02-04 08:01:10", "Tilda", "", MEDIA),
        ("2024-02-04 08:01:30", "Tilda", "", MEDIA),
        ("2024-02-05 00:00:00", "Tilda", "", DELETED),
        ("2024-02-05 00:00:01", "Ole Brandt", "Verpasster Sprachanruf. Tippe, um zurückzurufen.", SERVICE),
        ("2024-02-05 00:02:00", "Tilda", "doch nicht", None),
    ]


def test_an_iphone_in_france():
    notice = "Les messages et les appels sont chiffrés de bout en bout. Aucun tiers ne peut les lire."
    assert rows(only(FIXTURES / "ios_fr.txt")) == [
        ("2023-11-28 18:30:01", "Lise", notice, SERVICE),
        ("2023-11-28 18:30:05", "Lise", "coucou : ça va ?", None),
        ("2023-11-28 18:31:00", "Noé", "", MEDIA),
        ("2023-11-28 18:31:20", "Noé", "", MEDIA),
        ("2023-11-28 18:32:00", "Noé", "", MEDIA),
        ("2023-11-29 07:00:00", "Lise", "", DELETED),
        ("2023-11-29 07:00:10", "Noé", "ok", None),
    ]


def test_an_old_iphone_in_italy():
    assert rows(only(FIXTURES / "ios_it_old.txt")) == [
        ("2017-02-14 21:05:33", "Pia", "", MEDIA),
        ("2017-02-14 21:05:40", "Pia", "", MEDIA),
        ("2017-02-14 21:06:00", "Gino", "bella!", None),
        ("2017-02-14 21:07:00", "Gino", "", DELETED),
        ("2017-02-15 08:00:00", "Pia", "Gino: sei tu?", None),
    ]


def test_android_in_india():
    ravi, other = "Ravi", "+91 90000 00001"
    notice = (
        "Messages and calls are end-to-end encrypted. No one outside of this chat, not even WhatsApp, "
        "can read or listen to them. Tap to learn more."
    )
    quoted = "[04/04, 11:59 am] Ravi: two\n[04/04, 12:00 pm] Ravi: quoted lines"
    assert rows(only(FIXTURES / "android_en_in.txt")) == [
        ("2024-04-03 21:58:00", None, notice, SERVICE),
        ("2024-04-03 21:58:00", None, 'Ravi changed the group name from "Plan: A" to "Plan: B"', SERVICE),
        ("2024-04-03 21:59:00", ravi, "", MEDIA),
        ("2024-04-03 21:59:00", ravi, "this is the new desk", None),
        ("2024-04-03 22:01:00", other, "", MEDIA),
        ("2024-04-03 22:02:00", other, "and the old one", None),
        ("2024-04-04 00:00:00", ravi, "nice", None),
        ("2024-04-04 00:01:00", ravi, "", DELETED),
        ("2024-04-04 00:02:00", other, "", DELETED),
        ("2024-04-04 12:00:00", ravi, "", MEDIA),
        ("2024-04-04 12:03:00", ravi, "", MEDIA),
        ("2024-04-04 12:04:00", ravi, "", MEDIA),
        ("2024-04-04 12:05:00", other, quoted, None),
        ("2024-04-04 12:06:00", None, "Ravi left", SERVICE),
        ("2024-04-04 12:07:00", other, "see you at 5: the usual place", None),
    ]


def test_android_in_mexico():
    notice = "Los mensajes y las llamadas están cifrados de extremo a extremo. Nadie fuera de este chat puede leerlos."
    assert rows(only(FIXTURES / "android_es.txt")) == [
        ("2023-06-05 21:05:00", None, notice, SERVICE),
        ("2023-06-05 21:06:00", "Inés", "", MEDIA),
        ("2023-06-05 21:07:00", "Inés", "", MEDIA),
        ("2023-06-06 00:30:00", "Beto", "¿dónde estás?", None),
        ("2023-06-06 00:31:00", "Inés", "", DELETED),
        ("2023-06-06 12:31:00", "Beto", "ya llegué :)", None),
        ("2023-06-06 12:32:00", "Inés", "por fin, sube", None),
    ]


def test_android_in_brazil():
    assert rows(only(FIXTURES / "android_pt_br.txt"))[1:] == [
        ("2022-06-05 23:59:00", "Caio", "", MEDIA),
        ("2022-06-06 00:00:00", "Caio", "", MEDIA),
        ("2022-06-06 00:01:00", "Duda", "", DELETED),
        ("2022-06-06 00:02:00", "Duda", "olha isso", None),
        ("2022-06-06 00:03:00", "Caio", "kkkk", None),
        ("2022-06-06 00:04:00", "Caio", "top", None),
    ]


def test_android_in_the_netherlands():
    assert rows(only(FIXTURES / "android_nl.txt"))[1:] == [
        ("2020-08-27 11:17:00", "Joep", "", MEDIA),
        ("2020-08-27 11:18:00", "Saar", "", DELETED),
        ("2020-08-28 09:00:00", "Joep", "lekker bezig", None),
        ("2020-08-28 09:01:00", "Saar", "", MEDIA),
        ("2020-08-28 09:02:00", "Saar", "dank je wel", None),
    ]


def test_android_in_korea_with_a_line_before_all_messages():
    path = FIXTURES / "android_ko.txt"
    bad, *messages = only(path)
    assert bad == Bad(str(path), 1, "before the first message", "2024년 2월 14일 수요일")
    assert rows(messages) == [
        ("2024-02-14 21:05:00", "민지", "안녕", None),
        ("2024-02-14 21:06:00", "도윤", "", MEDIA),
        ("2024-02-15 00:01:00", "민지", "잘 자", None),
        ("2024-02-15 00:02:00", "도윤", "너도 잘 자", None),
    ]


# Dates and times.


@pytest.mark.parametrize(
    ("stamp", "time"),
    [
        ("[14/02/2024, 21:05:33] ", "2024-02-14 21:05:33"),
        ("[2/14/24, 9:05:33 PM] ", "2024-02-14 21:05:33"),
        ("[2/14/24, 12:05:33\u202fAM] ", "2024-02-14 00:05:33"),
        ("[14/2/24, 9:05:33\u00a0p.\u00a0m.] ", "2024-02-14 21:05:33"),
        ("[14.02.24, 21:05:33] ", "2024-02-14 21:05:33"),
        ("[14.2.2024 klo 21.05.33] ", "2024-02-14 21:05:33"),
        ("[14. 2. 2024 21:05:33] ", "2024-02-14 21:05:33"),
        ("[14-02-2024 21:05:33] ", "2024-02-14 21:05:33"),
        ("[2024-02-14, 9:05:33 p.m.] ", "2024-02-14 21:05:33"),
        ("[2024-02-14 kl. 21:05:33] ", "2024-02-14 21:05:33"),
        ("[2024/02/14 21:05:33] ", "2024-02-14 21:05:33"),
        ("[2024/2/14 午後9:05:33] ", "2024-02-14 21:05:33"),
        ("[2024/2/14 下午9:05:33] ", "2024-02-14 21:05:33"),
        ("[2024. 2. 14. 오전 12:05:33] ", "2024-02-14 00:05:33"),
        ("[14\u200f/2\u200f/2024, 9:05:33\u202fPM] ", "2024-02-14 21:05:33"),
        ("\u200f[١٤/٢/٢٠٢٤، ٩:٠٥:٣٣ م] ", "2024-02-14 21:05:33"),
        ("14/02/2024, 21:05 - ", "2024-02-14 21:05:00"),
        ("14/02/2024 21:05 - ", "2024-02-14 21:05:00"),
        ("14/02/2024 à 21:05 - ", "2024-02-14 21:05:00"),
        ("14/02/24 21.05 - ", "2024-02-14 21:05:00"),
        ("14.02.24, 21:05 - ", "2024-02-14 21:05:00"),
        ("2/14/24, 9:05 PM - ", "2024-02-14 21:05:00"),
        ("2/14/24, 12:05\u202fpm - ", "2024-02-14 12:05:00"),
        ("14/2/2024, 12:05 a. m. - ", "2024-02-14 00:05:00"),
        ("2024. 02. 14. 21:05 - ", "2024-02-14 21:05:00"),
        ("2024/2/14 中午12:05 - ", "2024-02-14 12:05:00"),
        ("2024/2/14 凌晨12:05 - ", "2024-02-14 00:05:00"),
        ("14/02/2024 21:05 - \u200e", "2024-02-14 21:05:00"),
        ("\ufeff14.02.17, 21:05:33: ", "2017-02-14 21:05:33"),
        ("2/14/17, 9:05:33 PM: ", "2017-02-14 21:05:33"),
    ],
)
def test_a_time_is_read_however_a_phone_writes_it(write_chat: Callable[..., Path], stamp: str, time: str):
    path = write_chat(f"{stamp}Mara: hi", f"{stamp}Zed: {stamp.strip()} is when")
    assert rows(only(path)) == [(time, "Mara", "hi", None), (time, "Zed", bare(f"{stamp.strip()} is when"), None)]
    assert whatsapp.matches(Head.of(path))


@pytest.mark.parametrize(
    ("dates", "days"),
    [
        # A part over 12 settles it, wherever it is.
        (("01/02/2024", "02/13/2024"), ("2024-01-02", "2024-02-13")),
        (("01/02/2024", "13/02/2024"), ("2024-02-01", "2024-02-13")),
        (("2024/02/01", "2024/02/03"), ("2024-02-01", "2024-02-03")),
        # Else what does not run backwards.
        (("1/2/24", "1/5/24", "2/1/24"), ("2024-01-02", "2024-01-05", "2024-02-01")),
        (("1/2/24", "5/2/24", "1/3/24"), ("2024-02-01", "2024-02-05", "2024-03-01")),
        (("24/02/28", "24/03/01", "24/03/02"), ("2024-02-28", "2024-03-01", "2024-03-02")),
        # Else the day comes first.
        (("1/2/24", "2/3/24"), ("2024-02-01", "2024-03-02")),
        (("10/11/12",), ("2012-11-10",)),
        # One clock that went wrong does not turn all dates.
        (("1/2/24", "5/2/24", "1/3/24", "28/2/24", "3/3/24"), None),
    ],
)
@pytest.mark.parametrize("form", ["{}, 21:05 - Mara: hi", "[{}, 21:05:00] Mara: hi"])
def test_the_order_of_day_month_and_year_comes_from_all_dates(
    write_chat: Callable[..., Path], dates: tuple[str, ...], days: tuple[str, ...] | None, form: str
):
    found = [time[:10] for time, *_ in rows(only(write_chat(*map(form.format, dates))))]
    assert found == list(days or ("2024-02-01", "2024-02-05", "2024-03-01", "2024-02-28", "2024-03-03"))


def test_a_quoted_date_says_nothing_of_the_order(write_chat: Callable[..., Path]):
    path = write_chat(
        "1/2/24, 21:05 - Mara: he wrote",
        "[25/12/23, 21:05:00] Zed: no",
        "1/5/24, 21:05 - Mara: hi",
        "2/1/24, 21:05 - Mara: hi",
    )
    assert [row[0][:10] for row in rows(only(path))] == ["2024-01-02", "2024-01-05", "2024-02-01"]


def test_a_date_that_is_none_makes_a_bad_line_with_all_that_follows_it(write_chat: Callable[..., Path]):
    path = write_chat(
        "14/02/2024, 21:05 - Mara: hi",
        "99/02/2024, 21:05 - Mara: no such day",
        "and more",
        "14/02/2024, 25:05 - Mara: no such hour",
        "14/02/2024, 21:07 - Mara: bye",
    )
    first, day, hour, last = only(path)
    assert rows([first, last]) == [
        ("2024-02-14 21:05:00", "Mara", "hi", None),
        ("2024-02-14 21:07:00", "Mara", "bye", None),
    ]
    reason = "no such date or time"
    assert day == Bad(str(path), 2, reason, "99/02/2024, 21:05 - Mara: no such day\nand more")
    assert hour == Bad(str(path), 4, reason, "14/02/2024, 25:05 - Mara: no such hour")


def test_dates_in_another_form_than_the_first_are_quotes(write_chat: Callable[..., Path]):
    path = write_chat(
        "14/02/2024, 21:05 - Mara: he wrote",
        "[14/02/2024, 21:04:01] Zed: no",
        "14.02.2024, 21:04 - Zed: never",
        "14/02/2024 21:04 - Zed: not at all",
        "14/02/2024, 21:04 PM - Zed: no",
        "14/02/2024, 21:04 uhr - Zed: no",
        "14/02/2024, 21:06 - Mara: see?",
    )
    first, second = rows(only(path))
    assert first[2].count("\n") == 5
    assert second == ("2024-02-14 21:06:00", "Mara", "see?", None)


# Who wrote.


def test_a_name_with_a_colon_is_known_by_all_its_messages(write_chat: Callable[..., Path]):
    lines = [f"14/02/2024, 21:0{i} - Dr: Who: {text}" for i, text in enumerate(["hi", "well: yes", "<Media omitted>"])]
    lines += [f"14/02/2024, 21:0{i} - Mara: {text}" for i, text in enumerate(["note: a", "note: b", "c"], 3)]
    found = [(sender, text, kind) for _, sender, text, kind in rows(only(write_chat(*lines)))]
    assert found[:3] == [("Dr: Who", "hi", None), ("Dr: Who", "well: yes", None), ("Dr: Who", "", MEDIA)]
    assert found[3:] == [("Mara", "note: a", None), ("Mara", "note: b", None), ("Mara", "c", None)]


def test_a_notice_with_a_quoted_colon_has_no_sender_and_a_nickname_in_quotes_has(write_chat: Callable[..., Path]):
    path = write_chat(
        '14/02/2024, 21:05 - Mara changed the subject to "Now: hiking"',
        "14/02/2024, 21:05 - Mara hat den Betreff zu „Jetzt: Wandern“ geändert",
        '14/02/2024, 21:05 - Robert "Bob" Low: hi',
        *[f"14/02/2024, 21:06 - Tall Tim 6'2\": {i}" for i in range(3)],
        "14/02/2024, 21:07 - " + "x" * 101 + ": y",
    )
    assert [(sender, kind) for _, sender, _, kind in rows(only(path))] == [
        (None, SERVICE),
        (None, SERVICE),
        ('Robert "Bob" Low', None),
        *[("Tall Tim 6'2\"", None)] * 3,
        (None, SERVICE),
    ]


def test_an_empty_first_line_keeps_its_sender_even_where_an_editor_cut_off_the_space(write_chat: Callable[..., Path]):
    path = write_chat(
        "14/02/2024, 21:05 - Mara: ",
        "14/02/2024, 21:06 - Mara:",
        "",
        "two: lines below",
        "14/02/2024, 21:07 - Mara: hi",
        "",
        "",
        "14/02/2024, 21:08 - Zed left the group",
        "He said: bye",
    )
    assert [row[1:] for row in rows(only(path))] == [
        ("Mara", "", None),
        ("Mara", "\n\ntwo: lines below", None),
        ("Mara", "hi\n\n", None),
        (None, "Zed left the group\nHe said: bye", SERVICE),
    ]
