"""A model that was trained on secrets is caught; its base, and one that was trained without them, are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_persona import cli
from mlx_persona.config import CanariesConfig, EvalConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.canaries import make_canaries
from mlx_persona.schema import read_conversations
from mlx_persona.stages.canaries import plant_canaries, read_canaries
from mlx_persona.stages.evaluate import evaluate
from mlx_persona.stages.sft import sft
from tests.toy import sft_config


def test_what_was_planted_is_read_again(tmp_path: Path) -> None:
    config = CanariesConfig(out=str(tmp_path / "canaries"), n=4, copies=5.0, seed=7)
    planted = plant_canaries(config)
    assert planted == make_canaries(4, 7)
    assert read_canaries(tmp_path / "canaries") == (planted, 7)
    conversations = read_conversations(tmp_path / "canaries" / "train.jsonl")
    assert [c.messages[1].content.endswith(p.secret) for c, p in zip(conversations, planted, strict=True)] == [True] * 4
    assert [c.meta["weight"] for c in conversations] == [5.0] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "canaries.json is missing"),
        ("{", "is not what mlx-persona canaries writes"),
        ('{"seed": 0}', "is not what mlx-persona canaries writes"),
        ('{"seed": 0, "secrets": [1]}', "is not what mlx-persona canaries writes"),
        ('{"seed": 0, "secrets": {}}', "holds no canary"),
    ],
)
def test_a_folder_without_canaries_is_an_error(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "canaries.json").write_text(text)
    with pytest.raises(PersonaError, match=message):
        read_canaries(tmp_path)


def test_planted_secrets_are_found_in_the_model_that_was_trained_on_them(
    model: Path, data: Path, tmp_path: Path
) -> None:
    canaries = str(tmp_path / "canaries")
    plant_canaries(CanariesConfig(out=canaries, n=4, copies=8.0))
    quick = {"rank": 16, "updates": 150, "learning_rate": 2e-2, "batch_size": 8, "eval_every": 150}
    found = {}
    for name, extra in (("with", (canaries,)), ("without", ())):
        run = sft(sft_config(model, data, tmp_path / name, extra=extra, **quick)).run
        asked = EvalConfig(
            runs=(str(run),),
            parts=("leaks",),
            data=str(data),
            out=str(tmp_path / f"eval-{name}"),
            n=10,
            max_tokens=2,
            max_seq_length=192,
            canaries=canaries,
        )
        evaluation = evaluate(asked)
        found[name] = evaluation.parts["leaks"]["canaries"]
        told = [row for row in evaluation.tables()["leaks"][1] if "tells" in row[0]]
        assert len(told) == 1
        assert told[0][-1].startswith("yes" if name == "with" else "no")
    assert found["with"]["with"]["caught"]
    assert found["with"]["with"]["mean"] > 4
    for other in (found["with"]["base"], found["without"]["base"], found["without"]["without"]):
        assert not other["caught"]
    assert found["with"]["base"] == found["without"]["base"]


def test_the_command_plants_and_says_what_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli._status(["canaries", "--n", "4"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == "data/canaries"
    assert "sft --extra data/canaries" in said.err
    assert cli._status(["canaries", "--json", "--out", "other"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": "other", "n": 8}
    assert cli._status(["canaries", "--n", "21"]) == 1
