"""What a reply says, as far as rules can see: phrases that it asserts, and phrases that it negates.

Everything is compared in lower case, without accents and apostrophes ("dont" is what people type). The words that
negate are English, so a reply in another language asserts what it contains.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from mlx_persona.errors import PersonaError

# How many words before a phrase may negate it, within its clause.
REACH = 4
_APOSTROPHES = str.maketrans(dict.fromkeys("'’‘ʼ`´"))
_QUOTED = re.compile(r'"[^"\n]*"|“[^”\n]*”|«[^»\n]*»|„[^“”\n]*[“”]|^\s*>.*$', re.MULTILINE)
_CLAUSE_END = re.compile(r"[.!?,;:()\n—–]|\s-\s|\b(?:but|because|though|although|yet)\b")
_NEGATOR = re.compile(
    r"(?:no|not|never|nobody|neither|nor|without|hardly|cannot|instead of|rather than|wrong that"
    r"|(?:do|does|did|is|was|are|were|ca|wo|would|could|should|have|has|had|ai|must|need)nt)"
)
# At the head of a clause they answer what was asked, and "not sure" doubts what follows: neither negates it.
_NO_NEGATION = re.compile(
    r"^\s*(?:no|nope|nah|neither|yes|yeah)\b|\bnot (?:\w+ )?(?:sure|certain)\b|\bdont (?:\w+ )?know\b"
)
_REFUTED_AFTER = re.compile(
    r"\s*(?:is|was|are|were|s|being)?\s*(?:just |simply |actually |still |really )?"
    r"(?:(?:isnt|wasnt|arent|not)(?= ?(?:right|correct|true|it|so|the|$|[.,;!?]))"
    r"|(?:wrong|false|incorrect|untrue|nonsense|mistaken|a myth)(?!\w))"
)


class Found(NamedTuple):
    """A phrase in a text: where it begins, whether it is asserted or negated there, and how it reads."""

    start: int
    asserted: bool
    words: str


def plain(text: str) -> str:
    """Lower case, no accents, no apostrophes, blanks joined within a line."""
    bare = unicodedata.normalize("NFKD", text).casefold().translate(_APOSTROPHES)
    bare = "".join(c for c in bare if not unicodedata.combining(c))
    return re.sub(r"[^\S\n]+", " ", bare).strip()


def unquoted(text: str) -> str:
    """A :func:`plain` text with blanks for what stands in double quotes: to repeat a claim is not to make it.

    Places stay what they were. Where everything is quoted, the quotes are an ornament and nothing is left out.
    """
    rest = _QUOTED.sub(lambda quote: " " * len(quote[0]), text)
    return rest if re.search(r"\w", rest) else text


@lru_cache(maxsize=4096)
def pattern(phrase: str) -> re.Pattern[str]:
    """A phrase (a regular expression) as it is looked for in :func:`plain` text, between word boundaries.

    Raises:
        PersonaError: not a regular expression.
    """
    # No lower case here: it would turn \\S into \\s; the text is folded, and IGNORECASE folds the phrase.
    bare = "".join(c for c in unicodedata.normalize("NFKD", phrase) if not unicodedata.combining(c))
    try:
        return re.compile(rf"(?<!\w)(?:{bare.translate(_APOSTROPHES)})(?!\w)", re.IGNORECASE)
    except re.error as error:
        raise PersonaError(f"{phrase!r} must be a regular expression: {error}") from error


def find(phrases: Iterable[str], text: str) -> list[Found]:
    """Every place of a :func:`plain` text where one of the phrases stands, in order of place."""
    found = []
    for phrase in phrases:
        for match in pattern(phrase).finditer(text):
            negated = _negated(text[: match.start()]) or _refuted(text[match.end() :])
            found.append(Found(match.start(), not negated, match[0].strip()))
    return sorted(found)


def asserted(phrases: Iterable[str], text: str) -> str | None:
    """The first words of a :func:`plain` text that assert one of the phrases, or None."""
    return next((place.words for place in find(phrases, text) if place.asserted), None)


def _negated(before: str) -> bool:
    """Whether the end of the clause so far negates what follows."""
    clause = " ".join(_NO_NEGATION.sub(" ", _CLAUSE_END.split(before)[-1]).split()[-REACH:])
    return re.search(rf"(?<!\w){_NEGATOR.pattern}(?!\w)", clause) is not None


def _refuted(after: str) -> bool:
    """Whether the phrase is called wrong right after it: "54 is wrong"."""
    return _REFUTED_AFTER.match(after) is not None
