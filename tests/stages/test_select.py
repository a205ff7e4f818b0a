"""The checkpoint that sounds most like the person becomes the adapter, and another one the checkpoint of least loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import pytest

from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.generation import engine
from mlx_persona.generation.engine import Reply
from mlx_persona.models import adapters
from mlx_persona.stages.sft import sft
from mlx_persona.training.checkpoint import checkpoint_path
from tests.toy import SAYS, events, info, sft_config

OPTIONS = {"updates": 6, "eval_every": 2, "keep_last": 1, "select": "style"}


@pytest.fixture
def speaking(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An engine by which the second model that has an adapter speaks as the person does, and nobody else."""
    asked: list[str] = []

    def replies(loaded: Any, prompts: Sequence[Any], *_: Any, on_reply: Any, **__: Any) -> list[Reply]:
        adapted = any(True for _ in adapters.adapter_layers(loaded.model))
        asked.append("adapted" if adapted else "base")
        theirs = asked.count("adapted") == 2 and adapted
        for i, _ in enumerate(prompts):
            on_reply(i, Reply(SAYS if theirs else "CERTAINLY! It would be my pleasure to help.", cut=False))
        return []

    monkeypatch.setattr(engine, "replies", replies)
    return asked


def test_the_most_alike_checkpoint_becomes_the_adapter(
    model: Path, data: Path, tmp_path: Path, speaking: list[str]
) -> None:
    by_loss = sft(sft_config(model, data, tmp_path / "loss", **{**OPTIONS, "select": "loss"}))
    result = sft(sft_config(model, data, tmp_path / "style", **OPTIONS))
    assert speaking == ["base", "adapted", "adapted", "adapted"]
    assert (result.best_update, by_loss.best_update) == (4, 6)
    chosen = info(result.run)["selection"]
    assert (chosen["by"], chosen["best_update"]) == ("style", 4)
    distances = {label: found["style_distance"] for label, found in chosen["checkpoints"].items()}
    assert list(distances) == ["base", "2", "4", "6"]
    assert min(distances, key=lambda label: distances[label]) == "4"
    losses = {event["update"]: event["loss"] for event in events(result.run, "eval")}
    assert result.eval_loss == losses[4]
    adapter, checkpoint = (mx.load(str(f / adapters.WEIGHTS)) for f in (result.adapter, checkpoint_path(result.run, 4)))
    assert all(mx.array_equal(adapter[name], checkpoint[name]) for name in adapter)
    assert sorted(path.name for path in (result.run / "checkpoints").iterdir()) == ["000004", "000006"]
    assert not (result.run / "selection").exists()
    assert (by_loss.run / "metrics.jsonl").read_text().count("\n") == len(events(result.run))


def test_a_stopped_selection_goes_on(
    model: Path, data: Path, tmp_path: Path, speaking: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine.replies

    def stop(*given: Any, **more: Any) -> list[Reply]:
        if len(speaking) == 2:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(engine, "replies", stop)
    with pytest.raises(Interrupted):
        sft(sft_config(model, data, tmp_path / "run", **OPTIONS))
    assert info(tmp_path / "run")["status"] == "stopped"
    monkeypatch.setattr(engine, "replies", real)
    result = sft(sft_config(model, data, tmp_path / "run", **OPTIONS, resume=str(tmp_path / "run")))
    assert result.best_update == 4
    assert speaking == ["base", "adapted", "adapted", "adapted"]
    assert info(result.run)["status"] == "done"


def test_without_held_out_replies_it_is_an_error_before_training(model: Path, data: Path, tmp_path: Path) -> None:
    alone = tmp_path / "data"
    alone.mkdir()
    (alone / "train.jsonl").write_text((data / "train.jsonl").read_text())
    with pytest.raises(PersonaError, match=r"must hold held-out replies in valid\.jsonl"):
        sft(sft_config(model, alone, tmp_path / "run", **OPTIONS))
    first = json.loads((data / "valid.jsonl").read_text().splitlines()[0])
    (alone / "valid.jsonl").write_text(json.dumps({**first, "messages": first["messages"][:2]}) + "\n")
    with pytest.raises(PersonaError, match="holds 1 replies to choose by") as caught:
        sft(sft_config(model, alone, tmp_path / "run", **OPTIONS))
    assert caught.value.hint == "train with --select loss"
    assert not (tmp_path / "run").exists()
