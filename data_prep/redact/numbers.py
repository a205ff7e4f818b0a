"""CARD, IBAN and ID: numbers with a checksum."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import NamedTuple

from data_prep.redact.spans import Span, compact
from mlx_persona.errors import PersonaError

_GAP = r"[ \u00a0\u2009\u202f-]"
_DIGITS = re.compile(rf"(?<![\w.,])\d(?:{_GAP}?\d){{12,60}}(?!\w)")
_Brand = tuple[re.Pattern[str], tuple[int, ...]]
# Who issues cards with such a beginning, and how long their numbers are.
_BRANDS: tuple[_Brand, ...] = (
    (re.compile(r"4"), (16, 13)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"6011|64[4-9]|65"), (16,)),
    (re.compile(r"62"), (16, 17, 18, 19)),
    (re.compile(r"352[89]|35[3-8]"), (16,)),
    (re.compile(r"3(?:0[0-5]|[689])"), (14,)),
)
# Maestro and long Visa numbers look like any number: they must be said to be cards.
_RARE: tuple[_Brand, ...] = ((re.compile(r"4"), (19,)), (re.compile(r"50|5[6-9]|6"), tuple(range(12, 20))))
_CARD_WORD = re.compile(
    r"\b(?:card|cards|visa|maestro|mastercard|amex|kreditkarte|kartennummer|karte|carte|tarjeta|carta|cartão|карта)\b",
    re.I,
)
_IBAN = re.compile(rf"(?<!\w)[a-z]{{2}}\d{{2}}(?:{_GAP}?[a-z0-9]){{11,40}}", re.I)
_IBAN_LENGTHS = (34, 14)
MIN_CARD, MAX_CARD, MIN_GROUP = 12, 19, 3
# No national number has fewer digits.
MIN_ID_DIGITS = 5


class Kind(NamedTuple):
    """A national number: its form, the module of python-stdnum that checks it, and the words it must come with."""

    form: re.Pattern[str]
    module: str | None = None
    words: re.Pattern[str] | None = None


def _kind(form: str, module: str | None = None, words: str | None = None) -> Kind:
    named = re.compile(rf"(?<![^\W_])(?:{words})(?![^\W_])", re.I) if words else None
    return Kind(re.compile(rf"(?<![\w.-])(?:{form})(?![\w]|[.-]\d)", re.I), module, named)


# A number of digits alone needs its usual form, or a word that says what it is. Letters and dates in it are form.
KINDS = (
    _kind(r"\d{3}-\d{2}-\d{4}", "us.ssn"),
    _kind(r"9\d{2}-[5-9]\d-\d{4}", "us.itin"),
    _kind(r"\d{3} ?\d{2} ?\d{4}", "us.ssn", r"ssn|social|social security(?: number)?"),
    _kind(r"(?-i:(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PRSTW-Z][A-CEGHJ-NPRSTW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D])"),
    _kind(r"[a-z]{2} ?\d{2} ?\d{2} ?\d{2} ?[a-d]", None, r"nino|ni number|ni no|national insurance(?: number)?"),
    _kind(r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", r"nhs(?: number)?"),
    _kind(r"\d{2} \d{3} \d{3} \d{3}", "de.idnr"),
    _kind(r"\d{11}", "de.idnr", r"steuer-?id\w*|steuer-?identifikationsnummer|steuernummer|idnr|tin"),
    _kind(r"[1-478] ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d{2}|2[ab]) ?\d{3} ?\d{3} ?\d{2}", "fr.nir"),
    _kind(r"(?-i:\d{1,2}\.?\d{3}\.?\d{3}[ -]?[A-Z])", "es.dni"),
    _kind(r"\d{1,2}\.?\d{3}\.?\d{3}[ -]?[a-z]", "es.dni", r"dni|nif"),
    _kind(r"[xyz][ -]?\d{7}[ -]?[a-z]", "es.nie"),
    _kind(r"[a-z]{6}[ -]?\d{2}[a-ehlmprst]\d{2}[ -]?[a-z]\d{3}[a-z]", "it.codicefiscale"),
    _kind(r"\d{9}|\d{4}\.?\d{2}\.?\d{3}", "nl.bsn", r"bsn|burgerservicenummer|sofinummer|sofi"),
    _kind(r"\d{3}\.\d{3}\.\d{3}-\d{2}", "br.cpf"),
    _kind(r"\d{11}", "br.cpf", r"cpf"),
    _kind(r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", "be.nn"),
    _kind(r"\d{11}", "be.nn", r"rijksregisternummer|registre national|niss|insz"),
    _kind(r"\d{11}", "pl.pesel", r"pesel\w*"),
    _kind(r"\d{6}(?:\d{2})?[-+]\d{4}", "se.personnummer"),
    _kind(r"\d{10}|\d{12}", "se.personnummer", r"personnummer|personnr"),
    _kind(r"\d{6}[-+a]\d{3}[0-9a-z]", "fi.hetu"),
    _kind(r"\d{6}[- ]?\d{4}", "dk.cpr", r"cpr(?:-nummer|-nr)?"),
    _kind(r"\d{6} ?\d{5}", "no.fodselsnummer", r"fødselsnummer|personnummer|fnr"),
    _kind(r"756\.?\d{4}\.?\d{4}\.?\d{2}", "ch.ssn"),
    _kind(r"\d{4} ?\d{6}", "at.vnr", r"sv-?nr|sv-?nummer|sozialversicherungsnummer|svnr"),
    _kind(r"(?-i:\d{7}[A-W][ABHIW]?)", "ie.pps"),
    _kind(r"\d{3} ?\d{3} ?\d{3}", "pt.nif", r"nif|contribuinte"),
    _kind(r"\d{4} \d{4} \d{4}", "in_.aadhaar"),
    _kind(r"\d{12}", "in_.aadhaar", r"aadhaar|aadhar|uidai"),
    _kind(r"[a-z]{3}[abcfghljpt][a-z]\d{4}[a-z]", "in_.pan", r"pan|pan card|pan number"),
    _kind(r"[a-z]{4}\d{6}[hm][a-z]{5}[0-9a-z]\d", "mx.curp"),
    _kind(r"\d{3}[ -]?\d{3}[ -]?\d{3}", "ca.sin", r"sin|social insurance(?: number)?|nas"),
    _kind(r"\d{3} ?\d{3} ?\d{3}", "au.tfn", r"tfn|tax file number"),
    _kind(r"[1-9]\d{16}[\dx]", "cn.ric"),
    _kind(r"\d{6}-\d{7}", "kr.rrn"),
    _kind(r"\d{4} ?\d{4} ?\d{4}", "jp.in_", r"my ?number|マイナンバー"),
    _kind(r"\d{11}", "tr.tckimlik", r"tc|tckn|kimlik(?: no)?|tc kimlik(?: no)?"),
    _kind(r"\d{13}", "za.idnr", r"id|id number"),
    _kind(r"\d{6}/\d{3,4}", "cz.rc"),
    _kind(r"\d{13}", "ro.cnp", r"cnp"),
    _kind(r"\d{11}", "hr.oib", r"oib"),
    _kind(r"\d{1,2}\.\d{3}\.\d{3}-[\dk]", "cl.rut"),
    _kind(r"\d{2}-\d{8}-\d", "ar.cuit"),
    # No checksum that anybody checks, so the word must stand right there.
    _kind(r"(?=[a-z]*\d)[a-z0-9]{6,10}", None, r"passport (?:no|nr|number)|passport|reisepass(?:nummer)?|pasaporte"),
)


def need() -> None:
    """Make sure that the library which knows the checksums is there.

    Raises:
        PersonaError: it is not.
    """
    try:
        import_module("stdnum")
    except ImportError:
        raise PersonaError("redaction needs python-stdnum", "pip install 'mlx-persona[data]'") from None


def cards(text: str) -> Iterator[Span]:
    """Card numbers: an issuer's beginning and length, and the right check digit."""
    from stdnum import luhn

    brands: tuple[_Brand, ...] = ()
    for m in _DIGITS.finditer(text):
        brands = brands or (_BRANDS + _RARE if _CARD_WORD.search(text) else _BRANDS)
        for start, end, number in _stretches(m):
            if any(b.match(number) and len(number) in sizes for b, sizes in brands) and luhn.is_valid(number):
                yield Span(start, end, "CARD", number)
                break


