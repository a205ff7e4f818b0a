"""Which language a text is in, where that is sure.

Asked only on the user's wish, or for a sample: a text takes about a millisecond, a long one five. The models of
the library's low-accuracy mode take 30 MB and half a second to load (the others: 900 MB and ten seconds). They are
often wrong on short texts and certain of it, so a language counts only if both halves of the text have it too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from data_prep.filters import without_urls
from mlx_persona.errors import PersonaError

if TYPE_CHECKING:
    from lingua import LanguageDetector

UNSURE = "unsure"
# Letters, in bytes of UTF-8, so that 40 Latin letters say as much as 20 of Cyrillic or 13 ideographs.
MIN_LETTER_BYTES = 40
MIN_CONFIDENCE = 0.9
# As much of a text as is looked at.
MAX_CHARS = 1000
# What a short text in one of them is, nobody can be sure.
ALIKE = (frozenset({"da", "nb", "nn"}), frozenset({"bs", "hr", "sr"}), frozenset({"id", "ms"}), frozenset({"cs", "sk"}))

_LETTERS = re.compile(r"[^\W\d_]+")
_LAUGH_CHARS = 4


def language(text: str) -> str | None:
    """The ISO 639-1 code of a text's language; None when unsure, as of short texts and of mixed ones.

    Raises:
        PersonaError: the library is missing.
    """
    said = _words(text)
    if sum(len(run.encode()) for run in _LETTERS.findall(said)) < MIN_LETTER_BYTES:
        return None
    code, confidence = _best(said)
    if confidence < MIN_CONFIDENCE:
        return None
    middle = len(said) // 2
    # A script that is written without spaces is cut where it may be.
    space = said.find(" ", middle, middle + 20)
    cut = middle if space < 0 else space
    return code if all(_best(half)[0] == code for half in (said[:cut], said[cut:])) else None


def shares(texts: Iterable[str]) -> dict[str, float]:
    """The share of the texts in each language (``UNSURE`` among them), largest first; empty for no texts.

    Raises:
        PersonaError: the library is missing.
    """
    counts = Counter(language(text) or UNSURE for text in texts)
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return {code: count / counts.total() for code, count in ranked}


def other_language(text: str, wanted: frozenset[str]) -> str | None:
    """``language`` if the text is surely in none of these, by ISO 639-1 code, nor in one much like it.

    Raises:
        PersonaError: the library is missing.
    """
    code = language(text)
    if code is None or code in wanted:
        return None
    return None if any(code in group and wanted & group for group in ALIKE) else "language"


def check_codes(codes: Iterable[str]) -> frozenset[str]:
    """The codes in lower case, for :func:`other_language`.

    Raises:
        PersonaError: a code that no text is ever found to have, or the library is missing.
    """
    wanted = frozenset(code.strip().lower() for code in codes)
    known = _known()
    if unknown := sorted(wanted - known):
        raise PersonaError(
            f"--language must be an ISO 639-1 code that can be told from others, got {unknown[0]!r}",
            f"there are {', '.join(sorted(known))}",
        )
    return wanted


def _words(text: str) -> str:
    """The beginning of a text without URLs, names (``@x``), hashtags and laughter, which are of no language."""
    words = without_urls(text[:MAX_CHARS]).split()
    return " ".join(w for w in words if w[0] not in "@#" and not _laughs(w))


def _laughs(word: str) -> bool:
    """Whether a word is made of one or two letters, like "hahaha", "jajaja" and "xDDD"."""
    return len(word) >= _LAUGH_CHARS and len(set(word.casefold().rstrip(".,!?…"))) <= 2


def _best(text: str) -> tuple[str, float]:
    """The likeliest language and how likely it is, 0 to 1."""
    first = _detector().compute_language_confidence_values(text)[0]
    return first.language.iso_code_639_1.name.lower(), first.value


@cache
def _detector() -> LanguageDetector:
    try:
        from lingua import LanguageDetectorBuilder
    except ImportError:
        raise _missing() from None
    return LanguageDetectorBuilder.from_all_spoken_languages().with_low_accuracy_mode().build()


def _known() -> frozenset[str]:
    try:
        from lingua import Language
    except ImportError:
        raise _missing() from None
    return frozenset(known.iso_code_639_1.name.lower() for known in Language.all_spoken_ones())


def _missing() -> PersonaError:
    return PersonaError("telling languages apart needs lingua-language-detector", "pip install 'mlx-persona[data]'")
