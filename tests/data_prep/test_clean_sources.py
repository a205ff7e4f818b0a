"""Every format is read, told apart, and complained about with file and line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from data_prep.pipeline import list_people
from data_prep.sources import SOURCES
from mlx_persona.config import CleanConfig
from mlx_persona.errors import PersonaError
from tests.data_prep.chats import ANNA, BOB, CLEO, Cleaned, bursts, chat, good

Write = Callable[..., str]
Run = Callable[..., Cleaned]
REPLY = "sure, here it is"


def test_every_importer_can_be_named_as_source() -> None:
    choices = next(f for f in fields(CleanConfig) if f.name == "source").metadata["choices"]
    assert sorted(choices) == sorted(["auto", *(s.name for s in SOURCES)])


def test_messages_with_parts_tools_and_developer(jsonl: Write, run: Run) -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": "{}"}}
    record = {
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {}}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "42"},
            {"role": "assistant", "content": "let me look once more", "tool_calls": [call]},
            {"role": "function", "content": None},
            {"role": "user", "content": [{"type": "tool_result", "content": "42"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "it is 42,"}, {"type": "text", "text": "yes"}]},
        ]
    }
    result = run(jsonl(record))
    assert result.turns == [[("user", "look", True), ("assistant", "let me look once more\nit is 42,\nyes", True)]]
    assert result.report.dropped == {"tool_call": 4, "system_prompt": 1}
    assert (result.report.read, result.report.kept, result.report.context) == (8, 2, 1)


@pytest.mark.parametrize("as_array", [False, True])
def test_sharegpt(jsonl: Write, whole: Write, run: Run, as_array: bool) -> None:
    record = {
        "id": "s1",
        "conversations": [
            {"from": "system", "value": "you are a bot"},
            {"from": "human", "value": "hi there"},
            {"from": "function_call", "value": "{}"},
            {"from": "observation", "value": "{}"},
            {"from": "gpt", "value": REPLY},
        ],
    }
    result = run(whole([record], indent=2) if as_array else jsonl(record))
    assert result.turns == [[("user", "hi there", True), ("assistant", REPLY, True)]]
    assert result.conversations[0].meta == {"source": "sharegpt", "id": "s1"}
    assert result.report.dropped == {"tool_call": 2, "system_prompt": 1}


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"prompt": "hi there", "completion": REPLY}, "hi there"),
        ({"instruction": "translate", "input": "bonjour", "output": REPLY}, "translate\n\nbonjour"),
        ({"instruction": "translate", "input": "", "output": REPLY}, "translate"),
    ],
)
def test_completion(jsonl: Write, run: Run, record: dict[str, str], prompt: str) -> None:
    result = run(jsonl(record))
    assert result.turns == [[("user", prompt, True), ("assistant", REPLY, True)]]
    assert result.report.sources == {"completion": 1}


def test_chitchat_joins_bursts_and_orders_by_the_first_message(export: str, run: Run) -> None:
    result = run(export, me=(ANNA,))
    assert result.turns == [
        [("user", "yes?", True), ("assistant", "im so hungry hahaha", True)],
        [("user", "what did you eat?", True), ("assistant", "a whole pizza lol", True)],
        [("user", "hi anna", True), ("assistant", "heyyy\nwuts up my freind", True)],
    ]
    assert [c.meta for c in result.conversations] == [
        {"source": "chitchat", "id": "early", "start": "2018-05-01T10:00:00Z"},
        {"source": "chitchat", "id": "middle", "start": "2018-05-02T11:00:00Z"},
        {"source": "chitchat", "id": "late", "start": "2018-05-03T10:00:00Z"},
    ]
    assert result.report.dropped == {"not_in_conversation": 2, "opener": 2, "unanswered": 1}
    assert (result.report.read, result.report.kept, result.report.context) == (12, 4, 3)
    assert result.report.person == {"names": [ANNA], "replies": 3, "short_share": 0.0}


def test_everybody_but_me_is_the_user(whole: Write, run: Run) -> None:
    raw = whole({"c": bursts("2020-01-01T00:00", (BOB, "lunch?"), (CLEO, "me too"), (ANNA, "yes lets go now"))})
    assert run(raw, me=(ANNA,)).turns == [[("user", "lunch?\nme too", True), ("assistant", "yes lets go now", True)]]


def test_several_names_of_one_person(export: str, run: Run) -> None:
    result = run(export, me=(ANNA, CLEO))
    assert ("assistant", "hi bob, nice to see you", True) in [t for turns in result.turns for t in turns]
    assert result.report.person["names"] == [ANNA, CLEO]


@pytest.mark.parametrize("me", [ANNA, ANNA.upper(), "aaaaaaaa", "AAAAaaaa-0000"])
def test_me_is_found_without_case_and_by_its_beginning(export: str, run: Run, me: str) -> None:
    assert run(export, me=(me,)).report.person["names"] == [ANNA]


def test_ambiguous_me_names_the_candidates(export: str, run: Run) -> None:
    with pytest.raises(PersonaError) as caught:
        run(export, me=("bbbb",))
    assert caught.value.message == f"--me 'bbbb' fits 2 people: {BOB} (4 messages), {CLEO} (2 messages)"


def test_unknown_me_lists_people_and_the_nearest(export: str, run: Run) -> None:
    with pytest.raises(PersonaError) as caught:
        run(export, me=("aaaaaaab-0000-4000-8000-000000000001",))
    assert caught.value.message.endswith(f"there are {ANNA} (6 messages), {BOB} (4 messages), {CLEO} (2 messages)")
    assert caught.value.hint == f"did you mean {ANNA}?"
    with pytest.raises(PersonaError) as caught:
        run(export, me=("aaaaabaa",))
    assert caught.value.hint == "did you mean aaaaaaaa?"
    with pytest.raises(PersonaError) as caught:
        run(export, me=("z",))
    assert caught.value.hint == "--list-people shows everybody"


def test_missing_me_lists_ten_people_and_counts_the_rest(whole: Write, run: Run, tmp_path: Path) -> None:
    said = [(f"p{i:02}", "hi") for i in range(13)]
    with pytest.raises(PersonaError) as caught:
        run(whole({"c": bursts("2020-01-01T00:00", *said)}))
    assert "p09 (1 messages) and 3 more" in caught.value.message
    assert "p10" not in caught.value.message
    assert caught.value.hint == 'name one with --me "NAME"'
    assert not (tmp_path / "out").exists()


def test_list_people_by_count_then_name(export: str) -> None:
    assert list_people(CleanConfig(raw=(export,))) == [(ANNA, 6), (BOB, 4), (CLEO, 2)]


def test_names_of_tools_are_no_people(jsonl: Write) -> None:
    record = {"messages": [{"role": "user", "name": "bob", "content": "hi"}, {"role": "tool", "name": "web"}]}
    record["messages"][1]["content"] = "42"
    assert list_people(CleanConfig(raw=(jsonl(record),))) == [("bob", 1)]


def test_me_without_names_is_noted(jsonl: Write, run: Run) -> None:
    result = run(jsonl(good(1)), me=("anna",))
    assert len(result.turns) == 1
    assert result.report.notes == ["--me has no effect: the export has roles and no names; the assistant is the person"]


def test_me_with_named_messages_decides_the_roles(jsonl: Write, run: Run) -> None:
    record = {
        "messages": [
            {"role": "user", "name": "bob", "content": "hi"},
            {"role": "user", "name": "anna", "content": "hello bob, how are you"},
            {"role": "assistant", "content": "I am a bot"},
            {"role": "user", "name": "anna", "content": "nobody asked you, bot"},
        ]
    }
    raw = jsonl(record)
    assert [[(r, t) for r, t, _ in c] for c in run(raw, me=("anna",)).turns] == [
        [
            ("user", "hi"),
            ("assistant", "hello bob, how are you"),
            ("user", "I am a bot"),
            ("assistant", "nobody asked you, bot"),
        ]
    ]
    with pytest.raises(PersonaError, match="nobody in the export is called 'zoe'; there are anna"):
        run(raw, me=("zoe",))


def test_folders_are_read_in_order_and_strangers_skipped(jsonl: Write, run: Run, tmp_path: Path) -> None:
    jsonl(good(2), name="in/b.jsonl")
    jsonl(good(1), name="in/a/deep.jsonl")
    stranger = jsonl({"a": 1}, name="in/c.jsonl")
    empty = jsonl(name="in/d.jsonl")
    jsonl(good(3), name="in/.hidden/x.jsonl")
    jsonl(good(4), name="in/clean/train.jsonl")
    result = run(str(tmp_path / "in"), out=tmp_path / "in" / "clean", valid_fraction=0.0, test_fraction=0.0)
    assert [c.meta["id"] for c in result.conversations] == ["deep.jsonl:1", "b.jsonl:1"]
    assert result.report.notes == [f"skipped, no chat: {stranger}", f"skipped, no chat: {empty}"]


def test_json_of_one_conversation_and_json_with_lines(jsonl: Write, whole: Write, run: Run) -> None:
    assert len(run(whole(good(1), indent=2)).turns) == 1
    assert len(run(jsonl(good(1), good(2), name="lines.json")).turns) == 2


def test_byte_order_mark_and_blank_lines(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "raw.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(good(1)).encode() + b"\r\n\r\n" + json.dumps(good(2)).encode())
    result = run(str(path))
    assert [c.meta["id"] for c in result.conversations] == ["raw.jsonl:1", "raw.jsonl:3"]
    assert result.report.quarantined == 0


BAD: dict[str, tuple[Any, str]] = {
    "malformed": ('{"messages": [', "not JSON (Expecting value)"),
    "no key": ({"text": "x"}, 'a record must be an object with a non-empty "messages" list'),
    "no messages": ({"messages": []}, 'a record must be an object with a non-empty "messages" list'),
    "not an object": ("[]", 'a record must be an object with a non-empty "messages" list'),
    "message type": ({"messages": ["hi"]}, "a message must be an object, got str"),
    "role": (
        chat(("narrator", "hi")),
        "role must be one of system, developer, user, assistant, tool, function, got 'narrator'",
    ),
    "content type": ({"messages": [{"role": "user", "content": 3}]}, "content must be text, got int"),
    "content missing": ({"messages": [{"role": "user"}]}, "content must be text, got NoneType"),
    "part type": ({"messages": [{"role": "user", "content": [3]}]}, "a part of the content must be an object, got int"),
    "train": ({"messages": [{"role": "user", "content": "a", "train": 1}]}, "train must be true or false, got 1"),
    "meta": (chat(("user", "a"), meta=[]), "meta must be an object, got list"),
    "surrogate": (
        '{"messages": [{"role": "user", "content": "\\ud800"}]}',
        "content is not valid Unicode (half of a surrogate pair)",
    ),
    "depth": ("[" * 100_000, "not JSON (nested too deeply)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_are_quarantined_with_their_place(jsonl: Write, run: Run, case: str) -> None:
    line, reason = BAD[case]
    raw = jsonl(*(good(i) for i in range(19)), line)
    result = run(raw)
    written = [json.loads(x) for x in (result.out / "quarantine.jsonl").read_text().splitlines()]
    text = line if isinstance(line, str) else json.dumps(line)
    assert written == [{"file": raw, "line": 20, "reason": reason, "text": text[:200]}]
    assert (result.report.quarantined, result.report.read) == (1, 39)


def test_invalid_utf8_is_a_bad_line(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "raw.jsonl"
    path.write_bytes(b"".join(json.dumps(good(i)).encode() + b"\n" for i in range(20)) + b'{"caf\xe9": 1}\n')
    result = run(str(path))
    assert json.loads((result.out / "quarantine.jsonl").read_text())["reason"] == "not UTF-8 (byte 6)"


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ([], 'a conversation must be an object with "messages", a list of lists'),
        ({"messages": [[]]}, "a conversation must have at least one message"),
        ({"messages": [["hi"]]}, "a message must be an object, got str"),
        ({"messages": [[{"text": 3, "sender": "x"}]]}, "text must be text, got int"),
        ({"messages": [[{"text": "x"}]]}, "sender must be text, got NoneType"),
    ],
)
def test_bad_chitchat_conversations_name_their_line(whole: Write, run: Run, conversation: object, reason: str) -> None:
    one = bursts("2020-01-01T00:00", (BOB, "hi"), (ANNA, "hello there bob"))
    raw = whole({"a": one, "b": conversation}, indent=1)
    result = run(raw, me=(ANNA,), max_bad_lines=0.5)
    (written,) = [json.loads(x) for x in (result.out / "quarantine.jsonl").read_text().splitlines()]
    line = Path(raw).read_text().split("\n").index(next(x for x in Path(raw).read_text().split("\n") if '"b"' in x)) + 1
    assert (written["line"], written["reason"]) == (line, reason)


def test_too_many_bad_lines_stop_before_anything_is_written(jsonl: Write, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(jsonl(good(1)))
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    raw = jsonl(*(good(i) for i in range(17)), "{", "}")
    with pytest.raises(PersonaError) as caught:
        run(raw)
    assert caught.value.message == (
        f"{raw}:18: not JSON (Expecting property name enclosed in double quotes); "
        "2 of 19 lines cannot be read, and at most 5% may be"
    )
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_stale_quarantine_goes(jsonl: Write, run: Run) -> None:
    result = run(jsonl(*(good(i) for i in range(19)), "{"))
    assert (result.out / "quarantine.jsonl").exists()
    run(jsonl(good(1)))
    splits = ["test.jsonl", "train.jsonl", "valid.jsonl"]
    assert sorted(p.name for p in result.out.iterdir()) == ["report.html", "report.json", *splits]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[{"messages": []}\n {}]', ":2:2: not JSON (Expecting ',')"),
        ('[{"messages": [{"role": "user"}]},\n', ":2:1: not JSON (Expecting value)"),
        ('[{"messages": [{"role": "user"}]}] x', ":1:36: not JSON (Extra data)"),
        ('{"messages": [{"role": "user"}\n', ":2:1: not JSON (Expecting ',' delimiter)"),
    ],
)
def test_a_broken_json_file_names_line_and_column(tmp_path: Path, run: Run, text: str, place: str) -> None:
    path = tmp_path / "raw.json"
    path.write_text(text)
    with pytest.raises(PersonaError) as caught:
        run(str(path), source="messages")
    assert caught.value.message == f"{path}{place}"


def test_paths_that_cannot_be_read(jsonl: Write, run: Run, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    for raw, message in (
        (str(tmp_path / "nowhere"), f"no such file or folder: {tmp_path / 'nowhere'}"),
        (jsonl(name="empty.jsonl"), f"{tmp_path / 'empty.jsonl'} is empty"),
        (str(tmp_path / "hollow"), f"{tmp_path / 'hollow'} has no chats that I know"),
        (
            jsonl({"a": 1, "b": 2}, name="odd.jsonl"),
            f"{tmp_path / 'odd.jsonl'} is of no format that I know: its first record has the keys a, b",
        ),
        (
            jsonl("hello", name="text.jsonl"),
            f"{tmp_path / 'text.jsonl'} is of no format that I know: it begins with 'hello'",
        ),
    ):
        with pytest.raises(PersonaError) as caught:
            run(raw)
        assert caught.value.message == message
    with pytest.raises(PersonaError, match="name at least one file or folder"):
        run()


def test_the_wrong_source_is_an_error_at_the_first_line(jsonl: Write, run: Run) -> None:
    raw = jsonl(good(1))
    with pytest.raises(PersonaError, match=r"raw.jsonl:1: a record must be .*\"conversations\" list; 1 of 1 lines"):
        run(raw, source="sharegpt")


def test_out_must_not_hit_what_is_read_or_a_file(jsonl: Write, run: Run, tmp_path: Path) -> None:
    raw = jsonl(good(1), name="clean/train.jsonl")
    with pytest.raises(PersonaError, match="would be overwritten"):
        run(raw, out=tmp_path / "clean")
    with pytest.raises(PersonaError, match="out must be a folder"):
        run(raw, out=Path(raw))