def _stretches(m: re.Match[str]) -> Iterator[tuple[int, int, str]]:
    """Every run of whole groups of digits, longest first: what stands before and after a number is often one too."""
    groups = [(g.start(), g.end()) for g in re.finditer(r"\d+", m[0]) if g.end() - g.start() >= MIN_GROUP]
    found = [
        (m.start() + a, m.start() + b, compact(m[0][a:b]))
        for i, (a, _) in enumerate(groups)
        for _, b in groups[i : i + MAX_CARD // MIN_GROUP]
    ]
    yield from sorted((f for f in found if MIN_CARD <= len(f[2]) <= MAX_CARD), key=lambda f: -len(f[2]))


def ibans(text: str) -> Iterator[Span]:
    """Bank accounts: the country's form, and the right check digits. Words that follow are left out."""
    from stdnum import iban

    longest, shortest = _IBAN_LENGTHS
    for m in _IBAN.finditer(text):
        places = [m.start() + i for i, c in enumerate(m[0]) if c.isalnum()]
        number = compact(m[0])
        for size in range(min(longest, len(number)), shortest, -1):
            end = places[size - 1] + 1
            if not text[end : end + 1].isalnum() and iban.is_valid(number[:size], check_country=False):
                yield Span(m.start(), end, "IBAN", number[:size])
                break


def ids(text: str) -> Iterator[Span]:
    """National numbers of persons, with the right checksum where there is one."""
    if sum(map(str.isdigit, text)) < MIN_ID_DIGITS:
        return
    for kind in KINDS:
        for m in kind.form.finditer(text):
            if kind.words is not None and not kind.words.search(text, max(0, m.start() - 60), m.end() + 30):
                continue
            if kind.module is None or _valid(kind.module, m[0]):
                yield Span(m.start(), m.end(), "ID", compact(m[0]))


def _valid(name: str, number: str) -> bool:
    return bool(_check(name)(compact(number) if name != "fi.hetu" else number))


@cache
def _check(name: str) -> Callable[[str], object]:
    check: Callable[[str], object] = import_module(f"stdnum.{name}").is_valid
    return check
