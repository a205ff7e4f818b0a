"""Reading GGUF files: metadata, and tensors as MLX arrays.

``mx.load`` reads GGUF too, but expands every K-quantized tensor to 16 bits at once and does not tell a
tensor's type. Here a tensor is read when it is asked for, and what MLX's affine quantization (32 weights
to a group: ``scale * q + bias``) can express stays in 4 or 8 bits. Layouts: the GGUF specification.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_persona.errors import PersonaError

GROUP = 32
# GGUF's names of tensor types, by number; those that cannot be read are here to be named in errors.
TENSOR_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K"},
    **{13: "Q5_K", 14: "Q6_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S"},
    **{22: "IQ2_S", 23: "IQ4_XS", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"},
}
# (weights, bytes) of one block.
BLOCKS = {
    **{"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q8_0": (32, 34)},
    **{"Q4_K": (256, 144), "Q6_K": (256, 210)},
}
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9

Bytes = NDArray[np.uint8]
Packed = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies. ``shape`` is in MLX's order: (rows, columns)."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class GGUFFile:
    """An open GGUF file: its metadata and its tensors by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    data: mmap.mmap

    def load(self, name: str) -> dict[str, mx.array]:
        """A tensor's arrays: ``{"weight"}``, or ``{"weight", "scales", "biases"}`` (4 or 8 bits, groups of 32).

        Q4_0, Q4_1, Q8_0, F16 and F32 are kept exactly. A Q4_K scale is rounded to 16 bits once more; Q6_K and
        BF16 become F16.

        Raises:
            PersonaError: a tensor type that cannot be read.
        """
        tensor = self.tensors[name]
        blocks = np.frombuffer(self.data, np.uint8, tensor.size, tensor.start).reshape(-1, BLOCKS[tensor.kind][1])
        arrays = _READERS[tensor.kind](blocks)
        rows = tensor.shape[:-1]
        return {key: mx.array(value.reshape(*rows, -1)) for key, value in arrays.items()}


def bits_of(kind: str) -> int | None:
    """Bits per weight in MLX's affine quantization, or None for a type that becomes 16 or 32 bits."""
    return {"Q4_0": 4, "Q4_1": 4, "Q4_K": 4, "Q8_0": 8}.get(kind)


class _Cursor:
    """A position in the header that cannot leave the file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise PersonaError(f"{self.path} is truncated or corrupt: its header does not end", _AGAIN)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        try:
            return self.take(self.number("<Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise PersonaError(f"{self.path} is corrupt: its header holds text that is not UTF-8", _AGAIN) from error

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            if inner in _SCALARS:
                form = _SCALARS[inner]
                raw = self.take(struct.calcsize(form) * count)
                return list(struct.unpack(f"<{count}{form[1]}", raw))
            return [self.value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise PersonaError(f"{self.path} is corrupt: metadata of unknown type {kind}", _AGAIN)
        return self.number(_SCALARS[kind])


_AGAIN = "get the file again"


@contextmanager
def open_gguf(path: Path) -> Iterator[GGUFFile]:
    """Open a GGUF file and read its header.

    Raises:
        PersonaError: no such file, not GGUF, an unknown version, a tensor type that cannot be read, truncated.
    """
    if not path.is_file():
        raise PersonaError(f"no such file: {path}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise PersonaError(f"{path} is not a GGUF file")
        # Not closed by hand: that fails while an array still looks into it, and would hide the error in flight.
        yield _read_header(path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read_header(path: Path, data: mmap.mmap) -> GGUFFile:
    cursor = _Cursor(data, path)
    cursor.take(4)
    version = cursor.number("<I")
    if version not in (2, 3):
        raise PersonaError(f"{path}: the GGUF version must be 2 or 3 (little-endian), got {version}")
    tensor_count, value_count = cursor.number("<Q"), cursor.number("<Q")
    metadata = {}
    for _ in range(value_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.number("<I"))
    entries = []
    for _ in range(tensor_count):
        name, dimensions = cursor.text(), cursor.number("<I")
        shape = tuple(reversed([cursor.number("<Q") for _ in range(dimensions)]))
        entries.append((name, cursor.number("<I"), shape, cursor.number("<Q")))
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, number, shape, offset in entries:
        tensors[name] = _tensor(path, name, number, shape, start + offset)
        if tensors[name].start + tensors[name].size > len(data):
            raise PersonaError(f"{path} is truncated or corrupt: tensor {name} reaches past its end", _AGAIN)
    return GGUFFile(path, metadata, tensors, data)


def _tensor(path: Path, name: str, number: int, shape: tuple[int, ...], start: int) -> Tensor:
    kind = TENSOR_TYPES.get(number, f"number {number}")
    if kind not in BLOCKS:
        raise PersonaError(
            f"{path}: tensor {name} is of type {kind}, which cannot be read",
            f"take a file whose tensors are {', '.join(BLOCKS)}",
        )
    weights, size = BLOCKS[kind]
    if not shape or shape[-1] % weights:
        raise PersonaError(f"{path}: the rows of tensor {name} ({kind}) must be multiples of {weights}, got {shape}")
    return Tensor(name, kind, shape, start, int(np.prod(shape, dtype=object)) // weights * size)


def _half(block: Bytes) -> NDArray[np.float16]:
    """The 16-bit float in the two bytes of each row, as (blocks, 1)."""
    return np.ascontiguousarray(block).view("<f2")


def _nibbles(quants: Bytes) -> Bytes:
    """(blocks, n) bytes -> (blocks, 2 n) values: all low halves, then all high halves."""
    return np.concatenate([quants & 15, quants >> 4], axis=-1)


def _pack4(values: Bytes) -> NDArray[np.uint32]:
    """4-bit values in order -> MLX's words of eight, the first in the lowest bits."""
    pairs = np.ascontiguousarray(values[..., 0::2] | values[..., 1::2] << 4)
    return pairs.view("<u4")


