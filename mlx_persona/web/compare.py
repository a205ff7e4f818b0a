"""The page of a blind comparison, and the command around it.

mlx-persona compare base runs/sft-1
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mlx_persona import ui
from mlx_persona.config import CompareConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.evals.blind.judged import described
from mlx_persona.evals.blind.score import REAL, Result
from mlx_persona.evals.blind.session import CHOICE, SIDES
from mlx_persona.evals.judge import Judge
from mlx_persona.stages.compare import Comparison, opened
from mlx_persona.stages.judging import rate_replies, shipped_rubric
from mlx_persona.web.local import Stop, check_extra, listening, serve
from mlx_persona.web.page import page

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PAGE = "compare"
_LONGEST = 4096  # bytes of a request
# A page that goes away at the end may only be loading anew, in seconds.
_LEFT = 2.0


def compare(config: CompareConfig) -> tuple[Result, str]:
    """Let somebody who knows the person compare two sides blindly, in the browser; then ask a judge, if one is named.

    Returns:
        The result, and the folder that it lies in.

    Raises:
        PersonaError: as :func:`opened`; the ``serve`` extra is missing, the port is taken, or the judge fails.
        Interrupted: stopped before the end; everything so far is kept.
    """
    check_extra()
    judge = Judge(config.judge, config.judge_model) if config.judge else None  # before anything is written
    failed: PersonaError | Interrupted | None = None
    with listening(config.port) as sock, opened(config) as comparison:
        if not comparison.session.done:
            site = CompareSite(comparison, judge is not None)
            try:
                serve(site.app(), sock, open_browser=config.open, what="compare at", on_start=site.when_done)
            except KeyboardInterrupt:
                if not comparison.session.done:
                    raise comparison.stopped() from None
                if judge is not None:  # who stops the program wants nothing more to happen
                    ui.info(f"the judge was not asked; ask it with: {comparison.again}")
                judge = None
        if judge is not None:
            try:
                rate_replies(comparison, judge)
            except (PersonaError, Interrupted) as error:
                failed = error  # the comparison itself is done, and run.json says so
        result, folder = comparison.result, str(comparison.path)
    if failed is not None:
        raise failed
    return result, folder


class CompareSite:
    """What the page asks for and is told. It never learns which side is which before the end.

    ``judge``: whether a judge is asked once the page is done with.
    """

    def __init__(self, comparison: Comparison, judge: bool = False) -> None:
        self._comparison, self._judge, self._shipped = comparison, judge, shipped_rubric()
        self._stop: Stop = lambda: None
        self._leaving: asyncio.TimerHandle | None = None

    def when_done(self, stop: Stop) -> None:
        """What to call once the result was seen."""
        self._stop = stop

    def app(self) -> Starlette:
        """The routes of the page."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/state", self._state),
                Route("/answer", self._answer, methods=["POST"]),
                Route("/undo", self._undo, methods=["POST"]),
                Route("/finish", self._finish, methods=["POST"]),
                Route("/leave", self._leave, methods=["POST"]),
            ]
        )

    async def _page(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        self._stay()
        shown = page(PAGE)
        return HTMLResponse(shown.html, headers={"content-security-policy": shown.policy})

    def _now(self) -> dict[str, Any]:
        state = state_of(self._comparison, self._shipped)
        return {**state, "judge": self._judge} if "result" in state else state

    async def _state(self, request: Request) -> Response:
        self._stay()
        return _json(self._now())

    async def _answer(self, request: Request) -> Response:
        return await self._change(request, lambda asked: self._comparison.press(str(asked.get("key"))))

    async def _undo(self, request: Request) -> Response:
        return await self._change(request, lambda asked: self._comparison.undo())

    async def _change(self, request: Request, change: Callable[[dict[str, Any]], None]) -> Response:
        """Carry out what a page asks for, if it knows where the comparison stands, and tell it where that is now."""
        self._stay()
        try:
            asked = await _body(request)
            if asked.get("step") != len(self._comparison.session.answers):  # another window was faster
                return _json(self._now(), 409)
            change(asked)
        except PersonaError as error:
            return _json({"error": error.message}, 400)
        except OSError as error:
            return _json({"error": f"it cannot be saved: {error.strerror or error}"}, 500)
        return _json(self._now())

    async def _finish(self, request: Request) -> Response:
        if not self._comparison.session.done:
            return _json({"error": "not every question is answered"}, 400)
        self._stop()
        return _json({"ended": True})

    async def _leave(self, request: Request) -> Response:
        """The page is closed or loads anew: at the end there is nothing to wait for, if it does not come back."""
        self._stay()
        if self._comparison.session.done:
            self._leaving = asyncio.get_running_loop().call_later(_LEFT, self._stop)
        return _json({})

    def _stay(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that a page sends; raises PersonaError for anything else."""
    from starlette.requests import ClientDisconnect

    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":  # which no form of a foreign page can send
        raise PersonaError(f"a request must be application/json, got {kind!r}")
    text = b""
    try:
        async for piece in request.stream():
            text += piece
            if len(text) > _LONGEST:
                raise PersonaError(f"a request must have at most {_LONGEST} bytes")
        value = json.loads(text)
    except ClientDisconnect as error:
        raise PersonaError("the page went away") from error
    except (ValueError, RecursionError) as error:
        raise PersonaError("a request must be JSON") from error
    if not isinstance(value, dict):
        raise PersonaError(f"a request must be an object, got {type(value).__name__}")
    return value


def _json(value: Any, status: int = 200) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(value, status)


def state_of(comparison: Comparison, shipped: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the page shows now: the question, or at the end the result.

    Args:
        comparison: how far it has come.
        shipped: dimension -> what it means, shown where the user rates by it.
    """
    session, labels = comparison.session, comparison.labels
    step = session.current
    state: dict[str, Any] = {
        "title": f"{labels['a']} against {labels['b']}",
        "real": REAL in labels.values(),
        "folder": str(comparison.path),
        "step": len(session.answers),
        "item": session.items_done,
        "items": len(session.items),
    }
    if step is None:
        return {**state, "result": _outcome(comparison.result)}
    item = session.items[step.item]
    shown = item.shown
    chosen = session.chosen(step.item)
    return {
        **state,
        "before": [
            {"person": message.role == "assistant", "text": message.content}
            for message in item.before
            if message.role != "system"
        ],
        "replies": [item.replies[side] for side in shown],
        "chosen": shown.index(chosen) + 1 if chosen in SIDES else 0,
        "rate": None if step.ask == CHOICE else {"by": _titled(step.ask, shipped), "reply": shown.index(step.side) + 1},
    }


def _titled(measure: str, shipped: Mapping[str, str]) -> str:
    """A measure, with what it means where it is a shipped dimension."""
    meaning = described(measure, shipped)
    return f"{measure}: {meaning}" if meaning else measure


def _outcome(result: Result) -> dict[str, Any]:
    """The result as the page shows it: a sentence, a share between two ends, and rows."""
    share, labels = result.main, result.labels
    ends = ["saw through", "fooled"] if result.fooled else [labels["a"], labels["b"]]
    return {
        "headline": result.headline(),
        "ends": ends,
        "rate": share.rate,
        "interval": share.interval,
        "rows": result.rows(),
    }
