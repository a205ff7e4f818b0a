"""Atomic writes: a reader sees the old file or the new one, never half of it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_persona.errors import PersonaError


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, making its folder where needed."""
    write_pieces(path, (text,))


def write_pieces(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file atomically, piece by piece, so that the whole text is never in memory."""
    write_bytes(path, (piece.encode() for piece in pieces))


def write_bytes(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file atomically, piece by piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_space(folder: Path, needed: int, what: str, hint: str) -> None:
    """Check that a folder's disk (or that of the nearest one above it that exists) has room.

    Args:
        folder: where it is to be written.
        needed: bytes.
        what: what needs them, as the message begins: ``this run``.
        hint: the way out.

    Raises:
        PersonaError: with how much is needed and how much is free.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise PersonaError(
            f"{what} needs {needed / 1e9:.2f} GB on disk, but {folder} has {free / 1e9:.2f} GB free", hint
        )


# A file-size limit is a full disk by another name; mlx reports both as RuntimeError, without a number.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name and give it its own at the end.

    What was at ``path`` is replaced only once the new folder is whole.

    Raises:
        PersonaError: the disk is full or not writable; what was there is unharmed.
    """
    part, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if path.exists():
            path.replace(old)
        part.replace(path)
    except (OSError, RuntimeError) as error:
        if old.exists() and not path.exists():
            old.replace(path)
        reason = getattr(error, "strerror", None) or str(error)
        full = getattr(error, "errno", None) in _FULL
        hint = "free some disk space; what was there is unharmed" if full else None
        raise PersonaError(f"cannot write {path}: {reason}", hint) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
