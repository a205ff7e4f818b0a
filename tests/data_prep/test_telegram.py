"""Telegram's `result.json`: exact messages, a way back from what was written, and whatever bytes may come."""

from __future__ import annotations

import io
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import Bad, Head, RawChat, RawMessage, ReadOptions, telegram
from data_prep.sources.base import FORWARDED, MEDIA, SERVICE
from data_prep.sources.telegram import _Mended
from mlx_persona.errors import PersonaError
from tests.data_prep.chats import read_all, survives, zipped

FIXTURES = Path(__file__).parent / "fixtures" / "telegram"
T = 1717236000.0
ANNA, BOB = "Anna Holm", "Bob Éclair"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def a_message(**more: Any) -> dict[str, Any]:
    base = {"id": 1, "type": "message", "date": "2024-06-01T12:00:00", "date_unixtime": "1717236000"}
    return base | {"from": ANNA, "from_id": "user1", "text": "hi", "text_entities": []} | more


def a_chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"name": BOB, "type": "personal_chat", "id": 7, "messages": list(messages)} | more


def write(folder: Path, value: Any, name: str = "result.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def only(path: Path) -> RawMessage:
    """The one message of an export without bad lines."""
    chats, bad = read_all(telegram, path)
    assert bad == []
    [[message]] = chats.values()
    return message


def test_a_chat_with_every_kind_of_message() -> None:
    chats, bad = read_all(telegram, FIXTURES / "chat" / "result.json")
    assert (bad, list(chats)) == ([], ["Bob Éclair [100200301]"])
    expected = [
        RawMessage("", sender=BOB, time=T, id="1", kind=SERVICE),
        RawMessage("Salut Anna! 👋\nwie geht's?", sender=BOB, time=T + 5, id="2"),
        RawMessage("look at https://example.org/a?b=1 and this 🔥!!", sender=ANNA, time=T + 60, id="3"),
        RawMessage("", sender=BOB, time=T + 70, id="4", kind=MEDIA),
        RawMessage("", sender=BOB, time=T + 80, id="5", kind=MEDIA),
        RawMessage("my breakfast", sender=ANNA, time=T + 90, id="6"),
        RawMessage("", sender=ANNA, time=T + 100, id="7", kind=MEDIA),
        RawMessage("", sender=BOB, time=T + 110, id="8", kind=MEDIA),
        RawMessage("", sender=ANNA, time=T + 400, id="9", kind=SERVICE),
        RawMessage("Something happened.", sender=BOB, time=T + 500, id="10", kind=FORWARDED),
        RawMessage("said by nobody who is left", sender=BOB, time=T + 510, id="11", kind=FORWARDED),
        RawMessage("gut, und dir?", sender=ANNA, time=T + 600, id="12", answers="2"),
        RawMessage("The weather is fine.", sender=ANNA, time=T + 610, id="13", kind=FORWARDED),
        RawMessage("", id="14", kind=MEDIA),
        RawMessage("", sender=BOB, time=T + 700, id="15", kind=MEDIA),
        RawMessage("ok", sender=BOB, time=T + 800, id="16"),
    ]
    assert chats["Bob Éclair [100200301]"] == expected


def test_an_account_with_saved_messages_bots_channels_and_topics() -> None:
    """In a topic every message is a reply to its beginning, which is no answer; nor is one to another chat."""
    chats, bad = read_all(telegram, FIXTURES / "account" / "result.json")
    assert bad == []
    assert {chat: [(m.sender, m.text, m.kind, m.answers) for m in found] for chat, found in chats.items()} == {
        "saved_messages [100200300]": [
            (ANNA, "milk, bread", None, None),
            (BOB, "the door code is secret", FORWARDED, None),
        ],
        "personal_chat [100200999]": [("user100200999", "I am deleted", None, None)],
        "Helper [777]": [(ANNA, "/start", None, None), ("Helper", "Hello!", None, None)],
        "News of the Day [1555]": [
            ("News of the Day", "", SERVICE, None),
            ("News of the Day", "Something happened.", None, None),
        ],
        "Climbing [1666]": [
            (BOB, "", SERVICE, None),
            (BOB, "", SERVICE, None),
            (BOB, "new shoes", None, None),
            (ANNA, "which ones?", None, None),
            (BOB, "the red ones", None, "4"),
            (ANNA, "as in the news", None, None),
        ],
        "Old Club [1888]": [],
    }


def test_an_export_of_2019_has_local_times_and_numbers_for_ids() -> None:
    """Times without a zone are taken as UTC."""
    chats, bad = read_all(telegram, FIXTURES / "chat_2019" / "result.json")
    day = datetime(2019, 3, 4, 23, 59, 58, tzinfo=UTC).timestamp()
    expected = [
        RawMessage("see @anna_holm_x#fun", sender="Cleo", time=day, id="-999999995"),
        RawMessage("haha", sender=ANNA, time=day + 5, id="-999999994", answers="-999999995"),
        RawMessage("who are you?", sender="4300000002", time=day + 11, id="-999999993"),
    ]
    assert (bad, chats) == ([], {"Cleo [4300000001]": expected})


@pytest.mark.parametrize("fixture", ["chat", "account", "chat_2019"])
def test_files_folders_and_zips_are_known_and_read_alike(tmp_path: Path, fixture: str) -> None:
    file = FIXTURES / fixture / "result.json"
    folder = tmp_path / "ChatExport_2024-06-01"
    shutil.copytree(FIXTURES / fixture, folder)
    (folder / "files").mkdir()
    (folder / "files" / "notes.txt").write_text("sent by somebody")
    write(folder, "<html>", "messages.html")
    packed = zipped(tmp_path / "x.zip", {"ChatExport/result.json": file.read_bytes(), "ChatExport/photos/1.jpg": b""})
    for path in (file, folder, packed):
        assert telegram.matches(Head.of(path))
        assert read_all(telegram, path) == read_all(telegram, file)


def test_every_chat_of_a_zip_with_several_exports(tmp_path: Path) -> None:
    files = {f"ChatExport_{i}/result.json": json.dumps(a_chat(a_message(text=str(i)), id=i)) for i in range(3)}
    path = zipped(tmp_path / "x.zip", files)
    assert telegram.matches(Head.of(path))
    chats, bad = read_all(telegram, path)
    assert ([m.text for found in chats.values() for m in found], bad) == (["0", "1", "2"], [])


@pytest.mark.parametrize("name", ["WhatsApp Chat with Bob.txt", "result (1).json", "slack/general/2024-01-01.json"])
def test_a_folder_with_other_exports_is_left_to_be_searched(tmp_path: Path, name: str) -> None:
    write(tmp_path, a_chat(a_message()))
    assert telegram.matches(Head.of(tmp_path))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    write(tmp_path, "{}", name)
    assert not telegram.matches(Head.of(tmp_path))


@pytest.mark.parametrize(
    "value",
    [
        {"messages": [{"role": "user", "content": "hi"}]},
        {"id": "1", "messages": [{"id": "1", "type": "Default", "content": "hi"}]},
        {"participants": [], "messages": [{"sender_name": "x", "timestamp_ms": 1}]},
        {"a": {"start": "2018", "messages": [[{"text": "hi", "sender": "x"}]]}},
        {"chats": [1]},
        {"chats": {"list": {}}},
        [a_message()],
        "",
        "[",
        '{"messages": [{"id": 1, "type": ["message"]',
    ],
)
def test_other_files_are_not_taken_for_telegrams(tmp_path: Path, value: Any) -> None:
    assert not telegram.matches(Head.of(write(tmp_path, value)))
    assert not telegram.matches(Head.of(zipped(tmp_path / "x.zip", {"result.json": json.dumps(value)})))


def test_a_long_export_is_known_by_its_beginning(tmp_path: Path) -> None:
    """Also where contacts fill the first mebibyte."""
    contacts = {"about": "", "list": [{"first_name": "x" * 99}] * 12_000}
    account = {"about": "a", "personal_information": {}, "contacts": contacts, "chats": {"list": [a_chat(a_message())]}}
    path = write(tmp_path, account)
    assert telegram.matches(Head.of(path))
    assert only(path).text == "hi"
    assert telegram.matches(Head.of(write(tmp_path, a_chat(*[a_message()] * 10_000))))
    assert telegram.matches(Head.of(write(tmp_path, a_chat())))


def test_the_order_of_keys_does_not_matter(tmp_path: Path) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(v) for v in value] if isinstance(value, list) else value

    path = FIXTURES / "account" / "result.json"
    other = write(tmp_path, turned(json.loads(path.read_text(encoding="utf-8"))))
    assert telegram.matches(Head.of(other))
    chats, bad = read_all(telegram, other)
    expected, _ = read_all(telegram, path)
    assert bad == []
    # What names a chat comes too late for it; left_chats come first.
    assert list(chats) == [f"chat {i}" for i in range(1, 7)]
    assert [chats["chat 1"], *list(chats.values())[1:]] == [expected["Old Club [1888]"], *list(expected.values())[:5]]


