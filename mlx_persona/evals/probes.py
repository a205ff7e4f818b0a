"""The probes: what is asked, and how each reply is judged.

Shipped are 90 in six categories and 10 corruption probes (``sets/probes.yaml``; docs/probes.md says why these
counts), and a short set about work (``sets/work.yaml``). Anybody's own file has the same form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from mlx_persona.errors import PersonaError
from mlx_persona.evals.intervals import Tally
from mlx_persona.evals.said import pattern
from mlx_persona.evals.verdicts import (
    Verdict,
    admits_ignorance,
    avoids_cliches,
    stands_firm,
    stays_itself,
    uses_memory,
)
from mlx_persona.schema import Message
from mlx_persona.settings import nearest, read_yaml
from mlx_persona.tokens.batches import evenly

T = TypeVar("T")

SETS = ("probes", "work")
GATE = "corruption"
# What the quick form asks of each group: one in so many.
QUICK_SHARE = 5
# With the comma and the blank before it, which go where nothing stands for it.
_PLACEHOLDER = re.compile(r",? ?\{(\w+)\}")
_PHRASES = ("holds", "yields", "invents", "wanted", "stray", "fails", "needs")
_REMEMBERED = "You remember about the person that you are talking to:"


@dataclass(frozen=True)
class Probe:
    """One thing to say to a model. ``sets/probes.yaml`` explains the fields; ``say`` ends with the other's turn."""

    id: str
    category: str
    say: tuple[str, ...]
    remember: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    yields: tuple[str, ...] = ()
    invents: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    max_words: int | None = None
    calm: bool = False
    no_stock: bool = False

    def messages(self, name: str, topic: str, system: str) -> tuple[Message, ...]:
        """The conversation up to where the model answers.

        Args:
            name: what the persona is called; empty: the places where it would stand are left out.
            topic: something that the person is really asked about.
            system: the system message; what is to be remembered is added to it.
        """
        values = {"name": name, "topic": topic}

        def fill(match: re.Match[str]) -> str:
            value = values[match[1]]
            return match[0].replace(f"{{{match[1]}}}", value) if value else ""

        turns = [_PLACEHOLDER.sub(fill, text).lstrip(" ,") for text in self.say]
        said = [Message("assistant" if i % 2 else "user", text, train=False) for i, text in enumerate(turns)]
        if not self.remember:
            return tuple(said)
        notes = "\n".join(f"- {fact}" for fact in self.remember)
        return (Message("system", f"{system}\n\n{_REMEMBERED}\n{notes}".strip(), train=False), *said)


@dataclass(frozen=True)
class ProbeSet:
    """Probes, the clichés that are looked for, and the dimensions that people rate."""

    probes: tuple[Probe, ...]
    cliches: tuple[str, ...]
    rubric: Mapping[str, str]

    def judge(self, probe: Probe, reply: str) -> Verdict | None:
        """The verdict of the category's rule, or None for a category that only people can rate."""
        rule = CATEGORIES[probe.category].rule
        return None if rule is None else rule(self, probe, reply)


@dataclass(frozen=True)
class Category:
    """A category: its title, the keys that its probes may have, the best score of its rule, and the rule."""

    title: str
    keys: tuple[str, ...] = ()
    best: int = 1
    rule: Callable[[ProbeSet, Probe, str], Verdict] | None = None


CATEGORIES: Mapping[str, Category] = {
    "voice": Category("canonical voice"),
    "naturalness": Category("naturalness"),
    "sycophancy": Category(
        "does not give in",
        ("holds", "yields"),
        rule=lambda _, probe, reply: stands_firm(reply, probe.holds, probe.yields),
    ),
    "unknown": Category(
        'says "I don\'t know"', ("invents",), rule=lambda _, probe, reply: admits_ignorance(reply, probe.invents)
    ),
    "cliche": Category("no clichés", rule=lambda probes, _, reply: avoids_cliches(reply, probes.cliches)),
    "retrieval": Category(
        "uses the right memory",
        ("remember", "wanted", "stray"),
        best=2,
        rule=lambda _, probe, reply: uses_memory(reply, probe.wanted, probe.stray),
    ),
    GATE: Category(
        "withstands corruption",
        ("fails", "needs", "max_words", "calm", "no_stock"),
        rule=lambda _, probe, reply: stays_itself(
            reply,
            probe.fails,
            probe.needs,
            max_words=probe.max_words,
            calm=probe.calm,
            no_stock=probe.no_stock,
        ),
    ),
}


def shipped(name: str) -> Path:
    """The path of a shipped file of ``sets/``."""
    return Path(str(resources.files("mlx_persona.evals") / "sets" / name))


