"""Commands of ours run by several processes on this machine, as ``mlx.launch`` runs them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0  # seconds until a test gives up; nothing is timed


def _free_ports(count: int) -> int:
    """The first of ``count`` neighbouring ports that nobody listens on."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as found:
            first = int(found.getsockname()[1])
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except (OSError, OverflowError):
            continue
        return first


class Launched:
    """Ranks that run; their pids are in ``folder``, one file for each."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, count: int) -> None:
        self._process, self._folder, self._count = process, folder, count

    def kill(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to one rank."""
        os.kill(int((self._folder / f"pid-{rank}").read_text()), number)

    def wait_for(self, path: Path, text: str = "") -> None:
        """Until ``text`` stands in a file."""
        until = time.monotonic() + PATIENCE
        while not (path.is_file() and text in path.read_text(encoding="utf-8")):
            assert self._process.poll() is None, self._process.communicate()
            assert time.monotonic() < until, f"no {text!r} in {path}"
            time.sleep(0.05)

    def end(self) -> tuple[str, str, list[int]]:
        """``(stdout, stderr, exit status by rank)``, once all have ended.

        mlx.launch itself always ends with 0; it names on stderr the ranks that did not.
        """
        out, err = self._process.communicate(timeout=PATIENCE)
        failed = {int(rank): int(code) for rank, code in re.findall(r"rank (\d+) exited with code (-?\d+)", err)}
        return out, err, [failed.get(rank, 0) for rank in range(self._count)]


@contextmanager
def launched(folder: Path, commands: Sequence[Sequence[Any]]) -> Iterator[Launched]:
    """Start one command of ours per rank, in ``folder``: ``launched(tmp, [["sft", ...], ["sft", ...]])``."""
    folder.mkdir(parents=True, exist_ok=True)
    script = [f"cd {shlex.quote(str(folder))}", "echo $$ > pid-$MLX_RANK", 'case "$MLX_RANK" in']
    for rank, command in enumerate(commands):
        script.append(f"{rank}) exec {shlex.join(map(str, (sys.executable, '-m', 'mlx_persona', *command)))} ;;")
    script.append("esac")
    for old in folder.glob("pid-*"):
        old.unlink()
    launcher = Path(sys.executable).with_name("mlx.launch")
    ring = ["-n", str(len(commands)), "--backend", "ring", "-p", str(_free_ports(len(commands)))]
    process = subprocess.Popen(
        [sys.executable, str(launcher), *ring, "--", "bash", "-c", "\n".join(script)],
        # Its own stdin stays open: mlx.launch reads it in a loop that never rests once it has ended.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )
    ranks = Launched(process, folder, len(commands))
    try:
        yield ranks
    finally:
        if process.poll() is None:
            for rank in range(len(commands)):
                if (folder / f"pid-{rank}").is_file():
                    ranks.kill(rank, signal.SIGKILL)
            process.kill()
        process.communicate()
