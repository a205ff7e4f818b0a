"""A comparison with replies that say which side they are, made without a model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_persona.config import CompareConfig
from mlx_persona.evals.blind.session import Item, first_sides
from mlx_persona.runs import Run
from mlx_persona.schema import Message, dump_line
from mlx_persona.settings import plain
from mlx_persona.stages.compare import ITEMS, STAGE, Comparison, opened


def items(n: int) -> list[Item]:
    """Each longer ago than the next: item i has i + 1 messages before it."""
    made = []
    for i, first in enumerate(first_sides(n, 0)):
        said = [Message("assistant" if (i - at) % 2 else "user", f"message {at} of {i}") for at in range(i + 1)]
        replies = {"a": f"alpha says {i}", "b": f"beta says {i}"}
        made.append(Item((Message("system", "be short"), *said), replies, {"a": False, "b": False}, first))
    return made


def write_comparison(
    folder: Path, made: list[Item], labels: tuple[str, str] = ("base", "sft-1"), **options: object
) -> Path:
    """A folder as a comparison leaves it once its replies are written."""
    config = CompareConfig(a=labels[0], b=labels[1], n=len(made), out=str(folder), **options)
    info = {"stage": STAGE, "labels": {"a": labels[0], "b": labels[1]}, "started": time.time()}
    Run.create(folder, plain(config), info).close()
    (folder / ITEMS).write_text("".join(dump_line(item.to_json()) for item in made), encoding="utf-8")
    return folder


@contextmanager
def resumed(folder: Path) -> Iterator[Comparison]:
    """The comparison in a folder."""
    with opened(CompareConfig(resume=str(folder))) as comparison:
        yield comparison


def saved(folder: Path) -> list[object]:
    """The values in ``answers.json``."""
    written = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return [answer["value"] for answer in written["answers"]]
