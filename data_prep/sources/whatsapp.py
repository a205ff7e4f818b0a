"""WhatsApp's "Export chat": a text file per chat, alone, in the zip that WhatsApp makes, or in a folder.

A message begins with a date and a time as the phone shows them, and goes on over as many lines as it has.
So a file is read twice: first for the shape of its dates, then for its messages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import cast

from data_prep.sources.base import (
    QUOTE_CHARS,
    SERVICE,
    Bad,
    Item,
    RawChat,
    RawMessage,
    ReadOptions,
    UnusableError,
)
from data_prep.sources.head import Head
from data_prep.sources.tree import Tree, open_tree
from data_prep.sources.whatsapp_words import MARKS, bare, judge
from mlx_persona.errors import PersonaError

name = "whatsapp"
by_sender = True
private = True

LOOKED_AT = 100  # lines of a file, to tell whether it is a chat
TEXTS_LOOKED_AT = 20  # text files of a zip: the others are documents that somebody sent
NAME_CHARS = 100
NAMES = 10_000  # senders that are told apart with care: no group has more members
TRUSTED = 3  # messages after which a strange name is a name

# Files in which other importers may find chats: a folder that has one is searched file by file.
_OTHERS = (".json", ".jsonl", ".zip", ".db", ".mbox", ".csv")
_BEGINNINGS = frozenset("[0123456789٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹०१२३४५६७८९\u200e\u200f\u202a\u202b\u2067\u2068\ufeff")
_M, _S = f"[{MARKS}]{{0,4}}", "[ \u00a0\u202f]"
_LINE = re.compile(
    rf"{_M}(\[?){_M}"
    rf"(\d{{1,4}}){_M}([./-]){_S}?{_M}(\d{{1,2}}){_M}\3{_S}?{_M}(\d{{1,4}})"
    r"([^\d\n\[\]]{1,16})"  # between date and clock: a comma, "at", and in the East the half of the day
    r"(\d{1,2})[:.](\d\d)(?:[:.](\d\d))?"
    rf"([^\d\n\[\]]{{0,14}}?)(\]{_S}?|{_S}-{_S}?|:{_S})"
)
_QUOTES = re.compile('["“”„«»]')
_SPACES = str.maketrans("\u00a0\u202f", "  ")
_NO_LETTERS = re.compile(f"[{MARKS}\\s.,،'’\"״]+")
# The halves of the day, as they are written in lower case without dots and spaces, and the hours that they add.
_MORNING = "am fm ap dop öö sa pg пд дп πμ ص قظ 오전 上午 午前 凌晨 清晨 早上 damanhã"
_LATER = "pm em ip odp ös ch ptg пп μμ م بظ 오후 下午 午後 中午 晚上 datarde danoite"
_HALVES = dict.fromkeys(_MORNING.split(), 0) | dict.fromkeys(_LATER.split(), 12)

_CHAT_FILE = "_chat"
_BOILERPLATE = re.compile(
    r"(?:(?:chat|chat de|discussion|conversation|conversa do|czat|чат) )?whatsapp[ -]?(?:chat)? ?"
    r"(?:with|mit|con|avec|com|met|med|z|с|-) +(?=\S)",
    re.IGNORECASE,
)

# Which of the three parts of a date are year, month and day; in the order of preference.
_Order = tuple[int, int, int]
_DAY_FIRST: _Order = (2, 1, 0)
_ORDERS: tuple[_Order, ...] = (_DAY_FIRST, (2, 0, 1), (0, 1, 2))
_EPOCH = date(1970, 1, 1).toordinal()
_Shape = tuple[str, str, str, bool, str]
# What a message begins with, how it is written, and the hours that its half of the day adds.
_Header = tuple[re.Match[str], _Shape, int | None]


def matches(head: Head) -> bool:
    """A text whose first lines carry such dates and names; a zip with one; a folder with nothing else to read."""
    if head.tree is None:
        return _is_chat(head.text)
    texts = _texts(head.tree)
    with suppress(PersonaError):
        if not head.tree.path.is_dir():
            return any(_is_chat(head.member(text).text) for text in texts[:TEXTS_LOOKED_AT])
        if not any(member.lower().endswith(_OTHERS) for member in head.tree.names):
            return bool(texts) and all(_is_chat(head.member(text).text) for text in texts)
    return False


def read(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Every chat of a file, zip or folder; other text files in a zip or folder are documents that somebody sent."""
    tree = open_tree(path)
    if tree is None:
        yield _chat(Tree(path.parent, (path.name,)), path.name)
        return
    texts = [text for text in _texts(tree) if _is_named(text) or _is_chat(Head(path, tree=tree).member(text).text)]
    if not texts:
        raise PersonaError(
            f"{path} has no chat as WhatsApp exports it", "it must hold _chat.txt or a text with messages"
        )
    yield from (_chat(tree, text) for text in texts)


