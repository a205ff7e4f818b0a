"""Writes ``fixtures/redact/labelled.jsonl``: 500 made-up messages with planted personal data, and where it stands.

Run with ``python -m tests.data_prep.make_labelled``. A line is ``{"text", "spans": [{"type", "start", "end"}]}``.
The texts (``labelled_texts``) are how people type, written before the detectors: who changes a detector leaves
them be. ``<TYPE kind>`` in a text is a planted value, ``<NAME: Anna>`` is that text, ``{kind}`` is harmless.
"""

from __future__ import annotations

import json
import random
import re
from itertools import cycle
from pathlib import Path
from typing import Any

import phonenumbers
from stdnum.be import nn
from stdnum.br import cpf
from stdnum.ch import ssn as ahv
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.us import ssn

from tests.data_prep.labelled_texts import FILLERS, HARMLESS, MIXED, TEXTS

PATH = Path(__file__).parent / "fixtures" / "redact" / "labelled.jsonl"
SEED = 20240229
MESSAGES, PER_TYPE = 500, 28

# The senders of the made-up export; the person is Nora Lindqvist.
OWN = ("Nora Lindqvist",)
NAMES = (
    *("Anna Schmidt", "José García Márquez", "Will Turner", "May Lin", "Rose Tyler", "Mark Hopkins", "Jürgen Groß"),
    *("Zoë Kravets", "Jean-Pierre Dufour", "Siobhán O'Malley", "Priya Raghunathan", "Łukasz Wójcik", "Олег Смирнов"),
    *("田中 太郎", "王小明", "김민준", "Giulia De Santis", "Big Dave 🌸", "xX_dragonfly_Xx", "tobi.werner"),
    *("Aunt Carol", "kathi_93", "Dr. Emeka Okafor", "Art Vandelay", "+33 6 39 98 41 27", "+34 612 34 56 78"),
    *("+39 347 812 3456", "U02AB3CD4EF", "8c1f6f0e-4b8e-4a53-9d0b-0f4d7c2b9a11", "283746512345678901"),
    *OWN,
)

DRAWN = {
    "#": "0123456789",
    "¤": "0123456789abcdef",
    "¥": "ABCDEFGHJKLMNPQRSTUVWXYZ234567",
    "§": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
}
FIRST = ("mira", "jonas", "elif", "tomasz", "chloe", "raj", "lena", "paolo", "ines", "kwame")
LAST = ("hartmann", "novak", "fischer", "okoye", "moreau", "silva", "bennett", "yilmaz", "rossi", "larsson")
CARDS = ["4" + 15 * "#", "51" + 14 * "#", "2221" + 12 * "#", "34" + 13 * "#", "6011" + 12 * "#"]
BBANS = {
    "DE": 18 * "#",
    "GB": "NWBK" + 14 * "#",
    "FR": 23 * "#",
    "NL": "ABNA" + 10 * "#",
    "IT": "X" + 22 * "#",
    "AT": 16 * "#",
    "CH": 17 * "#",
    "ES": 20 * "#",
    "PL": 24 * "#",
}
_DIGITS, _PAIRS, _LETTERS = "0123456789", [f"{i:02d}" for i in range(100)], "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# National numbers: what they begin with, their check characters, who judges them, and how people space them.
IDS: dict[str, tuple[str, Any, Any, str]] = {
    "ssn": ("21##5###", _DIGITS, ssn, "xxx-xx-xxxx"),
    "ssnbare": ("31##4###", _DIGITS, ssn, "xxxxxxxxx|xxx xx xxxx"),
    "nino": ("JG######", "ABCD", None, "xx xx xx xx x|xxxxxxxxx"),
    "idnr": ("4#########", _DIGITS, idnr, "xx xxx xxx xxx|xxxxxxxxxxx"),
    "nir": ("2850678006###", _PAIRS, nir, "x xx xx xx xxx xxx xx|xxxxxxxxxxxxxxx"),
    "dni": ("5#######", _LETTERS, dni, "xxxxxxxxx|xxxxxxxx-x|xx.xxx.xxx-x"),
    "nie": ("Y#######", _LETTERS, nie, "xxxxxxxxx|x-xxxxxxx-x"),
    "cf": ("RSSMRA85T10A56#", _LETTERS, codicefiscale, "xxxxxxxxxxxxxxxx"),
    "bsn": ("1#######", _DIGITS, bsn, "xxxxxxxxx|xxxx.xx.xxx"),
    "cpf": ("39#######", _PAIRS, cpf, "xxx.xxx.xxx-xx"),
    "pesel": ("850423####", _DIGITS, pesel, "xxxxxxxxxxx"),
    "pnr": ("811228987", _DIGITS, personnummer, "xxxxxx-xxxx"),
    "ahv": ("756#########", _DIGITS, ahv, "xxx.xxxx.xxxx.xx"),
    "aadhaar": ("4##########", _DIGITS, aadhaar, "xxxx xxxx xxxx"),
    "nn": ("850730###", _PAIRS, nn, "xx.xx.xx-xxx.xx"),
}


