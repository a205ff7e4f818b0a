"""ADDRESS and COORD: where somebody lives, or is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from data_prep.redact.spans import Span, compact

_UP = "A-ZÀ-ÖØ-ÞŁŚŻŹČŠŽĐİŐŰ"
_WORD = rf"[{_UP}][\w'’-]{{0,30}}"
_CAP = rf"{_WORD}\.?"
# Nothing that is counted or measured, and no part of a longer number.
_FREE = r"(?<![\w.,:/$€£#+-])"
_NO_UNIT = (
    r"(?![\w%€]|[.,:/]\d|\s*(?:uhr|minuten|min|km|euro|€|%|stunden|std|jahre|mal|times|minutes|hours|pm|am|x|days)\b)"
)
# A house number: no year, and nothing measured.
_NUM = rf"(?!(?:19|20)\d\d(?!\d))\d{{1,5}}(?:\s?[-–/]\s?\d{{1,4}})?(?:[a-z]|\s[a-h](?![\w'’.]))?{_NO_UNIT}"
_TOWN = (
    rf"(?:(?:Bad|San|Santa|Sankt|St\.?|Le|La|Les|Los|Las|El|Den|New|Saint|São|Alt|Neu)\s)?{_CAP}"
    rf"(?:\s(?:am|an der|a\.|im|in|ob der|sur|sous|en|de|del|di|upon|on)\s{_CAP})?"
)
_BREAK = r"(?:\s*[,\n–-]\s*|\s+)"
_ZIP = r"(?:[A-Z]{1,2}-)?(?:\d{5}(?:-\d{3})?|\d{4}(?:-\d{3}|\s?[A-Z]{2}(?=\s))?|\d{3}\s\d{2}|\d{2}-\d{3})"
_ZIP_TOWN = (
    rf"(?:{_BREAK}{_ZIP}\s{_TOWN}(?:\s?\([A-Z]{{2}}\)|\s[A-Z]{{2}}\b)?"
    r"|,?\s\d{5}\s[a-zäöüßéèç-]{3,30}(?:\s?[,.!?\n]|$))"
)
_ONLY_TOWN = rf",\s{_TOWN}(?=\s*(?:$|[.!?\n,)]))"
_TAIL = rf"(?:{_ZIP_TOWN}|{_ONLY_TOWN})?"

_WAY = (
    "Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr(?!\\.?\\s[A-Z])|Boulevard|Blvd|Court|Ct|Place|Pl|Square|Sq|Terrace|Ter|Way|Close"
    "|Crescent|Cres|Gardens|Gdns|Grove|Hill|Parkway|Pkwy|Highway|Hwy|Circle|Cir|Mews|Row|Walk|Trail|Trl|Loop|Rise"
    "|Quay|Wharf"
)
_UNIT = r"(?:Flat|Apartment|Apt\.?|Unit|Suite|Ste\.?|Room|Rm\.?|Floor|Fl\.?)\s?#?\w{1,4}"
_STATE_ZIP = r"[A-Z]{2}\.?\s\d{5}(?:-\d{4})?"
_UK_CODE = r"[A-Z]{1,2}\d[A-Z\d]?\s?\d[A-Z]{2}\b"
_EN_TAIL = (
    rf"(?:,?\s(?:{_UNIT}|\#\s?\w{{1,5}}))?"
    rf"(?:{_BREAK}(?:{_CAP}(?:\s{_CAP}){{0,2}},?\s)?(?:{_STATE_ZIP}|{_UK_CODE})|{_ONLY_TOWN})?"
)
# Written small, a word between the number and "street" must not be one of talk.
_TALK = (
    "the|a|an|my|your|his|her|our|their|this|that|of|on|in|to|at|for|from|by|and|or|down|up|off|per|way|lane|star"
    "|more|other|different|long|big|small|new|old|whole|block|blocks|hour|hours|minute|minutes|min|mins|mile"
    "|miles|meter|meters|km|day|days|week|weeks|month|months|year|years|people|guys|kids|cars|times|feet|foot|ft|am|pm"
    r"|mph|kmh|kph|hp|inch|st|nd|rd|th|x|is|are|was|i|we|you|he|she|it|they|\w*s"
)
_DE_SUFFIX = (
    r"(?:straße|strasse|str\.?(?=\s)|weg|platz|allee|gasse|damm|ufer|chaussee|steig|stieg|pfad|graben|promenade)"
)
# "Auf Platz 3", "Erster Platz 1": a rank.
_NO_PLACE = (
    r"(?!(?:(?:\w+\s)?(?:Auf|De[rnms]|Die|Das|Diese[rs]?|Jeder|Letzter|Erster|Zweiter|Dritter|Unser|Euer|Mein|Kein|Neuer)"
    r"|Im|Am|Vom|Zum|Beim)\s)"
)
_DE_WORD = "Weg|Platz|Allee|Gasse|Damm|Ufer|Chaussee|Steig|Ring|Markt|Graben|Promenade"
_NO_HOME = r"(?!(?:sitz|park|stell|steh|arbeits|schul|heim|fenster|lade|tabellen|start|um|unter)(?:platz|weg)\b)"
_FR_PARTICLE = r"(?:(?:de\sla|de\sl['’]|du|des|de|d['’]|la|le|les|l['’])\s?)"
_ES_PARTICLE = r"(?:(?:de\slas?|de\slos|del|de|da|dos?|das|la|el|los)\s)"
_IT_PARTICLE = r"(?:(?:dei|degli|delle|della|dello|del|di|da|d['’]|dell['’])\s?)"
_APP = r"(?!(?:skype|zoom|e-?mail|mail|teams|discord|whats\w*|facebook|paypal|telegram|bluetooth|wifi|usb|sms|app)\b)"

_ADDRESSES = tuple(
    re.compile(pattern)
    for pattern in (
        # 12 Maple Street, Apt 4B, Springfield, IL 62704
        rf"(?:\b{_UNIT},?\s)?{_FREE}\d{{1,5}}(?:[A-Za-z]|\s?[-–]\s?\d{{1,5}})?\s(?:[NSEW]{{1,2}}\.?\s)?"
        rf"(?:(?:{_CAP}|\d{{1,3}}(?:st|nd|rd|th))\s){{1,4}}?(?:{_WAY})\b\.?(?:\s(?:[NS][EW]?|[EW])\b)?{_EN_TAIL}",
        rf"{_FREE}\d{{1,5}}\s(?:[NSEW]\.?\s)?(?:\d{{1,3}}(?:st|nd|rd|th))\s(?:{_WAY})\b\.?{_EN_TAIL}",
        # Lindenstraße 5, 10115 Berlin
        rf"(?i:\b{_NO_HOME}[a-zäöüß-]{{3,40}}{_DE_SUFFIX}\s{_NUM}){_TAIL}",
        rf"(?i:\b[a-zäöüß-]{{2,40}}(?:[^aeiou\W]ring|-ring|-markt|-tor)\s{_NUM}){_ZIP_TOWN}",
        rf"\b(?:{_CAP}-){{1,3}}(?:Ring|Markt|Tor)\s(?i:{_NUM}){_TAIL}",
        rf"\b{_NO_PLACE}(?:{_CAP}\s)?(?:{_CAP}\s(?:Straße|Strasse|Str\.?)|{_WORD}er\s(?:{_DE_WORD}))\s(?i:{_NUM}){_TAIL}",
        rf"\bStra(?:ß|ss)e\s(?:des|der|am|zum|zur)\s(?:\d{{1,2}}\.\s)?{_CAP}(?:\s{_CAP})?\s(?i:{_NUM}){_TAIL}",
        rf"\b(?:[Aa]m|[Aa]n de[rn]|[Aa]uf de[rm]|[Ii]m|[Ii]n de[rn]|[Zz]u[mr]|[Uu]nter den|[Hh]inter der|[Vv]or dem)"
        rf"\s{_CAP}(?:\s{_CAP})?\s(?i:{_NUM}){_ZIP_TOWN}",
        # 3 bis, rue des Lilas, 75011 Paris
        rf"{_FREE}\d{{1,4}}(?:\s?(?:bis|ter|quater|[A-D])\b)?,?\s(?i:rue|avenue|av\.?|ave|boulevard|bd\.?|blvd|allées?"
        rf"|chemin|impasse|quai|place|pl\.|route|cours|passage|square|villa|faubourg|sentier)\s"
        rf"(?!J\.?-?C){_FR_PARTICLE}{{0,2}}{_CAP}(?:[\s-]{_FR_PARTICLE}{{0,2}}(?!\d){_CAP}){{0,3}}{_TAIL}",
        r"(?i:\b\d{1,4}(?:\s(?:bis|ter))?,?\s(?:rue|avenue|boulevard|impasse|chemin|quai)(?:\s[\w'’-]{1,20}){1,5},?\s\d{5}\s"
        r"[\w-]{3,30}\b)",
        # Calle Mayor, nº 12, 3º B, 28013 Madrid; Rua Augusta, 1500
        rf"(?:\b(?i:calle|cl\.|avda\.?|avenida|av\.|plaza|pza\.?|paseo|carrer|camino|ronda|travesía|carretera|rua"
        rf"|travessa|alameda|praça|estrada)|(?<!\w)[Cc]/)\s?{_ES_PARTICLE}?{_CAP}(?:\s{_ES_PARTICLE}?{_CAP}){{0,4}}"
        rf",?\s(?i:(?:n[º°]|n\.?º|núm\.?|número|no\.|\#)\s?)?(?i:{_NUM})"
        rf"(?:,?\s\d{{1,2}}\s?[ºª°](?:\s?(?i:[a-h]\b|izq\w*\.?|d(?:e?re)?cha\w*\.?))?)?{_TAIL}",
        rf"\b(?i:calle|carrera|cra\.?|cl\.?|kra\.?|diagonal|transversal)\s\d{{1,3}}[A-Za-z]?\s?(?:\#|[Nn]o?[.°º])\s?\d{{1,3}}[A-Za-z]?"
        rf"\s?-\s?\d{{1,3}}(?:,?\s{_CAP})?",
        # via dei Mille 12/B, 00184 Roma
        rf"\b(?i:via|viale|v\.le|piazza|p\.zza|piazzale|corso|c\.so|vicolo|largo|strada|lungotevere|contrada|borgo)\s"
        rf"{_IT_PARTICLE}?(?i:{_APP}){_CAP}(?:\s{_IT_PARTICLE}?{_CAP}){{0,3}},?\s(?i:n[.°r]{{0,2}}\s?)?"
        rf"(?i:\d{{1,4}}(?:\s?/\s?[a-z0-9]{{1,3}})?{_NO_UNIT}|{_NUM}){_TAIL}",
        # Prinsengracht 263, 1016 GV Amsterdam; Storgatan 5; ul. Długa 7; ул. Ленина, д. 5
        rf"\b{_WORD}(?:straat|gracht|laan|plein|kade|dijk|singel|gatan|vägen|gade|vej|katu)\s(?i:{_NUM}){_TAIL}",
        rf"\b(?:[Uu]l\.|[Uu]lica|[Aa]l\.|[Aa]leja)\s{_CAP}(?:\s{_CAP}){{0,2}}\s\d{{1,4}}[a-zA-Z]?(?:[/m.\s]{{1,4}}\d{{1,4}})?{_TAIL}",
        r"\b(?:ул\.|улица|просп\.|проспект|пер\.)\s[А-ЯЁ][\w-]*(?:\s[А-ЯЁ][\w-]*){0,2},?\s(?:д\.|дом)?\s?\d{1,4}"
        r"(?:[,\s]{1,2}(?:кв|корп|стр)\.?\s?\d{1,4}){0,2}",
        # 12 maple street
        rf"(?i:{_FREE}\d{{1,5}}[a-d]?\s(?:[nsew]\s)?(?:(?!(?:{_TALK})\b)[a-z'’]{{3,20}}\s){{1,2}}"
        r"(?:street|st|road|rd|avenue|ave|boulevard|blvd|lane|ln|drive|court|terrace|crescent)\b)(?!['’])"
        rf"{_EN_TAIL}",
        # P.O. Box 12, Springfield, IL 62704; Postfach 10 20 30, 50667 Köln
        rf"\b(?i:p\.?\s?o\.?\s?box)\s\#?\d{{1,6}}{_EN_TAIL}",
        rf"\b(?i:postfach|postbus|apartado(?:\sde\scorreos)?|casella\spostale|boîte\spostale|caixa\spostal|skrytka\spocztowa)"
        rf"\s(?:\d[\d ]{{0,8}}\d|\d){_TAIL}",
    )
)

_NUMBER = r"[-+−]?\d{1,3}\.\d{3,}"
_BETWEEN = r"(?:\s*[,;]\s*|%2C|\s+)"
_PAIR = re.compile(
    rf"(?<![\w.,])(?P<a>{_NUMBER})(?P<as>\s?°?\s?[NS]?\b|°)?(?P<gap>{_BETWEEN})(?P<b>{_NUMBER})(?P<bs>\s?°?\s?[EWO]\b|°)?(?![\w]|\.\d|,\s?-?\d+(?![\d.]*[zm]\b))",
)
_SIDED = re.compile(rf"(?<!\w)[NS]\s?{_NUMBER}°?{_BETWEEN}[EWO]\s?{_NUMBER}(?!\w)°?")
_KEYED = re.compile(
    rf"(?<![a-z])(?:lat(?:itude)?|breite)[\"']?\s?[:=]?\s?(?P<a>{_NUMBER})[^\w.-]{{1,4}}(?:lo?ng?(?:itude)?|länge)[\"']?\s?[:=]?\s?"
    rf"(?P<b>{_NUMBER})",
    re.I,
)
_DEGREES = re.compile(
    r"\d{1,2}\s?°\s?\d{1,2}(?:\.\d+)?\s?['’′](?:\s?\d{1,2}(?:\.\d+)?\s?(?:[\"”″]|''))?\s?[NS][\s,]{0,3}"
    r"\d{1,3}\s?°\s?\d{1,2}(?:\.\d+)?\s?['’′](?:\s?\d{1,2}(?:\.\d+)?\s?(?:[\"”″]|''))?\s?[EWO]"
)
_MAPS_DATA = re.compile(rf"!3d{_NUMBER}!4d{_NUMBER}")
_PLACE_WORD = re.compile(
    r"\b(?:gps|lat|lon|long|lng|coord\w*|koord\w*|location|standort|ubicación|position|posizione|maps?|geo|here|hier)\b|geo:|@-?\d",
    re.I,
)


def addresses(text: str) -> Iterator[Span]:
    """Streets with a house number, as people of several languages write them, and PO boxes."""
    for pattern in _ADDRESSES:
        for m in pattern.finditer(text):
            yield Span(m.start(), m.end(), "ADDRESS", compact(m[0]))


def coordinates(text: str) -> Iterator[Span]:
    """Latitude and longitude, in degrees, with at least three decimals or minutes."""
    for pattern in (_DEGREES, _SIDED, _MAPS_DATA):
        for m in pattern.finditer(text):
            yield Span(m.start(), m.end(), "COORD", compact(m[0]))
    for m in _KEYED.finditer(text):
        if _on_earth(m["a"], m["b"]):
            yield Span(m.start("a"), m.end("b"), "COORD", f"{m['a']},{m['b']}")
    pairs = [m for m in _PAIR.finditer(text) if _on_earth(m["a"], m["b"])]
    said = bool(pairs) and _PLACE_WORD.search(text) is not None
    for m in pairs:
        if said or _is_place(m):
            yield Span(m.start(), m.end(), "COORD", f"{m['a']},{m['b']}")


def _on_earth(latitude: str, longitude: str) -> bool:
    return abs(float(latitude.replace("−", "-"))) <= 90 and abs(float(longitude.replace("−", "-"))) <= 180


def _is_place(m: re.Match[str]) -> bool:
    """Whether two decimal numbers are a place: three decimals alone are thousands or measures, so they need a word."""
    decimals = min(len(m["a"].partition(".")[2]), len(m["b"].partition(".")[2]))
    return decimals >= 4 or any(s.strip() for s in (m["as"] or "", m["bs"] or ""))
