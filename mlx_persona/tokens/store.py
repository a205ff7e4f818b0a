"""Rows as flat arrays, in memory or mapped from disk: a million of them are no Python objects."""

from __future__ import annotations

import os
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlx_persona.tokens.batches import Row

# What is gathered before it is written.
_CHUNK_ROWS = 4096
ARRAYS = ("ids", "bits", "offsets", "weights")


class RowSequence(Sequence[Row]):
    """Rows that are made when they are asked for, and what a plan needs of all of them.

    Attributes:
        lengths: tokens of each row (R,).
        weights: how often each is drawn (R,).
    """

    lengths: NDArray[np.int32]
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        places = range(len(self))[index]
        return self._row(places) if isinstance(places, int) else [self._row(i) for i in places]

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return int(self.lengths.sum(dtype=np.int64))

    @abstractmethod
    def _row(self, index: int) -> Row:
        """Row ``index``, from 0 on."""


@dataclass(frozen=True, eq=False)
class Stored(RowSequence):
    """Rows end to end.

    Attributes:
        ids: the tokens of all rows (N,), 16 bits wide where the vocabulary allows.
        bits: which of them are targets, eight to a byte (ceil(N / 8),).
        offsets: where each row begins, and the last one ends (R + 1,).
    """

    ids: NDArray[Any]
    bits: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", np.diff(self.offsets).astype(np.int32))

    def _row(self, index: int) -> Row:
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        first = start // 8
        mask = np.unpackbits(self.bits[first : -(-end // 8)])[start - 8 * first : end - 8 * first]
        return Row(self.ids[start:end].astype(np.int32), mask.astype(np.bool_), float(self.weights[index]))

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Stored:
        """Rows put into memory."""
        lengths = [len(row.ids) for row in rows]
        return cls(
            np.concatenate([np.zeros(0, np.int32), *(row.ids for row in rows)]),
            np.packbits(np.concatenate([np.zeros(0, np.bool_), *(row.mask for row in rows)])),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            np.asarray([row.weight for row in rows], np.float64),
        )

    @classmethod
    def open(cls, folder: Path) -> Stored:
        """Rows that :func:`write_rows` wrote, mapped.

        Raises:
            OSError, ValueError: files are missing, cut off, or do not belong together.
        """
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in ARRAYS}
        for name in ("offsets", "weights"):  # small, and needed whole
            arrays[name] = np.array(arrays[name])
        stored = cls(**arrays)
        count = int(stored.offsets[-1])
        found = (len(stored.ids), len(stored.bits), len(stored.weights))
        if found != (count, -(-count // 8), len(stored)):
            raise ValueError(f"{folder} must hold {count} tokens of {len(stored)} rows, got {found}")
        return stored


class Joined(RowSequence):
    """Several collections of rows, one behind the other."""

    def __init__(self, parts: Sequence[RowSequence]) -> None:
        self._parts = parts
        self._firsts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        self.lengths = np.concatenate([part.lengths for part in parts])
        self.weights = np.concatenate([part.weights for part in parts])

    def _row(self, index: int) -> Row:
        part = bisect_right(self._firsts, index) - 1
        return self._parts[part][index - self._firsts[part]]


class _Growing:
    """A one-dimensional .npy file that is written piece by piece."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self._file, self._dtype, self._count = path.open("wb"), np.dtype(dtype), 0
        self._header()

    def _header(self) -> None:
        # NumPy leaves room for the shape to grow, so the header that is written last is as long as the first.
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count,)}
        np.lib.format.write_array_header_1_0(self._file, described)

    def write(self, values: NDArray[Any]) -> None:
        self._file.write(values.astype(self._dtype).tobytes())
        self._count += len(values)

    def close(self, whole: bool) -> None:
        with self._file:
            if whole:
                self._file.seek(0)
                self._header()
                self._file.flush()
                os.fsync(self._file.fileno())


def write_rows(folder: Path, rows: Iterable[Row], vocabulary: int) -> None:
    """Write rows as they come into the .npy files that :meth:`Stored.open` maps; few are in memory at a time.

    Args:
        folder: where to; made if need be.
        rows: the rows.
        vocabulary: all ids are below it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    width = np.uint16 if vocabulary <= 1 << 16 else np.int32
    types = dict(zip(ARRAYS, (width, np.uint8, np.int64, np.float64), strict=True))
    files = {name: _Growing(folder / f"{name}.npy", dtype) for name, dtype in types.items()}
    end, left = 0, np.zeros(0, np.bool_)  # tokens so far, and the mask's last bits that fill no byte
    coming = iter(rows)
    whole = False
    try:
        files["offsets"].write(np.zeros(1))
        while chunk := list(islice(coming, _CHUNK_ROWS)):
            stored = Stored.of(chunk)
            flags = np.concatenate([left, *(row.mask for row in chunk)])
            bytes_full = len(flags) // 8 * 8
            files["ids"].write(stored.ids)
            files["bits"].write(np.packbits(flags[:bytes_full]))
            files["offsets"].write(stored.offsets[1:] + end)
            files["weights"].write(stored.weights)
            left, end = flags[bytes_full:], end + int(stored.offsets[-1])
        files["bits"].write(np.packbits(left))
        whole = True
    finally:
        for file in files.values():
            file.close(whole)