def test_messages_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that stops early has read little; one that goes on finds the next chat."""
    path = write(tmp_path, {"chats": {"list": [a_chat(*[a_message()] * 9_000), a_chat(a_message(text="next"))]}})
    read_bytes = 0
    original = _Mended.read

    def counted(self: _Mended, size: int) -> bytes:
        nonlocal read_bytes
        data = original(self, size)
        read_bytes += len(data)
        return data

    monkeypatch.setattr(_Mended, "read", counted)
    items = telegram.read(path, ReadOptions())
    chat = next(items)
    assert isinstance(chat, RawChat)
    assert isinstance(next(chat.messages), RawMessage)
    assert read_bytes <= 1 << 17
    following = next(items)
    assert isinstance(following, RawChat)
    assert [m.text for m in following.messages if isinstance(m, RawMessage)] == ["next"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"text": [{"type": "pre", "text": "x = 1", "language": "python"}, "\n"]}, {"text": "x = 1\n"}),
        ({"text": []}, {"text": "", "kind": MEDIA}),
        ({"text": "", "forwarded_from": "x"}, {"text": "", "kind": MEDIA}),
        ({"id": None}, {"id": None}),
        ({"id": True}, {"id": None}),
        ({"from": None}, {"sender": "user1"}),
        ({"from": None, "from_id": None}, {"sender": None}),
        ({"date_unixtime": "-5"}, {"time": T + 7200}),
        ({"date_unixtime": "1" * 13}, {"time": T + 7200}),
        ({"date_unixtime": 1717236999}, {"time": T + 7200}),
        ({"date_unixtime": None, "date": "2024-06-01T14:00:00+02:00"}, {"time": T + 7200}),
        ({"reply_to_message_id": 5, "reply_to_peer_id": None}, {"answers": None}),
        ({"reply_to_message_id": "5"}, {"answers": None}),
    ],
)
def test_odd_but_usable_fields(tmp_path: Path, more: dict[str, Any], expected: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"text": "hi", "sender": ANNA, "time": T, "id": "1"}
    assert only(write(tmp_path, a_chat(a_message(**more)))) == RawMessage(**(usual | expected))


def test_text_entities_stand_in_for_a_missing_text(tmp_path: Path) -> None:
    message = a_message(text_entities=[{"type": "plain", "text": "so "}, {"type": "bold", "text": "it is"}])
    del message["text"]
    assert only(write(tmp_path, a_chat(message))).text == "so it is"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("hi", "a message must be an object, got str"),
        ({}, 'a message must have the type "message", "service" or "unsupported"'),
        (a_message(type=["message"]), 'a message must have the type "message", "service" or "unsupported"'),
        (a_message(text=7), "text must be text, got int"),
        (a_message(text=[{"type": "bold"}]), 'a part of "text" must be text'),
        (a_message(text="\ud83d"), "text is not valid Unicode (half of a surrogate pair)"),
        (a_message(**{"from": ["x"]}), "from must be text, got list"),
        (a_message(date_unixtime=None, date="yesterday"), "date must be an ISO 8601 time, got 'yesterday'"),
    ],
)
def test_a_bad_message_is_named_with_its_line(tmp_path: Path, value: Any, reason: str) -> None:
    path = write(tmp_path, f'{{"id": 7,\n"messages": [\n{json.dumps(a_message())},\n{json.dumps(value)}\n]}}')
    chats, bad = read_all(telegram, path)
    assert [m.text for m in chats["[7]"]] == ["hi"]
    assert bad == [Bad(str(path), 4, reason, (json.dumps(value) + "\n]}")[:200])]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (a_chat(messages={"a": 1}), '"messages" must be a list'),
        ({"chats": [1, 2]}, '"chats" must be an object'),
        ({"left_chats": {"list": "x"}}, '"list" of "left_chats" must be a list'),
        ({"chats": {"list": [5]}}, "a chat must be an object"),
    ],
)
def test_a_bad_chat_is_counted_and_the_rest_is_read(tmp_path: Path, value: dict[str, Any], reason: str) -> None:
    rest = {"left_chats" if "chats" in value else "chats": {"list": [a_chat(a_message())]}}
    chats, bad = read_all(telegram, write(tmp_path, value | rest))
    assert [b.reason for b in bad] == [reason]
    assert [m.text for found in chats.values() for m in found] == ["hi"]


def test_what_is_no_export_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=r"x\.zip has no result\.json") as caught:
        read_all(telegram, zipped(tmp_path / "x.zip", {"a.txt": "hi"}))
    assert caught.value.hint == "in Telegram Desktop, choose JSON as the format of the export"
    with pytest.raises(PersonaError, match=r"result\.json:1:1: not JSON"):
        read_all(telegram, write(tmp_path, "[1]"))
    with pytest.raises(PersonaError, match=r"result\.json:1:\d+: not JSON \(Extra data\)"):
        read_all(telegram, write(tmp_path, json.dumps(a_chat()) + "x"))


# A message: text as parts (each plain or an entity of some type), sender, time, which earlier one it answers.
PLAIN = st.text(st.characters(exclude_categories=["Cs"]))
PARTS = st.lists(st.tuples(PLAIN, st.sampled_from(["plain", "bold", "link", "custom_emoji"])), max_size=3)
SAID = st.tuples(PARTS, PLAIN, st.integers(0, 2**32), st.integers(0, 3), st.booleans())


def telegram_string(text: str) -> str:
    """A JSON string as Telegram writes it: control characters are no JSON."""
    for code in set(range(32)) - {9, 10, 13}:
        text = text.replace(chr(code), f"\0{code:02X}")
    written = json.dumps(text, ensure_ascii=False).replace("\\u0000", "\\x")
    return written.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def serialized(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",\n".join(f"{serialized(k)}: {serialized(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",\n".join(map(serialized, value)) + "]"
    return telegram_string(value) if isinstance(value, str) else json.dumps(value)


def render(chats: list[list[tuple[list[tuple[str, str]], str, int, int, bool]]]) -> tuple[str, list[list[RawMessage]]]:
    """An account with these chats, and what it must be read as."""
    written, expected = [], []
    for number, said in enumerate(chats):
        messages, read = [], []
        for i, (parts, sender, time, back, forwarded) in enumerate(said):
            text = "".join(part for part, _ in parts)
            answers = i - back if back and i >= back else None
            message = a_message(id=i, date_unixtime=str(time), **{"from": sender or None, "from_id": f"user{i}"})
            message["text"] = [t if kind == "plain" else {"type": kind, "text": t} for t, kind in parts]
            if all(kind == "plain" for _, kind in parts):
                message["text"] = text
            message |= {"forwarded_from": None} if forwarded else {}
            message |= {} if answers is None else {"reply_to_message_id": answers}
            messages.append(message)
            kind = (FORWARDED if forwarded else None) if text else MEDIA
            read.append(
                RawMessage(
                    text,
                    sender=sender or f"user{i}",
                    time=float(time),
                    id=str(i),
                    answers=None if answers is None else str(answers),
                    kind=kind,
                )
            )
        written.append(a_chat(*messages, id=number))
        expected.append(read)
    return serialized({"about": "x", "chats": {"about": "y", "list": written}}), expected


@given(st.lists(st.lists(SAID, max_size=5), max_size=3))
def test_what_telegram_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, chats: list[list[tuple[list[tuple[str, str]], str, int, int, bool]]]
) -> None:
    text, expected = render(chats)
    path = write(tmp_path_factory.mktemp("telegram"), text)
    assert telegram.matches(Head.of(path))
    found, bad = read_all(telegram, path)
    assert (bad, list(found.values())) == ([], expected)


ESCAPES = st.lists(
    st.sampled_from([b"\\", b"\\\\", b"\\x0B", b"x", b"\\x1", b"1", b'"', b"a", b"\\u0041"]), max_size=12
)


@given(ESCAPES, st.lists(st.integers(1, 5), min_size=1, max_size=40))
def test_control_characters_are_mended_wherever_a_read_ends(pieces: list[bytes], sizes: list[int]) -> None:
    """And nothing else is changed; the expected text is made character by character."""
    data, expected, at = b"".join(pieces), b"", 0
    while at < len(data):
        step = 2 if data[at : at + 1] == b"\\" else 1
        digits = data[at + 2 : at + 4]
        if data[at : at + 2] == b"\\x" and len(digits) == 2 and all(d in b"0123456789ABCDEFabcdef" for d in digits):
            expected, at = expected + b"\\u00" + digits, at + 4
        else:
            expected, at = expected + data[at : at + step], at + step
    mended = _Mended(io.BytesIO(data))
    found, turn = b"", 0
    while more := mended.read(sizes[turn % len(sizes)]):
        found, turn = found + more, turn + 1
    assert found == expected


HOSTILE = (
    st.binary()
    | st.builds(lambda key, value: json.dumps(a_chat(a_message() | {key: value})).encode(),
                st.sampled_from([*a_message(), "reply_to_message_id", "action"]), JSON)
    | st.builds(lambda key, value: json.dumps(a_chat(a_message()) | {key: value}).encode(),
                st.sampled_from([*a_chat(), "chats"]), JSON)
    | st.builds(lambda value: json.dumps({"chats": {"list": [value, {"messages": [value]}]}}).encode(), JSON)
)  # fmt: skip


@given(HOSTILE)
def test_hostile_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "result.json").write_bytes(data)
    survives(telegram, folder / "result.json")
    survives(telegram, folder)
    survives(telegram, zipped(folder / "x.zip", {"result.json": data}))


@given(st.binary(), st.integers(0, 400))
def test_hostile_zips(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    path = zipped(tmp_path_factory.mktemp("hostile") / "x.zip", {"result.json": json.dumps(a_chat(a_message()))})
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + data + whole[at + len(data) :])
    try:
        Head.of(path)
    except PersonaError:
        return
    survives(telegram, path)


@pytest.mark.parametrize("cut", range(0, 6_000, 397))
def test_a_cut_off_file_is_an_error(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "result.json"
    path.write_bytes((FIXTURES / "chat" / "result.json").read_bytes()[:cut])
    telegram.matches(Head.of(path))
    with pytest.raises(PersonaError):
        read_all(telegram, path)


def test_a_long_line_nuls_and_deep_nesting(tmp_path: Path) -> None:
    long = "x" * (1 << 20)
    assert only(write(tmp_path, a_chat(a_message(text=long)))).text == long
    path = tmp_path / "result.json"
    for data in (b"\0" * 5_000, b'{"messages": [' + b"[" * 100_000, b'{"messages": [{"a": 1' + b"1" * 5_000):
        path.write_bytes(data)
        survives(telegram, path)
        with pytest.raises(PersonaError, match="not JSON"):
            read_all(telegram, path)
