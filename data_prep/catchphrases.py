"""A person's own catch-phrases and gestures, found in all their replies, and the replies that pile them up.

A reply that strings together what its author is known for is a caricature of them, and so would be a model that learns
from it. A catch-phrase is two to four words that

- are in at least 0.5 % of the person's replies, and in at least 5;
- come at least 3 times as often, per word, in these replies as in what the others write in the same chats;
- are not made of function words only: of those few words that make up 60 % of what the others write.

The comparison with the others needs no word list, so it works in every language that puts spaces between words.
Gestures are exclamation marks, emoji, and the syllables of laughs and stretched words ("hahaha", "jajaja", "sooooo").
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from mlx_persona.schema import PLACEHOLDER

MIN_SHARE, MIN_REPLIES, MIN_RATIO = 0.005, 5, 3.0
FUNCTION_SHARE = 0.6
LONGEST = 4
# A longer reply has room for three catch-phrases.
PILE_WORDS, PILE = 60, 3
# So many of the person's replies are ordinary in their gestures, and so many gestures are never too many.
ORDINARY, FEW_GESTURES = 0.99, 6
# Habits show in a sample: a phrase in 0.5 % of the replies is in 50 +- 7 of these. It bounds memory and time.
SAMPLE, SAMPLE_CHARS, SEED = 10_000, 1000, 1

_WORD = re.compile(r"[^\W_]+")
_SPACES = {code: " " for code in range(128) if not chr(code).isalnum()}
_EMOJI = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")

Phrase = tuple[str, ...]


def words(text: str) -> list[str]:
    """The words to compare: in small letters, without apostrophes, punctuation and placeholders of personal data."""
    if "[" in text:
        text = PLACEHOLDER.sub(" ", text)
    if text.isascii():  # the same as below, four times as fast
        return text.replace("'", "").translate(_SPACES).lower().split()
    text = unicodedata.normalize("NFC", text).replace("’", "").replace("'", "")
    return _WORD.findall(text.casefold())


def gestures(text: str, said: Sequence[str]) -> int:
    """How many gestures a text has, whose words are ``said``."""
    stretched = [
        w for w in said if len(w) > 3 and (w[2] == w[0] or w[2] == w[3]) and len(set(w)) <= 2 and not w.isdigit()
    ]
    return text.count("!") + sum(len(w) // 2 for w in stretched) + (0 if text.isascii() else len(_EMOJI.findall(text)))


@dataclass(frozen=True, slots=True)
class Habits:
    """What a person does often.

    Attributes:
        phrases: the catch-phrases, word by word.
        gestures: as many as 99 % of the replies have at most.
    """

    phrases: frozenset[Phrase]
    gestures: int
    _beginnings: frozenset[Phrase] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_beginnings", frozenset(p[:2] for p in self.phrases))

    def overdone(self, text: str, said: Sequence[str]) -> bool:
        """Whether a reply of at most 60 words piles up three catch-phrases, or gestures as no other; ``said`` is
        its :func:`words`.
        """
        if len(said) > PILE_WORDS:
            return False
        if gestures(text, said) > max(self.gestures, FEW_GESTURES):
            return True
        begun = self._beginnings.intersection(pairwise(said))
        return len(begun) >= PILE and len(self.found(said)) >= PILE

    def found(self, said: Sequence[str]) -> set[Phrase]:
        """The catch-phrases in these words: from left to right, the longest at each place, none within another."""
        found, place = set(), 0
        while place < len(said) - 1:
            here = (tuple(said[place : place + n]) for n in range(LONGEST, 1, -1))
            phrase = next((p for p in here if p in self.phrases), None)
            if phrase:
                found.add(phrase)
            place += len(phrase or "1")
        return found


class Catchphrases:
    """Collects replies; :meth:`habits` says what is habit in them. Same replies in the same order, same habits."""

    def __init__(self) -> None:
        self._sample: list[tuple[str, str]] = []
        self._seen = 0
        self._random = random.Random(SEED)

    def add(self, prompt: str, reply: str) -> None:
        """One reply, and what the others wrote before it. An even sample is kept, so memory is bounded."""
        self._seen += 1
        place = self._seen - 1 if self._seen <= SAMPLE else int(self._random.random() * self._seen)
        if place < SAMPLE:
            pair = (prompt[:SAMPLE_CHARS], reply[:SAMPLE_CHARS])
            self._sample[place : place + 1] = [pair]

    def habits(self) -> Habits:
        """The habits of all replies so far. Without prompts to compare with, there are no catch-phrases."""
        own = [words(reply) for _, reply in self._sample]
        others = [words(prompt) for prompt, _ in self._sample]
        counts = sorted(gestures(reply, said) for (_, reply), said in zip(self._sample, own, strict=True))
        usual = counts[math.ceil(ORDINARY * len(counts)) - 1] if counts else 0
        common = Counter(word for text in others for word in text)
        often = _frequent(own)
        theirs = Counter(p for text in others for p in _phrases(text, often))
        function = _function_words(common)
        # One more than there were: what nobody else said may be what nobody else happened to say.
        per_word = sum(map(len, own)) * MIN_RATIO / max(common.total(), 1)
        return Habits(
            frozenset(
                p for p, n in often.items() if common and n >= per_word * (theirs[p] + 1) and not function.issuperset(p)
            ),
            usual,
        )


def _frequent(texts: Sequence[Sequence[str]]) -> dict[Phrase, int]:
    """Phrases that are in many texts, and in how many. What has a rare part is rare, so it is not counted."""
    least = max(MIN_SHARE * len(texts), MIN_REPLIES)
    frequent: dict[Phrase, int] = {}
    for size in range(2, LONGEST + 1):
        counts: Counter[Phrase] = Counter()
        for text in texts:
            counts.update(_runs(text, size, frequent))
        frequent |= {p: n for p, n in counts.items() if n >= least}
    return frequent


def _runs(text: Sequence[str], size: int, frequent: dict[Phrase, int]) -> set[Phrase]:
    """The different phrases of ``size`` words whose beginning and end are frequent."""
    runs = set(zip(*(text[k:] for k in range(size)), strict=False))
    return runs if size == 2 else {p for p in runs if p[:-1] in frequent and p[1:] in frequent}


def _phrases(text: Sequence[str], wanted: dict[Phrase, int]) -> Iterator[Phrase]:
    """Those of ``wanted`` that are in a text, each once."""
    for size in range(2, LONGEST + 1):
        yield from wanted.keys() & set(zip(*(text[k:] for k in range(size)), strict=False))


def _function_words(counts: Counter[str]) -> set[str]:
    """The commonest words, that together make up 60 % of a text."""
    function, left = set(), FUNCTION_SHARE * counts.total()
    for word, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if left <= 0:
            break
        function.add(word)
        left -= n
    return function
