"""WhatsApp's exports: how dates are written, who speaks, what WhatsApp itself wrote, and whatever bytes there are."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources import Bad, Head, RawChat, RawMessage, ReadOptions, whatsapp
from data_prep.sources.base import DELETED, MEDIA, SERVICE
from data_prep.sources.whatsapp_words import bare, judge
from mlx_persona.errors import PersonaError

FIXTURES = Path(__file__).parent / "fixtures" / "whatsapp"
MARK = "\u200e"

Row = tuple[str, str | None, str, str | None]


def chats(path: Path) -> dict[str, list[RawMessage | Bad]]:
    """Every chat with all that is in it."""
    found = {}
    for item in whatsapp.read(path, ReadOptions()):
        assert isinstance(item, RawChat)
        assert item.id not in found
        found[item.id] = list(item.messages)
    return found


def only(path: Path) -> list[RawMessage | Bad]:
    (messages,) = chats(path).values()
    return messages


def rows(messages: list[RawMessage | Bad]) -> list[Row]:
    """Time, sender, text and kind of every message; none may be bad."""
    found = []
    for m in messages:
        assert isinstance(m, RawMessage), m
        assert m.time is not None
        assert (m.role, m.id, m.answers, m.train, m.parts) == (None, None, None, True, 1)
        found.append((f"{datetime.fromtimestamp(m.time, UTC):%Y-%m-%d %H:%M:%S}", m.sender, m.text, m.kind))
    return found


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines (or bytes as they are) as an export."""

    def call(*lines: str | bytes, name: str = "WhatsApp Chat with Mara.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n")
        return path

    return call


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
def test_a_time_is_read_however_a_phone_writes_it(write: Callable[..., Path], stamp: str, time: str):
    path = write(f"{stamp}Mara: hi", f"{stamp}Zed: {stamp.strip()} is when")
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
    write: Callable[..., Path], dates: tuple[str, ...], days: tuple[str, ...] | None, form: str
):
    found = [time[:10] for time, *_ in rows(only(write(*map(form.format, dates))))]
    assert found == list(days or ("2024-02-01", "2024-02-05", "2024-03-01", "2024-02-28", "2024-03-03"))


def test_a_quoted_date_says_nothing_of_the_order(write: Callable[..., Path]):
    path = write(
        "1/2/24, 21:05 - Mara: he wrote",
        "[25/12/23, 21:05:00] Zed: no",
        "1/5/24, 21:05 - Mara: hi",
        "2/1/24, 21:05 - Mara: hi",
    )
    assert [row[0][:10] for row in rows(only(path))] == ["2024-01-02", "2024-01-05", "2024-02-01"]


