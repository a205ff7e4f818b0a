"""What is in a model directory's safetensors files, without reading them through.

MLX maps weights lazily, and a file that was cut short would show only later, if at all. The headers say
how long each file must be.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from mlx_persona.errors import PersonaError


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file and the bytes where it lies."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model directory, by name.

    Raises:
        PersonaError: no ``config.json``, no weights, or a file of the index that is missing.
    """
    config = path / "config.json"
    if not config.is_file():
        raise PersonaError(f"{path} is not a model: it has no config.json")
    try:
        readable = isinstance(json.loads(config.read_text(encoding="utf-8")), dict)
    except ValueError:
        readable = False
    if not readable:
        raise PersonaError(f"{config} is truncated or corrupt", "get the model again")
    files = sorted(path.glob("model*.safetensors"))
    if not files:
        raise PersonaError(f"{path} has no weights (model*.safetensors)", "MLX models have safetensors weights")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PersonaError(f"{index} is truncated or corrupt", "get the model again") from error
        if missing := sorted(name for name in named if not (path / name).is_file()):
            raise PersonaError(f"{path} lacks the weights {', '.join(missing)}", "get the model again")
    return files


def read_headers(file: Path) -> list[TensorEntry]:
    """The tensors of one safetensors file.

    Raises:
        PersonaError: the header is broken, or the file is shorter or longer than it says.
    """
    broken = PersonaError(f"{file} is truncated or corrupt", "get the model again")
    total = file.stat().st_size
    with file.open("rb") as handle:
        length = handle.read(8)
        if len(length) < 8 or (header_size := struct.unpack("<Q", length)[0]) > total - 8:
            raise broken
        raw = handle.read(header_size)
    try:
        header = json.loads(raw)
        entries = []
        for name, value in header.items():
            if name != "__metadata__":
                start, end = value["data_offsets"]
                where = 8 + header_size + start
                entries.append(TensorEntry(file, name, value["dtype"], tuple(value["shape"]), where, end - start))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise broken from error
    if total != max((e.start + e.size for e in entries), default=8 + header_size):
        raise broken
    return entries


def check_weights(path: Path) -> None:
    """Check that every weight file of a model directory is whole.

    Raises:
        PersonaError: naming the file.
    """
    for file in weight_files(path):
        read_headers(file)
