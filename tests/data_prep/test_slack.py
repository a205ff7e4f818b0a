"""Slack's export: exact messages, a way back from what was written, and whatever bytes may come."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import Bad, Head, RawMessage, slack
from data_prep.sources.base import DELETED, MEDIA, SERVICE
from mlx_persona.errors import PersonaError
from tests.data_prep.chats import read_all, survives, zipped

FIXTURE = Path(__file__).parent / "fixtures" / "slack"
DAY = "general/2024-03-01.json"
GENERAL = [
    ("1709300000.000100", "Tobi Kessel", "@Tobi Kessel has joined the channel", SERVICE, None),
    ("1709300010.000200", "mira v", "hi @Tobi Kessel, see #general & #general", None, None),
    ("1709300020.000300", "Tobi Kessel", "@here 1 < 2 && 3 > 2", None, "1709300010.000200"),
    (
        "1709300030.000400",
        "mira v",
        "the menu (https://tea.example/a?b=1&c=2) or https://tea.example or tea.example",
        None,
        None,
    ),
    ("1709300040.000500", "DeployBot", "deploy done", None, None),
    ("1709300050.000600", "Slackbot", "This message was deleted.", DELETED, None),
    # The next day's file has its first two the other way round.
    ("1709390000.000100", "Tobi Kessel", "late note", None, None),
    ("1709390000.000200", "Tobi Kessel", "", MEDIA, None),
    ("1709390001.000100", "Uma Lind", "waves", None, None),
    ("1709390002.000100", "Tobi Kessel", "also for all", None, "1709300010.000200"),
    ("1709390003.000100", "U09OUT", "hello from outside", None, None),
    ("1709390004.000100", "B02", "", MEDIA, None),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def rows(messages: list[RawMessage]) -> list[tuple[str | None, str | None, str, str | None, str | None]]:
    return [(m.id, m.sender, m.text, m.kind, m.answers) for m in messages]


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def one_day(path: Path, *messages: Any, **indexes: Any) -> Path:
    """A zip with one day of #general, and the indexes that are given."""
    files = {f"{name}.json": json.dumps(value) for name, value in indexes.items()}
    return zipped(path, {DAY: json.dumps(messages)} | files)


def text_of(path: Path, text: str, **indexes: Any) -> str:
    message = {"type": "message", "user": "U1", "ts": "1.5", "text": text}
    chats, bad = read_all(slack, one_day(path / "x.zip", message, **indexes))
    assert bad == []
    return chats["general"][0].text


def check_fixture(path: Path) -> None:
    assert slack.matches(Head.of(path))
    chats, bad = read_all(slack, path)
    assert bad == []
    assert list(chats) == [
        "dm: Tobi Kessel, mira v",
        "general",
        "dm: Anna (U04ANNA), Tobi Kessel, mira v",
        "tea-secrets",
    ]
    assert rows(chats["general"]) == GENERAL
    assert [m.time for m in chats["general"]] == [float(row[0]) for row in GENERAL]
    assert [(m.sender, m.text) for m in chats["dm: Tobi Kessel, mira v"]] == [
        ("mira v", "lunch?"),
        ("Tobi Kessel", "always :ramen:"),
    ]
    group = chats["dm: Anna (U04ANNA), Tobi Kessel, mira v"]
    assert [(m.sender, m.text) for m in group] == [("Anna (U04ANNA)", "hi both, ask @Anna")]
    assert chats["tea-secrets"] == []


def test_a_folder() -> None:
    check_fixture(FIXTURE)


@pytest.mark.parametrize("top", ["", "Teahouse Slack export Mar 1 2024 - Mar 31 2024/"])
def test_a_zip_and_one_that_was_packed_again_with_its_folder(tmp_path: Path, top: str) -> None:
    check_fixture(zipped(tmp_path / "x.zip", {top + name: data for name, data in files_of(FIXTURE).items()}))


def test_an_organisations_export_names_its_users_elsewhere(tmp_path: Path) -> None:
    files = files_of(FIXTURE)
    files["org_users.json"] = files.pop("users.json")
    check_fixture(zipped(tmp_path / "x.zip", files))


