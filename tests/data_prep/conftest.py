"""Tiny exports in every format, and a call that cleans them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.pipeline import clean
from mlx_persona.config import CleanConfig
from tests.data_prep.chats import ANNA, BOB, CLEO, Cleaned, bursts


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Write records (text stays as it is) as lines; returns the path."""

    def write(*records: Any, name: str = "raw.jsonl") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def whole(tmp_path: Path) -> Callable[..., str]:
    """Write one value as a whole .json file; returns the path."""

    def write(value: Any, name: str = "raw.json", indent: int | None = None) -> str:
        path = tmp_path / name
        path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Cleaned]:
    """Clean paths into a folder of the test."""

    def call(*raw: str, out: Path | None = None, **options: Any) -> Cleaned:
        folder = out or tmp_path / "out"
        plain = {"tags": False, "review": ""}
        return Cleaned(clean(CleanConfig(raw=raw, out=str(folder), **{**plain, **options})), folder)

    return call


@pytest.fixture
def export(whole: Callable[..., str]) -> str:
    """A chitchat export: three conversations with Anna (out of order), one without her, one where nobody answers."""
    return whole(
        {
            "late": bursts(
                "2018-05-03T10:00", (BOB, "hi anna"), (ANNA, "heyyy"), (ANNA, "wuts up my freind"), (BOB, "bye")
            ),
            "early": bursts("2018-05-01T10:00", (ANNA, "hello?"), (BOB, "yes?"), (ANNA, "im so hungry hahaha")),
            "alone": bursts("2018-05-02T09:00", (ANNA, "anybody there today?")),
            "others": bursts("2018-05-02T10:00", (BOB, "hi cleo"), (CLEO, "hi bob, nice to see you")),
            "middle": bursts("2018-05-02T11:00", (CLEO, " what did you eat? "), (ANNA, "a whole pizza lol\n")),
        },
        "dataset.json",
    )


@pytest.fixture
def write_chat(tmp_path: Path) -> Callable[..., Path]:
    """Write lines (or bytes as they are) as an export of WhatsApp."""

    def call(*lines: str | bytes, name: str = "WhatsApp Chat with Mara.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n")
        return path

    return call
