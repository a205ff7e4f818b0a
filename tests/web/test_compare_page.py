"""What the page of a comparison is told and may do, through Starlette's test client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mlx_persona.config import CompareConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.evals.blind.session import first_sides
from mlx_persona.stages.compare import Comparison
from mlx_persona.web import compare as web
from mlx_persona.web.compare import CompareSite, compare
from mlx_persona.web.local import Guard
from tests.judge_kit import playing
from tests.web.kit import items, resumed, saved, write_comparison

HOME = "http://127.0.0.1:8765/token/"


class Page:
    """A page's requests, without the page."""

    def __init__(self, comparison: Comparison, client: TestClient, stops: list[bool]) -> None:
        self.comparison, self.client, self.stops = comparison, client, stops

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        answer = self.client.get(f"{HOME}state")
        assert answer.status_code == 200
        return answer.json()

    def send(self, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
        """Send something and check how it was taken."""
        answer = self.client.post(HOME + path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def press(self, keys: str) -> dict[str, Any]:
        """Keys one after another; the state after the last."""
        for key in keys:
            self.send("answer", step=self.state()["step"], key=key)
        return self.state()


@contextmanager
def opened_page(folder: Path) -> Iterator[Page]:
    with resumed(folder) as comparison:
        site, stops = CompareSite(comparison), []
        site.when_done(lambda: stops.append(True))
        with TestClient(Guard(site.app(), "token", 8765)) as client:
            yield Page(comparison, client, stops)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four items about two models."""
    return write_comparison(tmp_path / "compare-1", items(4))


@pytest.fixture
def page(folder: Path) -> Iterator[Page]:
    """A page on it."""
    with opened_page(folder) as page:
        yield page


def test_the_page_comes_with_its_policy(page: Page) -> None:
    answer = page.client.get(HOME)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "Blind comparison" in answer.text


def test_the_state_shows_the_question_and_not_which_side_is_which(page: Page) -> None:
    state = page.state()
    first = first_sides(4, 0)[0]
    names = {"a": "alpha says 0", "b": "beta says 0"}
    assert state == {
        "title": "base against sft-1",
        "real": False,
        "folder": str(page.comparison.path),
        "step": 0,
        "item": 0,
        "items": 4,
        "before": [{"person": False, "text": "message 0 of 0"}],
        "replies": [names[first], names["b" if first == "a" else "a"]],
        "chosen": 0,
        "rate": None,
    }
    assert page.press("1")["before"] == [
        {"person": True, "text": "message 0 of 1"},
        {"person": False, "text": "message 1 of 1"},
    ]


def test_each_answer_is_saved_before_it_is_confirmed_and_undone_too(page: Page, folder: Path) -> None:
    firsts = first_sides(4, 0)
    state = page.send("answer", step=0, key="1")
    assert saved(folder) == [firsts[0]]
    assert (state["step"], state["item"]) == (1, 1)
    page.send("answer", step=1, key="t")
    assert saved(folder) == [firsts[0], "tie"]
    assert page.send("undo", step=2)["item"] == 1
    assert saved(folder) == [firsts[0]]
    page.send("undo", step=1)
    assert page.send("undo", step=0)["step"] == 0
    assert saved(folder) == []


def test_a_page_that_does_not_know_the_latest_answer_changes_nothing(page: Page, folder: Path) -> None:
    page.send("answer", step=0, key="1")
    for path in ("answer", "undo"):
        for step in (0, 2, -1, "1", None):
            state = page.send(path, 409, step=step, key="2")
            assert state["step"] == 1
    assert len(saved(folder)) == 1


@pytest.mark.parametrize("key", ["3", "s", "", "12", None, ["1"]])
def test_a_key_that_means_nothing_is_refused(page: Page, folder: Path, key: Any) -> None:
    assert "the key must be one of 1, 2, t" in page.send("answer", 400, step=0, key=key)["error"]
    assert not (folder / "answers.json").exists()


@pytest.mark.parametrize(
    ("content", "kind", "problem"),
    [
        (b"{", "application/json", "must be JSON"),
        (b"\xff", "application/json", "must be JSON"),
        (b"[" * 4000, "application/json", "must be JSON"),
        (b"[1]", "application/json", "must be an object, got list"),
        (b" " * 5000, "application/json", "at most 4096 bytes"),
        (b'{"step": 0, "key": "1"}', "text/plain", "must be application/json, got 'text/plain'"),
        (b"step=0&key=1", "application/x-www-form-urlencoded", "must be application/json"),
    ],
)
def test_a_body_that_no_page_of_ours_sends_is_refused(
    page: Page, folder: Path, content: bytes, kind: str, problem: str
) -> None:
    answer = page.client.post(f"{HOME}answer", content=content, headers={"content-type": kind})
    assert answer.status_code == 400
    assert problem in answer.json()["error"]
    assert not (folder / "answers.json").exists()


def test_a_page_that_goes_away_while_it_sends_changes_nothing(page: Page, folder: Path) -> None:
    arrived = [{"type": "http.request", "body": b'{"step": 0,', "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return arrived.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1:8765"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/token/answer", "query_string": b"", "headers": headers}
    asyncio.run(page.client.app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert not (folder / "answers.json").exists()


@pytest.mark.parametrize(
    ("path", "method", "status"), [("answer", "GET", 405), ("state", "POST", 405), ("x", "GET", 404)]
)
def test_other_requests_are_refused(page: Page, path: str, method: str, status: int) -> None:
    assert page.client.request(method, HOME + path).status_code == status


def test_a_full_disk_is_told_and_does_not_count(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mlx_persona.stages.compare.write_text", full)
        assert page.send("answer", 500, step=0, key="1") == {"error": "it cannot be saved: No space left on device"}
    assert page.state()["step"] == 0
    assert page.press("1")["step"] == 1


def test_the_end_shows_the_result_and_finishing_stops_the_server(page: Page, folder: Path) -> None:
    assert "error" in page.send("finish", 400)
    state = page.press("11t2")
    written = json.loads((folder / "result.json").read_text())
    assert written == json.loads(json.dumps(page.comparison.result.to_json()))
    assert state["result"]["headline"] == page.comparison.result.headline()
    assert state["result"]["rows"] == page.comparison.result.rows()
    assert state["result"]["ends"] == ["base", "sft-1"]
    assert (state["item"], state["step"]) == (4, 4)
    assert "replies" not in state
    assert page.send("answer", 400, step=4, key="1")["error"] == "every question is answered already"
    assert not page.stops
    assert page.send("finish") == {"ended": True}
    assert page.stops == [True]


def test_the_last_answer_can_be_taken_back(page: Page, folder: Path) -> None:
    page.press("1111")
    assert page.send("undo", step=4)["item"] == 3
    assert not (folder / "result.json").exists()
    page.press("2")
    assert (folder / "result.json").exists()


def test_a_page_that_is_closed_at_the_end_stops_the_server_unless_it_comes_back(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_LEFT", 0.3)
    page.send("leave")
    page.press("1111")
    page.send("leave")
    page.state()
    time.sleep(0.6)
    assert not page.stops
    page.send("leave")
    deadline = time.monotonic() + 20
    while not page.stops and time.monotonic() < deadline:
        time.sleep(0.05)
    assert page.stops == [True]


def test_ratings_follow_a_choice(tmp_path: Path) -> None:
    made = write_comparison(tmp_path / "rated", items(2), ("base", "real"), rubric=("warm", "short"))
    with opened_page(made) as page:
        state = page.press("2")
        assert state["real"]
        assert (state["rate"], state["chosen"], state["item"]) == ({"by": "warm", "reply": 1}, 2, 0)
        assert page.press("5")["rate"] == {"by": "warm", "reply": 2}
        assert page.press("s")["rate"] == {"by": "short", "reply": 1}
        assert "1, 2, 3, 4, 5, s" in page.send("answer", 400, step=3, key="t")["error"]
        assert page.press("13")["item"] == 1
        state = page.press("t4422")
        assert state["result"]["ends"] == ["saw through", "fooled"]
        assert any(name.startswith("warm") for name, _ in state["result"]["rows"])


def test_a_finished_comparison_is_told_without_a_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with resumed(folder) as comparison:
        for key in "1212":
            comparison.press(key)
    (folder / "result.json").unlink()
    monkeypatch.setattr(web, "serve", lambda *args, **more: pytest.fail("there is nothing to ask"))
    result, where = compare(CompareConfig(resume=str(folder)))
    assert (result.answered, where) == (4, str(folder))
    assert (folder / "result.json").exists()


def test_a_stop_before_the_end_says_how_to_go_on_and_one_at_the_end_is_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "serve", answering("1t", True, []))
    with pytest.raises(Interrupted) as stop:
        compare(CompareConfig(resume=str(folder), open=False))
    assert stop.value.message == "stopped: 2 of 4 items are answered and kept"
    assert stop.value.hint == f"go on with: mlx-persona compare --resume {folder}"
    assert json.loads((folder / "run.json").read_text())["status"] == "stopped"
    monkeypatch.setattr(web, "serve", answering("22", True, []))
    result, _ = compare(CompareConfig(resume=str(folder), open=False))
    assert result.answered == 4
    assert json.loads((folder / "run.json").read_text())["status"] == "done"


def test_a_shipped_dimension_is_shown_with_its_meaning(tmp_path: Path) -> None:
    made = write_comparison(tmp_path / "rated", items(1), rubric=("Honesty", "warm"))
    with opened_page(made) as page:
        assert page.press("1")["rate"]["by"].startswith("Honesty: says what is so")
        assert page.press("33")["rate"]["by"] == "warm"


def answering(keys: str, stop: bool, states: list[Any]) -> Any:
    """What stands for :func:`serve`: a page that sends these keys, and is left by Ctrl-C or by its button.

    ``states`` takes what it is told after each key.
    """

    def serving(app: Any, sock: Any, *, on_start: Any, **more: Any) -> None:
        on_start(lambda: None)
        with TestClient(Guard(app, "token", 8765)) as client:
            for step, key in enumerate(keys, client.get(f"{HOME}state").json()["step"]):
                states.append(client.post(f"{HOME}answer", json={"step": step, "key": key}).json())
        if stop:
            raise KeyboardInterrupt

    return serving


def test_the_judge_is_asked_once_the_page_is_finished_and_not_by_who_stops_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states: list[Any] = []
    with playing() as server:
        config = CompareConfig(resume=str(folder), open=False, judge=server.url)
        again = f"mlx-persona compare --resume {folder} --judge {server.url}"
        monkeypatch.setattr(web, "serve", answering("12", True, states))
        with pytest.raises(Interrupted) as stop:
            compare(config)
        assert stop.value.hint == f"go on with: {again}"
        monkeypatch.setattr(web, "serve", answering("12", True, states))
        result, _ = compare(config)
        assert (result.answered, result.judge) == (4, None)
        assert f"the judge was not asked; ask it with: {again}" in " ".join(capsys.readouterr().err.split())
        with resumed(folder) as comparison:
            comparison.undo()
        assert server.asked == []
        monkeypatch.setattr(web, "serve", answering("2", False, states))
        result, _ = compare(config)
        assert [state.get("judge") for state in states] == [None, None, None, True, True]
        assert result.judge is not None
        assert len(server.asked) == 4 * 2 * 6


def test_a_judge_that_is_not_there_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PersonaError, match="must be an address like"):
        compare(CompareConfig(a="base", b="real", judge="localhost:80"))
    assert list(tmp_path.iterdir()) == []
