"""The benchmark of big data: real texts in, a cold and a warm start out."""

from __future__ import annotations

import json
from pathlib import Path

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import pytest

from mlx_persona.benchmarks.data import bench_data
from mlx_persona.config import DataBenchConfig
from mlx_persona.schema import read_conversations
from tests.toy import write_model


@pytest.mark.slow
def test_a_cold_and_a_warm_start_see_the_same_tokens(tmp_path: Path) -> None:
    texts = [f'this is text {i} "quoted"' for i in range(40)]
    chats = {"c": {"messages": [[{"text": text}] for text in [*texts, " "]]}}
    (tmp_path / "chats.json").write_text(json.dumps(chats))
    model = write_model(tmp_path / "model")
    config = DataBenchConfig(model=str(model), conversations=5000, out=str(tmp_path / "out"))
    result = bench_data(config, tmp_path / "chats.json")
    assert result.cold.tokens == result.warm.tokens > 5000 * 6 * 15
    assert result.cache_mb > 2 * result.cold.tokens / 1e6  # 16 bits a token, and the masks
    conversations = read_conversations(tmp_path / "out/train.jsonl")
    assert len(conversations) == 5000
    assert {m.content for c in conversations for m in c.messages} == set(texts)
    assert [row[0] for row in result.table()[1]] == ["cold", "warm"]
