"""What WhatsApp itself writes into an export, in several languages, told from what people wrote.

On iOS every such text begins with U+200E, whatever the language. Android has no such mark except before the
name of an attached file, so there the words must be known.
"""

from __future__ import annotations

import re

from data_prep.sources.base import DELETED, MEDIA, SERVICE

MARK = "\u200e"
MARKS = "\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"
LONGEST = 80

_MARKS = re.compile(f"[{MARKS}]+")

# "image omitted" and its like: any of these things with any of these endings.
_THINGS = """
image|video|audio|sticker|gif|document|contact card|video note|voice message|media|file|photo|
bild|dokument|kontaktkarte|videonachricht|medien|datei|
imagen|vídeo|documento|tarjeta de contacto|tarjeta del contacto|nota de video|multimedia|archivo|archivo multimedia|
vidéo|autocollant|fiche contact|carte de contact|note vidéo|médias|média|fichier|
imagem|áudio|figurinha|cartão do contato|cartão de contacto|mensagem de vídeo|mídia|arquivo de mídia|ficheiro|
ficheiro multimédia|immagine|scheda contatto|videomessaggio|file multimediale|
afbeelding|contactkaart|contactpersoonkaart|videobericht|bestand
"""
_LEFT_OUT = """
omitted|weggelassen|ausgelassen|ausgeschlossen|omitido|omitida|omitidos|absent|absente|absents|omis|omise|manquant|
manquante|retiré|retirée|oculto|oculta|ocultado|ocultada|não revelado|não revelada|omesso|omessa|omessi|
escluso|esclusa|non incluso|non inclusa|weggelaten
"""
_LIVE = """
live location shared|live-standort wird geteilt|ubicación en tiempo real compartida|localisation en direct partagée|
localização em tempo real partilhada|localização em tempo real compartilhada|posizione in tempo reale condivisa|
live locatie gedeeld
"""
_DELETED = """
this message was deleted|you deleted this message|you deleted this message as admin|
diese nachricht wurde gelöscht|du hast diese nachricht gelöscht|
se eliminó este mensaje|este mensaje fue eliminado|este mensaje se eliminó|eliminaste este mensaje|
ce message a été supprimé|vous avez supprimé ce message|tu as supprimé ce message|
mensagem apagada|esta mensagem foi apagada|essa mensagem foi apagada|esta mensagem foi eliminada|
você apagou esta mensagem|você apagou essa mensagem|apagou esta mensagem|eliminou esta mensagem|
questo messaggio è stato eliminato|hai eliminato questo messaggio|
dit bericht is verwijderd|dit bericht werd verwijderd|je hebt dit bericht verwijderd|u hebt dit bericht verwijderd
"""
_SERVICE = """
missed voice call|missed video call|missed group voice call|missed group video call|
waiting for this message. this may take a while|
verpasster sprachanruf|verpasster videoanruf|warten auf diese nachricht. dies kann eine weile dauern|
llamada de voz perdida|videollamada perdida|esperando este mensaje. esto puede tomar tiempo|
appel vocal manqué|appel vidéo manqué|en attente de ce message. cela peut prendre un moment|
chamada de voz perdida|chamada de vídeo perdida|ligação de voz perdida|ligação de vídeo perdida|
aguardando mensagem. essa ação pode levar alguns instantes|
chiamata vocale persa|videochiamata persa|in attesa del messaggio. potrebbe volerci del tempo|
gemiste spraakoproep|gemiste video-oproep|wachten op dit bericht. dit kan even duren
"""


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split("|")]


