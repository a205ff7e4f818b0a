"""Texts with placeholders for personal data, and an account of them without clear text."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from typing import TypedDict

from data_prep.redact import numbers, phones
from data_prep.redact.keys import keys
from data_prep.redact.names import NameFinder
from data_prep.redact.places import addresses, coordinates
from data_prep.redact.spans import Span, blanked
from data_prep.redact.web import emails, ips, urls
from mlx_persona.schema import PLACEHOLDER

SALT_BYTES = 32

_DIGIT = re.compile(r"\d")
# One look decides whether more than names are looked for; most messages need no more. These signs, or
# words that need no digit after them: what a password follows, and what stands for the signs of an e-mail address.
_SIGNS = re.compile(r"\d|@|://|www\.|\w\.\w+/|\S{20}")
_STEMS = (
    *("pass", "pwd", "pw", "kennwort", "mdp", "contrase", "senha", "wachtw", "lösen", "hasło", "haslo", "şifre"),
    *(
        "пароль",
        "密",
        "パスワード",
        "비밀번호",
        "dot",
        "(at",
        "[at",
        "{at",
        "(ät",
        "arroba",
        "chiocciola",
        "private key",
    ),
)


class AuditRow(TypedDict):
    """One placeholder: what it stands for only as a hash with a salt that nobody keeps."""

    type: str
    placeholder: str
    sha256: str
    count: int


class Redactor:
    """Replaces personal data by typed placeholders: one value has one number, by order of first appearance.

    Args:
        names: the senders of the export; ids and numbers among them are no names, but tell the countries.
        own: the person's own names, which stay.
        region: two letters of the country whose national phone numbers are meant; None to guess it.

    Raises:
        PersonaError: phonenumbers or python-stdnum is missing, or there is no such region.
    """

    def __init__(self, names: Iterable[str], own: Iterable[str] = (), region: str | None = None) -> None:
        numbers.need()
        phones.need()
        people = list(names)
        self._names = NameFinder(people, own)
        self._phones = phones.PhoneFinder(people, region)
        self._numbers: dict[tuple[str, str], int] = {}
        self._last: Counter[str] = Counter()
        self._uses: Counter[tuple[str, str]] = Counter()
        self._salt = secrets.token_bytes(SALT_BYTES)

    @property
    def counts(self) -> Counter[str]:
        """Replacements so far, by type."""
        total: Counter[str] = Counter()
        for (kind, _), n in self._uses.items():
            total[kind] += n
        return total

    def redact(self, text: str) -> str:
        """The text with ``[TYPE_n]`` for personal data. What looks like a placeholder already stays."""
        spans = self._spans(text)
        if not spans:
            return text
        parts, at = [], 0
        for span in sorted(spans, key=lambda s: s.start):
            parts += [text[at : span.start], self._placeholder(span)]
            at = span.end
        return "".join([*parts, text[at:]])

    def audit(self) -> list[AuditRow]:
        """Every placeholder given so far, with a salted hash of what it stands for, and how often."""
        return [
            {
                "type": kind,
                "placeholder": f"[{kind}_{n}]",
                "sha256": hashlib.sha256(self._salt + f"{kind}\0{value}".encode("utf-8", "surrogatepass")).hexdigest(),
                "count": self._uses[kind, value],
            }
            for (kind, value), n in self._numbers.items()
        ]

    def _placeholder(self, span: Span) -> str:
        key = (span.type, span.value)
        if key not in self._numbers:
            self._last[span.type] += 1
            self._numbers[key] = self._last[span.type]
        self._uses[key] += 1
        return f"[{span.type}_{self._numbers[key]}]"

    def _spans(self, text: str) -> list[Span]:
        """What is found, none over another: what detectors find first hides it from later ones."""
        page = _Page(text)
        if _SIGNS.search(text) is None:
            small = text.lower()
            if not any(stem in small for stem in _STEMS):
                page.take(self._names.find(page.view()))
                return page.spans
        links = []
        for start, end, secret in urls(page.view()):
            if secret:
                page.take([Span(start, end, "URL", text[start:end])])
            else:
                links.append((start, end))
        page.take(emails(page.view()))
        page.take(keys(page.view(links)))
        if _DIGIT.search(text):
            for find in (phones.linked, coordinates, ips):
                page.take(find(page.view()))
            for find in (numbers.ibans, numbers.cards, numbers.ids, self._phones.find, addresses):
                page.take(find(page.view(links)))
        page.take(self._names.find(page.view()))
        return page.spans


class _Page:
    """A text, what was found in it so far, and the placeholders that it had before."""

    def __init__(self, text: str) -> None:
        self.spans: list[Span] = []
        self._text = text
        self._taken = [m.span() for m in PLACEHOLDER.finditer(text)] if "[" in text else []
        self._mask: bytearray | None = None

    def view(self, hidden: Iterable[tuple[int, int]] = ()) -> str:
        """The text with blanks for what was found and for what is hidden."""
        places = [*self._taken, *hidden]
        return blanked(self._text, places) if places else self._text

    def take(self, found: Iterable[Span]) -> None:
        """Add what lies over nothing that was found before."""
        for span in found:
            if self._mask is None:
                self._mask = bytearray(len(self._text))
                for start, end in self._taken:
                    self._mask[start:end] = b"\1" * (end - start)
            if self._mask.find(1, span.start, span.end) < 0:
                self._mask[span.start : span.end] = b"\1" * (span.end - span.start)
                self._taken.append((span.start, span.end))
                self.spans.append(span)
