"""What the live page is told, and when anything is drawn, through Starlette's test client."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mlx_persona.config import WatchConfig
from mlx_persona.errors import PersonaError
from mlx_persona.report import html
from mlx_persona.runs import Run
from mlx_persona.web import watch as web
from mlx_persona.web.local import Guard
from mlx_persona.web.watch import Watcher, WatchResult, WatchSite
from tests.web.watchkit import begin, end, step

HOME = "http://127.0.0.1:8765/token/"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and drawings as often as there is something new."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(web, "_SHARE", 1e9)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of the thread of each drawing."""
    found: list[str] = []
    draw = html.run_part
    monkeypatch.setattr(html, "run_part", lambda view: found.append(threading.current_thread().name) or draw(view))
    return found


@pytest.fixture
def run() -> Iterator[Run]:
    """A run that has begun; the test ends it."""
    return begin(Path("runs/sft-1"))


def test_nothing_is_drawn_while_nothing_changes(run: Run, drawn: list[str]) -> None:
    step(run, 1, 2)
    watcher = Watcher(WatchConfig())
    first = watcher.look(0)
    assert {key: first[key] for key in ("state", "name", "updates", "planned", "over", "version", "every")} == {
        **{"state": "live", "name": "sft-1", "updates": 2, "planned": 6, "over": False, "version": 1, "every": 5.0},
    }
    assert "<svg" in first["body"]
    again = watcher.look(1)
    assert "body" not in again
    assert watcher.look(0)["body"] == first["body"]  # another window
    assert len(drawn) == 1
    step(run, 3)
    later = watcher.look(1)
    assert (later["updates"], later["version"], len(drawn)) == (3, 2, 2)
    assert later["body"] != first["body"]
    end(run, updates=3)
    last = watcher.look(2)
    assert (last["state"], last["over"], last["left"], last["version"]) == ("finished", True, None, 3)


def test_phases_are_shown_as_they_begin(run: Run) -> None:
    watcher = Watcher(WatchConfig())
    assert "<h2>Phases</h2>" not in watcher.look(0)["body"]
    for update, phase, delta in ((0, "S0", None), (3, "S0", -0.2), (6, "S1", -0.2)):
        if update:
            step(run, *range(update - 2, update + 1))
        reason = "it fell fast" if phase == "S1" else ""
        run.log("phase", update=update, phase=phase, delta=delta, reason=reason, decided_by="signal" if reason else "")
        body = watcher.look(0)["body"]
        assert "<h2>Phases</h2>" in body
        assert ("it fell fast" in body) is (phase == "S1")
        assert ('data-series="band-S1"' in body) is (phase == "S1")
    end(run)