def read_probes(named: str) -> ProbeSet:
    """The probes that the user means: ``probes`` or ``work`` (shipped), or a YAML file of the same form.

    Without ``cliches`` or ``rubric`` of its own a file has those of the shipped probes.

    Raises:
        PersonaError: no such file, no probe in it, or a mistake, named with the probe's id.
    """
    default = read_yaml(shipped(f"{SETS[0]}.yaml"))
    path = shipped(f"{named}.yaml") if named in SETS else Path(named)
    value = read_yaml(path)
    for key in value:
        if key not in default:
            raise PersonaError(f"unknown key {key!r} in {path}", nearest(str(key), list(default)))
    whole = {**default, **value, "probes": value.get("probes") or {}}
    try:
        found = _probes(whole["probes"])
        cliches = _texts("cliches", whole["cliches"])
        for phrase in cliches:
            pattern(phrase)
    except PersonaError as error:
        raise PersonaError(f"{path}: {error.message}", error.hint) from error
    if not found:
        raise PersonaError(f"{path} holds no probe", "docs/probes.md shows what a file looks like")
    rubric = whole["rubric"]
    if not isinstance(rubric, dict) or not rubric:
        raise PersonaError(f"{path}: rubric must name dimensions and say what each means, got {rubric!r}")
    return ProbeSet(tuple(found), cliches, {str(name): str(text) for name, text in rubric.items()})


def _probes(value: object) -> list[Probe]:
    if not isinstance(value, dict):
        raise PersonaError(f"probes must be a mapping of categories, got {type(value).__name__}")
    found: dict[str, Probe] = {}
    for category, entries in value.items():
        if category not in CATEGORIES:
            raise PersonaError(
                f"unknown category {category!r}",
                nearest(str(category), list(CATEGORIES)) or f"known are {', '.join(CATEGORIES)}",
            )
        if not isinstance(entries, list):
            raise PersonaError(f"{category} must be a list of probes, got {type(entries).__name__}")
        for number, entry in enumerate(entries, 1):
            probe = _probe(category, number, entry)
            if probe.id in found:
                raise PersonaError(f"id {probe.id!r} is there twice")
            found[probe.id] = probe
    return list(found.values())


def _probe(category: str, number: int, value: object) -> Probe:
    where = f"{category}, probe {number}"
    if not isinstance(value, dict) or not value.get("id"):
        raise PersonaError(f"{where}: a probe must be a mapping with an id")
    where = str(value["id"])
    allowed = ("id", "say", *CATEGORIES[category].keys)
    for key in value:
        if key not in allowed:
            hint = nearest(str(key), list(allowed)) or f"{category} takes {', '.join(allowed)}"
            raise PersonaError(f"{where}: unknown key {key!r}", hint)
    say = value.get("say", ())
    given: dict[str, Any] = {"say": _texts(f"{where}: say", [say] if isinstance(say, str) else say)}
    if len(given["say"]) % 2 == 0:
        raise PersonaError(f"{where}: say must end with the other's turn, got {len(given['say'])} turns")
    for text in given["say"]:
        if unknown := set(_PLACEHOLDER.findall(text)) - {"name", "topic"}:
            raise PersonaError(f"{where}: unknown placeholder {{{min(unknown)}}}", "there are {name} and {topic}")
    for key in (*_PHRASES, "remember"):
        if key in value:
            given[key] = _texts(f"{where}: {key}", value[key])
    for phrase in (phrase for key in _PHRASES for phrase in given.get(key, ())):
        pattern(phrase)
    return Probe(where, category, **given, **_limits(where, value))


def _limits(where: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a corruption probe that are no texts."""
    words = value.get("max_words")
    if words is not None and (isinstance(words, bool) or not isinstance(words, int) or words < 1):
        raise PersonaError(f"{where}: max_words must be a whole number >= 1, got {words!r}")
    flags = {key: value.get(key, False) for key in ("calm", "no_stock")}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise PersonaError(f"{where}: {key} must be true or false, got {flag!r}")
    return {"max_words": words, **flags}


def _texts(what: str, value: object) -> tuple[str, ...]:
    """A list of texts; YAML reads 56 as a number, which is one too."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str | int) and not isinstance(item, bool) for item in value
    ):
        raise PersonaError(f"{what} must be a list of texts, got {value!r}")
    return tuple(map(str, value))


def quick_part(items: Sequence[T], group: Callable[[T], str]) -> list[T]:
    """A fifth of each group, evenly spread, at least one of each: always the same ones, in order."""
    kept = []
    for name in dict.fromkeys(map(group, items)):
        members = [item for item in items if group(item) == name]
        kept += [members[i] for i in evenly(len(members), math.ceil(len(members) / QUICK_SHARE))]
    return kept


def category_tallies(probes: Sequence[Probe], verdicts: Sequence[Verdict | None]) -> dict[str, Tally]:
    """Per category with a rule: how many replies reached its best score."""
    out = {}
    for name in dict.fromkeys(probe.category for probe in probes):
        best = CATEGORIES[name].best
        scores = [v.score for p, v in zip(probes, verdicts, strict=True) if p.category == name and v is not None]
        if scores:
            out[name] = Tally(sum(score == best for score in scores), len(scores))
    return out


def score_counts(probes: Sequence[Probe], verdicts: Sequence[Verdict | None], category: str) -> list[int]:
    """How many replies of a category got each score, 0 first."""
    scores = [v.score for p, v in zip(probes, verdicts, strict=True) if p.category == category and v is not None]
    return [scores.count(score) for score in range(CATEGORIES[category].best + 1)]
