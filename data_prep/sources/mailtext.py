"""What somebody wrote in a mail: its text, without what it quotes and without its signature.

The library mail-parser-reply knows, in fourteen languages, the lines that come before quoted mail and the words
before a signature. Its own way of cutting is not used: it ends a mail at any line that begins with "Thanks, " or
"- ", and its patterns take minutes on a line that is long enough.
"""

from __future__ import annotations

import codecs
import email
import functools
import re
from contextlib import suppress
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from html.parser import HTMLParser

from mlx_persona.errors import PersonaError

# Own words are at the top of a mail; below lies the history of the thread, and no one writes 130,000 characters.
_MOST_CHARS = 1 << 17
# The library's patterns are tried on so much of a line.
_LINE_CHARS = 250
# A closing is one only if no more lines than this follow it.
_SIGNATURE_LINES = 12
# Shorter closings are words of other languages too: Danish "Tak" is a Polish yes.
_CLOSING_CHARS = 5

_FORWARDED = re.compile(r"\s*(?:fwd?|wg|tr|rv|enc)\s*:", re.IGNORECASE)
_DELIMITER = re.compile(r"--|_{20,}")
_RULE = re.compile(r"(?:[-_*=]{5,}.*)?")
_DATED = re.compile(r"@|\d{1,2}[:.]\d{2}|\d{4}")
_COLONS = (":", "：")
# Charsets as they are meant; None for what is a codec of Python's, and no charset of a mail.
_MEANT = {"iso8859-1": "cp1252", "gb2312": "gb18030", "euc_kr": "cp949", "ascii": None} | dict.fromkeys(
    ("unicode-escape", "raw-unicode-escape", "idna", "punycode")
)

_HIDDEN = ("head", "script", "style", "title")
_BREAKS = frozenset(("address", "article", "blockquote", "div", "footer", "form", "header", "hr", "li", "table", "tr"))
_PARAGRAPHS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "ul"))
_NO_TAG = re.compile(r"<(?![A-Za-z/][^<>]*>)")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_DECLARATION = re.compile(r"<[!?][^>]*>")


def body(data: bytes) -> tuple[str, bool]:
    """The text of a mail, plain if there is such a version, and whether anything is attached.

    Args:
        data: the mail, headers and all. Broken charsets and structures are read as far as they can be.
    """
    # The policy of old: header objects of the newer one raise on broken headers, and take a long time.
    text, attached = _read(email.message_from_bytes(data))
    return text.encode("utf-8", "replace").decode("utf-8"), attached


def is_forward(subject: str) -> bool:
    """Whether a mail's Subject, encoded or not, says that it was forwarded."""
    with suppress(ValueError, LookupError, MessageError):
        subject = str(make_header(decode_header(subject)))
    return _FORWARDED.match(subject) is not None


def own_words(text: str) -> str:
    """A mail's text without quotes, the lines before them ("On ... wrote:") and the signature.

    Raises:
        PersonaError: the library that this needs is not there.
    """
    lines = [line.rstrip() for line in text[:_MOST_CHARS].split("\n")]
    lines = _without_signature(_without_quotes(_without_history(lines)))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _without_history(lines: list[str]) -> list[str]:
    """Cut at the first line that begins quoted mail, unless the quotes under it are marked by ">"."""
    cut = [line[:_LINE_CHARS] for line in lines]
    skeleton, header, at = "\n".join(cut), _patterns()[0], 0
    for i, line in enumerate(cut):
        # Only a line near a colon is worth the library's patterns: they are slow.
        if line and line[0] != ">" and any(mark in near for near in cut[i : i + 3] for mark in _COLONS):
            found = header.match(skeleton, at)
            if found and _begins_history(found[0], skeleton[found.end() : found.end() + 5]):
                while i and _RULE.fullmatch(lines[i - 1].strip()):
                    i -= 1
                return lines[:i]
        at += len(line) + 1
    return lines


def _begins_history(found: str, after: str) -> bool:
    """Whether what the library takes for the beginning of quoted mail is likely to be one, with no marks below."""
    # From, Sent, To: three at least. One line such as "Data: ..." is a header to the library, in Polish.
    if sum(":" in line for line in found.split("\n")) >= 3:
        return True
    return found.endswith(_COLONS) and not after.lstrip().startswith(">") and any(c.isdigit() for c in found)