def test_drawing_takes_a_small_share_of_a_core_but_the_end_is_shown_at_once(
    run: Run, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_SHARE", 1e-9)
    watcher = Watcher(WatchConfig())
    watcher.look(0)
    step(run, 1)
    assert (watcher.look(1)["updates"], len(drawn)) == (1, 1)  # how far it is is told all the same
    monkeypatch.setattr(web.time, "monotonic", lambda: 1e12)
    assert (watcher.look(1)["version"], len(drawn)) == (2, 2)
    step(run, 2)
    watcher.look(2)
    assert len(drawn) == 2
    end(run)
    assert (watcher.look(2)["version"], len(drawn)) == (3, 3)


@pytest.mark.parametrize(
    ("status", "state"), [("done", "finished"), ("stopped", "stopped"), ("failed", "failed"), ("running", "died")]
)
def test_how_a_run_ended(run: Run, status: str, state: str) -> None:
    step(run, 1)
    watcher = Watcher(WatchConfig(run="runs/sft-1"))
    assert watcher.look(0)["state"] == "live"
    assert watcher.result() == WatchResult(Path("runs/sft-1"), "live", 1)
    end(run, status)
    told = watcher.look(1)
    assert (told["state"], told["over"]) == (state, True)
    assert watcher.result().to_json() == {"path": "runs/sft-1", "state": state, "updates": 1}


def test_a_stopped_run_that_is_resumed_is_live_again_for_a_page_that_is_loaded_anew(run: Run) -> None:
    watcher = Watcher(WatchConfig())
    end(run, "stopped")
    assert watcher.look(0)["over"] is True
    again = Run.reopen(Path("runs/sft-1"))
    again.update_info(status="running")
    assert watcher.look(0)["state"] == "live"
    again.close()


def test_the_time_left_goes_by_the_latest_pace(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_PACE", 3)
    watcher = Watcher(WatchConfig())
    assert watcher.look(0)["left"] is None
    file = Path("runs/sft-1/metrics.jsonl")

    def left(*seconds: float) -> Any:
        for number, at in enumerate(seconds, left.made + 1):  # type: ignore[attr-defined]
            run.log("train", update=number, loss=1.0, seconds=at)
            left.made = number  # type: ignore[attr-defined]
        os.utime(file, (time.time() + 9, time.time() + 9))  # just written, however slow the test is
        return watcher.look(1)["left"]

    left.made = 0  # type: ignore[attr-defined]
    assert left(10.0) == 50  # five more like the first
    assert left(12.0) == 8  # four of two seconds
    assert left(14.0, 24.0) == 12  # two, of the latest two: (2 + 10) / 2 each
    os.utime(file, (time.time() - 5, time.time() - 5))
    assert watcher.look(1)["left"] in (6, 7)  # and time goes by
    end(run)


def test_without_a_plan_there_is_a_count_and_no_time_left() -> None:
    run = begin(Path("runs/sft-1"), planned=None)
    step(run, 1)
    told = Watcher(WatchConfig()).look(0)
    assert (told["updates"], told["planned"], told["left"]) == (1, None, None)
    end(run)


def test_the_run_that_is_going_comes_before_newer_ones() -> None:
    going = begin(Path("runs/sft-1"), started=1.0)
    begin(Path("runs/dpo-1"), stage="dpo", started=9.0).close()  # died
    end(begin(Path("runs/sft-2"), started=2.0))
    watcher = Watcher(WatchConfig())
    assert watcher.look(0)["name"] == "sft-1"
    end(going)
    assert watcher.look(1)["name"] == "sft-1"  # its end is shown
    assert watcher.look(0)["name"] == "dpo-1"
    assert Watcher(WatchConfig(run="runs/sft-2")).look(0)["name"] == "sft-2"


@pytest.mark.parametrize("named", ["", "runs/sft-1"])
def test_a_run_to_come_is_waited_for_and_one_that_is_removed_too(named: str) -> None:
    watcher = Watcher(WatchConfig(run=named))
    told = watcher.look(0)
    assert (told["state"], told["over"]) == ("waiting", False)
    assert told["name"] == ("run runs/sft-1" if named else "training run in runs/")
    assert "body" not in told or told["body"] == ""
    assert watcher.result() == WatchResult(None, "waiting", None)
    Path("runs/sft-1").mkdir(parents=True)  # claimed, and nothing in it yet
    assert watcher.look(0)["state"] == "waiting"
    run = begin(Path("runs/sft-1"))
    assert watcher.look(0)["state"] == "live"
    end(run)
    Path("runs/sft-1").rename("runs/away")
    assert watcher.look(1)["state"] == "waiting"


@pytest.mark.parametrize("name", ["runs/sft1", "runs/eval-1", "file", "sft-x"])
def test_what_is_no_run_and_will_be_none_is_an_error(name: str) -> None:
    Path("file").write_text("x")
    with pytest.raises(PersonaError, match=f"no such run: {name}") as caught:
        Watcher(WatchConfig(run=name))
    assert "runs/sft-1" in (caught.value.hint or "")


def test_a_folder_with_other_things_is_no_run() -> None:
    Path("sft-1").mkdir()
    Path("sft-1/notes.txt").write_text("x")
    with pytest.raises(PersonaError, match="sft-1 is no run"):
        Watcher(WatchConfig(run="sft-1"))


@pytest.fixture
def client(run: Run) -> Iterator[TestClient]:
    """A client of the guarded site."""
    with (
        ThreadPoolExecutor(1, thread_name_prefix="drawing") as pool,
        TestClient(Guard(WatchSite(Watcher(WatchConfig()), pool).app(), "token", 8765)) as client,
    ):
        yield client
    run.close()


def test_the_page_has_a_strict_policy_and_no_report_in_it_yet(client: TestClient) -> None:
    answer = client.get(HOME)
    assert answer.status_code == 200
    rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert rules["script-src"].startswith("'sha256-")
    assert rules["style-src"].startswith("'sha256-")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "sft-1" not in answer.text


def test_no_chart_needs_a_style_that_the_policy_forbids(client: TestClient) -> None:
    body = client.get(f"{HOME}state").json()["body"]
    assert "<svg" in body
    assert " style=" not in body
    assert "<script" not in body
    assert "<style" not in body


@pytest.mark.parametrize("have", ["", "x", "-1", "1.5", "99999999999999999999", "9"])
def test_a_page_that_has_no_such_drawing_gets_the_one_there_is(client: TestClient, have: str) -> None:
    told = client.get(f"{HOME}state", params={"have": have}).json()
    assert told["version"] == 1
    assert told["body"].lstrip().startswith("<header>")
    assert "body" not in client.get(f"{HOME}state?have=1").json()


def test_one_thread_draws_for_all_windows(client: TestClient, run: Run, drawn: list[str]) -> None:
    for update in range(1, 4):
        step(run, update)
        threads = [threading.Thread(target=client.get, args=(f"{HOME}state",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(drawn) == 3
    assert set(drawn) == {"drawing_0"}


def test_a_run_that_cannot_be_read_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(view: object) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(html, "run_part", full)
    answer = client.get(f"{HOME}state")
    assert (answer.status_code, answer.json()) == (500, {"error": "[Errno 5] Input/output error"})


@pytest.mark.parametrize(("path", "method", "status"), [("state", "POST", 405), ("x", "GET", 404)])
def test_other_requests_are_refused(client: TestClient, path: str, method: str, status: int) -> None:
    assert client.request(method, HOME + path).status_code == status
    assert client.get("http://127.0.0.1:8765/other/state").status_code == 403
