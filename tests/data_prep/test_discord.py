"""Both Discord exports: exact messages, a way back from what was written, and whatever bytes may come."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import Bad, Head, RawChat, RawMessage, ReadOptions, discord
from data_prep.sources.base import ASSISTANT, FORWARDED, MEDIA, SERVICE
from mlx_persona.errors import PersonaError
from tests.data_prep.chats import read_all, survives, zipped

FIXTURES = Path(__file__).parent / "fixtures" / "discord"
C1, C2 = "613425648685547541", "81384788765712384"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
TIMES = st.datetimes(datetime(2015, 1, 1), datetime(2035, 1, 1))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def at(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def exported(*messages: Any, guild: Any = None, channel: Any = None) -> str:
    return json.dumps({"guild": guild or {"name": "G"}, "channel": channel or {"name": "c"}, "messages": messages})


def a_message(**more: Any) -> dict[str, Any]:
    base = {"id": "1", "type": "Default", "timestamp": "2024-01-01T00:00:00+00:00", "content": "hi"}
    return base | {"author": {"id": "2", "name": "tobi"}, "attachments": []} | more


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_server_channel_with_every_kind_of_message() -> None:
    chats, bad = read_all(discord, FIXTURES / "guild.json")
    assert (bad, list(chats)) == ([], ["Teahouse / general [900000000000000002]"])
    day = at("2024-03-01T18:00:00+00:00")
    question = "does anybody know if the teahouse is open on sunday?"
    expected = [
        ("tobi_k", "Joined the server.", SERVICE, 0.101, None),
        ("tobi_k", question, None, 5.5, None),
        ("mira.vane", "@Tobi yes, from 10 :tea:", None, 60.0, "1213000000000000002"),
        ("mira.vane", "", MEDIA, 90.063, None),
        ("tobi_k", "", MEDIA, 91.123, None),
        ("mira.vane", "the menu & prices <3\nsecond line", None, 120.9, None),
        ("TeaBot", "Brewed 2 cups", None, 130.0, None),
        ("tobi_k", "Pinned a message.", SERVICE, 140.77, None),
        ("tobi_k", "Started a thread.", SERVICE, 150.1, None),
        ("mira.vane", "closed on mondays", FORWARDED, 160.2, None),
        ("TeaBot", "", MEDIA, 170.2, None),
    ]
    found = next(iter(chats.values()))
    assert [(m.sender, m.text, m.kind, round((m.time or 0) - day, 6), m.answers) for m in found] == expected
    assert [m.id for m in found] == [f"12130000000000000{i:02}" for i in range(1, 12)]
    assert {m.role for m in found} == {None}


def test_a_direct_chat_written_newest_first_in_local_time_comes_oldest_first() -> None:
    chats, bad = read_all(discord, FIXTURES / "direct.json")
    assert (bad, list(chats)) == ([], ["Direct Messages / Tobi [900000000000000077]"])
    found = chats["Direct Messages / Tobi [900000000000000077]"]
    assert [(m.id, m.kind) for m in found] == [
        ("1325000000000000001", SERVICE),
        ("1325000000000000002", None),
        ("1325000000000000003", None),
        ("1325000000000000004", SERVICE),
    ]
    assert [m.time for m in found][1:] == [at("2025-01-05T22:10:01.25+00:00")] * 2 + [at("2025-01-05T23:30:00+00:00")]


def test_an_export_of_2020_without_nicknames_stickers_and_references() -> None:
    chats, bad = read_all(discord, FIXTURES / "old.json")
    assert bad == []
    assert [(m.sender, m.text) for m in chats["Teahouse / general [900000000000000002]"]] == [
        ("Mira", "is this thing on?"),
        ("Tobi", "loud and clear"),
    ]


@pytest.mark.parametrize("name", ["guild.json", "direct.json", "old.json"])
def test_the_tools_files_are_known_by_their_beginning(name: str) -> None:
    assert discord.matches(Head.of(FIXTURES / name))


@pytest.mark.parametrize("text", ["", "[]", '{"guild": {}}', '{"guild": 1, "messages": []}', '{"messages": []}', "hi"])
def test_other_files_are_not_taken_for_the_tools(tmp_path: Path, text: str) -> None:
    assert not discord.matches(Head.of(write(tmp_path / "x.json", text)))


def test_a_newest_first_channel_longer_than_the_look_ahead_is_turned_round(tmp_path: Path) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    stamps = [(start + timedelta(minutes=i)).isoformat() for i in range(350)]
    messages = [a_message(id=str(i), timestamp=stamp) for i, stamp in enumerate(stamps)]
    for order in (messages, messages[::-1]):
        chats, bad = read_all(discord, write(tmp_path / "x.json", exported(*order)))
        assert (bad, [m.id for m in chats["G / c"]]) == ([], [str(i) for i in range(350)])


def test_only_a_window_of_a_channel_is_read_ahead(tmp_path: Path) -> None:
    """The second half of the file is broken, and that shows only where reading gets there."""
    messages = [a_message(id=str(i), content="x" * 1000) for i in range(1000)]
    path = write(tmp_path / "x.json", exported(*messages)[:-400_000] + "!")
    items = discord.read(path, ReadOptions())
    chat = next(items)
    assert isinstance(chat, RawChat)
    begin = [next(chat.messages) for _ in range(300)]
    assert [m.id for m in begin if isinstance(m, RawMessage)] == [str(i) for i in range(300)]
    with pytest.raises(PersonaError, match=r"x\.json:1:\d+: not JSON"):
        list(chat.messages)


@pytest.mark.parametrize(
    ("more", "kind", "text"),
    [
        ({"type": "RecipientRemove"}, SERVICE, "hi"),
        ({"type": "21", "content": ""}, SERVICE, ""),
        ({"type": "23"}, None, "hi"),
        ({"content": " \n", "attachments": [{}]}, MEDIA, " \n"),
        ({"content": ""}, None, ""),
        ({"content": "", "reference": {"type": "Forward", "messageId": "7"}}, FORWARDED, ""),
        ({"reference": {"messageId": "7"}}, None, "hi"),
        ({"type": "Reply", "reference": None}, None, "hi"),
        ({"type": "Reply", "reference": {"messageId": None}}, None, "hi"),
    ],
)
def test_kinds(tmp_path: Path, more: dict[str, Any], kind: str | None, text: str) -> None:
    chats, bad = read_all(discord, write(tmp_path / "x.json", exported(a_message(**more))))
    assert (bad, [(m.kind, m.text, m.answers) for m in chats["G / c"]]) == ([], [(kind, text, None)])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (7, "a message must be an object, got int"),
        (a_message(content=None), "content must be text, got NoneType"),
        (a_message(content="\ud83d"), "content is not valid Unicode (half of a surrogate pair)"),
        (a_message(author="tobi"), "author must be an object, got str"),
        (a_message(author={"name": 3}), "author.name must be text, got int"),
        (a_message(type=0), "type must be text, got int"),
        (a_message(id=5), "id must be text, got int"),
        (a_message(timestamp="yesterday"), "timestamp must be an ISO 8601 time, got 'yesterday'"),
        (a_message(timestamp=1.5), "timestamp must be text, got float"),
        (a_message(type="Reply", reference={"messageId": []}), "messageId must be text, got list"),
        (a_message(content="", forwardedMessage={}), "content must be text, got NoneType"),
    ],
)
def test_a_message_that_cannot_be_used_is_a_bad_line(tmp_path: Path, message: Any, reason: str) -> None:
    text = (
        '{"guild": {},\n"channel": {},\n"messages": [\n' + json.dumps(message) + ",\n" + json.dumps(a_message()) + "]}"
    )
    path = write(tmp_path / "x.json", text)
    chats, bad = read_all(discord, path)
    assert bad == [Bad(str(path), 4, reason, text.split("\n", 3)[3][:200])]
    assert [m.text for m in chats["x.json"]] == ["hi"]


def test_a_file_without_messages_or_cut_off_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match='must have "messages"'):
        read_all(discord, write(tmp_path / "x.json", '{"guild": {}}'))
    for text in (exported(a_message())[:-2], exported(a_message()) + "]"):
        with pytest.raises(PersonaError, match=r"x\.json:1:\d+: not JSON"):
            read_all(discord, write(tmp_path / "x.json", text))


# A message as both exports can say it: text, sender, time, which earlier one it answers.
SAID = st.tuples(TEXTS, TEXTS, TIMES, st.integers(0, 3), st.sampled_from([-480, 0, 330]))


def render(said: list[tuple[str, str, datetime, int, int]]) -> tuple[str, list[RawMessage]]:
    """The tool's JSON for these, and what it must be read as; times are made to go on."""
    messages, expected = [], []
    said = sorted(said, key=lambda one: one[2])
    for i, (text, sender, time, back, zone) in enumerate(said):
        answers = str(i - back) if back and i >= back else None
        moment = time.replace(tzinfo=UTC)
        written = a_message(
            id=str(i),
            content=text,
            author={"id": "5", "name": sender, "nickname": "?", "isBot": False},
            timestamp=moment.astimezone(timezone(timedelta(minutes=zone))).isoformat(),
        )
        if answers is not None:
            written |= {"type": "Reply", "reference": {"messageId": answers, "channelId": "1", "guildId": "2"}}
        messages.append(written)
        expected.append(RawMessage(text, sender=sender, time=moment.timestamp(), id=str(i), answers=answers))
    return exported(*messages), expected