def _without_quotes(lines: list[str]) -> list[str]:
    """Without lines that begin with ">", and without what introduces them."""
    kept: list[str] = []
    quoting = False
    for line in lines:
        if line.startswith(">"):
            if not quoting:
                _drop_introduction(kept)
            quoting = True
        else:
            quoting = quoting and not line
            kept.append(line)
    return kept


def _drop_introduction(lines: list[str]) -> None:
    """Take away the last one to three lines if they end with a colon and introduce a quote.

    They do if the library says so, or, since it does not know all languages, if they have an address or a time.
    """
    end = len(lines)
    while end and not lines[end - 1]:
        end -= 1
    if not end or not lines[end - 1].endswith(_COLONS):
        return
    for begin in range(end - 1, max(end - 4, -1), -1):
        if not lines[begin]:
            return
        # An address is often wrapped away from the rest.
        wrapped = lines[begin].startswith("<") or (begin and lines[begin - 1].endswith("<"))
        said = "\n".join(line[:_LINE_CHARS] for line in lines[begin:end])
        if not wrapped and (_DATED.search(said) or _patterns()[0].fullmatch(said)):
            del lines[begin:]
            return


def _without_signature(lines: list[str]) -> list[str]:
    closing = _patterns()[1]
    written = False
    left = sum(bool(line) for line in lines)
    for i, line in enumerate(lines):
        if _DELIMITER.fullmatch(line):
            return lines[:i]
        left -= bool(line)
        if written and left <= _SIGNATURE_LINES and len(line) <= _LINE_CHARS:
            found = closing.fullmatch(line.strip())
            if found and _is_name(found["name"] or ""):
                return lines[:i]
        written = written or bool(line)
    return lines


def _is_name(text: str) -> bool:
    """Nothing, or up to three words with capitals: "Thanks, Anna" and not "Thanks, see you"."""
    words = text.replace(",", " ").split()
    return len(words) <= 3 and all(word[0].isupper() for word in words)


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The library's: what begins quoted mail; and a line that closes a mail, with the ``name`` in it."""
    try:
        from mailparser_reply import EmailMessage  # type: ignore[import-untyped]
        from mailparser_reply.constants import MAIL_LANGUAGES  # type: ignore[import-untyped]
    except ImportError as error:
        raise PersonaError("reading mail needs mail-parser-reply", "pip install 'mlx-persona[data]'") from error
    header: re.Pattern[str] = EmailMessage("", languages=list(MAIL_LANGUAGES)).HEADER_REGEX
    words = [word for language in MAIL_LANGUAGES.values() for word in language.get("signatures", ())]
    sent = [language["sent_from"] for language in MAIL_LANGUAGES.values() if language.get("sent_from")]
    closings = "|".join(word for word in words if len(word) >= _CLOSING_CHARS)
    closing = rf"(?:{closings})[,.!]?(?P<name>(?:[ ,].*)?)|(?:{'|'.join(sent)}).{{0,60}}"
    return header, re.compile(closing, re.IGNORECASE)


def _read(part: Message) -> tuple[str, bool]:
    """The text of a part, and whether there is anything else in it."""
    kind = part.get_content_type()
    payload = part.get_payload()
    if isinstance(payload, list):
        children = [child for child in payload if isinstance(child, Message)]
        if kind == "multipart/alternative":
            return _best(children)
        if not kind.startswith("multipart/"):
            return "", True  # a mail as an attachment
        found = [_read(child) for child in children]
        return "\n".join(text for text, _ in found if text), any(attached for _, attached in found)
    if kind not in ("text/plain", "text/html") or part.get_content_disposition() == "attachment":
        return "", True
    data = part.get_payload(decode=True)
    text = _decode(data if isinstance(data, bytes) else b"", part.get_content_charset())
    if kind == "text/html":
        return html_text(text), False
    if str(part.get_param("format")).lower() == "flowed":
        return _unwrap(text, delete_space=str(part.get_param("delsp")).lower() == "yes"), False
    return text, False


