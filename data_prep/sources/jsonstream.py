"""Walking through a JSON file of any size, holding only the value at hand.

The caller says what to do with each member: take the value, step into it, or pass over it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from mlx_persona.errors import PersonaError

_CHUNK = 1 << 16
# No token but a string or a number is longer; one that the end of the text cuts in two is no error yet.
_TOKEN = 16
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class JsonStream:
    """A cursor in a JSON text.

    Args:
        file: read from where it stands.
        name: what to call it in errors.

    Every method raises PersonaError, with file, line and column, for what is no JSON or no UTF-8.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False
        self._line, self._counted = 1, 0  # the line at this place of _text
        self._column = 0  # characters of its first line that were let go

    @property
    def line(self) -> int:
        """The line of the next value."""
        self.peek()
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def peek(self) -> str:
        """The first character of what comes next, empty at the end."""
        next_one = self._text[self._at : self._at + 1]
        if next_one and next_one not in " \t\r\n":  # called often where it already stands
            return next_one
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more(_CHUNK):
                return self._text[self._at : self._at + 1]

    def quote(self, chars: int) -> str:
        """The first characters of what comes next."""
        self.peek()
        while len(self._text) - self._at < chars and self._more(_CHUNK):
            pass
        return self._text[self._at : self._at + chars]

    def value(self) -> object:
        """The next value, whole."""
        self.peek()
        size = _CHUNK
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise PersonaError(f"{self._name}:{self.line}: not JSON (nested too deeply)") from None
            except json.JSONDecodeError as error:
                # What is broken in its middle, and not at the end of what was read, stays broken.
                near = len(self._text) - error.pos < _TOKEN
                in_string = error.msg.startswith("Unterminated string")  # its position is where it began
                if not ((near or in_string) and self._more(size)):
                    raise self._error(error.msg, error.pos) from None
            except ValueError as error:  # a number of more digits than Python takes
                raise self._error(str(error), self._at) from None
            else:
                # What ends where the text read so far ends may go on: 12 may be 123.
                if end < len(self._text) or not self._more(size):
                    self._at = end
                    return found
            size *= 2  # so that a value of any size is tried a few times only

    def elements(self) -> Iterator[None]:
        """Step through an array: between two steps the caller must take, or pass over, one value."""
        return self._steps("[", "]")

    def members(self) -> Iterator[str]:
        """Step through an object: after each key the caller must take, or pass over, its value."""
        for _ in self._steps("{", "}"):
            if self.peek() != '"':
                raise self._error("Expecting property name enclosed in double quotes", self._at)
            key = self.value()
            self._expect(":")
            yield str(key)

    def end(self) -> None:
        """Nothing but white space may follow."""
        if self.peek():
            raise self._error("Extra data", self._at)

    def _steps(self, opening: str, closing: str) -> Iterator[None]:
        self._expect(opening)
        if self.peek() == closing:
            self._at += 1
            return
        while True:
            yield None
            if self.peek() == closing:
                self._at += 1
                return
            self._expect(",")

    def _expect(self, mark: str) -> None:
        if self.peek() != mark:
            raise self._error(f"Expecting '{mark}'", self._at)
        self._at += 1

    def _more(self, size: int) -> bool:
        """Read on; what lies before the cursor is let go. False at the end of the file."""
        if self._ended:
            return False
        data = self._file.read(size)
        self._ended = not data
        self._line += self._text.count("\n", self._counted, self._at)
        begin = self._text.rfind("\n", 0, self._at) + 1
        self._column = self._at - begin if begin else self._column + self._at
        self._text, self._at, self._counted = self._text[self._at :], 0, 0
        try:
            self._text += self._decode.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            # The decoder may have kept up to three bytes of the read before; no line ends among them.
            line = self._line + self._text.count("\n") + error.object.count(b"\n", 0, error.start)
            raise PersonaError(f"{self._name}:{line}: not UTF-8") from error
        return True

    def _error(self, message: str, position: int) -> PersonaError:
        line = self._line + self._text.count("\n", self._counted, position)
        begin = self._text.rfind("\n", 0, position) + 1
        column = position - begin + 1 if begin else self._column + position + 1
        return PersonaError(f"{self._name}:{line}:{column}: not JSON ({message})")
