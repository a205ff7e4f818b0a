"""A web server for one user on one machine: bound to loopback, behind a random token, deaf to everybody else.

Whoever does not know the address gets nothing: not other users of the machine, not other pages in the same browser,
and not a foreign name that was made to mean this machine (DNS rebinding).
"""

from __future__ import annotations

import errno
import hmac
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mlx_persona import ui
from mlx_persona.errors import PersonaError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Stop = Callable[[], None]
LOOPBACK = "127.0.0.1"
FIRST_PORT = 8765
_TRIED = 20
_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def check_extra() -> None:
    """Check that the web framework is installed; raises PersonaError."""
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise PersonaError(f"the page needs {error.name}", "pip install 'mlx-persona[serve]'") from None
    del starlette, uvicorn


@contextmanager
def listening(port: int | None) -> Iterator[socket.socket]:
    """A socket bound on the loopback: to ``port``, or without one to the first free from 8765 on.

    Raises:
        PersonaError: the port is in use, or not ours to take.
    """
    sock = _bound(port) if port is not None else _first_free()
    try:
        yield sock
    finally:
        sock.close()


def _first_free() -> socket.socket:
    for port in range(FIRST_PORT, FIRST_PORT + _TRIED):
        with suppress(PersonaError):
            return _bound(port)
    return _bound(0)  # any that the system has


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was left a moment ago is free
        sock.bind((LOOPBACK, port))
        sock.listen()
    except OSError as error:
        sock.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        hint = "name another with --port, or none: then the next free one is taken"
        raise PersonaError(f"port {port} {reason}", hint) from error
    return sock


class Guard:
    """Lets a request through to ``app`` only with the token in its path and this machine's name as its host."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token.encode()
        # A browser leaves HTTP's own port out.
        self._hosts = {f"{name}:{port}".removesuffix(":80") for name in (LOOPBACK, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI wants it."""
        from starlette.responses import PlainTextResponse

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        token = scope["path"].removeprefix("/").partition("/")[0]
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            await PlainTextResponse("not this host\n", 421)(scope, receive, sealed)
        elif not hmac.compare_digest(token.encode(), self._token):
            await PlainTextResponse("open the address that mlx-persona printed\n", 403)(scope, receive, sealed)
        else:
            await self._app({**scope, "root_path": f"/{token}"}, receive, sealed)


def serve(
    app: ASGIApp, sock: socket.socket, *, open_browser: bool, what: str, on_start: Callable[[Stop], None]
) -> None:
    """Show ``app`` in the browser until it stops the server.

    Args:
        app: the application; its address ends in a slash.
        sock: from :func:`listening`.
        open_browser: or only print the address.
        what: what the address shows, in a word or two.
        on_start: given what stops the server, before the first request.

    Raises:
        KeyboardInterrupt: stopped from the terminal; requests under way are answered first.
    """
    import uvicorn

    token, port = secrets.token_urlsafe(32), sock.getsockname()[1]
    options: dict[str, Any] = {"log_config": None, "log_level": "error", "access_log": False}
    options |= {"ws": "none", "proxy_headers": False, "server_header": False, "timeout_graceful_shutdown": 2}
    server = uvicorn.Server(uvicorn.Config(Guard(app, token, port), **options))

    def stop() -> None:
        server.should_exit = True

    on_start(stop)
    address = f"http://{LOOPBACK}:{port}/{token}/"
    ui.notice(f"{what}: {address}")
    if open_browser:
        # The system holds the browser's request until the server takes it; some browsers do not return at once.
        threading.Thread(target=_open, args=(address,), daemon=True).start()
    server.run(sockets=[sock])


def _open(address: str) -> None:
    try:
        found = webbrowser.open(address)
    except webbrowser.Error:
        found = False
    if not found:
        ui.info("no browser could be opened: open the address yourself")
