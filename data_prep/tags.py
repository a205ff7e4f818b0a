"""Tags for every reply that is trained on: what kind it is (bucket), how much of it to train on (tier), and whether
it is a caricature (performative).

The buckets and tiers are those of the paper, and its shares stand beside ours in :func:`mix`; how it told them apart
is not public. Ours are told apart by rules that anybody can read, in ``rules/tags.yaml``: phrases, lengths and regular
expressions. They see what is said and not what is meant, so a tag is a hint for a sampling weight and no judgement.
The rules know English, and a little German, Spanish and French. Replies in other languages are ``canonical_voice``
and ``CORE`` (but for very long ones, corrections marked by ``*``, lists and the like), unless the user writes rules.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from data_prep.catchphrases import Habits, words
from mlx_persona.errors import PersonaError
from mlx_persona.settings import nearest, read_yaml

# The buckets, and the shares that they have in the paper.
BUCKETS: Mapping[str, float] = {
    "canonical_voice": 0.45,
    "difficult_honesty": 0.13,
    "pushback": 0.11,
    "restraint": 0.09,
    "imperfection_memory": 0.10,
    "exploration": 0.12,
}
TIERS = ("CORE", "LOW_FREQ", "PHILOSOPHICAL_LOW_FREQ", "HIGH_RISK_EMOTIONAL")
DEFAULT_BUCKET, DEFAULT_TIER = "canonical_voice", "CORE"

_PERFORMATIVE = "performative"
_OUTCOMES: Mapping[str, tuple[str, ...]] = {"bucket": tuple(BUCKETS), "tier": TIERS}
_KINDS = (*_OUTCOMES, _PERFORMATIVE)


@dataclass(frozen=True, slots=True)
class Tag:
    """What a reply is: one of ``BUCKETS``, one of ``TIERS``, and whether it is a caricature of its author."""

    bucket: str
    tier: str
    performative: bool = False


class _Text:
    """A text, and its words with a space on either side of each, so that a phrase is found by ``in``."""

    __slots__ = ("count", "padded", "typed", "words")

    def __init__(self, typed: str) -> None:
        self.typed = typed
        self.words = words(typed)
        self.padded = f" {' '.join(self.words)} "
        self.count = len(self.words)


@dataclass(frozen=True, slots=True)
class Condition:
    """What a text must be for a rule to fit; all that is given must hold. ``rules/tags.yaml`` explains each.

    The phrases in ``phrases``, ``starts`` and ``without`` are as :func:`words` gives them, with a space on either side.
    """

    phrases: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    regex: re.Pattern[str] | None = None
    min_words: int | None = None
    max_words: int | None = None
    question: bool | None = None

    def fits(self, text: _Text) -> bool:
        """Whether all of it holds but ``phrases``, which an :class:`_Index` sees to; what is quick to see first."""
        return (
            (self.min_words is None or text.count >= self.min_words)
            and (self.max_words is None or text.count <= self.max_words)
            and (not self.starts or text.padded.startswith(self.starts))
            and (self.question is None or self.question == text.typed.rstrip().endswith(("?", "？", "؟")))
            and (not self.signs or any(sign in text.typed for sign in self.signs))
            and (not self.without or not any(phrase in text.padded for phrase in self.without))
            and (self.regex is None or self.regex.search(text.typed) is not None)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """If the conditions hold, the reply's ``kind`` (bucket, tier or performative) is ``value``."""

    name: str
    kind: str
    value: str
    reply: Condition | None = None
    prompt: Condition | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules, the first that fits first, and how often training draws a reply of each tier."""

    rules: tuple[Rule, ...]
    weights: Mapping[str, float]
    performative_weight: float

    def weight(self, tag: Tag) -> float:
        """The sampling weight of a reply, >= 0; 1 is that of an ordinary one by default."""
        return self.weights[tag.tier] * (self.performative_weight if tag.performative else 1.0)


class Tagger:
    """Tags replies by rules, and by the person's habits where these are known."""

    def __init__(self, rules: Rules, habits: Habits | None = None) -> None:
        self._rules = rules.rules
        self._habits = habits
        self._replies = _Index([rule.reply for rule in self._rules])
        self._prompts = _Index([rule.prompt for rule in self._rules])

    def tag(self, prompt: str, reply: str) -> Tag:
        """The tag of a reply to a prompt (what the others wrote since the reply before). Nothing is remembered."""
        said, asked = _Text(reply), _Text(prompt)
        found: dict[str, str] = {}
        for number in sorted(self._replies.candidates(said) & self._prompts.candidates(asked)):
            rule = self._rules[number]
            if (
                rule.kind not in found
                and (rule.reply is None or rule.reply.fits(said))
                and (rule.prompt is None or rule.prompt.fits(asked))
            ):
                found[rule.kind] = rule.value
        performative = _PERFORMATIVE in found or (self._habits is not None and self._habits.overdone(reply, said.words))
        return Tag(found.get("bucket", DEFAULT_BUCKET), found.get("tier", DEFAULT_TIER), performative)