def _best(versions: list[Message]) -> tuple[str, bool]:
    """The first of several versions of one text that has words in it, the plain one before others."""
    attached = False
    for version in sorted(versions, key=lambda v: v.get_content_type() != "text/plain"):
        text, more = _read(version)
        if text.strip():
            return text, more
        attached |= more
    return "", attached


def _decode(data: bytes, charset: str | None) -> str:
    """Bytes as text: by their charset, else as UTF-8, else with replacement characters. Newlines end the lines."""
    named = _codec(charset or "")
    for codec in (named, "utf-8"):
        with suppress(ValueError):
            if codec:
                return data.decode(codec).replace("\r\n", "\n").replace("\r", "\n")
    return data.decode(named or "cp1252", "replace").replace("\r\n", "\n").replace("\r", "\n")


@functools.lru_cache(maxsize=64)
def _codec(charset: str) -> str | None:
    """Python's name of a charset, or None where it names none."""
    try:
        b"ab".decode(charset, "replace")  # refuses codecs that make no text
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        return None
    return _MEANT.get(name, name)


def _unwrap(text: str, *, delete_space: bool) -> str:
    """Text of the format "flowed": a line that ends with a space goes on in the next one (RFC 3676)."""
    paragraphs: list[list[str]] = []
    open_ended = False
    for line in text.split("\n"):
        quoted = line.startswith(">")
        said = line if quoted else line.removeprefix(" ")
        soft = said.endswith(" ") and said != "-- " and not quoted
        piece = said[:-1] if soft and delete_space else said
        if open_ended and not quoted and said != "-- ":
            paragraphs[-1].append(piece)
        else:
            paragraphs.append([piece])
        open_ended = soft
    return "\n".join("".join(pieces) for pieces in paragraphs)


def html_text(html: str) -> str:
    """The words of an HTML page, a line for each of its lines; quoted ones begin with ">"."""
    html = html[:_MOST_CHARS]
    # Unfinished comments and tags would each be searched to the end of the page.
    end = html.rfind("-->") + 3
    html = _COMMENT.sub("", html[:end]) + html[end:].partition("<!--")[0] if end > 2 else html.partition("<!--")[0]
    end = html.rfind(">") + 1
    html = _DECLARATION.sub("", html[:end]) + html[end:]
    parser = _Words()
    parser.feed(_NO_TAG.sub("&lt;", html))
    parser.close()
    return parser.text()


class _Words(HTMLParser):
    """Collects the words of a page in lines."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[str] = []
        self._pieces: list[str] = []
        self._hidden: str | None = None  # the tag in which nothing is shown
        self._quotes = 0
        self._as_it_is = False

    def text(self) -> str:
        """All lines so far."""
        self._break()
        return "\n".join(self._lines)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that hides, breaks the line, quotes, or says nothing about the text."""
        if tag == "body":
            self._hidden = None  # some heads never end
        elif tag in _HIDDEN:
            self._hidden = self._hidden or tag
        elif tag == "br":
            self._break(always=True)
        elif tag in _BREAKS or tag in _PARAGRAPHS:
            self._break()
            # Outlook makes every line a paragraph, of its own class.
            if tag in _PARAGRAPHS and not any(name == "class" and "Mso" in (value or "") for name, value in attrs):
                self._blank()
        self._quotes += tag == "blockquote"
        self._as_it_is |= tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        """What a tag began ends."""
        if tag == self._hidden:
            self._hidden = None
        elif tag in _BREAKS or tag in _PARAGRAPHS:
            self._break()
        if tag == "blockquote":
            self._quotes = max(0, self._quotes - 1)
        self._as_it_is &= tag != "pre"

    def handle_data(self, data: str) -> None:
        """Words, or white space between tags."""
        if self._hidden:
            return
        first, *others = data.split("\n") if self._as_it_is else [data]
        self._pieces.append(first)
        for line in others:
            self._break(always=True)
            self._pieces.append(line)

    def _break(self, *, always: bool = False) -> None:
        """End the line; an empty one counts only if it was meant."""
        line = " ".join("".join(self._pieces).split())
        if line or always:
            self._lines.append(f"> {line}" if self._quotes else line)
        self._pieces.clear()

    def _blank(self) -> None:
        if self._lines and self._lines[-1]:
            self._lines.append("")