class Maker:
    """Makes the values, from one seeded stream of random numbers."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def value(self, kind: str) -> str:
        """A value of a kind of ``FILLERS``, or of one that has a checksum."""
        family, _, variant = kind.partition(".")
        if family == "card":
            return self._card(variant)
        if family == "iban":
            return self._iban(variant)
        if family == "id":
            return self._national(*IDS[variant])
        if family == "phone":
            return self._phone(kind, variant.upper())
        return self._filled(FILLERS[kind])

    def _filled(self, masks: str) -> str:
        """One of the masks (one a line): ``DRAWN`` characters and ``{of another kind}`` filled, ``|`` is a new line."""
        mask = self._rng.choice([m for m in masks.splitlines() if m])
        words = {"first": self._rng.choice(FIRST), "last": self._rng.choice(LAST)}
        words |= {"First": words["first"].title(), "Last": words["last"].title()}
        text = re.sub(r"\{([\w.]+)\}", lambda m: words.get(m[1]) or self.value(m[1]), mask)
        return "".join(self._rng.choice(DRAWN[c]) if c in DRAWN else c for c in text).replace("|", "\n")

    def _phone(self, kind: str, region: str) -> str:
        while True:
            text = self._filled(FILLERS[kind])
            if phonenumbers.is_valid_number(phonenumbers.parse(text, region)):
                return text

    def _card(self, variant: str) -> str:
        body = self._draw(self._rng.choice(CARDS))[:-1]
        number = next(body + d for d in _DIGITS if _luhn(body + d))
        cuts = [0, 4, 10] if len(number) == 15 else [0, 4, 8, 12]
        parts = [number[i:j] for i, j in zip(cuts, [*cuts[1:], len(number)], strict=True)]
        return {"spaced": " ", "dashed": "-", "bare": ""}[variant].join(parts)

    def _iban(self, variant: str) -> str:
        country = self._rng.choice(list(BBANS))
        body = self._draw(BBANS[country])
        text = f"{country}{98 - int(''.join(str(int(c, 36)) for c in body + country + '00')) % 97:02d}{body}"
        if variant == "spaced":
            return " ".join(text[i : i + 4] for i in range(0, len(text), 4))
        return text.lower() if variant == "low" else text

    def _national(self, mask: str, checks: Any, module: Any, forms: str) -> str:
        while True:
            body = self._draw(mask)
            for check in checks:
                if module is None or module.is_valid(body + check):
                    characters = iter(body + check)
                    form = self._rng.choice(forms.split("|"))
                    return "".join(next(characters) if c == "x" else c for c in form)

    def _draw(self, mask: str) -> str:
        return "".join(self._rng.choice(DRAWN[c]) if c in DRAWN else c for c in mask)

    def message(self, template: str) -> dict[str, Any]:
        """A template with every value in its place, and where the planted ones stand."""
        text, spans = "", []
        for part in re.split(r"(<[A-Z]+[ :][^>]+>|\{[a-z.]+\})", template.replace("|", "\n")):
            planted = re.fullmatch(r"<([A-Z]+)([ :])\s*([^>]+)>", part)
            if planted:
                value = planted[3] if planted[2] == ":" else self.value(planted[3])
                spans.append({"type": planted[1], "start": len(text), "end": len(text) + len(value)})
                text += value
            else:
                text += self.value(part[1:-1]) if re.fullmatch(r"\{[a-z.]+\}", part) else part
        return {"text": text, "spans": spans}

    def messages(self) -> list[dict[str, Any]]:
        """All messages, mixed."""
        made = [self.message(t) for t in MIXED.splitlines() if t]
        for texts in TEXTS.values():
            templates = cycle(t for t in texts.splitlines() if t)
            made += [self.message(next(templates)) for _ in range(PER_TYPE)]
        harmless = cycle(t for t in HARMLESS.splitlines() if t)
        made += [self.message(next(harmless)) for _ in range(MESSAGES - len(made))]
        self._rng.shuffle(made)
        return made


def _luhn(number: str) -> bool:
    """Written here a second time, so that the labels do not lean on the library of the detector."""
    doubled = [int(d) * 2 for d in number[-2::-2]]
    return (sum(map(int, number[-1::-2])) + sum(d - 9 if d > 9 else d for d in doubled)) % 10 == 0


def dump(message: dict[str, Any]) -> str:
    """One line of the file. Every third character of a key or a link is escaped, as secret scanners read files too."""
    characters = [json.dumps(c, ensure_ascii=False)[1:-1] for c in message["text"]]
    for span in message["spans"]:
        if span["type"] in ("KEY", "URL"):
            for i in range(span["start"] + 2, span["end"], 3):
                characters[i] = f"\\u{ord(message['text'][i]):04x}"
    spans = json.dumps(message["spans"])
    return f'{{"text": "{"".join(characters)}", "spans": {spans}}}\n'


def main() -> None:
    """Write the file."""
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text("".join(dump(m) for m in Maker(SEED).messages()), encoding="utf-8")


if __name__ == "__main__":
    main()
