"""The server for one user on one machine: where it listens, and to whom it does not."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Callable
from urllib.request import urlopen

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from mlx_persona import ui
from mlx_persona.errors import PersonaError
from mlx_persona.web import local
from mlx_persona.web.local import Guard, listening
from mlx_persona.web.page import page

TOKEN = "a-random-token"
HOME = f"/{TOKEN}/"


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


APP = Starlette(routes=[Route("/", hello), Route("/deep/er", hello)])


@pytest.fixture
def client() -> TestClient:
    """A client of a guarded application on port 8765."""
    return TestClient(Guard(APP, TOKEN, 8765), base_url="http://127.0.0.1:8765", follow_redirects=False)


@pytest.mark.parametrize("path", [HOME, f"{HOME}deep/er"])
def test_the_address_with_the_token_is_answered(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.text) == (200, "hello")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_an_address_without_its_last_slash_leads_to_the_page(client: TestClient) -> None:
    answer = client.get(f"/{TOKEN}")
    assert answer.status_code == 307
    assert answer.headers["location"] == f"http://127.0.0.1:8765{HOME}"


@pytest.mark.parametrize("path", ["/", "/deep/er", "/favicon.ico", "/a-random-toke/", f"/{TOKEN}x/", "/é/"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_without_the_token_nothing_is_told(client: TestClient, path: str, method: str) -> None:
    answer = client.request(method, f"http://127.0.0.1:8765{path}")
    assert answer.status_code == 403
    assert "hello" not in answer.text
    assert answer.headers["cache-control"] == "no-store"


def test_tokens_are_compared_in_constant_time(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(local.hmac, "compare_digest", lambda *pair: bool(seen.append(pair)))
    assert client.get(HOME).status_code == 403
    assert seen == [(TOKEN.encode(), TOKEN.encode())]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1", "127.0.0.1:80", "10.0.0.2:8765", ""]
)
def test_another_host_name_is_refused_even_with_the_token(client: TestClient, host: str) -> None:
    assert client.get(HOME, headers={"host": host}).status_code == 421


def test_two_host_names_are_refused_and_localhost_is_this_machine(client: TestClient) -> None:
    twice = [("host", "127.0.0.1:8765"), ("host", "127.0.0.1:8765")]
    assert client.get(HOME, headers=twice).status_code == 421  # type: ignore[arg-type]
    assert client.get(HOME, headers={"host": "LocalHost:8765"}).status_code == 200


def test_on_the_port_of_http_itself_a_browser_names_none() -> None:
    client = TestClient(Guard(APP, TOKEN, 80), base_url="http://127.0.0.1")
    assert client.get(HOME).status_code == 200
    assert client.get(HOME, headers={"host": "evil.example"}).status_code == 421


def test_only_http_is_served(client: TestClient) -> None:
    with pytest.raises(RuntimeError, match="only HTTP"), client.websocket_connect(HOME):
        pass


def test_a_named_port_that_is_taken_is_an_error_and_none_named_takes_the_next() -> None:
    with listening(None) as first, listening(None) as second:
        ports = [sock.getsockname() for sock in (first, second)]
        assert {host for host, _ in ports} == {"127.0.0.1"}
        assert ports[0] != ports[1]
        with pytest.raises(PersonaError) as error, listening(ports[0][1]):
            pass
        assert error.value.message == f"port {ports[0][1]} is in use"
        assert "--port" in (error.value.hint or "")
    with listening(ports[0][1]) as again:  # one that was left is free at once
        assert again.getsockname() == ports[0]


def test_where_all_usual_ports_are_taken_the_system_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(local, "FIRST_PORT", taken.getsockname()[1])
        monkeypatch.setattr(local, "_TRIED", 1)
        with listening(None) as sock:
            assert sock.getsockname()[1] not in (0, taken.getsockname()[1])


def served(open_browser: bool, visit: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Serve the application in this thread while another visits it and stops it; returns what was printed."""
    printed: list[str] = []
    stops: list[local.Stop] = []

    def visiting() -> None:
        try:
            visit(printed[0].partition(": ")[2])
        finally:
            stops[0]()

    def start(stop: local.Stop) -> None:
        stops.append(stop)
        visitor.start()

    visitor = threading.Thread(target=lambda: (ready.wait(10), visiting()))
    ready = threading.Event()
    monkeypatch.setattr(ui, "notice", lambda text, hint=None: (printed.append(text), ready.set()))
    with listening(None) as sock:
        local.serve(APP, sock, open_browser=open_browser, what="compare at", on_start=start)
    visitor.join()
    return printed


def test_a_real_server_answers_at_the_printed_address_and_stops_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[str] = []

    def visit(address: str) -> None:
        with urlopen(address, timeout=10) as answer:
            got.append(answer.read().decode())
            assert "server" not in answer.headers

    monkeypatch.setattr(webbrowser, "open", lambda address: got.append(address))
    printed = served(False, visit, monkeypatch)
    assert got == ["hello"]
    assert printed[0].startswith("compare at: http://127.0.0.1:")
    assert len(printed[0].rstrip("/").rpartition("/")[2]) >= 43  # 32 random bytes
    assert served(False, visit, monkeypatch) != printed


def test_the_browser_is_given_the_address_and_one_that_does_not_open_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    told = threading.Event()
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)))
    monkeypatch.setattr(ui, "info", lambda text: told.set())
    printed = served(True, lambda address: told.wait(10) or pytest.fail("not told"), monkeypatch)
    assert printed == [f"compare at: {opened[0]}"]


def test_a_page_allows_its_own_script_and_style_and_nothing_else() -> None:
    html, policy = page("compare")
    assert "{{" not in html
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert "unsafe" not in policy
    assert "http" not in html.replace("http-equiv", "")  # nothing is fetched from anywhere
