"""What a model's name means, and single files of the Hub; whole snapshots are tested in models/test_load.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors

from mlx_persona import model_names
from mlx_persona.errors import PersonaError
from mlx_persona.model_names import cached_hub_file, hub_file, local_path


def test_files_directories_and_repos_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/name").mkdir(parents=True)
    (tmp_path / "m.gguf").touch()
    assert local_path("org/name") == Path("org/name")
    assert local_path("m.gguf") == Path("m.gguf")
    assert local_path("org/other") is None
    assert local_path("gpt2") is None


def _response(kind: type[Exception]) -> Exception:
    return kind("nothing for you", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_response(hub_errors.RemoteEntryNotFoundError), r"^org/name has no tokenizer\.json$"),
        (_response(hub_errors.RepositoryNotFoundError), "no such Hugging Face repo"),
        (_response(hub_errors.GatedRepoError), "is gated"),
        (hub_errors.LocalEntryNotFoundError("no route"), r"cannot download org/name: no network \(no route\)"),
        (OSError("disk full\nmore"), "^cannot download org/name: disk full$"),
    ],
)
def test_what_goes_wrong_with_one_file_is_told_apart(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any) -> str:
        raise error

    monkeypatch.setattr(model_names, "hf_hub_download", download)
    monkeypatch.setattr(model_names, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(PersonaError, match=message):
        hub_file("org/name", "tokenizer.json")


def test_the_cache_is_the_hubs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid out as huggingface_hub documents it: refs name a commit, snapshots hold its files."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert cached_hub_file("org/name", "tokenizer.json") is None
    repo = tmp_path / "models--org--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text("0" * 40)
    (repo / "snapshots" / ("0" * 40)).mkdir(parents=True)
    assert cached_hub_file("org/name", "tokenizer.json") is None
    file = repo / "snapshots" / ("0" * 40) / "tokenizer.json"
    file.write_text("{}")
    assert cached_hub_file("org/name", "tokenizer.json") == file
    assert hub_file("org/name", "tokenizer.json") == file


def test_an_odd_name_is_in_no_cache() -> None:
    assert cached_hub_file("no repo's name", "tokenizer.json") is None