class _Index:
    """Which of many conditions hold as to their phrases: one look per word of the text, not one per phrase."""

    def __init__(self, conditions: Sequence[Condition | None]) -> None:
        needed = [(c.phrases or c.starts) if c else () for c in conditions]
        self._without_phrases = {number for number, phrases in enumerate(needed) if not phrases}
        self._by_word: dict[str, list[tuple[str, int]]] = {}
        for number, phrases in enumerate(needed):
            for phrase in phrases:
                # A phrase is looked for where its longest word is: mostly the rarest.
                self._by_word.setdefault(max(phrase.split(), key=len), []).append((phrase, number))

    def candidates(self, text: _Text) -> set[int]:
        """The numbers of the conditions that need no phrase, and of those that have one that is in the text."""
        found = self._without_phrases.copy()
        for word in self._by_word.keys() & text.words:
            found.update([number for phrase, number in self._by_word[word] if phrase in text.padded])
        return found


def mix(tags: Iterable[Tag]) -> dict[str, Any]:
    """How many replies have each bucket and tier, and what share that is; ``target`` is the paper's share."""
    counts = Counter(tags)
    total = counts.total()
    having: Counter[str] = Counter()
    for tag, n in counts.items():
        having.update({tag.bucket: n, tag.tier: n, _PERFORMATIVE: n * tag.performative})

    def figures(name: str) -> dict[str, float]:
        return {"replies": having[name], "share": round(having[name] / total, 4) if total else 0.0}

    return {
        "replies": total,
        "buckets": {bucket: figures(bucket) | {"target": share} for bucket, share in BUCKETS.items()},
        "tiers": {tier: figures(tier) for tier in TIERS},
        _PERFORMATIVE: figures(_PERFORMATIVE),
    }


def load_rules(path: Path | None = None) -> Rules:
    """The rules that come with the program, or those of a user's file; what the file does not have is the default.

    Raises:
        PersonaError: no such file, not YAML, or something in it that is no rule or weight; it names file and key.
    """
    with resources.as_file(resources.files("data_prep") / "rules" / "tags.yaml") as shipped:
        values = read_yaml(shipped)
    if path is not None:
        own = read_yaml(path)
        _known(own, tuple(values), str(path))
        values |= own
    where = str(path or "tags.yaml")
    weights = _mapping(values["weights"], f"{where}: weights")
    _known(weights, TIERS, f"{where}: weights")
    if missing := [tier for tier in TIERS if tier not in weights]:
        raise PersonaError(f"{where}: weights must have every tier, and {missing[0]} is missing")
    found = _list(values["rules"], f"{where}: rules")
    return Rules(
        tuple(_rule(value, f"{where}: rules[{place}]") for place, value in enumerate(found)),
        {tier: _weight(value, f"{where}: weights.{tier}") for tier, value in weights.items()},
        _weight(values["performative_weight"], f"{where}: performative_weight"),
    )