def test_without_the_lists_ids_are_the_names(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {name: data for name, data in files_of(FIXTURE).items() if "/" in name})
    assert slack.matches(Head.of(path))
    chats, bad = read_all(slack, path)
    assert (bad, list(chats)) == ([], ["D01AB", "general", "mpdm-mira--tobi--anna-1", "tea-secrets"])
    assert rows(chats["general"])[1:3] == [
        ("1709300010.000200", "U01MIRA", "hi @U02TOBI, see #general & #C01GEN", None, None),
        ("1709300020.000300", "U02TOBI", "@here 1 < 2 && 3 > 2", None, "1709300010.000200"),
    ]


def test_a_folder_per_channel_id_has_the_channels_name(tmp_path: Path) -> None:
    message = {"type": "message", "user": "U1", "ts": "1.5", "text": "hi"}
    files = {"C1/2024-03-01.json": json.dumps([message]), "channels.json": '[{"id": "C1", "name": "random"}]'}
    chats, _ = read_all(slack, zipped(tmp_path / "x.zip", files))
    assert list(chats) == ["random"]


def test_days_come_in_their_order_and_channels_whose_names_begin_alike_apart(tmp_path: Path) -> None:
    days = ["2023-12-31", "2024-01-01", "2024-01-02"]
    files = {
        f"{room}/{day}.json": json.dumps([{"type": "message", "user": "U1", "ts": f"{i}.0", "text": day}])
        for room in ("tea-x", "tea", "tea.y")
        for i, day in reversed(list(enumerate(days)))
    }
    chats, _ = read_all(slack, zipped(tmp_path / "x.zip", files))
    assert {room: [m.text for m in found] for room, found in chats.items()} == dict.fromkeys(
        ["tea-x", "tea.y", "tea"], days
    )


def test_other_trees_are_not_slacks(tmp_path: Path) -> None:
    dated = {"chats/2024-03-01.json": '[{"messages": []}]'}
    assert not slack.matches(Head.of(zipped(tmp_path / "dated.zip", dated)))
    assert not slack.matches(Head.of(zipped(tmp_path / "empty.zip", {"users.json": "[]"})))
    assert not slack.matches(Head.of(one_day(tmp_path / "none.zip")))
    (tmp_path / "x.json").write_text('[{"type": "message", "ts": "1.5"}]')
    assert not slack.matches(Head.of(tmp_path / "x.json"))
    for path in (tmp_path / "empty.zip", tmp_path / "x.json"):
        with pytest.raises(PersonaError, match="as Slack exports it"):
            read_all(slack, path)


