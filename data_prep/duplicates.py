"""The person's own replies that are nearly the same, that go to everybody, or that leak between the splits.

Texts are compared by their shingles: all runs of four characters, without case and punctuation. What has few
different ones ("ok see you then", "hahahahahahahaha") is a voice and no duplicate, however often it is said.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from mlx_persona.errors import PersonaError

# Sorted 32-bit hashes, each once.
Shingles = npt.NDArray[np.uint32]

SHINGLE_CHARS = 4
# A text with fewer different shingles is too short to compare: about six words.
MIN_SHINGLES = 25
THRESHOLD = 0.8

# Texts are compared in full if they agree in one band of their sketches. With 8 bands of 4 values that is so for
# 98.5 % of the pairs with a Jaccard similarity of 0.8, for 99.9 % of those with 0.9, and for one pair in 1000 with
# 0.1, as texts have that share nothing but their language. More bands would find more, for 250 bytes a text each.
BANDS, ROWS = 8, 4
SEED = 1
# With so many of the latest texts that agree so; a template that is filled in ten thousand ways has them all.
CANDIDATES = 1000
# So many shingles are sketched at once: a text may be huge.
_BATCH = 4096

_SPACE = re.compile(r"[\s!-/:-@\[-`{-~\u00a1-\u00bf\u2000-\u206f\u3000-\u303f]+")
_MIX, _SHIFT = np.uint32(0x9E3779B1), np.uint32(15)


def normal(text: str) -> str:
    """The text in small letters, with single spaces for white space and punctuation."""
    plain = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return _SPACE.sub(" ", plain).strip()


def shingles(text: str) -> Shingles:
    """The hashes of all different runs of ``SHINGLE_CHARS`` characters of a text as :func:`normal` gives it."""
    chars = np.frombuffer(normal(text).encode("utf-32-le"), dtype=np.uint32)
    count = max(len(chars) - SHINGLE_CHARS + 1, 0)
    hashes = chars[:count].copy()
    for place in range(1, SHINGLE_CHARS):
        hashes *= _MIX
        hashes ^= hashes >> _SHIFT
        hashes += chars[place : place + count]
    return np.unique(hashes)


def jaccard(left: Shingles, right: Shingles) -> float:
    """The share of the shingles of both that both have, 0 to 1; 0 where there are none."""
    both = np.concatenate((left, right))
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / max(len(left) + len(right) - shared, 1)


class NearDuplicates:
    """Finds texts that are nearly the same as one seen earlier. The same texts in the same order: the same answers.

    Args:
        threshold: the Jaccard similarity from which on texts are nearly the same, 0.5 to 1.

    Raises:
        PersonaError: another threshold, or the library is missing.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        if not 0.5 <= threshold <= 1:
            raise PersonaError(f"the threshold for near-duplicates must be 0.5 to 1, got {threshold:g}")
        try:
            from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]
        except ImportError:
            raise PersonaError("finding near-duplicates needs datasketch", "pip install 'mlx-persona[data]'") from None
        self._threshold = threshold
        self._sketch = MinHash(num_perm=BANDS * ROWS, seed=SEED, hashfunc=int)
        # The bands are the same for every threshold: a higher one never finds what a lower one does not.
        self._index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        self._texts: list[Shingles] = []

    def seen(self, text: str) -> bool:
        """Whether an earlier text is nearly the same; this one is added if none is. Short texts never are."""
        pieces = self._sketched(text)
        if pieces is None:
            return False
        found = self._find(pieces)
        if not found:
            self._add(pieces)
        return found

    def near(self, text: str) -> bool:
        """Whether a text that was added is nearly the same. Short texts never are."""
        pieces = self._sketched(text)
        return pieces is not None and self._find(pieces)

    def add(self, text: str) -> None:
        """Add a text, whatever is there."""
        pieces = self._sketched(text)
        if pieces is not None:
            self._add(pieces)

    def _sketched(self, text: str) -> Shingles | None:
        """The shingles of a text, now in the sketch; None if it is too short."""
        pieces = shingles(text)
        if len(pieces) < MIN_SHINGLES:
            return None
        self._sketch.clear()
        for start in range(0, len(pieces), _BATCH):
            self._sketch.update_batch(pieces[start : start + _BATCH].tolist())
        return pieces

    def _find(self, pieces: Shingles) -> bool:
        alike = sorted(self._index.query(self._sketch))[-CANDIDATES:]
        return any(self._same(pieces, self._texts[number]) for number in alike)

    def _add(self, pieces: Shingles) -> None:
        self._index.insert(len(self._texts), self._sketch, check_duplication=False)
        self._texts.append(pieces)

    def _same(self, left: Shingles, right: Shingles) -> bool:
        # The similarity is at most that of the sizes, and most candidates need no more than this look.
        if min(len(left), len(right)) < self._threshold * max(len(left), len(right)):
            return False
        return jaccard(left, right) >= self._threshold


def leakage(splits: Mapping[str, Iterable[str]], threshold: float = THRESHOLD) -> int:
    """How many replies of the other splits are nearly the same as one of ``splits["train"]``.

    It is 0 for what :class:`NearDuplicates` let pass with the same threshold (unless more than ``CANDIDATES``
    texts are much alike). Short replies leak nothing.

    Raises:
        PersonaError: as :class:`NearDuplicates`.
    """
    trained = NearDuplicates(threshold)
    for text in dict.fromkeys(splits.get("train", ())):
        trained.add(text)
    return sum(trained.near(text) for name, texts in splits.items() if name != "train" for text in texts)


class Boilerplate:
    """Finds the same reply to everybody: first :meth:`add` all replies, then ask. Only hashes are held in memory."""

    # How somebody greets everybody is their voice; what is longer and the same is a form.
    MIN_CHARS = 40
    # Laughter and rows of emoji can be as long, and go to everybody; they are a voice.
    MIN_DIFFERENT = 8
    MIN_CHATS = 3
    MIN_TIMES = 5

    def __init__(self) -> None:
        self._chats: dict[str, int] = {}
        # Reply -> how often it was sent, and the first MIN_CHATS chats that it was sent in.
        self._sent: dict[bytes, tuple[int, ...]] = {}

    def add(self, text: str, chat: str) -> None:
        """Count a reply that was sent in a chat."""
        key = self._key(text)
        if key is None:
            return
        times, *chats = self._sent.get(key, (0,))
        number = self._chats.setdefault(chat, len(self._chats))
        if number not in chats and len(chats) < self.MIN_CHATS:
            chats.append(number)
        self._sent[key] = (times + 1, *chats)

    def any(self) -> bool:
        """Whether any reply is boilerplate."""
        return any(map(self._often, self._sent.values()))

    def is_boilerplate(self, text: str) -> bool:
        """Whether the reply, as :func:`normal` gives it, was sent so often, and in so many chats."""
        return self._often(self._sent.get(self._key(text) or b"", (0,)))

    def _often(self, sent: tuple[int, ...]) -> bool:
        times, *chats = sent
        return times >= self.MIN_TIMES and len(chats) >= self.MIN_CHATS

    def _key(self, text: str) -> bytes | None:
        if len(text) < self.MIN_CHARS and text.isascii():  # nothing grows that is plain already
            return None
        said = normal(text)
        if len(said) < self.MIN_CHARS or len(set(said)) < self.MIN_DIFFERENT:
            return None
        return hashlib.blake2b(said.encode(), digest_size=8).digest()