@given(st.lists(SAID, max_size=6))
def test_what_the_tool_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str, datetime, int, int]]
) -> None:
    text, expected = render(said)
    path = write(tmp_path_factory.mktemp("discord") / "x.json", text)
    assert discord.matches(Head.of(path))
    assert read_all(discord, path) == ({"G / c": expected}, [])


def test_the_package_of_2024(tmp_path: Path) -> None:
    newest_first = [
        {"ID": 1002, "Timestamp": "2024-05-02 10:00:00", "Contents": "later", "Attachments": ""},
        {"ID": 1001, "Timestamp": "2024-05-01 10:00:00", "Contents": "", "Attachments": "https://cdn.example/a.png"},
        {"ID": 1000, "Timestamp": "2024-05-01 09:00:00", "Contents": "see", "Attachments": "https://cdn.example/b.png"},
    ]
    path = zipped(
        tmp_path / "package.zip",
        {
            "account/user.json": '{"id": "2", "username": "mira.vane", "global_name": "Mira", "relationships": [{}]}',
            "account/avatar.png": b"\x89PNG",
            "README.txt": "hi",
            "messages/index.json": json.dumps({C1: "Direct Message with tobi_k#0", C2: None}),
            f"messages/c{C1}/channel.json": json.dumps({"id": C1, "type": "DM", "recipients": ["2", "3"]}),
            f"messages/c{C1}/messages.json": json.dumps(newest_first),
            f"messages/c{C2}/channel.json": json.dumps({"id": C2, "type": "GUILD_TEXT"}),
            f"messages/c{C2}/messages.json": "[]",
            "servers/index.json": "{}",
        },
    )
    assert discord.matches(Head.of(path))
    day = at("2024-05-01T10:00:00+00:00")
    mine = {"role": ASSISTANT, "sender": "mira.vane"}
    expected = [
        RawMessage("see", time=day - 3600, id="1000", **mine),
        RawMessage("", time=day, id="1001", kind=MEDIA, **mine),
        RawMessage("later", time=day + 86400, id="1002", **mine),
    ]
    assert read_all(discord, path) == ({f"Direct Message with tobi_k#0 [{C1}]": expected, f"[{C2}]": []}, [])