def _dense(form: str) -> Callable[[Bytes], Packed]:
    return lambda blocks: {"weight": np.ascontiguousarray(blocks).view(form)}


def _bf16(blocks: Bytes) -> Packed:
    bits = np.ascontiguousarray(blocks).view("<u2").astype(np.uint32) << 16
    return {"weight": bits.view(np.float32).astype(np.float16)}


def _q4_0(blocks: Bytes) -> Packed:
    """``d (q - 8)``."""
    scale = _half(blocks[:, :2])
    return {"weight": _pack4(_nibbles(blocks[:, 2:])), "scales": scale, "biases": scale * np.float16(-8)}


def _q4_1(blocks: Bytes) -> Packed:
    """``d q + m``."""
    packed = _pack4(_nibbles(blocks[:, 4:]))
    return {"weight": packed, "scales": _half(blocks[:, :2]), "biases": _half(blocks[:, 2:4])}


def _q8_0(blocks: Bytes) -> Packed:
    """``d q`` with signed q: flipping the top bit adds 128 to it."""
    scale = _half(blocks[:, :2])
    words = np.ascontiguousarray(blocks[:, 2:] ^ 128).view("<u4")
    return {"weight": words, "scales": scale, "biases": scale * np.float16(-128)}


def _q4_k(blocks: Bytes) -> Packed:
    """``d s_j q - m t_j``: eight groups of 32 with 6-bit ``s_j`` and ``t_j`` in 12 bytes."""
    d, m = (_half(blocks[:, at : at + 2]).astype(np.float32) for at in (0, 2))
    a, b, c = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    s = np.concatenate([a & 63, c & 15 | a >> 6 << 4], axis=1)  # (blocks, 8)
    t = np.concatenate([b & 63, c >> 4 | b >> 6 << 4], axis=1)
    values = _nibbles(blocks[:, 16:].reshape(-1, 4, 32))  # 32 bytes carry two groups: low halves, high halves
    return {
        "weight": _pack4(values.reshape(-1, 256)),
        "scales": (d * s).astype(np.float16),
        "biases": (-m * t).astype(np.float16),
    }


def _q6_k(blocks: Bytes) -> Packed:
    """``d s_j (q - 32)``: sixteen groups of 16 with 8-bit ``s_j``; q has 4 low and 2 high bits."""
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64))  # (blocks, 2, 128)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    q = (low | high.reshape(-1, 2, 128) << 4).astype(np.int8).reshape(-1, 16, 16) - 32
    scale = blocks[:, 192:208].view(np.int8).astype(np.float32) * _half(blocks[:, 208:]).astype(np.float32)
    return {"weight": (scale[:, :, None] * q).astype(np.float16).reshape(-1, 256)}


_READERS: dict[str, Callable[[Bytes], Packed]] = {
    "F32": _dense("<f4"),
    "F16": _dense("<f2"),
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}
