"""A judge over the wire: a small server of ours plays every part, good and bad."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_persona.errors import PersonaError
from mlx_persona.evals import judge as module
from mlx_persona.evals.judge import ATTEMPTS, KEY, Judge, Rating
from mlx_persona.schema import Message
from tests.judge_kit import Server, playing, text

SAID = (Message("system", "You are Ann, and this is private."), Message("user", "hi"))


@pytest.fixture
def server() -> Iterator[Server]:
    with playing() as played:
        yield played


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def judge(server: Server, waits: list[float], tmp_path: Path) -> Judge:
    return opened(server, tmp_path, waits)


def opened(server: Server, folder: Path, waits: list[float], model: str = "") -> Judge:
    """A judge that keeps its answers in a folder."""
    made = Judge(server.url, model, waits.append)
    made.keep_in(folder)
    return made


def rate(judge: Judge, reply: str = "hello") -> Rating:
    return judge.rate("honesty", "says what is so (1 never, 5 always)", SAID, reply)


def test_probabilities_give_their_mean(judge: Judge, server: Server) -> None:
    server.answer = lambda body: (200, text("4", {"4": 0.6, " 5": 0.2, "no": 0.2}))
    assert rate(judge) == (pytest.approx((4 * 0.6 + 5 * 0.2) / 0.8), "probabilities")
    assert server.asked[0]["logprobs"] is True
    assert server.asked[0]["model"] == "first"


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (text("2"), 2.0),
        (text("Rating: 4/5"), 4.0),
        (text("5."), 5.0),
        (text("3", {"3": 0.1, "x": 0.8}), 3.0),
        (text(" 1 \n", None), 1.0),
    ],
)
def test_without_probabilities_the_digit_counts(judge: Judge, server: Server, value: Any, score: float) -> None:
    server.answer = lambda body: (200, value)
    assert rate(judge) == (score, "digit")


def test_the_system_message_of_the_chat_is_not_sent(judge: Judge, server: Server) -> None:
    rate(judge)
    sent = json.dumps(server.asked[0])
    assert "private" not in sent
    assert "user: hi" in sent


def test_a_server_that_refuses_probabilities_is_asked_without(judge: Judge, server: Server) -> None:
    server.answer = lambda body: (400, {"error": "no logprobs"}) if "logprobs" in body else (200, text("2"))
    assert [rate(judge, reply).score for reply in ("a", "b")] == [2.0, 2.0]
    assert ["logprobs" in body for body in server.asked] == [True, False, False]


def test_nothing_is_asked_twice_even_by_another_process(
    judge: Judge, server: Server, tmp_path: Path, waits: list[float]
) -> None:
    first = rate(judge)
    again = opened(server, tmp_path, waits)
    assert [rate(judge), rate(again)] == [first, first]
    assert len(server.asked) == 1
    rate(again, "another reply")
    rate(opened(server, tmp_path, waits, "second"))
    assert len(server.asked) == 3


def test_a_cache_that_was_cut_off_is_read_as_far_as_it_goes(
    judge: Judge, server: Server, tmp_path: Path, waits: list[float]
) -> None:
    rate(judge)
    with (tmp_path / "judge.jsonl").open("a") as file:
        file.write('{"key": "x", "sco')
    again = opened(server, tmp_path, waits)
    rate(again)
    assert len(server.asked) == 1
    rate(again, "another reply")
    rate(opened(server, tmp_path, waits), "another reply")  # what was written behind the cut is read
    assert len(server.asked) == 2


@pytest.mark.parametrize("score", ["NaN", "0.5", "Infinity", '"x"', "null"])
def test_a_kept_score_that_is_none_is_asked_again(
    judge: Judge, server: Server, tmp_path: Path, waits: list[float], score: str
) -> None:
    rate(judge)
    path = tmp_path / "judge.jsonl"
    path.write_text(path.read_text().replace("3.0", score))
    assert rate(opened(server, tmp_path, waits)).score == 3
    assert len(server.asked) == 2


def test_it_knows_what_it_would_not_ask_again(judge: Judge, server: Server) -> None:
    asked = ("honesty", "says what is so (1 never, 5 always)", SAID)
    assert not judge.knows(*asked, "hello")
    rate(judge)
    assert judge.knows(*asked, "hello")
    assert not judge.knows(*asked, "hullo")
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(judge: Judge, server: Server, waits: list[float]) -> None:
    server.answer = lambda body: (503, b"busy") if len(server.asked) < ATTEMPTS else (200, text("4"))
    assert rate(judge).score == 4
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize(
    ("status", "value", "message"),
    [
        (500, b"broken", "does not answer: status 500: broken"),
        (200, b"<html>", "does not answer: Expecting value"),
        (200, {"oops": 1}, "must answer as OpenAI's chat protocol says"),
        (200, [], "must answer as OpenAI's chat protocol says"),
        (200, text("I like it"), "must answer with a digit from 1 to 5, got 'I like it'"),
        (200, text("10"), "must answer with a digit from 1 to 5, got '10'"),
        (200, text("3.7"), "must answer with a digit from 1 to 5"),
        (401, {"error": "who are you"}, "refuses: status 401"),
        (422, {"error": "no such model"}, "refuses: status 422"),
    ],
)
def test_a_judge_that_fails_or_talks_nonsense_is_one_clear_error(
    judge: Judge, server: Server, status: int, value: Any, message: str, tmp_path: Path
) -> None:
    server.answer = lambda body: (status, value)
    with pytest.raises(PersonaError) as caught:
        rate(judge)
    assert message in caught.value.message
    assert not (tmp_path / "judge.jsonl").exists()


def test_nobody_there_is_an_error(waits: list[float]) -> None:
    with pytest.raises(PersonaError, match="does not answer: ") as caught:
        Judge("http://127.0.0.1:9/v1", "", waits.append)
    assert caught.value.hint == "check the address, and that the server runs"
    assert len(waits) == ATTEMPTS - 1
    with pytest.raises(PersonaError, match="must be an address like"):
        Judge("localhost:80", "")


def test_what_is_meant_for_this_machine_goes_through_no_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with playing() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        here = Judge(server.url, "")
        assert rate(here).score == 3
        assert (here.here, len(server.asked), proxy.asked) == (True, 1, [])
        far = Judge("http://judge.invalid/v1", "named")
        assert rate(far).score == 3
        assert (far.here, len(proxy.asked)) == (False, 1)


def test_a_key_is_sent_where_there_is_one(judge: Judge, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    rate(judge, "a")
    monkeypatch.setenv(KEY, "s3cret")
    rate(judge, "b")
    assert server.headers == [None, "Bearer s3cret"]


def test_probabilities_are_found_where_the_digits_are_likely_whatever_token_is_named() -> None:
    """As mlx-lm's server tells them: not in order, one of them named, a blank before the digit written as in there."""
    blank = {"token": "\u0120", "logprob": math.log(0.9)}
    four = [
        {"token": token, "logprob": math.log(p)} for token, p in (("\u01205", 0.25), ("yes", 0.1), ("\u25814", 0.6))
    ]
    told = {"content": [{**blank, "top_logprobs": [blank]}, {**four[1], "top_logprobs": four}, {}]}
    assert module._expected(told) == pytest.approx((5 * 0.25 + 4 * 0.6) / 0.85)