def test_messages_of_one_second_keep_their_order_in_a_package_written_newest_first(tmp_path: Path) -> None:
    rows = [
        {"ID": i, "Timestamp": f"2024-05-01 10:00:0{i // 2}", "Contents": f"{i}", "Attachments": ""} for i in range(6)
    ]
    # And in no order at all: what is of one second stays as it comes.
    for order in (rows, rows[::-1], rows[:2] + rows[4:5] + rows[2:4] + rows[5:]):
        path = zipped(tmp_path / "x.zip", {f"messages/c{C1}/messages.json": json.dumps(order)})
        chats, bad = read_all(discord, path)
        assert (bad, [m.text for m in chats[f"[{C1}]"]]) == ([], list("012345"))


@pytest.mark.parametrize("top", ["", "package/"])
@pytest.mark.parametrize("folders", [("Messages", "Account"), ("Nachrichten", "Konto"), ("Wiadomości", "Konto")])
def test_the_packages_folders_may_be_translated_and_packed_again(
    tmp_path: Path, top: str, folders: tuple[str, str]
) -> None:
    messages, account = folders
    path = zipped(
        tmp_path / "p.zip",
        {
            f"{top}{messages}/index.json": json.dumps({C1: "general in Teahouse"}),
            f"{top}{messages}/c{C1}/messages.json": json.dumps(
                [{"ID": 7, "Timestamp": "2025-01-01 00:00:00", "Contents": "hi", "Attachments": ""}]
            ),
            f"{top}{account}/user.json": '{"username": "mira.vane"}',
            f"{top}README.txt": "",
        },
    )
    assert discord.matches(Head.of(path))
    chats, bad = read_all(discord, path)
    assert bad == []
    assert [(m.sender, m.text) for m in chats[f"general in Teahouse [{C1}]"]] == [("mira.vane", "hi")]


