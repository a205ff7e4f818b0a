"""Logs of coding agents as files: times, lines that cannot be read, round trips, hostile input."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources import agent
from data_prep.sources.base import Bad, RawMessage
from data_prep.sources.head import Head
from mlx_persona.errors import PersonaError
from tests.data_prep.agent_kit import FIXTURES, LOGS, assistant, everything, log, messages, said, text, use, user

# ---- times


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("2025-07-08T09:00:10.500Z", 1751965210.5),
        ("2025-07-08T11:00:10.500+02:00", 1751965210.5),
        ("2025-07-08T09:00:10.500", 1751965210.5),
        (1751965210.5, 1751965210.5),
        (1751965210500, 1751965210.5),
        (None, None),
        (float("nan"), None),
        (10**400, None),
    ],
)
def test_times(tmp_path: Path, stamp: Any, seconds: float | None) -> None:
    for line in (
        user("hi", timestamp=stamp),
        {"role": "user", "content": "hi", "timestamp": stamp},
        {"type": "response_item", "payload": {"type": "message", "role": "user", "content": "hi"}, "timestamp": stamp},
    ):
        (found,) = messages(log(tmp_path, line))
        assert found.time == seconds


# ---- what cannot be read


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes)"),
        ("5", "a line must be an object, got int"),
        ({"type": "user"}, "message must be an object, got NoneType"),
        ({"type": "assistant", "message": []}, "message must be an object, got list"),
        ({"type": "user", "message": {}}, "a message must have content"),
        (user(5), "content must be text or a list, got int"),
        (user(False), "content must be text or a list, got bool"),
        (user([5]), "a part of the content must be an object, got int"),
        (user([text(None)]), "text must be text, got NoneType"),  # type: ignore[arg-type]
        (user("\ud800"), "content is not valid Unicode (half of a surrogate pair)"),
        (assistant(use(5)), "a tool's name must be text, got int"),
        (user("hi", timestamp=[]), "timestamp must be text or a number, got list"),
        (user("hi", timestamp=True), "timestamp must be text or a number, got bool"),
        (user("hi", timestamp="noon"), "timestamp must be an ISO 8601 time, got 'noon'"),
        ({"type": "response_item", "payload": []}, "payload must be an object, got list"),
        ({"type": "response_item"}, "payload must be an object, got NoneType"),
        ({"type": "message"}, "role must be one of user, assistant, tool, function, system, developer, got None"),
        ({"role": "poet"}, "role must be one of user, assistant, tool, function, system, developer, got 'poet'"),
        ({"role": "user"}, "a message must have content or tool calls"),
        ({"role": "assistant", "content": "", "tool_calls": 5}, "tool_calls must be a list, got int"),
        ({"role": "assistant", "content": "", "tool_calls": [5]}, "a tool's name must be text, got NoneType"),
        ({"type": "function_call", "name": 5}, "a tool's name must be text, got int"),
        ({"type": "attachment", "attachment": {"type": "queued_command", "prompt": 5}}, "content must be text or a"),
    ],
)
def test_bad_lines_are_named_and_the_rest_is_read(tmp_path: Path, line: Any, reason: str) -> None:
    path = log(tmp_path, user("hi"), line, assistant(text("ho")))
    first, bad, last = everything(path)
    assert isinstance(first, RawMessage)
    assert isinstance(last, RawMessage)
    assert isinstance(bad, Bad)
    written = line if isinstance(line, str) else json.dumps(line)
    assert (bad.file, bad.line, bad.text) == (str(path), 2, written[:200])
    assert bad.reason.startswith(reason)


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"type": "system", "subtype": "turn_duration", "content": "x"},
        {"type": "event_msg", "payload": {"type": "user_message", "message": "hi"}},
        {"type": "event_msg", "payload": 5},
        {"type": "response_item", "payload": {"type": "reasoning"}},
        {"type": "attachment", "attachment": 5},
        {"type": "attachment", "attachment": {"type": "task_reminder"}},
        {"type": ["user"]},
        {"record_type": "state"},
    ],
)
def test_what_is_no_message_is_passed_over(tmp_path: Path, line: dict[str, Any]) -> None:
    assert messages(log(tmp_path, line)) == []


# ---- round trips

STAMPS = st.integers(1_500_000_000_000, 1_900_000_000_000).map(lambda ms: ms / 1000)
TYPED = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="</"), max_size=80)
TOOLS = st.lists(st.sampled_from(["Edit", "Bash", "Read"]), max_size=3)


class Event(NamedTuple):
    """One message of a made-up session: ``who`` is person, agent or result."""

    who: str
    text: str
    tools: list[str]
    time: float


def events_of(kinds: list[tuple[str, str, list[str]]], times: list[float]) -> list[Event]:
    return [Event(who, words, tools if who == "agent" else [], t) for (who, words, tools), t in zip(kinds, times)]  # noqa: B905


EVENTS = st.builds(
    events_of,
    st.lists(st.tuples(st.sampled_from(["person", "agent", "agent", "result"]), TYPED, TOOLS), max_size=12),
    st.lists(STAMPS, min_size=12, max_size=12).map(sorted),
)


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_claude(e: Event) -> list[dict[str, Any]]:
    if e.who == "agent":
        return [assistant(text(e.text), *map(use, e.tools), timestamp=iso(e.time))]
    result = [{"type": "tool_result", "tool_use_id": "t", "content": e.text}]
    return [user(e.text if e.who == "person" else result, timestamp=iso(e.time))]


def as_codex(e: Event) -> list[dict[str, Any]]:
    if e.who == "result":
        items: list[dict[str, Any]] = [{"type": "function_call_output", "call_id": "c", "output": e.text}]
    else:
        role, part = ("user", "input_text") if e.who == "person" else ("assistant", "output_text")
        items = [{"type": "message", "role": role, "content": [{"type": part, "text": e.text}]}]
        items += [{"type": "function_call", "name": tool, "arguments": "{}", "call_id": "c"} for tool in e.tools]
    copy_of = {"type": "event_msg", "payload": {"type": "agent_message", "message": e.text}, "timestamp": iso(e.time)}
    return [{"timestamp": iso(e.time), "type": "response_item", "payload": item} for item in items] + [copy_of]


def as_plain(e: Event) -> list[dict[str, Any]]:
    role = {"person": "user", "agent": "assistant", "result": "tool"}[e.who]
    calls = [{"function": {"name": tool}} for tool in e.tools]
    return [{"role": role, "content": e.text, "timestamp": e.time} | ({"tool_calls": calls} if calls else {})]


Shape = Callable[[Event], list[dict[str, Any]]]


def render(events: list[Event], shape: Shape, *, ascii_only: bool) -> str:
    """A log of these messages in one of the three shapes."""
    return "".join(json.dumps(line, ensure_ascii=ascii_only) + "\n" for event in events for line in shape(event))


def expected_of(events: list[Event]) -> list[tuple[str, str, float]]:
    """Role, text and time of what is to be read, tool traffic aside."""
    found: list[tuple[str, str, float]] = []
    work: list[Event] = []

    def close() -> None:
        tools = [tool for e in work for tool in e.tools]
        words = [e.text.strip() for e in work if e.who == "agent" and e.text.strip()]
        head = ", ".join(f"{tool} x{tools.count(tool)}" for tool in dict.fromkeys(tools))
        if tools or words:
            found.append(("user", "\n".join(([f"[{head}]"] if head else []) + words[-1:]), work[-1].time))
        work.clear()

    for e in events:
        if e.who == "person":
            close()
            found.append(("assistant", e.text, e.time))
        else:
            work.append(e)
    close()
    return found


@pytest.mark.parametrize("shape", [as_claude, as_codex, as_plain])
@settings(max_examples=60)
@given(events=EVENTS, ascii_only=st.booleans())
def test_round_trip(shape: Shape, events: list[Event], ascii_only: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        path.write_text(render(events, shape, ascii_only=ascii_only), encoding="utf-8", newline="")
        found = messages(path)
    assert [(m.role, m.text, m.time) for m in found if m.role != "tool"] == expected_of(events)
    lines = sum(line.get("type") != "event_msg" for e in events for line in shape(e))
    assert len(found) == lines
    assert {(m.kind, m.parts, m.train, m.sender) for m in found} <= {(None, 1, True, None)}


def test_an_array_of_messages_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps([{"role": "assistant", "content": "done"}, {"role": "user", "content": "ty"}], indent=1))
    assert agent.matches(Head.of(path))
    assert said(path) == [("user", "done"), ("assistant", "ty")]


# ---- hostile input


def survives(data: bytes) -> list[RawMessage | Bad]:
    """Read any bytes to the end: what comes out can be written, or there is one error for the user."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        path.write_bytes(data)
        try:
            agent.matches(Head.of(path))
            found = everything(path)
        except PersonaError:
            return []
    for item in found:
        item.text.encode()
        if isinstance(item, Bad):
            assert len(item.text) <= 200
            item.reason.encode()
    return found


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    survives(data)
    survives(b'{"role": "user", "content": "hi"}\n' + data)


