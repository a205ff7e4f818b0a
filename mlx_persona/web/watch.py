"""The page of a run while it trains, drawn anew as it goes on.

mlx-persona watch
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_persona import ui
from mlx_persona.config import WatchConfig
from mlx_persona.errors import PersonaError
from mlx_persona.report import html
from mlx_persona.report.figures import is_number
from mlx_persona.report.reading import Record, is_run, read_run
from mlx_persona.report.views import view
from mlx_persona.runs import RUNS, is_held, newest_begun
from mlx_persona.web.local import check_extra, listening, serve
from mlx_persona.web.page import page

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PAGE = "watch"
STAGES = ("dpo", "sft")
WAITING, LIVE, FINISHED = "waiting", "live", "finished"
# What a run's status is called on the page.
STATES = {
    "running": LIVE,
    "done": FINISHED,
    "early": FINISHED,
    "stopped": "stopped",
    "killed": "died",
    "failed": "failed",
    "": "unknown",
}
_WRITTEN = ("run.json", "metrics.jsonl", "config.yaml", "scores.json")
# The time left is judged by the pace of so many updates.
_PACE = 50
# Of one core, drawing takes at most this share while the run goes on.
_SHARE = 0.05
_NICENESS = 10


@dataclass(frozen=True)
class WatchResult:
    """What was watched, and how it stood when nobody watched any more: ``path`` is None where no run ever came."""

    path: Path | None
    state: str
    updates: int | None

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {**self.__dict__, "path": None if self.path is None else str(self.path)}


def watch(config: WatchConfig) -> WatchResult:
    """Show the page of a run in the browser until Ctrl-C, whatever becomes of the run.

    Raises:
        PersonaError: the run is none and none that may come, an extra is missing, or the port is taken.
    """
    check_extra()
    html.check_extra()
    watcher = Watcher(config)
    # One thread draws, since matplotlib can do no more than one thing at a time.
    with listening(config.port) as sock, ThreadPoolExecutor(1, initializer=_step_back) as drawing:
        site, found = WatchSite(watcher, drawing), watcher.result()
        what = f"watching {found.path}, {found.state}" if found.path else f"there is no {watcher.awaited} yet, waiting"
        ui.info(f"{what}; Ctrl-C ends this and harms no training")
        with suppress(KeyboardInterrupt):
            serve(site.app(), sock, open_browser=config.open, what="watch at", on_start=lambda stop: None)
    ended = watcher.result()
    goes_on = "; its training goes on" if ended.state == LIVE else ""
    ui.notice(f"no longer watching {ended.path}{goes_on}" if ended.path else f"no {watcher.awaited} came")
    return ended


def _step_back() -> None:
    """Let the training have the processor first. On Linux this is about the calling thread alone."""
    if sys.platform == "linux":
        os.nice(_NICENESS)


class Watcher:
    """Looks at a run and draws its page when it has changed. Not to be used by two threads at once.

    Args:
        config: which run, and how often pages ask.

    Raises:
        PersonaError: the run is none, and none that may come.
    """

    def __init__(self, config: WatchConfig) -> None:
        self._config = config
        self._named = Path(config.run).expanduser() if config.run else None
        self._record: Record | None = None
        self._stamp: tuple[object, ...] = ()
        self._stale = True
        self._due = 0.0
        self._version, self._body = 0, ""
        if self._named is not None:
            _check(self._named)
        self._read(anew=True)

    @property
    def awaited(self) -> str:
        """What is not there yet, in words."""
        return f"run {self._named}" if self._named else f"training run in {RUNS}/"

    def look(self, have: int) -> dict[str, Any]:
        """What a page is told.

        Args:
            have: the number of the drawing that the page shows; 0 for none.

        Returns:
            ``state``, ``name``, ``updates`` of ``planned`` and ``left`` (seconds to go), each None where nothing tells,
            ``every`` (seconds until the next question), ``over`` (there will be none), ``version``, and where that is
            not ``have``, ``body``.
        """
        record = self._read(anew=have == 0)
        told: dict[str, Any] = {"every": self._config.every, "version": self._version, "over": False}
        if record is None:
            return {**told, "state": WAITING, "name": self.awaited, "updates": None, "planned": None, "left": None}
        state = STATES[record.status]
        if self._stale and (state != LIVE or not self._body or time.monotonic() >= self._due):
            self._draw(record)
        planned = record.planned
        told |= {
            "state": state,
            "name": record.name,
            "updates": _updates(record),
            "planned": int(planned.value) if planned else None,
            "left": _left(record),
            "over": state != LIVE,
            "version": self._version,
        }
        return told if have == self._version else {**told, "body": self._body}

    def result(self) -> WatchResult:
        """How the run stands now."""
        record = self._record
        if record is None:
            return WatchResult(None, WAITING, None)
        with suppress(PersonaError):  # it was removed
            record = read_run(record.path)
        return WatchResult(record.path, STATES[record.status], _updates(record))

    def _read(self, anew: bool) -> Record | None:
        """The run as it is now, read again only where it has changed; None while it is not there.

        Args:
            anew: a page was opened: where nothing goes on, something may have come since, another run or evaluation.
        """
        idle = self._record is None or self._record.status != "running"
        path = self._named or (self._record.path if self._record and not idle else newest_begun(STAGES))
        if path is None or not is_run(path):
            self._record, self._stamp = None, ()
            return None
        if self._record is None or path != self._record.path:
            self._due = 0.0
        # A run that dies changes no file. The lock is only looked at where it is somebody's, or was.
        held = not idle and is_held(path)
        stamp = (path, held, *map(_changed, (path / name for name in _WRITTEN)))
        if stamp != self._stamp or (anew and idle):
            self._record, self._stale = read_run(path), True
            self._stamp = (path, self._record.status == "running", *stamp[2:])
        return self._record

    def _draw(self, record: Record) -> None:
        """Draw the page, and do not do so again before long."""
        began, spent = time.monotonic(), time.thread_time()
        body = html.run_part(view(record))
        if body != self._body:
            self._body, self._version = body, self._version + 1
        self._stale = False
        self._due = began + (time.thread_time() - spent) / _SHARE


def _check(path: Path) -> None:
    """Check that there is such a run, or may be one soon: nothing there, under a name that a training run gets."""
    if path.is_dir() and any(path.iterdir()):
        read_run(path)
    elif not path.is_dir() and (path.exists() or not re.fullmatch(rf"({'|'.join(STAGES)})-[0-9]+", path.name)):
        raise PersonaError(
            f"no such run: {path}", f"start it first; only a run with a name like {RUNS}/sft-1 can be waited for"
        )


def _changed(path: Path) -> tuple[int, int, int]:
    """What differs once a file was written to or replaced."""
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _updates(record: Record) -> int | None:
    """How many updates were made; None for what makes none."""
    if record.updates is not None:
        return int(record.updates.value)
    return 0 if record.status == "running" else None


def _left(record: Record) -> int | None:
    """How many seconds the run will go on at its latest pace; None where nothing tells."""
    latest = record.events.of("train")[-_PACE:]
    paced = [
        (event["update"], event["seconds"])
        for event in latest
        if is_number(event.get("update")) and is_number(event.get("seconds"))
    ]
    if record.status != "running" or record.planned is None or not paced:
        return None
    (first, since), (last, until) = paced[0] if len(paced) > 1 else (0, 0.0), paced[-1]
    pace = (until - since) / max(1, last - first)
    waited = max(0.0, time.time() - _changed(record.path / "metrics.jsonl")[1] / 1e9)
    return max(0, round(pace * (record.planned.value - last) - waited))


class WatchSite:
    """The pages that look at a run: any number of windows."""

    def __init__(self, watcher: Watcher, drawing: Executor) -> None:
        self._watcher, self._drawing = watcher, drawing

    def app(self) -> Starlette:
        """The routes of the page."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(routes=[Route("/", self._page), Route("/state", self._state)])

    async def _page(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        shown = page(PAGE, html.REPORT_STYLE)
        return HTMLResponse(shown.html, headers={"content-security-policy": shown.policy})

    async def _state(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        have = request.query_params.get("have", "")
        known = int(have) if re.fullmatch("[0-9]{1,9}", have) else 0
        try:
            told = await asyncio.get_running_loop().run_in_executor(self._drawing, self._watcher.look, known)
        except (PersonaError, OSError) as error:
            return JSONResponse({"error": str(error)}, 500)
        return JSONResponse(told)
