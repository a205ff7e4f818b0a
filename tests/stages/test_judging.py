"""A judge rates a finished comparison: what it is asked, what is kept, and how it goes on after it failed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_persona import cli, ui
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.evals.judge import ATTEMPTS, Judge
from mlx_persona.runs import read_info
from mlx_persona.stages import judging
from mlx_persona.stages.compare import JUDGED, RESULT
from mlx_persona.stages.judging import rate_replies, shipped_rubric
from tests.judge_kit import Server, playing, text
from tests.web.kit import items, resumed, write_comparison

HERE = "runs/compare-1"


@pytest.fixture
def server() -> Iterator[Server]:
    """A judge that likes beta better, surely: 2 for alpha, 4 or 5 for beta."""

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        likes = "beta says" in question(body)
        return 200, text("4", {"4": 0.5, "5": 0.5}) if likes else text("2")

    with playing() as played:
        played.answer = answer
        yield played


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def question(body: dict[str, Any]) -> str:
    return body["messages"][1]["content"]


def finished(rubric: tuple[str, ...] = ("warm",), labels: tuple[str, str] = ("base", "sft-1")) -> Path:
    """Three items: alpha is chosen, then beta twice; warm is 2 for alpha and 4 for beta, or skipped."""
    folder = write_comparison(Path(HERE), items(3), labels, rubric=rubric)
    with resumed(folder) as comparison:
        for index, item in enumerate(comparison.session.items):
            wanted = "abb"[index]
            comparison.press(str(item.shown.index(wanted) + 1))
            for side in item.shown * len(rubric):
                comparison.press({"a": "2", "b": "4"}[side])
    return folder


def judge_of(server: Server, model: str = "") -> Judge:
    return Judge(server.url, model, lambda seconds: None)


def test_the_same_replies_are_rated_by_the_same_rubric_and_compared(server: Server) -> None:
    folder = finished()
    before = json.loads((folder / RESULT).read_text())
    assert before["judge"] is None
    with resumed(folder) as comparison:
        rate_replies(comparison, judge_of(server))
        result = comparison.result
    assert len(server.asked) == 6
    assert all("Dimension: warm. (1 not at all, 5 entirely)" in question(body) for body in server.asked)
    assert not any("be short" in question(body) for body in server.asked)  # the system message
    assert "user: message 1 of 1" in question(server.asked[2])
    written = json.loads((folder / RESULT).read_text())
    assert written == json.loads(json.dumps(result.to_json()))
    said = written.pop("judge")
    assert {**written, "judge": None} == before
    assert (said["url"], said["model"]) == (server.url, "first")
    assert (said["questions"], said["by_probability"]) == (6, 3)
    assert said["preferred"] == {"a": 0, "b": 3}
    assert said["choices"]["hits"] == 2
    warm = said["dimensions"]["warm"]
    assert warm["means"] == {"a": 2.0, "b": 4.5}
    assert warm["agreement"]["spearman"] == pytest.approx(1.0)
    assert warm["agreement"]["difference"] == pytest.approx(0.25)
    assert warm["agreement"]["kappa"] == pytest.approx(1 - 0.5 / 3.5)  # users 2, 4; judge 2, 5 (4.5 goes up)
    assert read_info(folder)["status"] == "done"


def test_without_a_rubric_the_shipped_dimensions_are_asked(server: Server) -> None:
    folder = finished(())
    with resumed(folder) as comparison:
        rate_replies(comparison, judge_of(server))
        said = comparison.result.judge
    assert said is not None
    assert list(said.dimensions) == list(shipped_rubric())
    assert len(said.dimensions) == 6
    assert len(server.asked) == 3 * 2 * 6
    assert all(one.agreement is None for one in said.dimensions.values())


def test_a_measure_of_a_shipped_name_is_asked_with_its_meaning(server: Server) -> None:
    folder = finished(("Persona energy",))
    with resumed(folder) as comparison:
        rate_replies(comparison, judge_of(server))
    assert f"Dimension: Persona energy. {shipped_rubric()['persona_energy']}" in question(server.asked[0])


def test_nothing_is_asked_twice_and_another_judge_takes_the_place(server: Server) -> None:
    folder = finished()
    for _ in range(2):
        with resumed(folder) as comparison:
            rate_replies(comparison, judge_of(server))
    assert len(server.asked) == 6
    first = (folder / JUDGED).read_bytes()
    with resumed(folder) as comparison:
        rate_replies(comparison, judge_of(server, "second"))
        assert comparison.result.judge is not None
        assert comparison.result.judge.ratings.model == "second"
    with resumed(folder) as comparison:
        rate_replies(comparison, judge_of(server))
    assert len(server.asked) == 12
    assert (folder / JUDGED).read_bytes() == first


@pytest.mark.parametrize(
    ("status", "value", "message", "requests"),
    [
        (500, b"broken", "does not answer: status 500: broken", ATTEMPTS),
        (200, text("lovely"), "must answer with a digit from 1 to 5, got 'lovely'", 1),
        (200, {"oops": 1}, "must answer as OpenAI's chat protocol says", 1),
        (401, {"error": "who?"}, "refuses: status 401", 1),
    ],
)
def test_a_judge_that_fails_in_the_middle_costs_nothing_that_was_said(
    server: Server, status: int, value: Any, message: str, requests: int
) -> None:
    folder, well = finished(), server.answer
    answers, before = (folder / "answers.json").read_bytes(), (folder / RESULT).read_bytes()
    server.answer = lambda body: well(body) if len(server.asked) <= 4 else (status, value)
    with resumed(folder) as comparison, pytest.raises(PersonaError) as caught:
        rate_replies(comparison, judge_of(server))
    assert message in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.hint.endswith(f"what was rated is kept: go on with: mlx-persona compare --resume {HERE}")
    assert ((folder / "answers.json").read_bytes(), (folder / RESULT).read_bytes()) == (answers, before)
    assert not (folder / JUDGED).exists()
    asked, server.answer = len(server.asked), well
    assert asked == 4 + requests
    with resumed(folder) as comparison:
        rate_replies(comparison, judge_of(server))
    assert len(server.asked) == asked + 2
    assert json.loads((folder / RESULT).read_text())["judge"]["questions"] == 6


def test_a_stop_keeps_what_was_rated(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, judge = finished(), judge_of(server)
    rate = judge.rate

    def stopping(*args: Any) -> Any:
        if len(server.asked) == 4:
            raise KeyboardInterrupt
        return rate(*args)

    monkeypatch.setattr(judge, "rate", stopping)
    with resumed(folder) as comparison, pytest.raises(Interrupted) as stop:
        rate_replies(comparison, judge)
    assert stop.value.message == "stopped: 4 of 6 questions to the judge are answered and kept"
    assert stop.value.hint == f"go on with: mlx-persona compare --resume {HERE}"
    with resumed(folder) as comparison:
        rate_replies(comparison, judge_of(server))
    assert len(server.asked) == 6


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on stderr, as one line."""
    return " ".join(capsys.readouterr().err.split())