def test_the_package_of_2019_as_a_folder_with_csv_and_without_an_account(tmp_path: Path) -> None:
    channel = tmp_path / "messages" / C2
    channel.mkdir(parents=True)
    (channel / "messages.csv").write_text(
        "ID,Timestamp,Contents,Attachments\r\n"
        '2,2019-03-02 10:00:00.250000+00:00,"two, ""lines""\nof it",\r\n'
        "1,2019-03-01 10:00:00+00:00,,https://cdn.example/a.png\r\n"
        "3,soon,text,\r\n"
        "4\r\n",
        encoding="utf-8",
        newline="",
    )
    assert discord.matches(Head.of(tmp_path))
    assert discord.matches(Head.of(tmp_path / "messages"))
    chats, bad = read_all(discord, tmp_path)
    day = at("2019-03-01T10:00:00+00:00")
    assert chats[f"[{C2}]"] == [
        RawMessage("", role=ASSISTANT, time=day, id="1", kind=MEDIA),
        RawMessage('two, "lines"\nof it', role=ASSISTANT, time=day + 86400.25, id="2"),
    ]
    label = str(channel / "messages.csv")
    assert sorted(bad, key=lambda b: b.line) == [
        Bad(label, 5, "Timestamp must be an ISO 8601 time, got 'soon'", "3,soon,text,"),
        Bad(label, 6, "Contents must be text, got NoneType", "4,,,"),
    ]


def test_a_folder_with_more_than_a_package_is_searched_instead(tmp_path: Path) -> None:
    channel = tmp_path / "package" / "messages" / f"c{C1}"
    channel.mkdir(parents=True)
    (channel / "messages.json").write_text("[]")
    assert discord.matches(Head.of(tmp_path))
    (tmp_path / "chat.txt").write_text("another export")
    assert not discord.matches(Head.of(tmp_path))
    assert discord.matches(Head.of(tmp_path / "package"))


def test_a_tree_without_channels_is_an_error(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"messages/index.json": "{}"})
    assert not discord.matches(Head.of(path))
    with pytest.raises(PersonaError, match=r"messages/c<channel id>/messages\.json"):
        read_all(discord, path)


@pytest.fixture
def short_fields() -> Iterator[None]:
    """Python's own limit for a field, whatever another importer has set."""
    before = csv.field_size_limit(131072)
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("short_fields")
def test_a_csv_with_other_columns_or_too_long_a_field(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {f"messages/{C1}/messages.csv": "a,b\n1,2\n"})
    with pytest.raises(PersonaError, match=r"messages\.csv:1: the columns must be Attachments, Contents, ID"):
        read_all(discord, path)
    path = zipped(tmp_path / "x.zip", {f"messages/{C1}/messages.csv": "x" * 200_000})
    with pytest.raises(PersonaError, match=r"messages\.csv:1: not CSV"):
        read_all(discord, path)
    rows = f"ID,Timestamp,Contents,Attachments\n1,2020-01-01,{'x' * 200_000},\n2,2020-01-01,hi,\n"
    chats, bad = read_all(discord, zipped(tmp_path / "x.zip", {f"messages/{C1}/messages.csv": rows}))
    assert [m.text for m in chats[f"[{C1}]"]] == ["hi"]
    assert [(b.line, b.reason) for b in bad] == [(2, "field larger than field limit (131072)")]


