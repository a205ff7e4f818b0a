"""What is left out, and why: each function returns the reason, or None to keep.

A message that is nothing goes; a reply (a whole turn of the person) that is not to be learned stays as context.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

from data_prep.sessions import Turn
from data_prep.sources.base import ASSISTANT, FORWARDED, TOOL

# A dump is a reply of which at least this share of the characters is on lines that look like code.
CODE_SHARE = 0.7
# So many lines that could be code are code; one that can be nothing else is enough.
CODE_LINES = 3
# No line needs more characters to be known for what it is, and no pattern can then be slow.
_LINE_CHARS = 300

# A URL ends at white space, and before letters that are written without it and emoji.
_URL_END = r"\s<>\"\u2600-\u27bf\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uffef\U0001f000-\U0001faff"
_URL = re.compile(
    rf"(?:[a-z][a-z0-9+.-]{{1,15}}://|\bwww\.)[^{_URL_END}]+|\b(?:[a-z0-9-]{{1,63}}\.){{1,8}}[a-z]{{2,15}}/[^{_URL_END}]*",
    re.IGNORECASE,
)

_LEVELS = ("TRACE", "DEBUG", "INFO", "NOTICE", "WARN", "ERROR", "FATAL", "CRITICAL")
_LEVEL = f"(?:{'|'.join(_LEVELS)})(?:ING)?"
# Nobody says such a line.
_SURELY_CODE = re.compile(
    rf"""\s*(?:
      Traceback\ \(most\ recent  |  File\ "[^"]+",\ line\ \d
    | at\ (?:async\ )?[\w$<>/@-]+(?:\.[\w$<>\[\]-]+)+\ ?\(  |  at\ .*:\d+:\d+\)?$
    | (?:Caused\ by:\ )?(?:(?:[a-z]\w*\.)+[A-Z]\w*|[A-Z]\w+)(?:Error|Exception)\b(?::|$)
    | thread\ '.*'\ panicked\ at  |  goroutine\ \d+\ \[  |  \#\d+\s+0x[0-9a-f]
    | \W{{0,2}}(?:\d{{4}}[-/.]\d\d[-/.]\d\d[T ])?\d\d:\d\d:\d\d\S*(?:\ +\S+){{0,2}}?\ +\S*?\b{_LEVEL}\b
    | [A-Z][a-z]{{2}}\ [\ \d]\d\ \d\d:\d\d:\d\d\ \S+\ [\w.-]+\[\d+\]:
    | diff\ --git[ ]  |  @@\ -\d+(?:,\d+)?\ \+\d  |  (?:---|\+\+\+)\ [ab]/
    | \#\s*(?:include\s*[<"]|define\ \w|ifn?def\ |pragma\ )  |  \#!/  |  <\?(?:xml|php)\b  |  <!DOCTYPE\b
    | (?:async\ )?def\ \w+\s?\(.*\).*:  |  (?:export\ |async\ )*function\b\s*\w*\s?\(.*\{{
    | (?:public|private|protected|static)\ [\w<>\[\],\ ]+(?:\(.*\).*[{{;]|\{{)$
    | [\[{{][\s\[{{]*"[^"]*"\s*:
    | SELECT\ .*\ FROM[ ]  |  (?:INSERT\ INTO|CREATE\ TABLE|DELETE\ FROM)\ \w  |  UPDATE\ \w+\ SET[ ]
    | [\w-]+@[\w.-]+:\S*[$\#](?:\ |$)
    )""",
    re.VERBOSE,
)
# Somebody could say such a line; several of them, and hardly anything else, are code.
_MAYBE_CODE = re.compile(
    r"""\s*(?:
      import\ [\w.]+(?:\ as\ \w+)?(?:,\ ?[\w.]+)*;?$  |  from\ [\w.]+\ import\ \S
    | (?:class|struct|interface|enum|trait|impl|fn|func)\ \w.*[:{]$
    | (?:if|elif|for|while|switch|catch|with|else\ if)\b.*[:{]$  |  (?:\}\ ?)?(?:else|try|finally|do)\s?[:{]$
    | return(?:\ [\w.'"\[\](){}+*/-]+)?;?$  |  (?:const|let|var)\ [\w{}\[\],\ ]+=
    | [\]}][\]});,]*$  |  [{\[]$  |  .*[\w)\]=>]\ ?\{$
    | .*[=(.\[].*[\w)\]}"'`]\s?;(?:\s*//.*)?$  |  [\w-]+:\ ?[^:;]+;$
    | [\w.$\[\]"']+\s?(?:[-+*/|&:]|:\ ?\w+\s)?=\s?(?:[\d"'\[{(-]|\w+[.(\[]|(?:true|false|null|None|True|False|new)\b)
    | [\w.$]+\(.*\);?$  |  </?[a-zA-Z][\w-]*(?:\s[^<>]*)?/?>
    | "[\w.$\ -]+"\s?:\s?\S  |  //|/\*|\*/|<!--
    | >>>\ \S|\$\ [a-z]  |  .*(?:\$[{(]|"\$\w)  |  (?:sudo|npm|pip3?|git|docker|kubectl|apt-get)\ [\w-]+
    )""",
    re.VERBOSE,
)
# Every dump has one of these somewhere; most speech has none, and is done with quickly.
_TRACES = (*"{[(;=<>`#$@", ":\n", "import ", "Error", "Exception", "panicked", *_LEVELS)
_TRACE = re.compile("|".join(map(re.escape, _TRACES)))
_FENCE = "```"
_DIFF = ("diff --git", "@@ ", "--- ", "+++ ")
_COMMENTS = ("# ", "* ", "-- ")


@dataclass(frozen=True, slots=True)
class Rules:
    """Which replies are not trained on; each rule has a value that turns it off, and that is its default.

    Attributes:
        min_chars: shorter replies, in characters; 0 for none.
        meta_patterns: replies that contain one of these, in upper or lower case.
        max_chars: longer replies, in characters; 0 for none.
        links: replies of nothing but URLs.
        code: pasted code, logs and stack traces.
    """

    min_chars: int = 0
    meta_patterns: tuple[str, ...] = ()
    max_chars: int = 0
    links: bool = False
    code: bool = False


def message_reason(turn: Turn) -> str | None:
    """Why a single message has no place in a conversation: tool traffic, no words of anybody's, or nothing in it."""
    if turn.role == TOOL:
        return "tool_call"
    if turn.kind is not None and turn.kind != FORWARDED:
        return turn.kind
    return None if turn.text else "empty"


def reply_reason(turn: Turn, rules: Rules) -> str | None:
    """Why a reply (a whole joined turn) is not trained on; the first that holds.

    In this order: marked so in the export or forwarded, meta, links, too long, code, short.
    """
    return (
        turn.aside
        or (meta(turn.text, rules.meta_patterns) if rules.meta_patterns else None)
        or (links_only(turn.text) if rules.links else None)
        or (too_long(turn.text, rules.max_chars) if rules.max_chars else None)
        or (code_dump(turn.text) if rules.code else None)
        or ("short" if is_short(turn, rules.min_chars) else None)
    )


def judge(turn: Turn, rules: Rules) -> Turn:
    """The turn, with the reason why it is set aside if it is a reply and there is one."""
    if turn.role != ASSISTANT:
        return turn
    reason = reply_reason(turn, rules)
    return turn if reason == turn.aside else replace(turn, aside=reason)


def is_short(turn: Turn, min_chars: int) -> bool:
    """Whether a turn has fewer characters than that."""
    return len(turn.text) < min_chars


def meta(text: str, patterns: tuple[str, ...]) -> str | None:
    """``meta`` if the text contains one of the patterns, in upper or lower case."""
    folded = text.casefold()
    return "meta" if any(p and p.casefold() in folded for p in patterns) else None


def too_long(text: str, max_chars: int) -> str | None:
    """``long`` if the text has more characters than that."""
    return "long" if len(text) > max_chars else None


def links_only(text: str) -> str | None:
    """``links`` if the text is nothing but URLs, white space and punctuation. An emoji is something."""
    rest = without_urls(text)
    return "links" if rest != text and all(_says_nothing(c) for c in rest) else None


def without_urls(text: str) -> str:
    """The text without ``https://...``, ``www....`` and ``site.org/...``."""
    return _URL.sub("", text) if "/" in text or "www." in text.casefold() else text


def _says_nothing(char: str) -> bool:
    if char.isascii():
        return not char.isalnum()
    return unicodedata.category(char)[0] in "PZC"


def code_dump(text: str) -> str | None:
    """``code`` if the text is pasted code, a log or a stack trace, and hardly anything else.

    Line by line: a line is code if it looks so (``_SURELY_CODE``, ``_MAYBE_CODE``), or lies in a fenced block or
    a diff; between lines of code, indented lines and comments are code too. The text is a dump if all these
    hold ``CODE_SHARE`` of its characters, and one of them is surely code or ``CODE_LINES`` may be.
    """
    if _TRACE.search(text) is None:
        return None
    surely = maybe = indented = code_chars = chars = 0
    diff = False
    for line, fenced in _lines(text):
        head = without_urls(line[:_LINE_CHARS]).rstrip()
        sure = _SURELY_CODE.match(head) is not None
        diff = diff or (sure and head.startswith(_DIFF))
        inside = fenced or (diff and line[0] in "+- ")
        looks = sure or inside or _MAYBE_CODE.match(head) is not None
        deep = not looks and line[0] in " \t"
        surely, maybe, indented = surely + sure, maybe + looks, indented + deep
        size = len(line.strip())
        chars += size
        code_chars += size * (looks or deep or line.startswith(_COMMENTS))
    enough = surely or (maybe and maybe + indented >= CODE_LINES)
    return "code" if enough and code_chars >= CODE_SHARE * chars else None


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """The lines that are not blank, and whether each lies in a fenced block; without the fences."""
    fenced = False
    for line in text.splitlines():
        opens = not fenced and line.lstrip().startswith(_FENCE)
        closes = (fenced or (opens and len(line.strip()) > len(_FENCE))) and line.rstrip().endswith(_FENCE)
        bare = line.replace(_FENCE, "")
        if bare.strip() and not (opens and not closes and bare.strip().isalnum()):  # ```python
            yield bare, fenced
        fenced = (fenced or opens) and not closes


def untrained_reason(turn: Turn) -> str:
    """Why a turn goes, when no reply of its conversation is trained on."""
    return turn.aside or "no_trained_reply"


def tail_reason(turn: Turn) -> str:
    """Why a turn after the last trained reply goes."""
    return turn.aside or "unanswered"


def content_key(turns: list[Turn]) -> bytes:
    """What two conversations share when one is an exact duplicate of the other: a hash of all roles and texts."""
    # With lengths, no text can look like two turns.
    whole = "".join(f"{turn.role} {len(turn.text)} {turn.text}" for turn in turns)
    return hashlib.blake2b(whole.encode("utf-8"), digest_size=16).digest()