def _texts(tree: Tree) -> list[str]:
    return [member for member in tree.names if member.lower().endswith(".txt")]


def _is_named(member: str) -> bool:
    stem = PurePosixPath(member).stem.casefold()
    return stem == _CHAT_FILE or "whatsapp" in stem


def _is_chat(text: str) -> bool:
    lines = text.split("\n", LOOKED_AT)[:LOOKED_AT]
    return any((found := _header(line)) and ": " in line[found[0].end() :] for line in lines)


def _chat(tree: Tree, member: str) -> RawChat:
    """A chat by the name of its file, or of its zip or folder where all files have one name."""
    place = PurePosixPath(member)
    title = place.stem
    if title.casefold() == _CHAT_FILE:
        whole = tree.path.resolve()
        title = place.parent.name or (whole.name if whole.is_dir() else whole.stem)
    return RawChat(_writable(_BOILERPLATE.sub("", title, count=1).strip()) or "chat", _messages(tree, member))


def _lines(tree: Tree, member: str) -> Iterator[str]:
    """The lines of a text with their ends; what is no UTF-8 becomes surrogates, to be found later."""
    with tree.open(member) as file:
        data = cast(io.BufferedReader, file)
        wide = data.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")  # as an editor may have saved it
        encoding, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
        with io.TextIOWrapper(data, encoding, errors, newline="\n") as lines:
            yield from lines


def _header(line: str) -> _Header | None:
    """The date and time that a line begins with, if it does."""
    if line[:1] not in _BEGINNINGS:
        return None
    found = _LINE.match(line)
    if found is None:
        return None
    opening, _, separator, _, _, before, _, _, seconds, after, closing = found.groups()
    written = _written(opening, separator, before, seconds is None, after, closing)
    return (found, *written) if written else None


@lru_cache(maxsize=256)
def _written(
    opening: str, separator: str, before: str, short: bool, after: str, closing: str
) -> tuple[_Shape, int | None] | None:
    """How a date and time are written, and the hours that the half of the day adds; None if this is neither."""
    late = _NO_LETTERS.sub("", after).casefold()
    half = _HALVES.get(late or _NO_LETTERS.sub("", before).casefold())
    # Until 2017 iOS wrote a colon after the seconds, and no brackets.
    if (late and half is None) or (opening == "[") != (closing[0] == "]") or (closing[0] == ":" and short):
        return None
    around = before if half is None else f"{before}|" if late else "|"
    return (opening, separator, around, short, closing.strip()), half


@lru_cache(maxsize=256)
def _day(first: str, second: str, third: str, order: _Order) -> int | None:
    """Days since 1970, or None for no date in this order.

    Every month may have 31 days: phones in Persia count other months, and only differences matter.
    """
    parts = (first, second, third)
    year, month, day = (parts[i] for i in order)
    if len(year) not in (2, 4) or len(month) > 2 or len(day) > 2 or not 1 <= int(day) <= 31:
        return None
    with suppress(ValueError):
        return date(int(year) + (2000 if len(year) == 2 else 0), int(month), 1).toordinal() + int(day) - 1 - _EPOCH
    return None


def _clock(hour: str, minute: str, second: str | None, half: int | None) -> int | None:
    """Seconds since midnight, or None for no time."""
    hours, minutes, seconds = int(hour), int(minute), int(second or 0)
    if half is not None and hours <= 12:  # noon and midnight are 12 or 0
        hours = hours % 12 + half
    return 3600 * hours + 60 * minutes + seconds if hours < 24 and minutes < 60 and seconds < 60 else None


@dataclass
class _Trial:
    """How well dates fit one order of their parts."""

    impossible: int = 0
    backwards: int = 0
    latest: int = 0


@dataclass
class _Layout:
    """What a whole file says about its lines.

    Attributes:
        shape: how its dates and times are written; other lines that begin with a date are quotes.
        order: which part of a date is what.
        senders: what stands before the first ": " -> the name, and what more of it to cut off; no name for a notice.
    """

    shape: _Shape | None = None
    order: _Order = _DAY_FIRST
    senders: dict[str, tuple[str | None, str]] = field(default_factory=dict)

    @property
    def ios(self) -> bool:
        """Whether this is an export of iOS: Android has a dash after the time."""
        return self.shape is not None and self.shape[-1] != "-"


def _survey(lines: Iterator[str]) -> _Layout:
    """The first reading: nobody says how dates are written, so all of them must."""
    layout = _Layout()
    trials = {order: _Trial() for order in _ORDERS}
    names: dict[str, tuple[int, str]] = {}
    latest = None
    for line in lines:
        header = _header(line)
        if header is None:
            continue
        found, shape, _ = header
        layout.shape = layout.shape or shape
        if shape != layout.shape:
            continue
        parts = found.group(2, 4, 5)
        if parts != latest:  # once a day
            latest = parts
            for order, trial in trials.items():
                day = _day(*parts, order)
                trial.impossible += day is None
                trial.backwards += day is not None and day < trial.latest
                trial.latest = trial.latest if day is None else day
        _count_name(names, line[found.end() : found.end() + 3 * NAME_CHARS])
    layout.order = min(_ORDERS, key=lambda order: (trials[order].impossible, trials[order].backwards))
    layout.senders = {raw: _sender(raw, *seen) for raw, seen in names.items()}
    return layout