def test_a_csv_line_that_is_no_utf_8_is_one_bad_line(tmp_path: Path) -> None:
    data = b"ID,Timestamp,Contents,Attachments\n1,2020-01-01,caf\xe9,\n2,2020-01-01,caf\xc3\xa9,\n"
    path = zipped(tmp_path / "x.zip", {f"messages/{C1}/messages.csv": data})
    chats, bad = read_all(discord, path)
    assert [m.text for m in chats[f"[{C1}]"]] == ["café"]
    reason = "Contents is not valid Unicode (half of a surrogate pair)"
    assert bad == [Bad(str(path / f"messages/{C1}/messages.csv"), 2, reason, "1,2020-01-01,caf?,")]


def render_package(said: list[tuple[str, str, datetime, int, int]], as_csv: bool) -> tuple[str, list[RawMessage]]:
    """The messages file of a channel of the package, newest first, and what it must be read as."""
    rows, expected = [], []
    for i, (text, _, time, _, _) in enumerate(sorted(said, key=lambda one: one[2])):
        rows.append({"ID": i, "Timestamp": str(time), "Contents": text, "Attachments": ""})
        stamp = time.replace(tzinfo=UTC).timestamp()
        expected.append(RawMessage(text, role=ASSISTANT, sender="mira", time=stamp, id=str(i)))
    if not as_csv:
        return json.dumps(rows[::-1]), expected
    written = io.StringIO(newline="")
    writer = csv.DictWriter(written, ["ID", "Timestamp", "Contents", "Attachments"])
    writer.writeheader()
    writer.writerows(rows[::-1])
    return written.getvalue(), expected


@given(st.lists(SAID, max_size=6, unique_by=lambda one: one[2]), st.booleans())
def test_what_the_package_holds_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str, datetime, int, int]], as_csv: bool
) -> None:
    text, expected = render_package(said, as_csv)
    ending = "csv" if as_csv else "json"
    files = {"account/user.json": '{"username": "mira"}', f"messages/c{C1}/messages.{ending}": text}
    path = zipped(tmp_path_factory.mktemp("discord") / "x.zip", files)
    assert read_all(discord, path) == ({f"[{C1}]": expected}, [])


HOSTILE = st.binary() | st.builds(
    lambda message: exported(message).encode(),
    JSON | st.builds(lambda key, value: a_message() | {key: value}, st.sampled_from([*a_message(), "reference"]), JSON),
)


@given(HOSTILE)
def test_hostile_bytes_as_the_tools_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("hostile") / "x.json"
    path.write_bytes(data)
    survives(discord, path)


ROW = {"ID": 1, "Timestamp": "2024-01-01", "Contents": "hi", "Attachments": ""}
ODD_ROW = st.builds(lambda key, value: json.dumps([ROW | {key: value}]).encode(), st.sampled_from([*ROW]), JSON)


@given(
    st.binary() | ODD_ROW,
    st.binary() | st.binary().map(lambda b: b"ID,Timestamp,Contents,Attachments\n1,2020-01-01," + b),
    st.just(b"{}") | st.binary() | JSON.map(lambda value: json.dumps({C1: value, "username": value}).encode()),
)
def test_hostile_bytes_in_a_package(
    tmp_path_factory: pytest.TempPathFactory, messages: bytes, rows: bytes, index: bytes
) -> None:
    files = {f"m/c{C1}/messages.json": messages, "m/index.json": index, "a/user.json": index}
    folder = tmp_path_factory.mktemp("hostile")
    survives(discord, zipped(folder / "x.zip", files))
    survives(discord, zipped(folder / "y.zip", files | {f"m/c{C1}/messages.json": "[]", f"m/c{C2}/messages.csv": rows}))


@pytest.mark.parametrize("cut", range(0, 11_000, 373))
def test_a_cut_off_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.json"
    path.write_bytes((FIXTURES / "guild.json").read_bytes()[:cut])
    with pytest.raises(PersonaError):
        read_all(discord, path)


def test_nuls_and_a_line_of_a_megabyte(tmp_path: Path) -> None:
    for data in (b"\0" * 1000, b'{"guild": {}, "messages": [' + b"x" * 1_000_000, b"[" * 1_000_000):
        (tmp_path / "x.json").write_bytes(data)
        survives(discord, tmp_path / "x.json")
    long = "y" * 1_000_000
    chats, _ = read_all(discord, write(tmp_path / "x.json", exported(a_message(content=long + "\0"))))
    assert [m.text for m in chats["G / c"]] == [long + "\0"]