def test_a_score_stays_on_the_scale(judge: Judge, server: Server) -> None:
    """Rounding alone could leave it."""
    for i in range(50):
        server.answer = lambda body, p=0.6 + i / 130: (200, text("5", {"5": p}))
        assert rate(judge, f"reply {i}").score == 5


def test_a_number_off_the_scale_is_no_answer_however_likely_its_first_digit(judge: Judge, server: Server) -> None:
    server.answer = lambda body: (200, text("10", {"1": 0.99}))
    with pytest.raises(PersonaError, match="must answer with a digit from 1 to 5, got '10'"):
        rate(judge)


def test_a_slow_judge_is_an_error(judge: Judge, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    late = threading.Event()
    server.answer = lambda body: (200, text("3")) if late.wait(30) else (500, b"")
    try:
        with pytest.raises(PersonaError, match="does not answer: timed out") as caught:
            rate(judge)
    finally:
        late.set()
    assert caught.value.hint == (
        "check the address, and that the server runs; what was rated is kept: the same command continues"
    )


@pytest.mark.parametrize("told", [None, {}, {"content": []}, {"content": [{"token": "4"}]}, {"content": [5]}, "x"])
def test_probabilities_that_are_not_told_are_none(told: Any) -> None:
    assert module._expected(told) is None
