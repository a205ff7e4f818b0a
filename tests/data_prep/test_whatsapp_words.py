"""What WhatsApp itself wrote is told from what people wrote."""

from __future__ import annotations

import pytest

from data_prep.sources.base import DELETED, MEDIA, SERVICE
from data_prep.sources.whatsapp_words import judge
from tests.data_prep.whatsapp_kit import MARK

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