@pytest.mark.parametrize("name", LOGS)
def test_truncated_logs(name: str) -> None:
    data = (FIXTURES / name).read_bytes()
    whole = len(survives(data))
    for end in range(0, len(data), 97):
        part = survives(data[:end])
        assert len(part) <= whole + 1
    assert any(isinstance(item, Bad) for item in survives(data[:-9]))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "role"]), inner),
    max_leaves=4,
)
LINES = [json.loads(line) for name in LOGS for line in (FIXTURES / name).read_text("utf-8").splitlines()]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container with every key or index in it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@settings(max_examples=400)
@given(line=st.sampled_from(LINES), junk=JUNK, data=st.data())
def test_wrong_types_in_every_field(line: dict[str, Any], junk: Any, data: st.DataObject) -> None:
    line = copy.deepcopy(line)
    container, key = data.draw(st.sampled_from(places(line)))
    container[key] = junk
    found = survives(json.dumps(line).encode())
    assert len(found) <= 1
    if line.get("type") in ("user", "assistant") and "payload" not in line:
        assert len(found) == 1


@given(JUNK)
def test_junk_lines(junk: Any) -> None:
    found = survives((json.dumps({"role": "user", "content": junk}) + "\n" + json.dumps(junk)).encode())
    assert found


@pytest.mark.parametrize(
    "words",
    [
        "x" * (1 << 20),
        "\0" * 1000,
        "<system-reminder>" * 60_000,
        "<system-reminder>x</system-reminder>" * 30_000,
        "<image" + " " * 500_000 + "<",
        "<image>" + " " * 500_000 + "x<",
        "<ide_selection " + " " * 500_000 + "<",
        " " * 500_000 + "/",
        "[Image #" * 100_000,
        ". " * 300_000,
        "." * 300_000,
        "\n" * 500_000 + "x",
        "## My request for Codex:" * 30_000,
    ],
)
def test_long_texts_take_no_time(words: str) -> None:
    for line in (user(words), user([text(words)]), assistant(text(words)), assistant(use(words))):
        assert len(survives(json.dumps(line).encode())) == 1


def test_deep_and_broken_lines(tmp_path: Path) -> None:
    found = everything(log(tmp_path, user("hi"), '{"a":' * 100_000, '{"role": "user", "content": ' + "9" * 5000 + "}"))
    assert [type(item) for item in found] == [RawMessage, Bad, Bad]
    assert survives(b'{"role": "user", "content": "hi"}\n\xff\xfe\n\0\0\n')[1:] != []


def test_a_file_that_is_an_array_and_breaks_is_an_error(tmp_path: Path) -> None:
    path = log(tmp_path, '[{"role": "user", "content": "hi"}, ')
    with pytest.raises(PersonaError, match="not JSON"):
        everything(path)
