"""Logs of coding agents: the person's turns are replies, the agent's work is short context, and all is counted."""

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

from data_prep.people import is_own
from data_prep.sessions import cut
from data_prep.sources import SOURCES, agent
from data_prep.sources.base import Bad, RawChat, RawConversation, RawMessage, ReadOptions
from data_prep.sources.head import Head
from mlx_persona.errors import PersonaError

FIXTURES = Path(__file__).parent / "fixtures" / "agent"
LOGS = sorted(path.name for path in FIXTURES.iterdir())


def everything(path: Path) -> list[RawMessage | Bad]:
    (chat,) = agent.read(path, ReadOptions())
    assert isinstance(chat, RawChat)
    assert chat.id == path.stem
    return list(chat.messages)


def messages(path: Path) -> list[RawMessage]:
    found = everything(path)
    assert [m for m in found if isinstance(m, Bad)] == []
    return [m for m in found if isinstance(m, RawMessage)]


def said(path: Path) -> list[tuple[str | None, str]]:
    """What stays when tool traffic and what nobody wrote are gone."""
    return [(m.role, m.text) for m in messages(path) if m.role != "tool" and m.kind is None]


def log(folder: Path, *lines: Any) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return path


def user(content: Any, **more: Any) -> dict[str, Any]:
    """A user's line of Claude Code."""
    return {"type": "user", "message": {"role": "user", "content": content}, "uuid": "u", "sessionId": "s", **more}


def assistant(*parts: Any, **more: Any) -> dict[str, Any]:
    """An assistant's line of Claude Code."""
    message = {"id": "msg", "role": "assistant", "content": list(parts)}
    return {"type": "assistant", "message": message, "uuid": "a", "sessionId": "s", **more}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def use(tool: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "t", "name": tool, "input": {}}


# ---- the fixtures


@pytest.mark.parametrize(
    ("name", "expected", "others"),
    [
        (
            "claude-1.0.jsonl",
            [
                ("assistant", "prices are off by a cent somewhere, find out where"),
                (
                    "user",
                    "[Grep x1, Task x1]\n"
                    "It is in `price.py`: each line is rounded, and then the sum. Shall I round only the sum?",
                ),
                ("assistant", "yes but leave the tax line alone pls"),
                ("user", "[Edit x1]"),
            ],
            {"tool": 7, "service": 5},
        ),
        (
            "claude-2.1.jsonl",
            [
                ("assistant", "why is the logo so small"),
                ("user", "[Bash x1]"),
                ("assistant", "and check the footer too"),
                ("user", "Both are `1rem` high."),
                ("assistant", "make it 3rem, ty"),
            ],
            {"tool": 2, "service": 5, "media": 1},
        ),
        (
            "codex-bare.jsonl",
            [
                ("assistant", "does the bot retry when the api is down?"),
                ("user", "[shell x1, local_shell x1]\nNo, it gives up at once."),
                ("assistant", "then add 3 tries w/ backoff"),
            ],
            {"tool": 3, "service": 1},
        ),
        (
            "codex-0.144.jsonl",
            [
                ("system", "<permissions instructions>\nAsk first.\n</permissions instructions>"),
                ("assistant", "log every retry pls"),
                ("user", "[apply_patch x1, exec_command x1, web_search x1]\nEvery retry is logged now."),
                ("assistant", "nope, twice per retry, look"),
            ],
            {"tool": 6, "service": 2},
        ),
        ("codex-subagent.jsonl", [("user", "There are two.")], {"service": 1}),
        (
            "plain.jsonl",
            [
                ("system", "You are a coding agent."),
                ("assistant", "rename foo to bar everywhere"),
                ("user", "[grep x1, edit x2]"),
                ("assistant", "u forgot the docs"),
                ("user", "Sorry. Done."),
            ],
            {"tool": 4},
        ),
    ],
)
def test_what_the_fixtures_say(name: str, expected: list[tuple[str, str]], others: dict[str, int]) -> None:
    found = messages(FIXTURES / name)
    assert said(FIXTURES / name) == expected
    rest = [m.kind or m.role for m in found if m.role == "tool" or m.kind is not None]
    assert {kind: rest.count(kind) for kind in rest} == others
    assert len(found) == len(expected) + sum(others.values())
    assert all(m.parts == 1 for m in found)