_KINDS = (
    {f"{thing} {end}": MEDIA for thing in _listed(_THINGS) for end in _listed(_LEFT_OUT)}
    | dict.fromkeys(_listed(_LIVE), MEDIA)
    | dict.fromkeys(_listed(_DELETED), DELETED)
    | dict.fromkeys(_listed(_SERVICE), SERVICE)
)
_ATTACHED = frozenset(
    _listed(
        "file attached|datei angehängt|archivo adjunto|fichier joint|arquivo anexado|ficheiro anexado|"
        "file allegato|bestand bijgevoegd"
    )
)
_POLLS = (
    "POLL:",
    "UMFRAGE:",
    "ENCUESTA:",
    "SONDAGE :",
    "SONDAGE\u00a0:",
    "ENQUETE:",
    "SONDAGEM:",
    "SONDAGGIO:",
    "PEILING:",
)
_NOTICES = ("Messages ", "Nachrichten ", "Los mensajes ", "Les messages ", "As mensagens ", "I messaggi ", "Berichten ")
_BY_ADMIN = "This message was deleted by admin "
# A cheap first test.
_BEGINNINGS = frozenset(opening[:4] for opening in (*_POLLS, *_NOTICES, _BY_ADMIN))
_SEALED = re.compile(
    "(?=.*(?:encr|verschl|cifra|chiffr|cript|critt|versleut)).*"
    "(?:end-to-end|Ende-zu-Ende|extremo a extremo|bout en bout|ponta a ponta|ponto a ponto)",
    re.IGNORECASE,
)
_EDITED = re.compile(
    rf"\s?{MARK}?<"
    r"(?:This message was edited|Diese Nachricht wurde bearbeitet|Se editó este mensaje|Ce message a été modifié|"
    r"Mensagem editada|Esta mensagem foi editada|Questo messaggio è stato modificato|Dit bericht is bewerkt)\.?>$"
)
# Android, and iOS until 2018: "NAME.jpg (file attached)", "NAME.jpg <attached>"; a caption follows on the next line.
_NAMED = re.compile(r"[^\n]+\.(\w{2,5}) (?:\(([^()\n]+)\)|<[^<>:\n]+>)(?:\n|$)")
_NAME = re.compile(r"[A-Z]{3}-\d{8}-WA\d+\.|\d{4}-\d\d-\d\d-[A-Z]+-\d{8}\.")
# iOS: "<attached: NAME.jpg>" in any language; a caption stands before it.
_INSERTED = re.compile(r"\s?<[^<>:\n]{2,25}:\s?[^<>\n]+\.(\w{2,5})>\n?")
_PLACE = re.compile(r"[^\W\d]+\s?: https://maps\.google\.com/\?q=")
_DOCUMENT = re.compile(r"[^\n]+\.\w{2,5} •[^\n]*")
# Android, whatever the language: "<two words>", or one that is not ASCII, and no mark-up.
_PLACEHOLDER = re.compile(r"<(?=[^\n>]*(?: |[^\x00-\x7f]))[^<>\n\d=/]{5,60}>(?:\n|$)")


def bare(text: str) -> str:
    """A text without the marks that WhatsApp sets around names and before its own words."""
    return text if text.isascii() else _MARKS.sub("", text)


def judge(text: str, ios: bool) -> tuple[str, str | None]:
    """What somebody wrote, without WhatsApp's own words, and the kind of the message if nothing is left.

    Args:
        text: everything after the sender's name, with the marks.
        ios: whether the export is of the kind in which U+200E begins WhatsApp's own words.
    """
    if text.endswith(">"):
        text = _EDITED.sub("", text)
    said = bare(text)
    if len(said) <= LONGEST and (kind := _kind(said)):
        return (said if kind == SERVICE else ""), kind
    own = text.startswith(MARK)
    if ("<" in said or " (" in said) and (caption := _caption(said, own, ios)) is not None:
        return caption, None if caption else MEDIA
    at = text.rfind(MARK)
    if at > 0 and _kind(bare(text[at:])) == MEDIA:
        return _captioned(bare(text[:at]).rstrip())
    if (said == "null" and not ios) or ("//maps." in said and _PLACE.match(said)):
        return "", MEDIA
    if said[:4] in _BEGINNINGS:
        if said.startswith(_BY_ADMIN):
            return "", DELETED
        if said.startswith(_POLLS):
            return "", MEDIA
        if said.startswith(_NOTICES) and _SEALED.match(said[: 2 * LONGEST]):
            return said, SERVICE
    return said, SERVICE if own and ios else None


def _kind(said: str) -> str | None:
    return _KINDS.get(said.strip(" .<>").casefold())


def _caption(said: str, own: bool, ios: bool) -> str | None:
    """What was written to an attachment, empty for nothing; None if there is no attachment."""
    if (named := _NAMED.match(said)) and (own or _NAME.match(said) or (named[2] or "").casefold() in _ATTACHED):
        return _captioned(said[named.end() :], named[1])[0]
    if inserted := _INSERTED.search(said):
        return _captioned(said[: inserted.start()] + said[inserted.end() :], inserted[1])[0]
    first, _, rest = said.partition("\n")
    if first.startswith("<") and (_kind(first) == MEDIA or (not ios and _PLACEHOLDER.match(said))):
        return rest
    return None


def _captioned(caption: str, ending: str = "") -> tuple[str, str | None]:
    """A caption, unless it is only the file's own name ("Plan.pdf", "Plan.pdf • 3 pages")."""
    named = ending and "\n" not in caption and caption.endswith(f".{ending}")
    if not caption or named or _DOCUMENT.fullmatch(caption):
        return "", MEDIA
    return caption, None
