"""NAME: the people of the export, wherever their names stand in a text."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from data_prep.redact.spans import BLANK, Span
from data_prep.redact.words import COMMON, FOLLOWERS, MONTHS, PARTICLES, ROLES, WORD_NAMES

# Letters, digits and the marks that belong to them.
_WORD = re.compile(r"(?:\w|[\u0300-\u036f\u0900-\u0963\u0970-\u0e7f\u200c\u200d])+")
# Scripts that put no space between words, or hang endings on them.
_JOINED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_GAP = re.compile(r"[^\w\n,;!?]{1,3}")
_GIVEN = re.compile(r"[\u3400-\u9fff]{3}|[\uac00-\ud7af]{3}")
_ID = re.compile(
    r"[+\d\s().-]+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=.*\d)[A-Z][A-Z0-9]{7,}|(?=.*\d)[0-9a-fA-F]{12,}"
    r"|(?i:user|guest|anonym\w*|participant|person|speaker|member|deleted account|unknown)[\s_#-]*\d*"
)
_STRAIGHT = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe", "ı": "i", "ð": "d", "þ": "th"})
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa"})
_MONTH_BEFORE = re.compile(
    r"(?i)\b(?:in|by|since|until|till|last|next|early|late|mid|of|on|this|every|\d+(?:st|nd|rd|th)?)\W+$"
)
_MONTH_AFTER = re.compile(r"\W{1,2}\d")
_SENTENCE_START = re.compile(r"(?:^|[.!?\n…:])[\s\"'“”‘’(*_~-]*$")
# A common English or given word is no name unless it is written with a capital.
_ORDINARY = COMMON | WORD_NAMES
# A name of these words only ("Pizza Lover") is one as a whole.
_NICKNAME = COMMON - WORD_NAMES
_SHORT = 2


class _Phrase(NamedTuple):
    """The folded words of a name or a part of one; ``strict`` if only with a capital; ``cut``: without its s."""

    words: tuple[str, ...]
    key: str
    strict: bool
    cut: bool


def fold(text: str) -> str:
    """Without case and diacritics."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in plain if not unicodedata.combining(c)).translate(_STRAIGHT)


class NameFinder:
    """Finds whole names and their parts as whole words.

    Args:
        names: senders of the export; those that are ids or numbers are no names.
        own: the person's names, which stay, also where somebody else shares a part of them.
    """

    def __init__(self, names: Iterable[str], own: Iterable[str]) -> None:
        mine = {form for name in own for form in _forms(name)}
        people: dict[tuple[str, ...], set[str]] = defaultdict(set)
        self._joined: dict[str, str] = {}
        for name in dict.fromkeys(names):
            whole = " ".join(_words(_clean(name)))
            for form in _forms(name):
                if form not in mine:
                    people[form].add(whole)
            self._joined |= {part: whole for part in _joined_parts(_clean(name)) if (fold(part),) not in mine}
        self._phrases: dict[str, list[_Phrase]] = defaultdict(list)
        for form, owners in people.items():
            key = next(iter(owners)) if len(owners) == 1 else " ".join(form)
            self._add(form, key, mine)
        for phrases in self._phrases.values():
            phrases.sort(key=lambda p: -len(p.words))
        self._keys = frozenset(self._phrases)
        found = sorted(self._joined, key=len, reverse=True)
        self._in_line = re.compile("|".join(map(re.escape, found))) if found else None

    def _add(self, form: tuple[str, ...], key: str, mine: set[tuple[str, ...]]) -> None:
        strict = len(form) == 1 and (form[0] in _ORDINARY or len(form[0]) <= _SHORT)
        self._phrases[form[0]].append(_Phrase(form, key, strict, False))
        genitive = (*form[:-1], form[-1] + "s")
        # "Annas Auto": the s is no part of the name.
        if not strict and len(form[-1]) > _SHORT and genitive[-1] not in _ORDINARY and genitive not in mine:
            self._phrases[genitive[0]].append(_Phrase(genitive, key, strict, True))

    def find(self, text: str) -> list[Span]:
        """Every name in the text; the words of one name that stand together are one find."""
        found = []
        if not self._keys.isdisjoint(_WORD.findall(fold(text))):
            found = list(_merged(self._by_word(text), text))
        if self._in_line is not None and not text.isascii():
            taken = [(s.start, s.end) for s in found]
            found += [
                Span(m.start(), m.end(), "NAME", self._joined[m[0]])
                for m in self._in_line.finditer(text)
                if not any(start < m.end() and m.start() < end for start, end in taken)
            ]
        return found

    def _by_word(self, text: str) -> Iterator[Span]:
        words = list(_WORD.finditer(text))
        folded = [fold(m[0]) for m in words]
        i = 0
        while i < len(words):
            named = self._phrases.get(folded[i], ())
            phrase = next((p for p in named if self._stands(p, i, words, folded, text)), None)
            if phrase is None:
                i += 1
                continue
            last = words[i + len(phrase.words) - 1]
            yield Span(words[i].start(), last.end() - phrase.cut, "NAME", phrase.key)
            i += len(phrase.words)

    def _stands(self, phrase: _Phrase, i: int, words: list[re.Match[str]], folded: list[str], text: str) -> bool:
        n = len(phrase.words)
        if tuple(folded[i : i + n]) != phrase.words:
            return False
        if any(not _GAP.fullmatch(text, words[j].end(), words[j + 1].start()) for j in range(i, i + n - 1)):
            return False
        if not phrase.strict or text[words[i].start() - 1 : words[i].start()] == "@":
            return True
        word = words[i][0]
        return word[0].isupper() and not word[1:].isupper() and not self._is_word(i, words, folded, text)

    @staticmethod
    def _is_word(i: int, words: list[re.Match[str]], folded: list[str], text: str) -> bool:
        """Whether a word that is a name too is no name here: "Will you", "in May"."""
        here = words[i]
        if folded[i] in MONTHS and (
            _MONTH_BEFORE.search(text[max(0, here.start() - 12) : here.start()]) or _MONTH_AFTER.match(text, here.end())
        ):
            return True
        follows = i + 1 < len(words) and text[here.end() : words[i + 1].start()] == " " and folded[i + 1] in FOLLOWERS
        return follows and _SENTENCE_START.search(text[max(0, here.start() - 8) : here.start()]) is not None