@pytest.mark.parametrize("name", LOGS)
def test_the_fixtures_are_known_and_oldest_first_and_leak_no_tool_output(name: str) -> None:
    head = Head.of(FIXTURES / name)
    assert agent.matches(head)
    assert [s.name for s in SOURCES if s.name != agent.name and s.matches(head)] == []
    found = messages(FIXTURES / name)
    times = [m.time for m in found if m.time is not None]
    assert times == sorted(times)
    assert "not-a-real" not in "".join(m.text for m in found)
    assert "token-not-real" not in "".join(m.text for m in found)


def test_the_importer_says_what_it_is() -> None:
    assert (agent.name, agent.by_sender, agent.private) == ("agent", False, True)


def test_an_answer_of_the_next_day_keeps_what_it_answers() -> None:
    (chat,) = agent.read(FIXTURES / "codex-0.144.jsonl", ReadOptions())
    assert isinstance(chat, RawChat)
    parts = [p for p in cut(chat, 1800, lambda m: is_own(m, frozenset())) if isinstance(p, RawConversation)]
    assert [(m.role, m.text, m.parts) for m in parts[-1].messages] == [
        ("user", "[apply_patch x1, exec_command x1, web_search x1]\nEvery retry is logged now.", 0),
        ("assistant", "nope, twice per retry, look", 1),
    ]
    assert sum(m.parts for p in parts for m in p.messages) == len(messages(FIXTURES / "codex-0.144.jsonl"))


# ---- telling the format


@pytest.mark.parametrize(
    "line",
    [
        {"type": "summary", "summary": "Prices", "leafUuid": "x"},
        {"type": "file-history-snapshot", "messageId": "x", "snapshot": {}},
        {"type": "permission-mode", "permissionMode": "default", "sessionId": "x"},
        user("hi"),
        {"timestamp": "2025-10-29T00:59:38.317Z", "type": "session_meta", "payload": {"id": "x"}},
        {"id": "x", "timestamp": "2025-08-18T01:16:13.522Z", "instructions": None},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": []},
    ],
)
def test_the_first_lines_of_a_log_are_known(tmp_path: Path, line: dict[str, Any]) -> None:
    assert agent.matches(Head.of(log(tmp_path, line)))


@pytest.mark.parametrize(
    "line",
    [
        {"messages": [{"role": "user", "content": "hi"}]},
        {"conversations": [{"from": "human", "value": "hi"}]},
        {"prompt": "a", "completion": "b"},
        {"role": "user", "content": "hi", "messages": [{"role": "user", "content": "hi"}]},
        {"type": "message", "user": "U1", "text": "hi", "ts": "1.2"},
        {"id": "1", "timestamp": "2025-08-18T01:16:13.522Z", "content": "hi"},
        {"sessionId": "s", "messageId": 0, "role": 5},
        {"role": "poet", "content": "hi"},
        {"type": "user", "message": "hi"},
        {"type": ["user"], "role": {"a": 1}},
        "no JSON",
        "",
        "[]",
    ],
)
def test_other_formats_are_not_taken(tmp_path: Path, line: Any) -> None:
    assert not agent.matches(Head.of(log(tmp_path, line)))


def test_a_folder_is_not_one_log(tmp_path: Path) -> None:
    log(tmp_path, user("hi"))
    assert not agent.matches(Head.of(tmp_path))


# ---- what the person typed


@pytest.mark.parametrize(
    ("content", "typed"),
    [
        ("  fix it\n", "  fix it\n"),
        ("fix it<system-reminder>be nice</system-reminder>", "fix it"),
        ("<system-reminder>a <ide_selection>b</ide_selection> c</system-reminder>\nfix it\n", "fix it"),
        ("one <task-notification>a</task-notification>two", "one two"),
        ("what does <system-reminder> mean?", "what does <system-reminder> mean?"),
        ("</system-reminder> a </system-reminder>", "</system-reminder> a </system-reminder>"),
        ("use <b>bold</b> here", "use <b>bold</b> here"),
        ("/home/dana/shop is the folder", "/home/dana/shop is the folder"),
        ("either/or", "either/or"),
        ([text("a"), text("b")], "a\nb"),
        ([text("<ide_selection>x</ide_selection>"), text("b")], "b"),
        (["a", {"type": "mystery", "text": 5}, text("b")], "a\nb"),
        ([text("[Image #2] look")], "look"),
        ("# Files mentioned by the user:\n\n## a.png: /tmp/a.png\n\n## My request for Codex:\nfix it\n", "fix it"),
        ("# Context from my IDE setup:\n## My request for Codex: x\n\n## My request for Codex:\nfix it", "fix it"),
        ("# My plan\n## My request for Codex:\nfix it", "# My plan\n## My request for Codex:\nfix it"),
        ("Traceback (most recent call last):\n" + "  File x\n" * 500, None),
    ],
)
def test_wrappers_go_and_what_is_typed_stays(tmp_path: Path, content: Any, typed: str | None) -> None:
    (found,) = messages(log(tmp_path, user(content)))
    assert (found.kind, found.text) == (None, content if typed is None else typed)


