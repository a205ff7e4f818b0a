"""``clean`` with a model's tokenizer: whose tokens the report tells, and why it has none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mlx_persona
from mlx_persona import model_names
from mlx_persona.cleaning import clean
from mlx_persona.config import DEFAULT_MODEL, CleanConfig
from mlx_persona.errors import PersonaError
from mlx_persona.runs import Run
from mlx_persona.schema import read_conversations
from tests.toy import write_export, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are bytes."""
    return write_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with an export, an empty cache of the Hub, and no way to the Hub."""

    def download(*_: Any) -> str:
        raise AssertionError("went to the hub")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_names, "hf_hub_download", download)
    monkeypatch.setattr(model_names, "try_to_load_from_cache", lambda *_: None)
    write_export(tmp_path)


def config(**options: Any) -> CleanConfig:
    return CleanConfig(raw=("export.json",), me=("Ann",), tags=False, review="", **options)


def byte_lengths() -> list[int]:
    """Of all trained replies that were written."""
    every = [c for name in ("train", "valid", "test") for c in read_conversations(Path(f"data/clean/{name}.jsonl"))]
    return sorted(len(m.content.encode()) for c in every for m in c.messages if m.role == "assistant" and m.train)


def a_run(stage: str, model: str, finished: float = 1.0) -> None:
    """A finished run, as far as others look at it."""
    run = Run.create(Path("runs") / f"{stage}-1", {}, {"stage": stage, "model": model})
    run.update_info(status="done", finished=finished)
    run.close()
    (run.path / "adapter").mkdir()
    (run.path / "adapter/adapter_config.json").write_text("{}")


def test_the_report_and_its_page_tell_lengths_as_the_named_model_counts(model: Path) -> None:
    report = clean(config(model=str(model)))
    written = json.loads(Path("data/clean/report.json").read_text())
    found, sizes = written["stats"]["tokens"], byte_lengths()
    assert found == report.stats["tokens"]
    assert (found["min"], found["max"]) == (sizes[0], sizes[-1])
    assert found["mean"] == round(sum(sizes) / len(sizes), 1)
    assert sum(b["count"] for b in found["histogram"]) == len(sizes) == written["stats"]["replies"]
    assert f"lengths in tokens are those of {model}" in written["notes"]
    page = Path("data/clean/report.html").read_text()
    assert "Replies by their tokens" in page
    assert f"lengths in tokens are those of {model}" in page


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_without_a_name_the_newest_runs_model_counts(stage: str, model: Path) -> None:
    a_run(stage, str(model))
    assert clean(config()).stats["tokens"]["max"] == byte_lengths()[-1]


def test_without_a_run_the_model_of_sft_counts_where_it_is_cached(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def cached(repo: str, file: str) -> str:
        asked.append(repo)
        return str(model / file)

    monkeypatch.setattr(model_names, "try_to_load_from_cache", cached)
    report = clean(config())
    assert asked == [DEFAULT_MODEL]
    assert report.stats["tokens"]["max"] == byte_lengths()[-1]
    assert f"lengths in tokens are those of {DEFAULT_MODEL}" in report.notes


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (None, f"the tokenizer of {DEFAULT_MODEL} is not on this machine"),
        ("org/gone", "the tokenizer of org/gone is not on this machine"),
        ("./gone", "no such model: ./gone"),
        ("runs", "runs has no tokenizer.json"),
    ],
)
def test_where_no_tokenizer_is_at_hand_the_report_says_so(name: str | None, why: str) -> None:
    if name:
        a_run("sft", name)
    report = clean(config())
    assert report.stats["tokens"] == {}
    assert f"lengths in tokens were not counted: {why}; --model NAME" in report.notes
    page = Path("data/clean/report.html").read_text()
    assert "lengths in tokens were not counted" in page
    assert "Replies by their tokens" not in page


@pytest.mark.parametrize("name", ["./nothing", "model.bin", " "])
def test_a_named_model_that_cannot_be_had_is_an_error_before_anything_is_read(name: str) -> None:
    Path("model.bin").touch()
    Path("export.json").write_text("this would be an error too")
    with pytest.raises(PersonaError, match="model"):
        clean(config(model=name))
    assert not Path("data").exists()


def test_a_plain_clean_loads_no_mlx(model: Path, tmp_path: Path) -> None:
    script = (
        "import sys, mlx_persona as mp;"
        "mp.clean(mp.CleanConfig(raw=('export.json',), me=('Ann',), model=sys.argv[1]));"
        "sys.exit(str([m for m in ('mlx', 'mlx_lm', 'transformers') if m in sys.modules]).strip('[]'))"
    )
    root = str(Path(mlx_persona.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, str(model)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": root},
        check=False,
    )
    assert done.stderr.strip() == ""
    assert json.loads((tmp_path / "data/clean/report.json").read_text())["stats"]["tokens"]["max"] > 0