def test_a_folder_with_another_export_beside_it_is_searched_instead(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE, tmp_path / "slack")
    assert slack.matches(Head.of(tmp_path))
    shutil.copytree(FIXTURE, tmp_path / "slack of another team")
    assert not slack.matches(Head.of(tmp_path))
    assert slack.matches(Head.of(tmp_path / "slack"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<@U1> <@U2|bo> <@U3> <@W1|>", "@Mira @bo @U3 @W1"),
        ("<@U1|mira.old>", "@Mira"),
        ("<#C1|general> <#C1> <#C2|> <#C9>", "#general #random #C2 #C9"),
        ("<!here> <!here|here> <!channel> <!everyone>", "@here @here @channel @everyone"),
        ("<!subteam^S1|@team> <!subteam^S2>", "@team @subteam^S2"),
        ("<!date^1700000000^{date_short}|Nov 14>", "Nov 14"),
        ("<https://x.example|label> <https://x.example>", "label (https://x.example) https://x.example"),
        ("<https://x.example|https://x.example>", "https://x.example"),
        ("<http://x.example/a|x.example/a>", "x.example/a"),
        ("<mailto:bo@x.example|bo@x.example> <tel:123|123>", "bo@x.example 123"),
        ("<mailto:bo@x.example|write me>", "write me (mailto:bo@x.example)"),
        ("<https://x.example/?a=1&amp;b=2|a &lt; b>", "a < b (https://x.example/?a=1&b=2)"),
        ("&amp;lt; &lt;@U1&gt; &amp;amp; AT&amp;T &copy;", "&lt; <@U1> &amp; AT&T &copy;"),
        ("a < b > c <3 <> <|> < > <@> <nothing>", "a < b > c <3 <> <|> < > @ <nothing>"),
        ("```x = &lt;y&gt;```\n*bold* :tada: ", "```x = <y>```\n*bold* :tada: "),
    ],
)
def test_markup(tmp_path: Path, text: str, expected: str) -> None:
    users = [{"id": "U1", "name": "mira", "profile": {"display_name": " Mira "}}]
    assert text_of(tmp_path, text, users=users, channels=[{"id": "C1", "name": "random"}]) == expected


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"name": "h", "real_name": "R", "profile": {"real_name": "PR", "display_name": "D"}}, "D"),
        ({"name": "h", "real_name": "R", "profile": {"real_name": "PR", "display_name": ""}}, "PR"),
        ({"name": "h", "real_name": "R", "deleted": True}, "R"),
        ({"name": "h", "profile": None}, "h"),
        ({"name": 3, "profile": {"display_name": "\udc00"}}, "U1"),
    ],
)
def test_the_name_of_a_user(tmp_path: Path, user: dict[str, Any], expected: str) -> None:
    assert text_of(tmp_path, "<@U1>", users=[7, {"id": "U1"} | user]) == f"@{expected}"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"subtype": "channel_leave"}, ("U1", "hi", SERVICE, None)),
        ({"subtype": "channel_topic"}, ("U1", "hi", SERVICE, None)),
        ({"subtype": "bot_add"}, ("U1", "hi", SERVICE, None)),
        ({"type": "something"}, ("U1", "hi", SERVICE, None)),
        ({"subtype": "message_deleted"}, ("U1", "hi", DELETED, None)),
        ({"subtype": None, "thread_ts": None}, ("U1", "hi", None, None)),
        ({"thread_ts": "1.5"}, ("U1", "hi", None, None)),
        ({"subtype": "bot_message", "username": "Brew", "bot_id": "B1"}, ("Brew", "hi", None, None)),
        ({"subtype": "bot_message", "bot_id": "B1", "user": None}, ("B1", "hi", None, None)),
        ({"username": "Brew", "bot_id": "B1"}, ("U1", "hi", None, None)),
        ({"user": None, "username": "Brew"}, ("Brew", "hi", None, None)),
        ({"user": None}, (None, "hi", None, None)),
        ({"text": "", "blocks": [{}]}, ("U1", "", MEDIA, None)),
        ({"text": None}, ("U1", "", None, None)),
    ],
)
def test_kinds_and_senders(
    tmp_path: Path, more: dict[str, Any], expected: tuple[str | None, str, str | None, str | None]
) -> None:
    message = {"type": "message", "user": "U1", "ts": "1.5", "text": "hi"} | more
    chats, bad = read_all(slack, one_day(tmp_path / "x.zip", message))
    assert (bad, rows(chats["general"])) == ([], [("1.5", *expected)])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ([], "a message must be an object, got list"),
        ({"ts": "1.5", "text": 3}, "text must be text, got int"),
        ({"ts": "1.5", "text": "\ud800"}, "text is not valid Unicode (half of a surrogate pair)"),
        ({"text": "hi"}, "ts must be text, got NoneType"),
        ({"ts": "soon"}, "ts must be Unix seconds, got 'soon'"),
        ({"ts": "inf"}, "ts must be Unix seconds, got 'inf'"),
        ({"ts": "1.5", "user": ["U1"]}, "user must be text, got list"),
        ({"ts": "1.5", "thread_ts": 1.0}, "thread_ts must be text, got float"),
        ({"ts": "1.5", "subtype": {}}, "subtype must be text, got dict"),
    ],
)
def test_a_message_that_cannot_be_used_is_a_bad_line(tmp_path: Path, message: Any, reason: str) -> None:
    text = '[\n{"ts": "1.5", "text": "hi"},\n' + json.dumps(message) + "]"
    path = zipped(tmp_path / "x.zip", {DAY: text})
    chats, bad = read_all(slack, path)
    assert bad == [Bad(str(path / DAY), 3, reason, json.dumps(message) + "]")]
    assert [m.text for m in chats["general"]] == ["hi"]


# Text, sender, microseconds, how many messages before the thread began.
SAID = st.tuples(
    st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2), st.integers(0, 2**51), st.integers(0, 3)
)
PEOPLE = {"U1": "mira", "U2": "Tobi & co", "U3": "Ärzte <3"}