@pytest.mark.parametrize(
    "line",
    [
        user(
            "<command-message>fix</command-message>\n<command-name>/fix</command-name>\n<command-args>x</command-args>"
        ),
        user("/compact keep the prices"),
        user(" /clear"),
        user("<local-command-stdout></local-command-stdout>"),
        user("<bash-stdout>a</bash-stdout><bash-stderr></bash-stderr>"),
        user("Caveat: The messages below were generated by the user while running local commands. DO NOT"),
        user("This session is being continued from a previous conversation that ran out of context."),
        user("do this", isMeta=True),
        user("do this", isSidechain=True),
        user("do this", isCompactSummary=True),
        user("do this", origin={"kind": "task-notification"}),
        user("do this", promptSource="system"),
        {"role": "user", "content": "<user_instructions>\nBe terse.\n</user_instructions>"},
        {"role": "user", "content": "<skill>\n<name>tidy</name>\n</skill>"},
        {"type": "attachment", "attachment": {"type": "queued_command", "prompt": "ls", "commandMode": "bash"}},
        {"type": "attachment", "attachment": {"type": "queued_command", "prompt": "do this"}, "isSidechain": True},
    ],
)
def test_what_the_program_wrote_is_service(tmp_path: Path, line: dict[str, Any]) -> None:
    (found,) = messages(log(tmp_path, line))
    assert (found.role, found.kind) == ("assistant", "service")
    assert found.text


def test_a_person_is_a_human_where_the_log_says_who_wrote(tmp_path: Path) -> None:
    origins = [{"kind": "human"}, {"kind": None}, {}, None, "human"]
    assert [m.kind for m in messages(log(tmp_path, *(user("hi", origin=o) for o in origins)))] == [None] * 5
    queued = {"type": "attachment", "attachment": {"type": "queued_command", "prompt": [text("and this")]}}
    assert said(log(tmp_path, queued)) == [("assistant", "and this")]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ([{"type": "image", "source": {}}], "media"),
        ([{"type": "input_image", "image_url": "x"}, text(" ")], "media"),
        ([{"type": "image"}, text("<system-reminder>x</system-reminder>")], "media"),
        ("", None),
        (" \n", None),
    ],
)
def test_a_turn_without_words(tmp_path: Path, content: Any, kind: str | None) -> None:
    (found,) = messages(log(tmp_path, user(content)))
    assert (found.kind, found.text.strip()) == (kind, "")


def test_words_beside_a_tool_result_are_the_programs_where_it_says_so(tmp_path: Path) -> None:
    both = [{"type": "tool_result", "tool_use_id": "t", "content": "ok"}, text("stop that")]
    assert [m.role for m in messages(log(tmp_path, user(both, toolUseResult={"stdout": "ok"})))] == ["tool"]
    assert said(log(tmp_path, user(both))) == [("assistant", "stop that")]
    assert said(log(tmp_path, {"role": "user", "content": both})) == [("assistant", "stop that")]


def test_only_the_first_session_meta_says_who_the_user_is(tmp_path: Path) -> None:
    def meta(source: Any) -> dict[str, Any]:
        return {"type": "session_meta", "payload": {"id": "x", "source": source}}

    turn = {"type": "response_item", "payload": {"type": "message", "role": "user", "content": "hi"}}
    sub: dict[str, Any] = {"subagent": "review"}
    assert said(log(tmp_path, meta("exec"), meta(sub), turn)) == [("assistant", "hi")]
    assert said(log(tmp_path, meta(sub), meta("cli"), turn)) == []
    assert said(log(tmp_path, {"type": "session_meta", "payload": None}, turn)) == [("assistant", "hi")]


