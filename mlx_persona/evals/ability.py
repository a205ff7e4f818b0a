"""Is it still able? Questions whose answers are right or wrong by rule, asked before and after training.

An item has one check: ``number``, ``accept``, ``pattern``, ``json`` or ``code`` (``sets/ability.jsonl``;
docs/probes.md explains them). Code is parsed and compared, never run.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_persona.errors import PersonaError
from mlx_persona.evals.intervals import Tally
from mlx_persona.evals.said import asserted, pattern, plain
from mlx_persona.schema import read_jsonl
from mlx_persona.settings import nearest

CHECKS = ("number", "accept", "pattern", "json", "code")
_KEYS = ("id", "kind", "ask", "reject", *CHECKS)
# Python's parser may use much time and memory on what is long or deep.
_LONGEST_CODE = 2000
_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_UNITS = {word: value for value, word in enumerate(_ONES)}
_TENS = {
    word: 10 * value
    for value, word in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), 2)
}
_WORD = "|".join(sorted((*_UNITS, *_TENS), key=len, reverse=True))
_DIGITS = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])[-−]?\.\d+")
_SPELLED = re.compile(rf"(?<!\w)(?:minus )?(?:(?:{_WORD}|hundred)(?:[ -]and)?[ -]?)+(?!\w)")


@dataclass(frozen=True)
class Item:
    """A question and how its answer is checked; exactly one of ``CHECKS`` is given.

    Attributes:
        id: unique in its set.
        kind: what the score is reported under: arithmetic, facts, format, code, or the user's own.
        ask: the question.
        check: which of ``CHECKS``.
        wanted: what the check compares with.
        reject: phrases that make an accepted answer wrong.
    """

    id: str
    kind: str
    ask: str
    check: str
    wanted: Any
    reject: tuple[str, ...] = ()

    def right(self, reply: str) -> bool:
        """Whether the reply answers the question."""
        return _RIGHT[self.check](self, reply)


def read_items(path: Path) -> list[Item]:
    """The items of a JSONL file.

    Raises:
        PersonaError: no such file, no item, or a line that is none, named as file:line.
    """
    items: list[Item] = []
    for number, value in read_jsonl(path):
        try:
            items.append(_item(value))
            if items[-1].id in {item.id for item in items[:-1]}:
                raise PersonaError(f"id {items[-1].id!r} is there twice")
        except PersonaError as error:
            raise PersonaError(f"{path}:{number}: {error.message}", error.hint) from error
    if not items:
        raise PersonaError(f"{path} holds no question", "docs/probes.md shows what a line looks like")
    return items


def _item(value: object) -> Item:
    if not isinstance(value, dict):
        raise PersonaError(f"an item must be an object, got {type(value).__name__}")
    for key in value:
        if key not in _KEYS:
            raise PersonaError(f"unknown key {key!r}", nearest(str(key), list(_KEYS)))
    for key in ("id", "kind", "ask"):
        if not isinstance(value.get(key), str) or not value[key].strip():
            raise PersonaError(f"{key} must be text, got {value.get(key)!r}")
    given = [check for check in CHECKS if check in value]
    if len(given) != 1:
        raise PersonaError(f"an item must have one of {', '.join(CHECKS)}, got {', '.join(given) or 'none'}")
    check, wanted, reject = given[0], value[given[0]], value.get("reject", [])
    for name, phrases in ((check, wanted if check in ("accept", "code") else []), ("reject", reject)):
        if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
            raise PersonaError(f"{name} must be a list of texts, got {phrases!r}")
    if check in ("accept", "code") and not wanted:
        raise PersonaError(f"{check} must hold at least one answer")
    _compile(check, wanted, reject)
    return Item(value["id"], value["kind"], value["ask"], check, wanted, tuple(reject))


def _compile(check: str, wanted: Any, reject: Sequence[str]) -> None:
    """Check that what is to be compared with can be; raises PersonaError."""
    if check == "number" and (isinstance(wanted, bool) or not isinstance(wanted, int | float)):
        raise PersonaError(f"number must be a number, got {wanted!r}")
    for phrase in (*reject, *(wanted if check == "accept" else ())):
        pattern(phrase)
    if check == "pattern":
        try:
            re.compile(wanted)
        except (re.error, TypeError) as error:
            raise PersonaError(f"pattern must be a regular expression, got {wanted!r}: {error}") from error
    for code in wanted if check == "code" else ():
        if not isinstance(tree := _parsed(code), ast.Module) or not tree.body:
            raise PersonaError(f"code must be Python, got {code!r}")


def numbers_in(text: str) -> tuple[list[float], list[float]]:
    """The numbers in a text, in order: those in digits, and those in English words up to 999."""
    digits = [float(match[0].replace(",", "").replace("−", "-")) for match in _DIGITS.finditer(text)]
    spelled = [_spelled(match[0]) for match in _SPELLED.finditer(text.casefold())]
    return digits, [value for value in spelled if value is not None]


def _spelled(words: str) -> float | None:
    """The value of a number in words; None for a bare "hundred" or what is none."""
    total, last, sign = 0, 0, 1
    for word in re.split(r"[ -]+", words.strip(" -")):
        if word == "minus":
            sign = -1
        elif word == "hundred":
            if not total:
                return None
            total, last = total * 100, 100
        elif word in _TENS:
            total, last = total + _TENS[word], 10
        elif word != "and":
            total, last = total + _UNITS[word], 1
    return float(sign * total) if last or total == 0 else None


def _right_number(item: Item, reply: str) -> bool:
    """The answer is what follows the last "="; else the first number that the question does not hold.

    Words count where nothing is in digits: "one" is mostly no number.
    """
    after = numbers_in(reply.rsplit("=", 1)[1])[0] if "=" in reply else []
    if after:
        return after[0] == item.wanted
    asked = {value for found in numbers_in(item.ask) for value in found}
    for found in numbers_in(reply):
        if said := [value for value in found if value not in asked]:
            return said[0] == item.wanted
    return False


def _right_phrase(item: Item, reply: str) -> bool:
    text = plain(reply)
    answers = [f"(?:{phrase})s?" for phrase in item.wanted]  # "Austen's" has lost its apostrophe
    return asserted(answers, text) is not None and asserted(item.reject, text) is None


def _right_pattern(item: Item, reply: str) -> bool:
    return re.fullmatch(item.wanted, reply.strip(), re.DOTALL) is not None


def _right_json(item: Item, reply: str) -> bool:
    """The whole reply, or the one fenced block in it, is JSON with this value."""
    fenced = _FENCE.findall(reply)
    try:
        value = json.loads(fenced[0] if len(fenced) == 1 else reply)
    except (ValueError, RecursionError):
        return False
    # In Python True == 1, in JSON it is not.
    return json.dumps(value, sort_keys=True) == json.dumps(item.wanted, sort_keys=True)


def _right_code(item: Item, reply: str) -> bool:
    """Some piece of code in the reply contains one of the wanted expressions, however it is laid out."""
    wanted = {_shape(code) for code in item.wanted}
    return any(not wanted.isdisjoint(_shapes(piece)) for piece in _pieces(reply))


_RIGHT: Mapping[str, Callable[[Item, str], bool]] = {
    "number": _right_number,
    "accept": _right_phrase,
    "pattern": _right_pattern,
    "json": _right_json,
    "code": _right_code,
}


def _pieces(reply: str) -> list[str]:
    """What may be code: fenced blocks, what stands in backticks, the whole reply, and each of its lines."""
    return [*_FENCE.findall(reply), *_INLINE.findall(reply), reply, *reply.splitlines()]


def _parsed(code: str) -> ast.AST | None:
    """The syntax tree of Python code, or None. Nothing is run."""
    if len(code) > _LONGEST_CODE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in what a model wrote
            return ast.parse(code.strip().removeprefix(">>>").strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _shape(code: str) -> str:
    """A wanted statement or expression, without its layout."""
    tree = _parsed(code)
    assert isinstance(tree, ast.Module)
    node: ast.AST = tree.body[-1]
    return ast.dump(node.value if isinstance(node, ast.Expr) else node)


def _shapes(code: str) -> set[str]:
    """Every statement and expression in a piece of code, without its layout."""
    tree = _parsed(code)
    return {ast.dump(node) for node in ast.walk(tree) if isinstance(node, ast.expr | ast.stmt)} if tree else set()


@dataclass(frozen=True)
class Retention:
    """What is left of the items that the base model gets right, and how many others came right.

    ``kept`` is reported on those items alone, since a small base model is at chance on many.
    """

    kept: Tally
    gained: Tally

    def to_json(self) -> dict[str, Any]:
        """Both counts with their intervals."""
        return {"kept": self.kept.to_json(), "gained": self.gained.to_json()}


def tallies(items: Sequence[Item], right: Sequence[bool]) -> dict[str, Tally]:
    """Right answers per kind, in the order of the items, and of ``all``."""
    kinds = dict.fromkeys(item.kind for item in items)
    out = {}
    for kind in kinds:
        of_kind = [ok for item, ok in zip(items, right, strict=True) if item.kind == kind]
        out[kind] = Tally(sum(of_kind), len(of_kind))
    return {**out, "all": Tally(sum(right), len(right))}


def retention(base: Sequence[bool], other: Sequence[bool]) -> Retention:
    """Compare two models on the same items.

    Args:
        base: per item, whether the base model was right.
        other: the same of the trained one.
    """
    kept = [ok for before, ok in zip(base, other, strict=True) if before]
    gained = [ok for before, ok in zip(base, other, strict=True) if not before]
    return Retention(Tally(sum(kept), len(kept)), Tally(sum(gained), len(gained)))
