"""The files of a zip or folder, read as streams: nothing is unpacked, so no name in a zip can lead anywhere."""

from __future__ import annotations

import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, BinaryIO, cast

from mlx_persona.errors import PersonaError

# A zip's member may unpack to this many bytes, or to this many times its packed size if that is more.
# Chats pack 3 to 30 times; bombs begin at a thousand.
_FREE_BYTES = 64 << 20
_MOST_RATIO = 300
_PROBLEMS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, LookupError, NotImplementedError, RuntimeError, OSError, ValueError),
)


@dataclass(frozen=True)
class Tree:
    """The names of all files, with "/" between folders, sorted; hidden ones are left out."""

    path: Path
    names: tuple[str, ...]

    def members(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        """The files that a pattern fits, if everything lies in the folder that its group ``top`` is; else none.

        So an export is known inside one more folder too, and a folder of several exports is not taken for one.
        """
        found = [match for name in self.names if (match := pattern.fullmatch(name))]
        top = min((match["top"] for match in found), key=len, default="")
        if not all(name.startswith(top) for name in self.names):
            return []
        return [match for match in found if match["top"] == top]

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Read one file; raises PersonaError if it cannot be read or unpacks to far too much."""
        try:
            if self.path.is_dir():
                with (self.path / name).open("rb") as file:
                    yield file
                return
            with self._archive.open(name) as member:
                most = max(_FREE_BYTES, _MOST_RATIO * self._archive.getinfo(name).compress_size)
                yield cast(BinaryIO, io.BufferedReader(_Limited(member, most), 1 << 16))
        except PersonaError:
            raise
        except _PROBLEMS as error:
            raise PersonaError(f"cannot read {self.label(name)}: {error}") from error

    def label(self, name: str) -> str:
        """What to call a file in messages."""
        return str(self.path / name)

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        # Kept open: an export of thousands of chats and photos takes a second to list. It closes with the tree.
        return zipfile.ZipFile(self.path)


class _Limited(io.RawIOBase):
    """A stream that refuses to give more than so many bytes."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._left = file, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("it unpacks to hundreds of times its size, as a zip bomb does")
        buffer[: len(data)] = data
        return len(data)


def open_tree(path: Path) -> Tree | None:
    """The files of a folder or zip, or None for any other file.

    Raises:
        PersonaError: a folder or zip that cannot be read.
    """
    try:
        if path.is_dir():
            next(path.iterdir(), None)  # rglob would be silent about a folder that must not be listed
            names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        else:
            return None
    except PermissionError as error:
        raise denied(path, error.strerror) from error
    except _PROBLEMS as error:
        raise PersonaError(f"cannot read {path}: {error}") from error
    return Tree(path, tuple(sorted(name for name in names if not _junk(name))))


def _junk(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/")) or name.startswith("__MACOSX/")


def denied(path: Path, reason: object) -> PersonaError:
    """The error for what the system does not let us read; macOS guards what Messages keeps."""
    guarded = path.name == "chat.db" or "Library/Messages" in path.absolute().as_posix()
    hint = (
        "macOS shows Messages only to programs with Full Disk Access: add your terminal in System Settings > "
        "Privacy & Security > Full Disk Access, and start it anew"
    )
    return PersonaError(f"cannot read {path}: {reason}", hint if guarded else None)