def _merged(spans: Iterable[Span], text: str) -> Iterator[Span]:
    held: Span | None = None
    for span in spans:
        if held is not None and held.value == span.value and text[held.end : span.start] in (" ", "-", "  "):
            held = Span(held.start, span.end, "NAME", held.value)
            continue
        if held is not None:
            yield held
        held = span
    if held is not None:
        yield held


def _words(text: str) -> list[str]:
    return _WORD.findall(fold(text))


def _clean(name: str) -> str:
    """The name out of "Name <mail>" and "first.last@site"; without what stands in brackets."""
    name = name.replace(BLANK, " ").strip().lstrip("~@")
    before = name.partition("<")[0].strip(" \"'")
    if "@" in (before or name):
        local = (before or name).strip("<> ").partition("@")[0]
        return local if re.fullmatch(r"[^\W\d_]{2,}(?:[._-][^\W\d_]{2,})+", local) else ""
    return re.sub(r"\([^)]*\)|\[[^\]]*\]", " ", before or name)


def _forms(name: str) -> Iterator[tuple[str, ...]]:
    """The folded words of the whole name and of its parts, "Jürgen" also as "Juergen"."""
    clean = _clean(name)
    if _ID.fullmatch(clean.strip()) or sum(c.isalpha() for c in clean) < _SHORT:
        return
    for text in dict.fromkeys((clean, clean.casefold().translate(_UMLAUTS))):
        whole = tuple(_words(text))
        if len(whole) > 1 or whole[0] not in ROLES | PARTICLES:
            yield whole
        if not _NICKNAME.issuperset(whole):
            yield from _parts(text)
    for part in _joined_parts(clean):
        yield (fold(part),)


def _parts(name: str) -> Iterator[tuple[str, ...]]:
    """First and last names, one by one, and "De Santis" with its particle; no role, no digits."""
    prefix: list[str] = []
    first = True
    for part in re.split(r"[\s.,]+", name):
        words = _words(part)
        if not words or not all(w.isalpha() for w in words) or _JOINED.search(part):
            continue
        if len(words) == 1 and words[0] in PARTICLES:
            prefix.append(words[0])
            continue
        for form in dict.fromkeys([tuple(words), (*prefix, *words), *((w,) for w in words)]):
            if len(form) > 1 or _is_part(form[0], first):
                yield form
        first = False
        prefix = []


def _is_part(word: str, first: bool) -> bool:
    """Whether a word of a name is one too. Nobody is called Big or Pizza, but last names may be any word."""
    if len(word) < _SHORT or word in ROLES or word in PARTICLES:
        return False
    return not first or word in WORD_NAMES or word not in COMMON


def _joined_parts(name: str) -> list[str]:
    """Of names in Chinese, Japanese, Korean or Thai: the whole, its parts, and of three characters the given name."""
    parts = _JOINED.findall(name)
    given = [p[1:] for p in parts if _GIVEN.fullmatch(p)]
    return [p for p in dict.fromkeys(["".join(parts), *parts, *given]) if len(p) >= _SHORT]
