"""How far two sets of replies are apart in length, casing, punctuation and expression. NumPy only, no model.

Stylometry tells authors apart by countable habits rather than by topic (Mosteller & Wallace, 1964, "Inference
and Disputed Authorship"; Stamatatos, 2009, "A survey of modern authorship attribution methods"). Each reply
becomes a row of such counts. Two sets are compared feature by feature with the 1-D Wasserstein distance, which
sees a difference of distributions and not only of means, in units of the person's own spread; the features of
a group are averaged, and then the groups, so that a long list of punctuation marks does not drown the length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = tuple[Floats | None, Floats]

# A feature counts for at most this many of the person's spreads.
CAP = 2.0
# The least spread, about that of a thing done in one reply of 25: what a person never does must not weigh infinitely.
MIN_SPREAD = 0.2
# Rates of short replies are drawn to zero by this many characters: one "!" in "hi!" is no habit of 33 in 100.
SMOOTHING = 20

EMOJI = re.compile("[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u27bf\u2b50\u2b55]")
EMOTICON = re.compile(r"[:;=]['’]?-?(?:[)(\]\[|*\\/]+|[DPpOo3])(?![\w/])|(?<!\w)[xX]D+(?!\w)|<3+(?!\d)|\^_?\^")
_LAUGHTER = re.compile(r"\b(?:a?(?:ha){2,}h?|b?(?:hah){1,}a*|(?:he){2,}h?|(?:ja){2,}|lo+l+|lmf?ao+|rofl)\b", re.I)
_WITHOUT_APOSTROPHE = re.compile(
    r"\b(?:im|ive|dont|didnt|doesnt|cant|couldnt|wont|wouldnt|shouldnt|isnt|arent|wasnt|werent|havent|hasnt|hadnt"
    r"|thats|whats|theres|youre|youve|youll|theyre|theyve|weve|hes|shes|lets)\b",
    re.I,
)


@dataclass(frozen=True, slots=True)
class _Reply:
    """One reply, and what is left of it once emoticons and emoji are out of the way of the punctuation."""

    text: str
    plain: str
    symbols: int

    @classmethod
    def of(cls, text: str) -> _Reply:
        text = text.strip()
        plain, emoticons = EMOTICON.subn(" ", text)
        plain, emoji = EMOJI.subn(" ", plain)
        return cls(text, plain, emoticons + emoji)


Feature = Callable[[_Reply], float]


def _rate(count: int, size: int) -> float:
    """Square root of a smoothed rate per 100: the root evens out the variance of counts (Bartlett, 1936)."""
    return math.sqrt(100 * count / (size + SMOOTHING))


def _found(pattern: str | re.Pattern[str]) -> Feature:
    compiled = re.compile(pattern)
    return lambda reply: _rate(len(compiled.findall(reply.plain)), len(reply.text))


def _ends(pattern: str) -> Feature:
    compiled = re.compile(rf"(?:{pattern})[\"”'’)\s]*$")
    return lambda reply: float(bool(compiled.search(reply.text)))


def _upper(reply: _Reply) -> float:
    letters = sum(c.isalpha() for c in reply.plain)
    return _rate(sum(c.isupper() for c in reply.plain), letters)


def _capital_first(reply: _Reply) -> float:
    return float(next((c.isupper() for c in reply.plain if c.isalpha()), False))


def _no_capitals(reply: _Reply) -> float:
    return float(any(c.isalpha() for c in reply.plain) and not any(c.isupper() for c in reply.plain))


def _ends_in_symbol(reply: _Reply) -> float:
    tail = reply.text[-6:]
    ends = [m.end() for pattern in (EMOJI, EMOTICON) for m in pattern.finditer(tail)]
    return float(len(tail.rstrip("\ufe0f")) in ends)


_GROUPS: dict[str, dict[str, Feature]] = {
    "length": {
        "characters (log)": lambda r: math.log1p(len(r.text)),
        "words (log)": lambda r: math.log1p(len(r.text.split())),
        "lines (log)": lambda r: math.log1p(r.text.count("\n")),
    },
    "casing": {
        "upper-case letters": _upper,
        "starts with a capital": _capital_first,
        "no capitals": _no_capitals,
        "lower-case i": _found(r"\bi\b"),
    },
    "punctuation": {
        "ends in .": _ends(r"(?<!\.)\."),
        "ends in !": _ends("!"),
        "ends in ?": _ends(r"\?"),
        "ends bare": _ends(r"\w"),
        "ends in emoji": _ends_in_symbol,
        "comma": _found(","),
        "period": _found(r"(?<!\.)\.(?!\.)"),
        "!": _found("!"),
        "?": _found(r"\?"),
        "apostrophe": _found("['’]"),
        "ellipsis": _found(r"\.{2,}|…"),
        "other marks": _found(r"[\"“”:;()\[\]*#`•–—]|--| - |(?m:^\s*\d+[.)] )"),
        "repeated ! ?": _found(r"[!?]{2,}"),
    },
    "expression": {
        "digits": _found(r"\d"),
        "emoji": lambda r: _rate(r.symbols, len(r.text)),
        "laughter": _found(_LAUGHTER),
        "missing apostrophe": _found(_WITHOUT_APOSTROPHE),
        "stretched word": _found(r"([A-Za-z])\1{2,}"),
    },
}
FEATURES: tuple[str, ...] = tuple(name for group in _GROUPS.values() for name in group)
_MEASURES: tuple[Feature, ...] = tuple(measure for group in _GROUPS.values() for measure in group.values())
# The weight of each feature: groups weigh the same, and so do the features in one. (F,), sums to 1.
WEIGHTS: Floats = np.array([1 / (len(_GROUPS) * len(group)) for group in _GROUPS.values() for _ in group])


@dataclass(frozen=True)
class StyleProfile:
    """A set of replies as numbers: ``values`` (N, F), one column per name in ``FEATURES``."""

    values: Floats

    @property
    def spread(self) -> Floats:
        """Standard deviation per feature, at least ``MIN_SPREAD``: (F,)."""
        return np.maximum(self.values.std(axis=0), MIN_SPREAD)

    def part(self, rows: NDArray[np.intp]) -> StyleProfile:
        """The profile of some of the replies, by their numbers (a number may repeat)."""
        return StyleProfile(self.values[rows])


def profile(texts: Sequence[str]) -> StyleProfile:
    """Measure every reply.

    Raises:
        ValueError: no replies.
    """
    if not texts:
        raise ValueError("a style profile must have at least one reply, got 0")
    replies = [_Reply.of(text) for text in texts]
    return StyleProfile(np.array([[measure(reply) for measure in _MEASURES] for reply in replies]))


def wasserstein(a: Floats, b: Floats, weights: Weights | None = None) -> Floats:
    """1-D Wasserstein-1 distances, the area between two empirical distribution functions (Vallender, 1974).

    Args:
        a: values (N,).
        b: values (M,).
        weights: (K, N) and (K, M), K ways to weigh both sides, rows summing to 1; None for equal ones.

    Returns:
        (K,) distances, in the unit of the values.
    """
    grid = np.unique(np.concatenate([a, b]))  # (Z,)
    of_a, of_b = weights if weights is not None else (None, None)
    apart = _share_below(a, grid[:-1], of_a) - _share_below(b, grid[:-1], of_b)  # (K, Z-1)
    areas: Floats = np.abs(apart) @ np.diff(grid)
    return areas


def _share_below(values: Floats, at: Floats, weights: Floats | None) -> Floats:
    """Empirical distribution functions of some values (N,), one per row of weights (K, N), at ``at`` (Z,): (K, Z)."""
    if weights is not None:
        weighed: Floats = weights @ (values[:, None] <= at[None]).astype(np.float64)
        return weighed
    counts: Floats = np.searchsorted(np.sort(values), at, side="right")[None] / len(values)
    return counts


def _capped(person: StyleProfile, other: StyleProfile, spread: Floats, weights: Weights | None = None) -> Floats:
    """Distance per feature in the given spreads, capped: (K, F)."""
    columns = [wasserstein(person.values[:, f], other.values[:, f], weights) for f in range(len(FEATURES))]
    return np.minimum(np.stack(columns, axis=1) / spread, CAP)


def contributions(person: Sequence[str], other: Sequence[str]) -> dict[str, float]:
    """What each feature adds to :func:`distance`; the values sum to it."""
    ours = profile(person)
    parts = _capped(ours, profile(other), ours.spread)[0] * WEIGHTS
    return dict(zip(FEATURES, parts.tolist(), strict=True))


def distance(person: Sequence[str], other: Sequence[str]) -> float:
    """How far the style of ``other`` is from the person's: 0 for the same set, at most ``CAP``.

    The unit is the person's own spread from reply to reply, which is also why the two sides are not quite
    interchangeable. Two finite samples of one style are not 0 apart: see :func:`split_half_floor`.
    """
    ours = profile(person)
    return float(_capped(ours, profile(other), ours.spread)[0] @ WEIGHTS)


def split_half_floor(person: Sequence[str], n: int | None = None, n_splits: int = 20, seed: int = 0) -> float:
    """The distance that chance alone puts between the person and n more replies of their own.

    Mean over random splits of the distance between two disjoint parts of h replies each, h being n or, where
    there are too few, half of all N. Two samples of sizes p and q from one distribution are apart in proportion
    to sqrt(1/p + 1/q) (del Barrio, Giné & Matrán, 1999), so the mean is scaled from (h, h) to (N, n): the sizes
    of the comparison that it is the floor of.

    Args:
        person: all N replies that a model's are compared with, at least 2.
        n: how many replies the model wrote; None for the halves themselves, unscaled.
        n_splits: random splits.
        seed: fixes them.
    """
    ours = profile(person)
    count = len(person)
    half = min(n or count, count // 2)
    if half < 1:
        raise ValueError(f"a split needs at least 2 replies, got {count}")
    spread, rng = ours.spread, np.random.default_rng(seed)
    total = 0.0
    for _ in range(n_splits):
        order = rng.permutation(count)
        first, second = ours.part(order[:half]), ours.part(order[half : 2 * half])
        total += float(_capped(first, second, spread)[0] @ WEIGHTS)
    factor = 1.0 if n is None else math.sqrt((1 / count + 1 / n) / (2 / half))
    return total / n_splits * factor


def bootstrap_interval(
    person: Sequence[str], other: Sequence[str], n_samples: int = 500, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of :func:`distance` if both sides had written other replies (bootstrap; Efron, 1979).

    The replies of both are drawn again with replacement, so few held-out replies give a wide interval. A redrawn
    sample is noisier than the sample itself, and noise only lengthens a Wasserstein distance, so the percentiles are
    shifted by the mean excess; without that an interval can lie wholly above its own estimate.

    Returns:
        ``(low, high)``, with ``low >= 0``.
    """
    rng = np.random.default_rng(seed)
    of_ours, of_theirs = (
        rng.multinomial(n, np.full(n, 1 / n), size=n_samples) / n for n in (len(person), len(other))
    )  # (K, N), (K, M)
    drawn = redrawn(profile(person), profile(other), (of_ours, of_theirs))[1]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return max(0.0, float(low)), float(high)


def redrawn(person: StyleProfile, other: StyleProfile, weights: Weights) -> tuple[float, Floats]:
    """:func:`distance`, and what it is when replies are drawn again.

    Args:
        person: N replies of the person.
        other: M replies of a model.
        weights: (K, N) or None, where the person's stay as they are, and (K, M): how much each reply weighs in each of
            K draws, rows summing to 1.

    Returns:
        The distance, and K distances (K,), shifted so that their mean is it.
    """
    spread = person.spread
    estimate = float(_capped(person, other, spread)[0] @ WEIGHTS)
    drawn = _capped(person, other, spread, weights) @ WEIGHTS  # (K,)
    shifted: Floats = drawn - (drawn.mean() - estimate)
    return estimate, shifted


def above_floor(value: float, floor: float) -> float:
    """The part of a distance that chance does not explain."""
    return max(0.0, value - floor)
