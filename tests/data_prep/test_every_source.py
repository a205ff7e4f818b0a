"""Every export is recognised, cleaned, and trained on, with no other step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_persona.cli import main
from mlx_persona.config import SOURCES
from mlx_persona.schema import read_conversations
from tests.data_prep.exports import ANNA, EXPORTS, WORDS, small_talk
from tests.toy import sft_config


def test_every_importer_has_an_export_here() -> None:
    assert sorted(EXPORTS) == sorted(SOURCES)


@pytest.mark.parametrize("source", SOURCES)
def test_clean_and_sft_work_with_no_other_step(
    source: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_persona.stages.sft import sft

    write, me = EXPORTS[source]
    (tmp_path / "raw").mkdir()
    path = write(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        main, ["clean", str(path), *(["--me", me] if me else []), "--near-duplicates", "0", "--json"]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert list(report["sources"]) == [source]
    assert (
        report["read"] == report["kept"] + report["context"] + sum(report["dropped"].values()) + report["quarantined"]
    )
    conversations = [
        c for name in ("train", "valid", "test") for c in read_conversations(Path(f"data/clean/{name}.jsonl"))
    ]
    asked = 1 if source == "completion" else 2
    learned = [m.content for c in conversations for m in c.messages if m.role == "assistant"]
    assert len(conversations) == len(WORDS)
    expected = [text for who, text, _, _ in small_talk() if who == ANNA]
    assert sorted(learned) == sorted(expected if asked == 2 else expected[::2])
    result = sft(sft_config(model, tmp_path / "data/clean", "run", updates=2, eval_every=2))
    assert result.eval_loss < result.base_eval_loss
