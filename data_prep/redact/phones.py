"""PHONE: international numbers, and national ones of the countries that the chats come from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from data_prep.redact.spans import Span, blanked
from mlx_persona.errors import PersonaError

DEFAULT_REGIONS = ("US", "GB", "DE")
# So many countries of senders, and so many more of numbers in texts.
SENDERS, GUESSED = 6, 3
# A line of digits without end has no number; looking on would take minutes.
TRIES = 300
_ENOUGH = re.compile(r"(?:\d[^\w\n]{0,4}){6}\d")
# These links hold an international number, often without its plus sign.
_LINK = re.compile(r"(?:wa\.me/|phone=|(?<!\w)tel:)(\+?[1-9]\d{7,14})(?!\d)", re.I)
_SAID = re.compile(
    r"(?<![^\W\d_])(?:call|calling|phone|tel|text|txt|mobile|cell|cellphone|whats ?app|signal|sms|fax|ring|number|nr"
    r"|nummer|handy\w*|handynummer|telefon\w*|mobil\w*|ruf|anrufen|ruf\w*|erreich\w*|durchwahl|numéro|appelle\w*|tél\w*"
    r"|portable|joindre|numero|número|teléfono|telefono|telefone|móvil|cellulare|ll[áa]ma\w*|chiama\w*|bel|telefoon"
    r"|numer|zadzwo\w*|номер|телефон|звони\w*|电话|電話|전화|手机)(?![^\W\d_])",
    re.I,
)
# A number of something else; it stands right before.
_OTHER = re.compile(
    r"(?:order|bestell\w*|ticket|invoice|rechnung\w*|tracking|sendung\w*|isbn|issn|ean|serial|ref|reference|case|account"
    r"|konto\w*|kunden\w*|customer|booking|buchung\w*|article|artikel\w*|model|version|id|score|page|commande|pedido"
    r"|auftrag\w*|seed|port|pin|[#$€£=*^])(?:\s?(?:no|nr|number|nummer|num|id))?[\s.:#°-]*(?:is|ist)?\s*$",
    re.I,
)
_NANP = re.compile(r"(?:\+?1[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?!\d)")
_BEFORE = 30
_SAID_BEFORE = 60


def need() -> None:
    """Make sure that the library which knows the world's numbers is there.

    Raises:
        PersonaError: it is not.
    """
    try:
        import phonenumbers  # noqa: F401
    except ImportError:
        raise PersonaError("redaction needs phonenumbers", "pip install 'mlx-persona[data]'") from None


def linked(text: str) -> Iterator[Span]:
    """The numbers in tel: and WhatsApp links."""
    for m in _LINK.finditer(text):
        yield Span(*m.span(1), "PHONE", f"+{m[1].lstrip('+')}")


class PhoneFinder:
    """Finds phone numbers, and learns from international ones which countries' own to look for."""

    def __init__(self, names: Iterable[str], region: str | None) -> None:
        import phonenumbers

        if region is not None and region not in phonenumbers.SUPPORTED_REGIONS:
            raise PersonaError(f"region must be two capital letters of a country, as DE, got {region!r}")
        self._given = region
        self._seen: Counter[str] = Counter()
        senders: Counter[str] = Counter()
        for name in names:
            if name.strip().startswith("+"):
                try:
                    number = phonenumbers.parse(name, None)
                except phonenumbers.NumberParseException:
                    continue
                senders[phonenumbers.region_code_for_number(number) or ""] += 1
        del senders[""]
        self._always = [*dict.fromkeys([r for r, _ in senders.most_common(SENDERS)] + list(DEFAULT_REGIONS))]

    @property
    def regions(self) -> list[str]:
        """Whose national numbers are looked for."""
        if self._given is not None:
            return [self._given]
        return self._always + [r for r, _ in self._seen.most_common(GUESSED) if r not in self._always]

    def find(self, text: str) -> Iterator[Span]:
        """Every valid number: international, or national and written or spoken of as a phone number."""
        for line in re.finditer(r"[^\n]+", text):
            if _ENOUGH.search(line[0]):
                for span in self._in_line(line[0]):
                    yield Span(line.start() + span.start, line.start() + span.end, "PHONE", span.value)

    def _in_line(self, line: str) -> Iterator[Span]:
        taken: list[tuple[int, int]] = []
        for start, raw, number, region in self._matches(line, taken):
            if region is not None and not self._is_written_so(line, start, raw, region):
                continue
            opened = raw.startswith("(") and ")" not in raw
            taken.append((start + opened, start + len(raw)))
            yield Span(start + opened, start + len(raw), "PHONE", number)

    def _matches(self, line: str, taken: list[tuple[int, int]]) -> Iterator[tuple[int, str, str, str | None]]:
        """What is a number somewhere: international first, then by region what is not taken by then."""
        from phonenumbers import Leniency, PhoneNumberFormat, PhoneNumberMatcher, format_number
        from phonenumbers import region_code_for_number as region_of

        for match in PhoneNumberMatcher(line, None, Leniency.VALID, TRIES):
            self._seen.update(filter(None, [region_of(match.number)]))
            yield match.start, match.raw_string, format_number(match.number, PhoneNumberFormat.E164), None
        for region in self.regions:
            for match in PhoneNumberMatcher(blanked(line, taken), region, Leniency.VALID, TRIES):
                yield match.start, match.raw_string, format_number(match.number, PhoneNumberFormat.E164), region

    def _is_written_so(self, text: str, start: int, raw: str, region: str) -> bool:
        """Whether digits that would be a valid national number are meant as one."""
        digits = [c for c in raw if c.isdigit()]
        if len(set(digits)) < 4 or _OTHER.search(text[max(0, start - _BEFORE) : start]):
            return False
        if _SAID.search(text[max(0, start - _SAID_BEFORE) : start]) or (self._given and text.strip(" .!") == raw):
            return True
        number = re.split("[^\\W\\d]|[#;,]", raw, maxsplit=1)[0].strip()  # without an extension
        groups = re.findall(r"\d+", number)
        if (" " in number and "." in number) or (region in DEFAULT_REGIONS and all(len(g) < 3 for g in groups)):
            return False  # decimals, or lottery numbers
        if region in ("US", "CA"):
            return _NANP.match(raw) is not None
        joined = "".join(digits)
        if joined in "01234567890123456789":
            return False
        return len(digits) >= 9 and raw.lstrip("(").startswith("0")
