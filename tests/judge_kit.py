"""A small server that plays a judge."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, Any]]


class Server:
    """Answers as the test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = lambda body: (200, text("3"))
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.url = ""


def text(content: str, top: dict[str, float] | None = None) -> dict[str, Any]:
    """A chat completion, with the probabilities of its first token where they are given."""
    choice: dict[str, Any] = {"message": {"content": content}}
    if top:
        told = [{"token": token, "logprob": math.log(p)} for token, p in top.items()]
        choice["logprobs"] = {"content": [{"token": content, "logprob": 0.0, "top_logprobs": told}]}
    return {"choices": [choice]}


@contextmanager
def playing() -> Iterator[Server]:
    """The server, on a free port of this machine."""
    played = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200, {"data": [{"id": "first"}, {"id": "second"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            played.asked.append(body)
            played.headers.append(self.headers["Authorization"])
            self._say(*played.answer(body))

        def _say(self, status: int, value: Any) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            with suppress(ConnectionError):  # who asked has given up
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    played.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield played
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
