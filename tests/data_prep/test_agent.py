"""Logs of coding agents: the person's turns are replies, the agent's work is short context, and all is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.people import is_own
from data_prep.sessions import cut
from data_prep.sources import SOURCES, agent
from data_prep.sources.base import RawChat, RawConversation, ReadOptions
from data_prep.sources.head import Head
from tests.data_prep.agent_kit import FIXTURES, LOGS, assistant, log, messages, said, text, use, user

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
