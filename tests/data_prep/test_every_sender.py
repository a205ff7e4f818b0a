"""Everybody who said much in the real data set goes through cleaning, and nothing leaks between the splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from data_prep.pipeline import clean
from data_prep.sources import RawConversation, ReadOptions, chitchat
from mlx_persona.config import CleanConfig
from mlx_persona.models.embedded import fetch_conversations
from mlx_persona.schema import read_conversations

TURNS = 500


def senders(path: Path) -> list[str]:
    """Those with more than 500 turns (messages in a row are one)."""
    turns: Counter[str] = Counter()
    for item in chitchat.read(path, ReadOptions()):
        assert isinstance(item, RawConversation)
        said = [m.sender or "" for m in item.messages]
        turns.update(who for who, before in zip(said, ["", *said], strict=False) if who != before)
    return sorted(who for who, count in turns.items() if count > TURNS)


@pytest.mark.slow
def test_every_sender_with_over_500_turns(tmp_path: Path) -> None:
    path = fetch_conversations()
    found = senders(path)
    assert len(found) > 20
    for who in found:
        report = clean(CleanConfig(raw=(str(path),), me=(who,), out=str(tmp_path), redact="on", review=""))
        assert report.leaked == 0
        assert report.read == report.kept + report.context + sum(report.dropped.values()) + report.quarantined
        ids = [
            {str(c.meta["id"]) for c in read_conversations(tmp_path / f"{name}.jsonl")}
            for name in ("train", "valid", "test")
        ]
        assert all(ids)
        assert sum(map(len, ids)) == len(set().union(*ids))
