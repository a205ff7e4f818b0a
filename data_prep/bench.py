"""How fast and how small cleaning is: against a bare ``json.loads`` pass over the same file, in the same run.

    mlx-persona bench-clean

The file is made of real chat messages (the chitchat data set) put together anew, so that it can have any size.
Each measurement is a process of its own, whose peak memory the system tells.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_prep.pipeline import clean
from data_prep.sources import RawConversation, ReadOptions, chitchat
from mlx_persona.config import CleanBenchConfig, CleanConfig
from mlx_persona.errors import PersonaError

LIMITS = {"plain": 15.0, "everything": 120.0}
MEGABYTES = {"plain": 600.0, "everything": 2048.0}
ME = "somebody"
_TURNS, _PEOPLE = 12, 500  # messages per conversation, others
_BEGIN = 1_500_000_000


@dataclass(frozen=True)
class Pass:
    """One process over the file: seconds and peak memory of the work, without starting Python."""

    seconds: float
    peak_mb: float
    kept: int = 0


@dataclass(frozen=True)
class CleanBenchResult:
    """``plain`` parses, cuts and filters; ``everything`` also redacts and looks for near-duplicates."""

    messages: int
    json_loads: Pass
    plain: Pass
    everything: Pass

    def ratio(self, name: str) -> float:
        """Seconds of a pass over those of the bare ``json.loads`` pass."""
        seconds: float = getattr(self, name).seconds
        return seconds / self.json_loads.seconds

    def to_json(self) -> dict[str, Any]:
        """The figures with their limits as a JSON object."""
        ratios = {name: {"ratio": self.ratio(name), "limit": limit} for name, limit in LIMITS.items()}
        return {**asdict(self), "ratios": ratios, "limits_mb": MEGABYTES}

    def rows(self) -> list[list[str]]:
        """A row per pass for people."""
        rows = []
        for name in ("json_loads", "plain", "everything"):
            found: Pass = getattr(self, name)
            limits = [f"{LIMITS[name]:.0f} x", f"{MEGABYTES[name]:.0f} MB"] if name in LIMITS else ["", ""]
            per = f"{found.seconds / self.messages * 1e6:.1f}"
            rows.append([name, f"{found.seconds:.1f}", per, f"{self.ratio(name):.1f}", f"{found.peak_mb:.0f}", *limits])
        return rows


def bench_clean(config: CleanBenchConfig, chats: Path) -> CleanBenchResult:
    """Measure cleaning on ``config.messages`` messages.

    Args:
        config: how many messages.
        chats: the chitchat export.

    Raises:
        PersonaError: the export cannot be read, or a pass failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.json"
        _write(path, config.messages, chats, config.seed)
        passes = [_measured(name, path, Path(folder)) for name in ("json_loads", "plain", "everything")]
    return CleanBenchResult(config.messages, *passes)


def _write(path: Path, count: int, chats: Path, seed: int) -> None:
    """Conversations of twelve messages drawn from the real ones, in the real format; ME is in all of them."""
    texts = [m.text for m in _messages(chats) if m.text.strip()]
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, count, _TURNS):
            bursts = []
            for i in range(min(_TURNS, count - start)):
                at = datetime.fromtimestamp(_BEGIN + 40 * (start + i), UTC).isoformat()
                sender = ME if i % 2 else f"somebody-{start // _TURNS % _PEOPLE}"
                bursts.append([{"text": draw.choice(texts), "timestamp": at, "sender": sender}])
            record = {"start": bursts[0][0]["timestamp"], "messages": bursts}
            file.write(("{" if start == 0 else ",\n") + f'"{start}": ' + json.dumps(record, ensure_ascii=False))
        file.write("}")


def _messages(chats: Path) -> Iterator[Any]:
    for item in chitchat.read(chats, ReadOptions()):
        if isinstance(item, RawConversation):
            yield from item.messages


def _measured(name: str, path: Path, folder: Path) -> Pass:
    command = [sys.executable, "-m", "data_prep.bench", name, str(path), str(folder / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PersonaError(f"the pass {name} failed: {done.stderr.strip().splitlines()[-1:]}")
    return Pass(**json.loads(done.stdout))


def _run(name: str, path: Path, out: Path) -> Pass:
    """One pass, in this process."""
    kept, began = 0, time.perf_counter()
    if name == "json_loads":
        json.loads(path.read_bytes())
    else:
        full = name == "everything"
        config = CleanConfig(
            raw=(str(path),),
            me=(ME,),
            out=str(out),
            redact="on" if full else "off",
            near_duplicates=0.8 if full else 0.0,
            tags=full,
            review="",
        )
        kept = clean(config).kept
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Pass(round(seconds, 3), round(peak / (1024 if sys.platform == "linux" else 1024**2), 1), kept)


def main(arguments: Sequence[str]) -> None:
    """``python -m data_prep.bench PASS FILE OUT``: one pass, its figures as JSON."""
    name, path, out = arguments
    sys.stdout.write(json.dumps(asdict(_run(name, Path(path), Path(out)))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