def render(said: list[tuple[str, int, int, int]]) -> tuple[dict[str, str], list[RawMessage]]:
    """The files of an export with these in one channel, a day for each two, and what it must be read as."""
    days: dict[str, list[dict[str, Any]]] = {}
    expected: list[RawMessage] = []
    for i, (text, who, time, back) in enumerate(sorted(said, key=lambda one: one[2])):
        user = list(PEOPLE)[who]
        stamp = f"{time // 10**6}.{time % 10**6:06}"
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        message = {"type": "message", "user": user, "text": escaped, "ts": stamp}
        root = expected[i - back].id if back and i >= back else None
        if root is not None:
            message |= {"thread_ts": root}
        days.setdefault(f"general/2024-01-{1 + i // 2:02}.json", []).append(message)
        answers = root if root != stamp else None
        expected.append(RawMessage(text, sender=PEOPLE[user], time=float(stamp), id=stamp, answers=answers))
    users = [{"id": user, "profile": {"display_name": name}} for user, name in PEOPLE.items()]
    return {"users.json": json.dumps(users)} | {day: json.dumps(found) for day, found in days.items()}, expected


@given(st.lists(SAID, min_size=1, max_size=7))
def test_what_slack_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, int, int, int]]
) -> None:
    files, expected = render(said)
    path = zipped(tmp_path_factory.mktemp("slack") / "x.zip", files)
    assert slack.matches(Head.of(path))
    assert read_all(slack, path) == ({"general": expected}, [])


FULL = {"type": "message", "user": "U1", "text": "<@U1>", "ts": "1.5", "thread_ts": "1.0", "subtype": ""}
ODD_MESSAGE = st.builds(lambda key, value: json.dumps([FULL | {key: value}]).encode(), st.sampled_from([*FULL]), JSON)
ODD_LIST = JSON.map(lambda value: json.dumps([value, {"id": "U1", "name": value, "members": value}]).encode())
ODD_PERSON = JSON.map(lambda value: json.dumps([{"id": value}, {"id": "U1", "profile": value}]).encode())


@given(st.binary() | ODD_MESSAGE, st.just(b"[]") | st.binary() | ODD_LIST | ODD_PERSON)
def test_hostile_bytes(tmp_path_factory: pytest.TempPathFactory, day: bytes, index: bytes) -> None:
    files = dict.fromkeys(("users.json", "channels.json", "dms.json", "mpims.json"), index)
    folder = tmp_path_factory.mktemp("hostile")
    survives(slack, zipped(folder / "x.zip", {DAY: day}))
    survives(slack, zipped(folder / "y.zip", files | {DAY: day, "U1/2024-03-01.json": b"[]"}))


@given(st.text(st.sampled_from("<>|@#!&;:^ aU1lt"), max_size=30))
def test_markup_of_any_kind_gives_a_text(text: str) -> None:
    names = slack._Names({"U1": "m"}, {}, {}, {})
    assert isinstance(names.plain(text), str)


def test_a_cut_off_day_nuls_and_a_line_of_a_megabyte(tmp_path: Path) -> None:
    whole = (FIXTURE / DAY).read_bytes()
    for data in (whole[:1000], b"", b"\0" * 1000, b"[" * 1_000_000, b'["' + b"x" * 1_000_000):
        path = zipped(tmp_path / "x.zip", {DAY: data, "users.json": "[]"})
        survives(slack, path)
        with pytest.raises(PersonaError, match=r"2024-03-01\.json:\d+(:\d+)?: not JSON"):
            read_all(slack, path)
    assert text_of(tmp_path, "<" * 1_000_000) == "<" * 1_000_000
    assert text_of(tmp_path, "\0y" * 500_000) == "\0y" * 500_000


def test_a_broken_zip_member_is_an_error_and_not_slacks(tmp_path: Path) -> None:
    path = one_day(tmp_path / "x.zip", {"type": "message", "ts": "1.5", "text": "hello " * 50})
    data = bytearray(path.read_bytes())
    data[60:70] = b"\xff" * 10
    path.write_bytes(data)
    assert not slack.matches(Head.of(path))
    with pytest.raises(PersonaError, match="cannot read"):
        read_all(slack, path)
