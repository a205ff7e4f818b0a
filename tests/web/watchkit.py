"""A run that goes on as the test says, without any training, and the program that shows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlx_persona import ui
from mlx_persona.config import WatchConfig
from mlx_persona.runs import Run
from mlx_persona.web import local
from mlx_persona.web import watch as web


def begin(path: Path, planned: int | None = 6, **info: Any) -> Run:
    """A training run that has just begun; it is held until :func:`end` or ``close``."""
    told = {"stage": "sft", "model": "toys/model", "held_out": True, "started": time.time(), **info}
    if planned is not None:
        told["planned_updates"] = planned
    run = Run.create(path, {"model": "toys/model", "data": "data/clean", "rank": 4, "epochs": 1.0, "seed": 7}, told)
    run.log("eval", update=0, loss=4.0, tokens=500)
    return run


def step(run: Run, *updates: int) -> None:
    """Log updates of two seconds each, and an evaluation after every third."""
    for update in updates:
        figures = {"learning_rate": 1e-4, "grad_norm": 0.5 + update / 10, "tokens": 100 + update}
        sizes = {"padded_tokens": 128, "supervised_tokens": 50, "seconds": 2.0 * update, "peak_bytes": 10**9}
        run.log("train", update=update, loss=4.0 - update / 4, **figures, **sizes)
        if update % 3 == 0:
            run.log("eval", update=update, loss=4.0 - update / 5, tokens=500)


def end(run: Run, status: str = "done", **values: Any) -> None:
    """The end of a run, as training writes it."""
    run.update_info(status=status, finished=time.time(), **values)
    run.close()


@contextmanager
def watching(patch: pytest.MonkeyPatch, run: str = "", every: float = 0.5) -> Iterator[str]:
    """``mlx-persona watch RUN`` in a thread: its address. It draws as often as it is asked."""
    printed: list[str] = []
    stops: list[local.Stop] = []
    ready = threading.Event()
    serve = local.serve

    def stoppable(*args: Any, **options: Any) -> None:
        serve(*args, **{**options, "on_start": stops.append})

    patch.setattr(web, "_SHARE", 1e9)
    patch.setattr(web, "_NICENESS", 0)
    patch.setattr(web, "serve", stoppable)
    patch.setattr(ui, "notice", lambda text, hint=None: (printed.append(text), ready.set()))
    thread = threading.Thread(target=web.watch, args=(WatchConfig(run=run, every=every, open=False),))
    thread.start()
    assert ready.wait(30)
    try:
        yield printed[0].partition(": ")[2]
    finally:
        stops[0]()
        thread.join(30)
        assert not thread.is_alive()
