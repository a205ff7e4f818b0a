"""Keeping the machine awake: the right command, started for the block and ended after it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlx_persona import awake as module
from mlx_persona.awake import awake, keep_awake_command


def test_a_mac_is_kept_from_idle_sleep_while_the_process_lives() -> None:
    assert keep_awake_command("darwin", 42) == ["caffeinate", "-i", "-w", "42"]
    linux = keep_awake_command("linux", 42)
    assert linux is not None
    assert linux[0] == "systemd-inhibit"
    assert "--pid=42" in linux
    assert keep_awake_command("win32", 42) is None


def test_the_helper_runs_during_the_block_and_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[module.subprocess.Popen[bytes]] = []
    real = module.subprocess.Popen

    def start(*arguments: object, **options: object) -> object:
        started.append(real(*arguments, **options))  # type: ignore[call-overload]
        return started[-1]

    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(module, "keep_awake_command", lambda platform, pid: command)
    monkeypatch.setattr(module.subprocess, "Popen", start)
    with awake():
        assert started[0].poll() is None
    assert started[0].poll() is not None


def test_without_the_command_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "keep_awake_command", lambda platform, pid: ["no-such-command"])
    with awake():
        pass