# ---- what the agent did


def context(folder: Path, *lines: Any) -> str:
    """The text of the one message that stands for what the agent did."""
    found = messages(log(folder, *lines, user("ok then")))
    assert len(found) == len(lines) + 1
    (one,) = [m for m in found if m.role == "user"]
    assert found[-1].answers == one.id is not None
    return one.text


def test_tools_are_counted_in_the_order_of_their_first_use(tmp_path: Path) -> None:
    lines = [assistant(use("Edit"), use("Bash")), assistant(use("Edit"), text("done")), assistant(use("Edit"))]
    assert context(tmp_path, *lines) == "[Edit x3, Bash x1]\ndone"


def test_rare_kinds_of_tools_are_others_and_long_names_are_cut(tmp_path: Path) -> None:
    lines = [assistant(use(f"t{i}")) for i in range(14)] + [assistant(use("t0"))]
    assert context(tmp_path, *lines) == f"[t0 x2, {', '.join(f't{i} x1' for i in range(1, 12))}, other x2]"
    assert context(tmp_path, assistant(use("a\n b" + "c" * 99))) == f"[a b{'c' * 61} x1]"


def test_the_last_words_are_the_context(tmp_path: Path) -> None:
    lines = [assistant(text("first")), assistant(text("last"), text("words")), assistant(use("Bash"))]
    assert context(tmp_path, *lines) == "[Bash x1]\nlast\nwords"
    assert [m.text for m in messages(tmp_path / "log.jsonl") if m.role == "tool"] == ["first", "last\nwords"]


@pytest.mark.parametrize("filler", ["(no content)", "No response requested.", " \n"])
def test_fillers_are_no_words(tmp_path: Path, filler: str) -> None:
    assert context(tmp_path, assistant(text("done")), assistant(text(filler))) == "done"
    assert [m.role for m in messages(log(tmp_path, assistant(text(filler)), user("hi")))] == ["tool", "assistant"]


def test_service_between_does_not_end_the_agents_work(tmp_path: Path) -> None:
    lines = [assistant(text("done")), user("/model"), user("ok then")]
    assert said(log(tmp_path, *lines)) == [("user", "done"), ("assistant", "ok then")]
    picture = user([{"type": "image"}])
    assert said(log(tmp_path, assistant(text("done")), picture, assistant(use("Bash")), user("so?"))) == [
        ("user", "done"),
        ("user", "[Bash x1]"),
        ("assistant", "so?"),
    ]


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ("x" * 600, "x" * 600),
        ("  " + "x" * 600 + "\n", "x" * 600),
        ("x" * 601, "..." + "x" * 597),
        ("x" * 100 + ". " + "y" * 590, "..." + "y" * 590),
        ("a" * 100 + ". " + "b" * 250 + "!\n\n" + "c" * 390 + ". d.", "..." + "c" * 390 + ". d."),
        ("a" * 9 + "\n" + "y" * 597, "..." + "y" * 597),
        ("a" * 9 + "。" + "y" * 597, "..." + "y" * 597),
        ("a" * 9 + '." ' + "y" * 597, "..." + "y" * 597),
        ("a" * 300 + "。" + "b" * 400 + "。", "..." + "b" * 400 + "。"),
        ("a" * 9 + ". " + "y" * 290 + ". " + "z" * 305, "..." + "y" * 290 + ". " + "z" * 305),
        ("x" * 700 + "。", "..." + "x" * 596 + "。"),
        ("x 1.5 " * 120, "..." + ("x 1.5 " * 120).strip()[-597:]),
    ],
)
def test_long_words_are_cut_where_a_sentence_or_line_starts(tmp_path: Path, words: str, end: str) -> None:
    assert context(tmp_path, assistant(text(words))) == end


@given(st.text(st.sampled_from("ab .!\n。"), min_size=0, max_size=1500))
def test_the_end_of_the_words_is_short_and_an_end(words: str) -> None:
    end = agent._end(words)
    assert len(end) <= 600
    if len(words.strip()) <= 600:
        assert end == words.strip()
    else:
        assert end.startswith("...")
        assert words.strip().endswith(end[3:])
        assert end[3:]


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