def _count_name(names: dict[str, tuple[int, str]], rest: str) -> None:
    """Count what stands before a line's first ": ", with what always stands between it and the second."""
    raw, colon, more = rest.partition(": ")
    if not colon or len(raw) > NAME_CHARS:
        return
    seen = names.get(raw)
    if seen is None:
        if len(names) < NAMES:
            names[raw] = (1, _further(more))
    else:
        names[raw] = (seen[0] + 1, seen[1] if seen[1] and seen[1] == _further(more) else "")


def _further(text: str) -> str:
    further, colon, _ = text.partition(": ")
    return f"{further}: " if colon and len(further) < NAME_CHARS else ""


def _sender(raw: str, count: int, further: str) -> tuple[str | None, str]:
    """The name in what stands before a ": ".

    "Dr: Who" is a name if every message seems to begin with "Who: "; 'Ann changed the subject to "To do'
    is half of a notice, as its quotation mark is not closed.
    """
    if count >= TRUSTED:
        return _shown(raw + ": " + further.removesuffix(": ") if further else raw), further
    return (None if len(_QUOTES.findall(raw)) % 2 else _shown(raw)), ""


def _shown(raw: str) -> str | None:
    return bare(raw).translate(_SPACES).strip() or None


def _messages(tree: Tree, member: str) -> Iterator[RawMessage | Bad]:
    """The second reading: every message, oldest first as it is in the file."""
    label = _writable(tree.label(member))
    layout = _survey(_lines(tree, member))
    header: _Header | None = None
    held: list[str] = []
    begin = 1
    for number, line in enumerate(_lines(tree, member), 1):
        found = _header(line)
        if found is not None and found[1] == layout.shape:
            if held:
                yield _message(layout, header, held, label, begin)
            begin, header, held = number, found, [line]
        elif header is not None:
            held.append(line)
        elif not held and bare(line).strip():  # the first of the lines before all messages stands for them
            begin, held = number, [line]
    if held:
        yield _message(layout, header, held, label, begin)
    else:
        yield Bad(label, begin, "it has no text", "")


def _message(layout: _Layout, header: _Header | None, held: list[str], file: str, line: int) -> RawMessage | Bad:
    """The message in these lines, of which the first begins with the header."""
    whole = held[0] if len(held) == 1 else "".join(held)
    try:
        if header is None:
            raise UnusableError(
                "before the first message" if layout.shape else "no date and time as in WhatsApp's exports"
            )
        whole.encode()
        time = _time(header, layout.order)
    except UnicodeEncodeError:
        return Bad(file, line, "not UTF-8", _writable(whole[:QUOTE_CHARS].rstrip("\r\n")))
    except UnusableError as error:
        return Bad(file, line, str(error), _writable(whole[:QUOTE_CHARS].rstrip("\r\n")))
    body = whole[header[0].end() :].removesuffix("\n").removesuffix("\r")
    if len(held) > 1:
        body = body.replace("\r\n", "\n")
    sender, text = _split(body, layout)
    if sender is None:
        return RawMessage(bare(body), time=time, kind=SERVICE)
    said, kind = judge(text, layout.ios)
    return RawMessage(said, sender=sender, time=time, kind=kind)


def _time(header: _Header, order: _Order) -> float:
    """Unix seconds; the phone's own time has no zone and is taken as UTC, as only differences matter."""
    first, second, third, hour, minute, seconds = header[0].group(2, 4, 5, 7, 8, 9)
    day, clock = _day(first, second, third, order), _clock(hour, minute, seconds, header[2])
    if day is None or clock is None:
        raise UnusableError("no such date or time")
    return float(86400 * day + clock)


def _split(body: str, layout: _Layout) -> tuple[str | None, str]:
    """Who wrote, or None for a notice, and what."""
    raw, colon, text = body.partition(": ")
    if not colon or "\n" in raw:
        # An editor may have cut off the space after the name of somebody whose first line is empty.
        raw, newline, text = body.partition("\n")
        if not raw.endswith(":"):
            return None, body
        raw, text = raw[:-1], newline + text
    if len(raw) > NAME_CHARS:
        return None, body
    sender, further = layout.senders.get(raw) or _sender(raw, 1, "")
    return sender, text.removeprefix(further)


def _writable(text: str) -> str:
    """A text that can be written as UTF-8: broken bytes become question marks."""
    return text.encode("utf-8", "replace").decode()