def test_a_date_that_is_none_makes_a_bad_line_with_all_that_follows_it(write: Callable[..., Path]):
    path = write(
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


def test_dates_in_another_form_than_the_first_are_quotes(write: Callable[..., Path]):
    path = write(
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


def test_a_name_with_a_colon_is_known_by_all_its_messages(write: Callable[..., Path]):
    lines = [f"14/02/2024, 21:0{i} - Dr: Who: {text}" for i, text in enumerate(["hi", "well: yes", "<Media omitted>"])]
    lines += [f"14/02/2024, 21:0{i} - Mara: {text}" for i, text in enumerate(["note: a", "note: b", "c"], 3)]
    found = [(sender, text, kind) for _, sender, text, kind in rows(only(write(*lines)))]
    assert found[:3] == [("Dr: Who", "hi", None), ("Dr: Who", "well: yes", None), ("Dr: Who", "", MEDIA)]
    assert found[3:] == [("Mara", "note: a", None), ("Mara", "note: b", None), ("Mara", "c", None)]


def test_a_notice_with_a_quoted_colon_has_no_sender_and_a_nickname_in_quotes_has(write: Callable[..., Path]):
    path = write(
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


def test_an_empty_first_line_keeps_its_sender_even_where_an_editor_cut_off_the_space(write: Callable[..., Path]):
    path = write(
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


# What WhatsApp wrote.


@pytest.mark.parametrize(
    "text",
    [
        "<Media omitted>",
        "<Medien ausgeschlossen>",
        "<Multimedia omitido>",
        "<Archivo omitido>",
        "<Médias omis>",
        "<Mídia oculta>",
        "<Ficheiro não revelado>",
        "<Media omessi>",
        "<Media weggelaten>",
        "<Без медиафайлов>",
        "<Medya dahil edilmedi>",
        "<省略多媒体文件>",
        "IMG-20240214-WA0001.jpg (file attached)",
        f"{MARK}Report.docx (Datei angehängt)",
        "Report.docx (Datei angehängt)",
        f"{MARK}Отчёт.pdf (файл добавлен)",
        "foto.jpg (archivo adjunto)",
        "PTT-20240214-WA0001.opus (fichier joint)",
        "STK-20240214-WA0001.webp (arquivo anexado)",
        "VID-20240214-WA0001.mp4 (file allegato)",
        "Anna.vcf (bestand bijgevoegd)",
        "live location shared",
        "ubicación: https://maps.google.com/?q=19.4326,-99.1332",
        "POLL:\nwhen?\nOPTION: now (1 vote)",
        "SONDAGE\u00a0:\nquand ?\nOPTION\u00a0: là (1 vote)",
    ],
)
def test_media_on_android(text: str):
    assert judge(text, ios=False) == ("", MEDIA)


@pytest.mark.parametrize(
    "text",
    [
        *(f"{thing} omitted" for thing in ("image", "video", "audio", "sticker", "GIF", "document", "Contact card")),
        "Video weggelassen",
        "Dokument weggelassen",
        "imagen omitida",
        "Tarjeta de contacto omitida",
        "vidéo absente",
        "audio omis",
        "document manquant",
        "imagem ocultada",
        "figurinha omitida",
        "áudio ocultado",
        "immagine omessa",
        "sticker non incluso",
        "afbeelding weggelaten",
        "<attached: 00000001-PHOTO-2024-02-14-21-05-33.jpg>",
        "<Anhang: 00000001-STICKER-2024-02-14-21-05-33.webp>",
        "<adjunto: 00000001-Plan v2.pdf>",
        "<pièce jointe : 00000001-VIDEO-2024-02-14-21-05-33.mp4>",
        "<anexado: 00000001-PHOTO-2024-02-14-21-05-33.jpg> <Mensagem editada>",
        "<allegato: 00000001-AUDIO-2024-02-14-21-05-33.opus>",
        "<bijgevoegd: 00000001-GIF-2024-02-14-21-05-33.mp4>",
    ],
)
@pytest.mark.parametrize("mark", [MARK, ""])
def test_media_on_ios(text: str, mark: str):
    assert judge(mark + text, ios=True) == ("", MEDIA)


def test_a_caption_stays():
    attached = f"{MARK}<attached: 00000001-PHOTO-2024-02-14-21-05-33.jpg>"
    assert judge(f"so\nnice {attached}", ios=True) == ("so\nnice", None)
    assert judge(f"so nice {attached} {MARK}<This message was edited>", ios=True) == ("so nice", None)
    assert judge(f"so nice {MARK}image omitted", ios=True) == ("so nice", None)
    assert judge(f"so nice {MARK}image omitted {MARK}<This message was edited>", ios=True) == ("so nice", None)
    assert judge("<Medien ausgeschlossen>\nso\nnice", ios=False) == ("so\nnice", None)
    assert judge("IMG-20240214-WA0001.jpg (Datei angehängt)\nso nice.", ios=False) == ("so nice.", None)
    assert judge(f"{MARK}a.jpg (Datei angehängt)\nsee b.pdf", ios=False) == ("see b.pdf", None)
    assert judge("IMG-20240214-WA0001.jpg (Datei angehängt)\nmilk • eggs", ios=False) == ("milk • eggs", None)
    assert judge(f"milk • eggs {MARK}image omitted", ios=True) == ("milk • eggs", None)


def test_the_name_of_a_document_is_no_caption():
    assert judge(f"My plan.pdf • {MARK}3 pages {MARK}document omitted", ios=True) == ("", MEDIA)
    assert judge(f"My plan.pdf • {MARK}<attached: 00000003-My plan.pdf>", ios=True) == ("", MEDIA)
    assert judge("DOC-20240214-WA0001.pdf (Datei angehängt)\nMy plan.pdf", ios=False) == ("", MEDIA)


@pytest.mark.parametrize(
    "text",
    [
        "This message was deleted",
        "You deleted this message.",
        "This message was deleted by admin Mara.",
        "Diese Nachricht wurde gelöscht.",
        "Du hast diese Nachricht gelöscht.",
        "Se eliminó este mensaje.",
        "Eliminaste este mensaje.",
        "Ce message a été supprimé",
        "Vous avez supprimé ce message",
        "Mensagem apagada",
        "Você apagou esta mensagem",
        "Questo messaggio è stato eliminato",
        "Hai eliminato questo messaggio.",
        "Dit bericht is verwijderd",
        "Je hebt dit bericht verwijderd",
    ],
)
def test_deleted_messages(text: str):
    assert judge(text, ios=False) == ("", DELETED)
    assert judge(MARK + text, ios=True) == ("", DELETED)


@pytest.mark.parametrize(
    "text",
    [
        "Messages to this chat and calls are now secured with end-to-end encryption. Tap for more info.",
        "Nachrichten in diesem Chat sowie Anrufe sind jetzt mit Ende-zu-Ende-Verschlüsselung geschützt.",
        "Los mensajes y llamadas en este chat ahora están protegidos con cifrado de extremo a extremo.",
        "Les messages et les appels sont chiffrés de bout en bout.",
        "As mensagens e as ligações são protegidas com a criptografia de ponta a ponta.",
        "I messaggi e le chiamate sono crittografati end-to-end.",
        "Berichten en gesprekken zijn end-to-end versleuteld.",
        "Missed voice call",
        "Waiting for this message. This may take a while.",
        "Verpasster Videoanruf",
    ],
)
def test_service_messages_that_have_a_sender(text: str):
    assert judge(text, ios=False) == (text, SERVICE)
    assert judge(MARK + text, ios=True) == (text, SERVICE)


def test_on_ios_the_mark_tells_notices_of_every_language():
    assert judge(f"{MARK}Мара создала группу", ios=True) == ("Мара создала группу", SERVICE)
    assert judge(f"{MARK}Мара", ios=False) == ("Мара", None)


@pytest.mark.parametrize(
    "text",
    [
        "the image was omitted",
        "image omitted?",
        "he deleted this message",
        "Messages are slow today",
        "Messages: none",
        "<3",
        "<sigh>",
        "i <3 you :)",
        "if a<b and c>d",
        "<b>bold</b>",
        "look at report.txt (the old one)",
        "see foo.py (attached)",
        "<This message was edited> is what it says",
        "null and void",
        "SONDAGES: non",
        "Messages from the end-to-end test",
        "place: https://example.com/?q=1",
        "tab\tand trailing  ",
    ],
)
@pytest.mark.parametrize("ios", [True, False])
def test_what_people_write_is_left_alone(text: str, ios: bool):
    assert judge(text, ios) == (text, None)


@pytest.mark.parametrize("text", ["null", "<sounds good>", "<schön>"])
def test_what_only_android_writes_is_left_alone_on_ios(text: str):
    assert judge(text, ios=True) == (text, None)
    assert judge(text, ios=False) == ("", MEDIA)


# Files, zips and folders.


@pytest.mark.parametrize("path", sorted(FIXTURES.iterdir()), ids=lambda path: path.stem)
def test_every_fixture_is_known(path: Path):
    assert whatsapp.matches(Head.of(path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just a note",
        "2024-02-14 21:05:33,123 - root - INFO - up: yes",
        "[2024-02-14 21:05:33.123] INFO up: yes",
        "[21:05, 14/02/2024] Mara: hi",
        '{"time": "14/02/2024, 21:05 - Mara: hi"}',
        "14/02/2024, 21:05 - nobody spoke",
        "14/02/2024, 21:05: Mara: hi",
        "14/02/2024, 21:05] Mara: hi",
    ],
)
def test_other_texts_are_not_taken(write: Callable[..., Path], text: str):
    assert not whatsapp.matches(Head.of(write(text)))


def make_zip(path: Path, **files: str | Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content.read_bytes() if isinstance(content, Path) else content)
    return path


def test_the_zip_of_an_iphone_is_called_after_the_chat(tmp_path: Path):
    files = {"_chat.txt": FIXTURES / "ios_de.txt", "00000003-PHOTO.jpg": "\xff", "00000004-notes.txt": "to do: all"}
    path = make_zip(tmp_path / "WhatsApp Chat - Ole Brandt.zip", **files)
    assert whatsapp.matches(Head.of(path))
    assert {"Ole Brandt": only(FIXTURES / "ios_de.txt")} == chats(path)


@pytest.mark.parametrize(
    ("name", "chat"),
    [
        ("WhatsApp Chat with Ann (work).txt", "Ann (work)"),
        ("WhatsApp-Chat mit Ann.txt", "Ann"),
        ("Chat de WhatsApp con Ann.txt", "Ann"),
        ("Discussion WhatsApp avec Ann.txt", "Ann"),
        ("Conversa do WhatsApp com Ann.txt", "Ann"),
        ("Chat WhatsApp con Ann.txt", "Ann"),
        ("WhatsApp-chat met Ann.txt", "Ann"),
        ("whatsapp.txt", "whatsapp"),
        ("Ann.TXT", "Ann"),
    ],
)
def test_a_chat_is_called_after_its_file(tmp_path: Path, name: str, chat: str):
    path = tmp_path / name
    shutil.copyfile(FIXTURES / "android_es.txt", path)
    expected = only(FIXTURES / "android_es.txt")
    assert chats(path) == {chat: expected}
    assert chats(make_zip(tmp_path / "x.zip", **{name: path, "IMG-20240214-WA0001.jpg": "\xff"})) == {chat: expected}


def test_a_folder_of_exports_is_read_whole(tmp_path: Path):
    for name, fixture in (("Ole/_chat.txt", "ios_de.txt"), ("WhatsApp Chat with Ravi.txt", "android_en_in.txt")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(FIXTURES / fixture, tmp_path / name)
    (tmp_path / "IMG-20240214-WA0001.jpg").touch()
    assert whatsapp.matches(Head.of(tmp_path))
    assert list(chats(tmp_path)) == ["Ole", "Ravi"]
    assert list(chats(tmp_path / "Ole")) == ["Ole"]
    assert list(chats(tmp_path / "Ole" / "_chat.txt")) == ["Ole"]


@pytest.mark.parametrize("other", ["result.json", "mail.mbox", "notes.txt", "more.zip"])
def test_a_folder_with_something_else_to_read_is_searched_file_by_file(tmp_path: Path, other: str):
    shutil.copyfile(FIXTURES / "ios_de.txt", tmp_path / "_chat.txt")
    (tmp_path / other).write_text("something else")
    assert not whatsapp.matches(Head.of(tmp_path))


def test_a_tree_without_a_chat_is_an_error_that_names_it(tmp_path: Path):
    path = make_zip(tmp_path / "x.zip", **{"notes.txt": "to do"})
    assert not whatsapp.matches(Head.of(path))
    with pytest.raises(PersonaError, match=r"x\.zip has no chat as WhatsApp exports it"):
        chats(path)


def test_a_file_that_is_no_chat_is_one_bad_line(write: Callable[..., Path]):
    path = write("", "dear diary", "nothing: today")
    assert only(path) == [Bad(str(path), 2, "no date and time as in WhatsApp's exports", "dear diary")]
    path.write_bytes(b"\xef\xbb\xbf\n")
    assert only(path) == [Bad(str(path), 1, "it has no text", "")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_an_editor_saved_is_read(tmp_path: Path, encoding: str):
    path = tmp_path / "ios_de.txt"
    text = (FIXTURES / "ios_de.txt").read_text(encoding="utf-8-sig")
    path.write_text(text, encoding=encoding, newline="\r\n")
    assert whatsapp.matches(Head.of(path))
    assert only(path) == only(FIXTURES / "ios_de.txt")


# Properties.

DAY_FIRST = ("[%d/%m/%Y, %H:%M:%S] ", "%d/%m/%y, %I:%M\u202f%p - ", "%d.%m.%y, %H:%M:%S: ", "[%d-%m-%Y %I.%M.%S %p] ")
STYLES = (
    *DAY_FIRST,
    "[%m/%d/%y, %I:%M:%S\u202f%p] ",
    "%m/%d/%Y, %H:%M - ",
    "%Y-%m-%d, %H:%M - ",
    "[%Y/%m/%d %H:%M:%S] ",
)

names = st.text(st.characters(categories=["L", "N", "So"]), min_size=1, max_size=20)
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r" + "\u200e\u200f\ufeff"), max_size=60)
said = words.map(bare).map(lambda text: text.replace(": ", ":")).filter(lambda text: judge(text, True) == (text, None))
when = st.integers(datetime(2024, 1, 13, tzinfo=UTC).timestamp().__int__() // 60, 40_000_000)  # minutes


def render(messages: list[RawMessage], style: str, end: str) -> bytes:
    """An export with these messages."""
    stamps = [datetime.fromtimestamp(m.time or 0, UTC).strftime(style) for m in messages]
    return "".join(f"{at}{m.sender}: {m.text}{end}" for at, m in zip(stamps, messages, strict=True)).encode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to write again and again."""
    return tmp_path_factory.mktemp("whatsapp") / "chat.txt"


@given(st.lists(st.tuples(names, said, when), min_size=1), st.sampled_from(STYLES), st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read(place: Path, drawn: list[tuple[str, str, int]], style: str, end: str):
    # The first day cannot be a month, so that the order is clear.
    begin = RawMessage("begin", sender="Mara", time=datetime(2024, 1, 13, tzinfo=UTC).timestamp())
    ordered = sorted(drawn, key=lambda message: message[2])
    messages = [begin, *(RawMessage(text, sender=sender, time=60.0 * at) for sender, text, at in ordered)]
    if "[" not in style and "S" not in style:
        messages = [m for m in messages if judge(m.text, False) == (m.text, None)]
    place.write_bytes(render(messages, style, end))
    assert only(place) == messages


def check(path: Path) -> list[RawMessage | Bad]:
    """Whatever a file holds: only PersonaError, or items that can be written as UTF-8."""
    try:
        whatsapp.matches(Head.of(path))
        found = [m for messages in chats(path).values() for m in messages]
    except PersonaError:
        return []
    for item in found:
        if isinstance(item, Bad):
            assert len(item.text) <= 200
            "".join((item.file, item.reason, item.text)).encode()
        else:
            assert item.time is not None
            (item.text + (item.sender or "")).encode()
    return found


PIECES = (
    *(b"14/02/2024, 21:05 - ", b"[14/02/2024, 21:05:33] ", b"99/99/9999, 99:99 - ", b"0/0/0, 0:00 - ", b"Mara: "),
    *(b"\xed\xa0\x80", b"\xff", b"\0", b"\n", b"\r", b": ", b"<", b">", b")", b"\xe2\x80\x8e", b"\xc2\xa0", b"PM"),
    *("٣/٣/٣, ".encode(), b"image omitted", b"(file attached)", b"<attached: ", b".jpg", b"\xff\xfe", b"\xef\xbb\xbf"),
)


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=20))).map(b"".join))
@settings(max_examples=300)
def test_any_bytes_make_messages_or_bad_lines(place: Path, data: bytes):
    place.write_bytes(data)
    check(place)


@given(st.lists(st.sampled_from(PIECES[4:]).filter(lambda piece: b"\n" not in piece)).map(b"".join), st.integers(1, 5))
def test_no_message_is_lost(place: Path, data: bytes, count: int):
    place.write_bytes((b"14/02/2024, 21:05 - Mara: " + data + b"\n") * count)
    assert len(check(place)) == count


@given(st.sampled_from(sorted(FIXTURES.iterdir())), st.data())
def test_a_broken_export_loses_only_what_is_broken(place: Path, fixture: Path, data: st.DataObject):
    whole = fixture.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    place.write_bytes(whole[:cut])
    found, expected = check(place), only(fixture)
    assert len(found) <= len(expected) or cut == 0
    at = data.draw(st.integers(0, len(whole) - 1))
    place.write_bytes(whole[:at] + data.draw(st.binary(min_size=1, max_size=3)) + whole[at + 1 :])
    check(place)


def test_bytes_that_are_no_utf8_spoil_their_message_only(write: Callable[..., Path]):
    path = write(
        "14/02/2024, 21:05 - Mara: hi",
        b"14/02/2024, 21:06 - Mara: caf\xe9 and " + b"x" * 300,
        "and more",
        "14/02/2024, 21:07 - Mara: bye",
    )
    first, bad, last = only(path)
    assert [row[2] for row in rows([first, last])] == ["hi", "bye"]
    assert isinstance(bad, Bad)
    assert (bad.line, bad.reason) == (2, "not UTF-8")
    assert bad.text == "14/02/2024, 21:06 - Mara: caf? and " + "x" * 165


@pytest.mark.parametrize("filling", ["x", "\u200e", "<", ")", ": ", "1/", "a.bb (", "<a: ", " ", "[", "\0"])
def test_a_line_of_a_megabyte_takes_no_time(write: Callable[..., Path], filling: str):
    long = filling * (1_000_000 // len(filling))
    path = write(f"14/02/2024, 21:05 - Mara: {long}", long, f"14/02/2024, 21:06 - {long}", f"[14/02/2024, {long}")
    assert [m.time for m in check(path) if isinstance(m, RawMessage)] == [1707944700.0, 1707944760.0]


@given(st.sampled_from(["STORED", "DEFLATED", "BZIP2", "LZMA"]), st.data())
@settings(max_examples=200)
def test_a_broken_zip_is_an_error_for_the_user(place: Path, method: str, data: st.DataObject):
    path = place.with_name("broken.zip")
    with zipfile.ZipFile(path, "w", getattr(zipfile, f"ZIP_{method}")) as archive:
        archive.writestr("_chat.txt", (FIXTURES / "ios_de.txt").read_bytes())
    whole = path.read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    path.write_bytes(whole)
    check(path)
