"""From a file of a million conversations to the first micro-batch: seconds and memory, cold and warm.

    mlx-persona bench-data --model MODEL

The file is made of real chat messages (the chitchat data set) put together anew, so that it can have any size.
Each measurement is a process of its own, and the token cache lies beside the file. Only the model's tokenizer is
loaded: what is measured is the data, not the model.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_lm.utils import load_tokenizer

from mlx_persona import ui
from mlx_persona.config import DataBenchConfig, SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models.load import resolve_model
from mlx_persona.stages.sft import SftSource
from mlx_persona.tokens.cache import load_rows, survey
from mlx_persona.tokens.render import Renderer

_TURNS = 6  # messages per conversation
_HELD_OUT = 64
_LATER = 1000  # micro-batches that are made for the second look at memory


@dataclass(frozen=True)
class DataPass:
    """One process.

    ``seconds`` until the first micro-batch was ready, without starting Python and loading the tokenizer; ``wall``
    with them, to the end. ``resident_mb`` and ``later_mb`` are what the data added to the process's memory by then
    and after a thousand micro-batches, mapped pages included; ``peak_mb`` is the most of the whole process.
    """

    seconds: float
    wall: float
    resident_mb: float
    later_mb: float
    peak_mb: float
    tokens: int


@dataclass(frozen=True)
class DataBenchResult:
    """``cold`` reads and tokenizes the file; ``warm`` finds the tokens in the cache."""

    conversations: int
    file_mb: float
    cache_mb: float
    cold: DataPass
    warm: DataPass

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return asdict(self)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people."""
        columns = ["", "seconds", "with start-up", "resident MB", f"after {_LATER} micro-batches", "peak MB"]
        return columns, [
            [name, f"{p.seconds:.1f}", f"{p.wall:.1f}", f"{p.resident_mb:.0f}", f"{p.later_mb:.0f}", f"{p.peak_mb:.0f}"]
            for name, p in (("cold", self.cold), ("warm", self.warm))
        ]


def bench_data(config: DataBenchConfig, chats: Path) -> DataBenchResult:
    """Write the conversations, and start a run on them twice.

    Args:
        config: how many, for which model.
        chats: the chitchat conversations.

    Raises:
        PersonaError: no such model, or a pass failed.
    """
    model = resolve_model(config.model)
    where: AbstractContextManager[str] = nullcontext(config.out) if config.out else tempfile.TemporaryDirectory()
    with where as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        ui.info(f"writing {config.conversations:,} conversations to {folder}")
        texts = _texts(chats)
        _write(folder / "train.jsonl", config.conversations, texts, config.seed)
        _write(folder / "valid.jsonl", _HELD_OUT, texts, config.seed + 1)
        passes = []
        for title in ("cold", "warm"):
            ui.info(f"{title} start")
            passes.append(_measured(model, folder, config))
        kept = [f for f in (folder / "cache" / "tokens").rglob("*") if f.is_file()]
        sizes = [sum(f.stat().st_size for f in files) / 1e6 for files in ([folder / "train.jsonl"], kept)]
    return DataBenchResult(config.conversations, round(sizes[0], 1), round(sizes[1], 1), *passes)


def _texts(chats: Path) -> list[str]:
    """Every message of the real conversations, as JSON text."""
    read = json.loads(chats.read_text(encoding="utf-8"))
    said = (m["text"] for chat in read.values() for burst in chat["messages"] for m in burst)
    return [json.dumps(text, ensure_ascii=False) for text in said if text.strip()]


def _write(path: Path, count: int, texts: Sequence[str], seed: int) -> None:
    """Conversations of six messages drawn from the real ones."""
    draw = random.Random(seed)
    heads = ['{"role": "user", "content": ', '{"role": "assistant", "content": ']
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            said = draw.choices(texts, k=_TURNS)
            messages = ", ".join(heads[i % 2] + text + "}" for i, text in enumerate(said))
            file.write('{"messages": [' + messages + "]}\n")


def _measured(model: Path, folder: Path, config: DataBenchConfig) -> DataPass:
    command = [sys.executable, "-m", "mlx_persona.benchmarks.data", str(model), str(folder), str(config.seed)]
    began = time.perf_counter()
    environment = {**os.environ, "MLX_PERSONA_CACHE": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise PersonaError(f"a pass failed: {done.stderr.strip().splitlines()[-1:]}")
    return DataPass(wall=round(time.perf_counter() - began, 2), **json.loads(done.stdout))


def _resident() -> float:
    """Resident memory of this process in MB; where the system does not tell (macOS), the most so far."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return _peak()


def _peak() -> float:
    """The most resident memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1) / 1e6


def main(arguments: Sequence[str]) -> None:
    """``python -m mlx_persona.benchmarks.data MODEL FOLDER SEED``: one start, its figures as JSON."""
    model, folder, seed = arguments
    config = SftConfig(model=model, data=folder, seed=int(seed), batch_size=8)
    tokenizer = load_tokenizer(Path(model))
    before, began = _resident(), time.perf_counter()
    paths = [Path(folder) / f"{name}.jsonl" for name in ("train", "valid")]
    known = [survey(path) for path in paths]
    renderer = Renderer(tokenizer, system=known[0].system)
    train, valid = (load_rows(*file, renderer, config.max_seq_length) for file in zip(paths, known, strict=True))
    source = SftSource(train.rows, valid.rows, config)
    source.train_batch(0, 1)
    seconds, resident = time.perf_counter() - began, _resident()
    for number in range(1, min(_LATER, source.plan.per_epoch)):
        source.train_batch(number, 1)
    figures = {"resident_mb": resident - before, "later_mb": _resident() - before, "peak_mb": _peak()}
    rounded = {name: round(value, 1) for name, value in {"seconds": seconds, **figures}.items()}
    sys.stdout.write(json.dumps({**rounded, "tokens": train.tokens}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
