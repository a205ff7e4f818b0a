"""Zips and folders are read as streams; hostile ones are refused, and nothing is ever written."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import tree
from data_prep.sources.tree import open_tree
from mlx_persona.errors import PersonaError
from tests.data_prep.chats import zipped


def test_a_zip_and_a_folder_have_the_same_names_without_the_hidden_ones(tmp_path: Path) -> None:
    files = {"b/x.json": "1", "a.txt": "2", ".hidden": "3", "__MACOSX/a.txt": "4", "b/.DS_Store": "5"}
    packed = open_tree(zipped(tmp_path / "x.zip", files))
    for name, text in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    loose = open_tree(tmp_path / "folder")
    assert packed is not None
    assert loose is not None
    assert packed.names == ("a.txt", "b/x.json")
    assert set(packed.names) <= set(loose.names)
    for found in (packed, loose):
        with found.open("b/x.json") as file:
            assert file.read() == b"1"


def test_other_files_are_no_tree(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")
    assert open_tree(path) is None


def test_a_zip_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_FREE_BYTES", 1 << 20)
    found = open_tree(zipped(tmp_path / "x.zip", {"x.json": b"\x00" * (8 << 20)}))
    assert found is not None
    read = 0
    refused = pytest.raises(PersonaError, match=r"x\.json: it unpacks to hundreds of times its size")
    with refused, found.open("x.json") as file:
        while data := file.read(1 << 16):
            read += len(data)
    assert read < 4 << 20


def test_what_packs_well_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_FREE_BYTES", 1000)
    text = "".join(f'{{"text": "message {i}"}}\n' for i in range(5000))
    found = open_tree(zipped(tmp_path / "x.zip", {"x.jsonl": text}))
    assert found is not None
    with found.open("x.jsonl") as file:
        assert file.read().decode() == text


def test_a_name_that_leads_out_of_the_zip_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    found = open_tree(zipped(tmp_path / "in" / "x.zip", {"../escaped.json": "1", "/etc/escaped.json": "2"}))
    assert found is not None
    for name in found.names:
        with found.open(name) as file:
            file.read()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "x.zip"]


def test_a_truncated_zip_and_one_with_a_password_are_errors(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a.txt": os.urandom(5000)})
    data = path.read_bytes()
    broken = bytearray(data)
    broken[200:2000] = bytes(1800)
    path.write_bytes(broken)
    found = open_tree(path)
    assert found is not None
    with pytest.raises(PersonaError, match=r"cannot read .*a\.txt"), found.open("a.txt") as file:
        file.read()
    locked = bytearray(data)
    for sign in (b"PK\x03\x04", b"PK\x01\x02"):
        at = locked.index(sign) + (6 if sign.endswith(b"\x04") else 8)
        locked[at] |= 1  # the bit that says encrypted
    path.write_bytes(locked)
    found = open_tree(path)
    assert found is not None
    with pytest.raises(PersonaError, match="cannot read"), found.open("a.txt") as file:
        file.read()


@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_damaged_zip_gives_an_error_or_bytes(damage: bytes, at: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.json", "[" + "1," * 300 + "1]")
    data = bytearray(out.getvalue())
    data[at : at + len(damage)] = damage
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.zip"
        path.write_bytes(data)
        with contextlib.suppress(PersonaError):
            found = open_tree(path)
            for name in found.names if found else ():
                with found.open(name) as file:  # type: ignore[union-attr]
                    file.read()
