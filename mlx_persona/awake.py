"""Keeping the machine from falling asleep during a run, where the system has a command for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def keep_awake_command(platform: str, pid: int) -> list[str] | None:
    """The command that holds off sleep until process ``pid`` ends; None where there is none."""
    if platform == "darwin":
        return ["caffeinate", "-i", "-w", str(pid)]
    if platform == "linux":
        waiting = ["tail", f"--pid={pid}", "-f", "/dev/null"]
        return ["systemd-inhibit", "--what=idle:sleep", "--who=mlx-persona", "--why=training", *waiting]
    return None


@contextmanager
def awake() -> Iterator[None]:
    """Meanwhile the machine does not go to sleep by itself; without the command nothing happens."""
    command = keep_awake_command(sys.platform, os.getpid())
    helper = None
    if command is not None and shutil.which(command[0]):
        with suppress(OSError):
            null = subprocess.DEVNULL
            helper = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    try:
        yield
    finally:
        if helper is not None:
            helper.terminate()
            helper.wait()
