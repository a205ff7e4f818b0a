"""Atomic writes: whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.files import new_folder, write_text


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_text_is_written_with_its_folders_and_replaces_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a/b/c.txt"
    write_text(file, "one")
    write_text(file, "zwei é")
    assert file.read_bytes() == "zwei é".encode()
    assert names(file.parent) == ["c.txt"]


def test_a_write_that_fails_leaves_the_old_text_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_new_folder_appears_whole_and_replaces_the_old(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with new_folder(tmp_path / "x") as part:
            assert part != tmp_path / "x"
            (part / text).write_text(text)
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["two"]


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device", True),
        (RuntimeError("[write] Unable to write 9 bytes to file."), "Unable to write 9 bytes", True),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied", False),
    ],
)
def test_a_folder_that_cannot_be_filled_leaves_the_old_one(
    tmp_path: Path, error: Exception, message: str, hint: bool
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/old").touch()

    def half() -> None:
        with new_folder(tmp_path / "x") as part:
            (part / "half").touch()
            raise error

    with pytest.raises(PersonaError, match=message) as caught:
        half()
    assert (caught.value.hint is not None) == hint
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["old"]


def test_a_folder_that_cannot_be_moved_into_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/old").touch()
    replace = Path.replace

    def refuse(self: Path, target: Any) -> Any:
        if self.name == ".x.part":
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PersonaError, match="Input/output error"), new_folder(tmp_path / "x"):
        pass
    assert names(tmp_path / "x") == ["old"]


def test_what_is_not_a_full_disk_passes_through(tmp_path: Path) -> None:
    for error in (Interrupted("stop"), PersonaError("bad"), KeyboardInterrupt()):
        with pytest.raises(type(error)), new_folder(tmp_path / "x"):
            raise error
    assert names(tmp_path) == []


def test_what_a_killed_process_left_does_not_get_into_the_new_folder(tmp_path: Path) -> None:
    (tmp_path / ".x.part").mkdir()
    (tmp_path / ".x.part/half").touch()
    with new_folder(tmp_path / "x") as part:
        (part / "whole").touch()
    assert names(tmp_path / "x") == ["whole"]
    assert names(tmp_path) == ["x"]
