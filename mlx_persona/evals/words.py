"""The words of a text as the measures of wording count them, and which of them are function words.

Function words (articles, pronouns, prepositions, auxiliaries) are chosen without thinking and whatever the topic is,
so their rates betray a writer (Mosteller & Wallace, 1964, "Inference and Disputed Authorship"). The lists, one per
language, are plain text files in ``function_words/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlx_persona.errors import PersonaError
from mlx_persona.evals.style import EMOJI, EMOTICON
from mlx_persona.schema import PLACEHOLDER

SHIPPED = Path(__file__).with_name("function_words")
# In running text of its own language a list covers about half of all words, in that of a related one up to a quarter.
MIN_COVER = 1 / 3

# What Romance languages join to the next word (l', qu') is a word of its own.
_WORD = r"(?<!\w)(?:[cdjlmnst]|qu)'(?=\w)|[^\W_]+(?:['-][^\W_]+)*"
_WORDS = re.compile(_WORD, re.I)
_TOKENS = re.compile(f"{EMOTICON.pattern}|{EMOJI.pattern}|(?i:{_WORD})")
_STRETCHED = re.compile(r"([^\W\d_]{1,2}?)\1{2,}")
_VARIATION = "\ufe0f"  # follows an emoji that is shown in colour
_STRAIGHT = str.maketrans("’‘ʼ", "'''")


def _plain(text: str) -> str:
    """A text without placeholders of personal data, its apostrophes straight."""
    return PLACEHOLDER.sub(" ", text).translate(_STRAIGHT).strip()


def _folded(token: str) -> str:
    """In small letters; a letter or a pair that stands there three times or more stands twice: "hahaha" is "haha"."""
    return _STRETCHED.sub(r"\1\1", token.casefold())


def words(text: str) -> list[str]:
    """The words in order, folded."""
    return [_folded(word) for word in _WORDS.findall(_plain(text))]


def opening(text: str) -> str | None:
    """The first word, emoticon or emoji, whatever marks stand before it; None where there is none."""
    found = _TOKENS.search(_plain(text))
    return _folded(found[0]) if found else None


def closing(text: str) -> str | None:
    """The marks that a text ends in, at most three of them, else its last word, emoticon or emoji; None where empty."""
    plain = _plain(text).rstrip(_VARIATION)
    *_, last = [None, *_TOKENS.finditer(plain)]
    marks = "".join(plain[last.end() if last else 0 :].split())
    if marks or last is None:
        return marks[:3] or None
    return _folded(last[0])


def trigrams(text: str) -> list[str]:
    """Every three characters in a row, with one space for any white space and at both ends; case is kept."""
    joined = f" {' '.join(_plain(text).split())} "
    return [joined[i : i + 3] for i in range(len(joined) - 2)]


def read_list(path: Path) -> frozenset[str]:
    """A list of function words: separated by spaces or lines; ``#`` begins a comment.

    Raises:
        PersonaError: no such file, not UTF-8, or no word in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PersonaError(f"cannot read the function words in {path}: {error}") from None
    listed = frozenset(_folded(word) for line in lines for word in line.split("#")[0].split())
    if not listed:
        raise PersonaError(f"{path} must list function words, got none", f"an example: {SHIPPED / 'en.txt'}")
    return listed


def fitting_list(texts: Iterable[str]) -> frozenset[str] | None:
    """The shipped list that covers most of the running words, if it covers ``MIN_COVER`` of them; else None."""
    said = [word for text in texts for word in words(text)]
    lists = [read_list(path) for path in sorted(SHIPPED.glob("*.txt"))]
    best = max(lists, key=lambda listed: _cover(listed, said))
    return best if _cover(best, said) >= MIN_COVER else None


def _cover(listed: frozenset[str], said: Sequence[str]) -> float:
    return sum(word in listed for word in said) / max(1, len(said))