def test_it_says_before_sending_what_is_sent(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(labels=("real", "sft-1"))
    said: list[int] = []
    monkeypatch.setattr(ui, "info", lambda message: said.append(len(server.asked)) or print(message))
    with resumed(folder) as comparison:
        rate_replies(comparison, judge_of(server))
        rate_replies(comparison, judge_of(server))
    assert said == [0]  # once, before the first question
    shown = capsys.readouterr().out
    assert f"sending to {server.url}: 6 replies; one side is what the person really wrote" in shown
    assert "what was said before them in the held-out conversations, in 6 questions\n" in shown


def test_another_machine_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    with resumed(finished()) as comparison:
        for url, other in (("https://judge.example/v1", True), ("http://localhost:80/v1", False)):
            judging._say_what_is_sent(comparison, Judge(url, "named"), 2, 6)
            shown = told(capsys)
            assert "in 2 questions (4 are answered already)" in shown
            assert ("this is another machine" in shown) == other
            assert shown.startswith("warning:") == other


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """A command's status and what it said."""
    capsys.readouterr()
    status = cli._status(["compare", "--resume", HERE, *args])
    return (status, *capsys.readouterr())


def test_the_command_asks_shows_and_remembers(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished()
    status, out, err = run(capsys, "--judge", server.url, "--judge-model", "second")
    assert status == 0
    assert err.startswith("sending to ")
    assert re.search(r"judge on warm: sft-1 .* 4\.50", out)
    assert re.search(r"agreement with you on 6 replies \(kappa\) .* 0\.86", out)
    # Without the judge nothing is asked, and what it said is still there.
    status, out, err = run(capsys, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == {"path": HERE, **json.loads((folder / RESULT).read_text())}
    assert json.loads(out)["judge"]["model"] == "second"
    assert len(server.asked) == 6


def test_the_command_fails_with_one_error_and_leaves_the_comparison_done(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished()
    server.answer = lambda body: (200, text("no idea"))
    status, out, err = run(capsys, "-q", "--judge", server.url)
    assert (status, out) == (1, "")
    error, hint = err.splitlines()
    assert error == f"error: the judge at {server.url} must answer with a digit from 1 to 5, got 'no idea'"
    assert hint.endswith(f"go on with: mlx-persona compare --resume {HERE} --judge {server.url}")
    assert read_info(folder)["status"] == "done"
    assert (folder / RESULT).is_file()


def test_a_model_without_a_judge_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    finished()
    status, _, err = run(capsys, "--judge-model", "second")
    assert (status, err.splitlines()[0]) == (1, "error: judge_model must come with judge, got no judge")


@pytest.mark.parametrize("damage", ["{", "[]", '{"scores": []}'])
def test_a_damaged_file_is_named(server: Server, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished()
    with resumed(folder) as comparison:
        rate_replies(comparison, judge_of(server))
    whole = (folder / JUDGED).read_text()
    (folder / JUDGED).write_text(damage)
    status, _, err = run(capsys)
    assert status == 1
    assert err.startswith(f"error: {folder / JUDGED}")
    assert f"hint: remove {folder / JUDGED}" in err
    (folder / JUDGED).unlink()
    with resumed(folder) as comparison:
        rate_replies(comparison, judge_of(server))
    assert len(server.asked) == 6
    assert (folder / JUDGED).read_text() == whole


def test_an_answer_that_is_changed_afterwards_is_compared_with_the_same_ratings(server: Server) -> None:
    folder = finished()
    with resumed(folder) as comparison:
        rate_replies(comparison, judge_of(server))
        comparison.undo()
        assert not (folder / RESULT).exists()
        comparison.press("1")
        written = json.loads((folder / RESULT).read_text())["judge"]
    assert written["dimensions"]["warm"]["agreement"]["n"] == 6
    assert not math.isclose(written["dimensions"]["warm"]["agreement"]["difference"], 0.25)
    assert len(server.asked) == 6