def _rule(value: object, where: str) -> Rule:
    rule = _mapping(value, where)
    name = rule.get("name")
    if not isinstance(name, str) or not name:
        raise PersonaError(f"{where}.name must be text, got {name!r}")
    where += f" ({name})"
    _known(rule, ("name", *_KINDS, "reply", "prompt"), where)
    given = [kind for kind in _KINDS if kind in rule]
    if len(given) != 1:
        raise PersonaError(f"{where} must have one of {', '.join(_KINDS)}, got {' and '.join(given) or 'none'}")
    kind, outcome = given[0], rule[given[0]]
    if kind == _PERFORMATIVE:
        if outcome is not True:
            raise PersonaError(f"{where}.performative must be true, got {outcome!r}")
    elif outcome not in _OUTCOMES[kind]:
        hint = nearest(str(outcome), list(_OUTCOMES[kind])) or f"known: {', '.join(_OUTCOMES[kind])}"
        raise PersonaError(f"{where}: unknown {kind} {outcome!r}", hint)
    sides = {side: _condition(rule[side], f"{where}.{side}") for side in ("reply", "prompt") if side in rule}
    if not sides:
        raise PersonaError(f"{where} must have conditions on reply or prompt")
    return Rule(name, kind, str(outcome), **sides)


def _condition(value: object, where: str) -> Condition:
    given = _mapping(value, where)
    _known(given, tuple(_READERS), where)
    if not given:
        raise PersonaError(f"{where} must have a condition", f"known keys: {', '.join(_READERS)}")
    return Condition(**{key: _READERS[key](item, f"{where}.{key}") for key, item in given.items()})


def _phrases(value: object, where: str) -> tuple[str, ...]:
    found = []
    for item in _list(value, where):
        if not isinstance(item, str):
            raise PersonaError(f"{where} must be a list of texts, and {item!r} is none", 'quote it: "no", "on", "12"')
        if not words(item):
            raise PersonaError(f"{where}: {item!r} has no word in it", "use regex for signs and emoji")
        found.append(f" {' '.join(words(item))} ")
    if not found:
        raise PersonaError(f"{where} must not be empty")
    return tuple(dict.fromkeys(found))


def _signs(value: object, where: str) -> tuple[str, ...]:
    found = _list(value, where)
    for item in found:
        if not isinstance(item, str) or not item:
            raise PersonaError(f"{where} must be a list of texts, and {item!r} is none")
    if not found:
        raise PersonaError(f"{where} must not be empty")
    return tuple(found)


def _regex(value: object, where: str) -> re.Pattern[str]:
    if not isinstance(value, str):
        raise PersonaError(f"{where} must be text, got {value!r}")
    try:
        return re.compile(value, re.IGNORECASE | re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise PersonaError(f"{where} is no regular expression: {error}") from error


def _whole(value: object, where: str) -> int:
    if type(value) is not int or value < 1:
        raise PersonaError(f"{where} must be a whole number >= 1, got {value!r}")
    return value


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise PersonaError(f"{where} must be true or false, got {value!r}")
    return value


def _weight(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise PersonaError(f"{where} must be a number >= 0, got {value!r}")
    return float(value)


_READERS: Mapping[str, Callable[[object, str], Any]] = {
    "phrases": _phrases,
    "starts": _phrases,
    "without": _phrases,
    "signs": _signs,
    "regex": _regex,
    "min_words": _whole,
    "max_words": _whole,
    "question": _flag,
}


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PersonaError(f"{where} must be a mapping, got {type(value).__name__}")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise PersonaError(f"{where} must be a list, got {type(value).__name__}")
    return value


def _known(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            hint = nearest(str(key), list(known)) or f"known keys: {', '.join(known)}"
            raise PersonaError(f"{where}: unknown key {key!r}", hint)
