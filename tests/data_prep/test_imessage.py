"""Messages' database: who wrote what to whom, in three versions of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typedstream
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_prep import filters
from data_prep.sessions import Turn
from data_prep.sources import imessage
from data_prep.sources.base import ASSISTANT, DELETED, GROUP, MEDIA, REACTION, SERVICE, USER, Bad, RawMessage
from data_prep.sources.head import Head
from tests.data_prep.chatdb import EPOCH, NORA, OTTO, PIA, SCHEMAS, ChatDb, T, archived, only, read, texts


@pytest.fixture
def db(tmp_path: Path) -> Callable[..., ChatDb]:
    def make(version: str = "ventura", **options: Any) -> ChatDb:
        return ChatDb(tmp_path / "chat.db", version, **options)

    return make


@pytest.mark.parametrize("version", SCHEMAS)
def test_every_version_reads_the_same(db: Callable[..., ChatDb], version: str) -> None:
    """Seconds or nanoseconds, text or archive, with or without threads."""
    threads = version != "sierra"
    with db(version) as made:
        chat = made.chat(made.handle(NORA), identifier=NORA)
        made.message(chat, "are you there? ☕️", date=T, handle_id=1)
        made.message(chat, "yes\nand hungry", mine=1, date=T + 2, handle_id=1)
        answer = {"thread_originator_guid": "G-1", "thread_originator_part": "0:0:17"} if threads else {}
        made.message(chat, "now I am", mine=1, date=T + 3, handle_id=0, **answer)
    path = made.path
    assert imessage.matches(Head.of(path))
    assert read(path) == {
        "chat 1": [
            RawMessage("are you there? ☕️", USER, NORA, time=T + EPOCH, id="G-1"),
            RawMessage("yes\nand hungry", ASSISTANT, time=T + EPOCH + 2, id="G-2"),
            RawMessage("now I am", ASSISTANT, time=T + EPOCH + 3, id="G-3", answers="G-1" if threads else None),
        ]
    }


@pytest.mark.parametrize("mutable", [False, True])
@pytest.mark.parametrize("length", [0, 1, 127, 128, 146, 255, 65535, 65536, 1 << 20])
def test_archives_of_the_tests_are_true_ones(db: Callable[..., ChatDb], length: int, mutable: bool) -> None:
    """The library reads them to their ends, and so does the importer."""
    text = "é" * (length // 2) + "x" * (length % 2)
    whole = typedstream.unarchive_from_data(archived(text, mutable))
    assert whole.contents[0].value.value == text
    assert whole.contents[1].values == [1, len(text)]
    with db() as made:
        made.message(made.chat(made.handle(NORA)), "", attributedBody=archived(text, mutable))
    assert texts(only(made.path)) == [text]


def test_length_of_two_bytes_is_not_taken_for_one(db: Callable[..., ChatDb]) -> None:
    """Even where the words hold the byte that ends a string, at the place where it would be."""
    text = "a" * 126 + "Ć" + "b" * 50
    assert text.encode()[127] == 0x86
    with db() as made:
        made.message(made.chat(made.handle(NORA)), text)
    assert texts(only(made.path)) == [text]


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        *(({"associated_message_type": n, "associated_message_guid": "p:0/G-0"}, REACTION) for n in (2000, 2005, 2007)),
        *(({"associated_message_type": n, "associated_message_guid": "bp:G-0"}, REACTION) for n in (3000, 3006)),
        ({"associated_message_type": 1000, "text": "\ufffc", "cache_has_attachments": 1}, MEDIA),
        ({"associated_message_type": 2, "associated_message_guid": "G-0"}, None),
        ({"item_type": 1, "group_action_type": 1, "other_handle": 1, "text": None}, SERVICE),
        ({"item_type": 6, "text": None}, SERVICE),
        ({"is_system_message": 1}, SERVICE),
        ({"is_auto_reply": 1}, SERVICE),
        ({"date_retracted": T * 10**9}, DELETED),
        ({"date_edited": T * 10**9, "text": None, "message_summary_info": b"bplist00"}, DELETED),
        ({"date_edited": T * 10**9}, None),
        ({"text": "\ufffc", "cache_has_attachments": 1}, MEDIA),
        ({"text": " \ufffc\ufffc\n", "cache_has_attachments": 1}, MEDIA),
        ({"text": None, "attributedBody": archived("\ufffc"), "cache_has_attachments": 1}, MEDIA),
        ({"text": None, "cache_has_attachments": 1}, MEDIA),
        ({"text": "\ufffd", "balloon_bundle_id": "com.example.game"}, MEDIA),
        ({"text": None, "balloon_bundle_id": "com.apple.DigitalTouchBalloonProvider"}, MEDIA),
        ({"text": "hi", "cache_has_attachments": 1}, None),
        ({"text": "hi", "balloon_bundle_id": "com.apple.messages.URLBalloonProvider"}, None),
        ({}, None),
    ],
)
def test_kinds(db: Callable[..., ChatDb], columns: dict[str, Any], kind: str | None) -> None:
    with db() as made:
        made.message(made.chat(made.handle(NORA)), mine=1, date=T, **{"text": "hi", "attributedBody": None} | columns)
    assert only(made.path) == [
        RawMessage("hi" if kind is None else "", ASSISTANT, time=T + EPOCH, id="G-1", kind=kind),
    ]


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("\ufffclook at this", "look at this"),
        ("\ufffc\ufffcboth ", "both "),
        ("one\ufffctwo\ufffc three", "one\ntwo\n three"),
        ("\ufffd is typed", "\ufffd is typed"),
    ],
)
def test_what_stands_for_an_attachment_goes(db: Callable[..., ChatDb], text: str, caption: str) -> None:
    with db() as made:
        made.message(made.chat(made.handle(NORA)), text, cache_has_attachments=1)
    assert only(made.path) == [RawMessage(caption, USER, id="G-1")]


@pytest.mark.parametrize(
    ("date", "time"),
    [
        (None, None),
        (0, None),
        (1, EPOCH + 1.0),
        (400_000_000, EPOCH + 400_000_000.0),
        (10**11, EPOCH + 1e11),
        (10**11 + 10**9, EPOCH + 101.0),
        (600_000_000_500_000_000, EPOCH + 600_000_000.5),
        (-600_000_000_500_000_000, EPOCH - 600_000_000.5),
        (2**63 - 1, EPOCH + (2**63 - 1) / 1e9),
        (-(2**63), EPOCH - 2**63 / 1e9),
    ],
)
def test_dates_are_seconds_or_nanoseconds_since_2001(
    db: Callable[..., ChatDb], date: int | None, time: float | None
) -> None:
    with db("sierra") as made:
        made.message(made.chat(made.handle(NORA)), "hi", date=date)
    assert only(made.path) == [RawMessage("hi", USER, time=time, id="G-1")]


def test_oldest_first_and_equal_times_in_the_order_of_the_table(db: Callable[..., ChatDb]) -> None:
    """Also where an old database went on in nanoseconds."""
    with db("sierra") as made:
        chat = made.chat(made.handle(NORA))
        for text, date in (("d", (T + 9) * 10**9), ("b", T), ("c", T * 10**9), ("a", T - 1), ("z", None)):
            made.message(chat, text, date=date)
    assert texts(only(made.path)) == ["z", "a", "b", "c", "d"]


def test_one_person_is_one_chat_whatever_the_service(db: Callable[..., ChatDb]) -> None:
    """And what lies in no chat goes to the person that it names."""
    with db() as made:
        nora, nora_sms, otto = made.handle(NORA), made.handle(NORA, "SMS"), made.handle(OTTO)
        chat, sms = made.chat(nora), made.chat(nora_sms, service="SMS")
        with_otto = made.chat(otto)
        made.message(chat, "one", date=T, handle_id=nora)
        made.message(with_otto, "other", date=T, handle_id=otto)
        made.message(sms, "two", date=T + 1, handle_id=nora_sms)
        made.message(None, "three", mine=1, date=T + 2, handle_id=nora)
        made.message(chat, "four", date=T + 3, handle_id=nora)
        made.message(None, "nobody's", date=T, handle_id=77)
        made.message(None, "nobody's either", date=T + 1, handle_id=77)
        made.message(None, "mine", mine=1, date=T, handle_id=0)
        made.message(404, "a chat that is gone", date=T + 4, handle_id=-3)
    found = read(made.path)
    assert {chat: texts(messages) for chat, messages in found.items()} == {
        "chat 1": ["one", "two", "three", "four"],
        "chat 2": ["other"],
        "chat 3": ["nobody's", "nobody's either"],
        "chat 4": ["mine"],
        "chat 5": ["a chat that is gone"],
    }
    assert [m.sender for m in found["chat 1"]] == [NORA, NORA, None, NORA]
    assert [m.sender for m in found["chat 3"] + found["chat 5"]] == [None] * 3


def test_chat_without_handles_is_known_by_its_identifier(db: Callable[..., ChatDb]) -> None:
    with db() as made:
        made.message(made.chat(identifier=NORA), "to myself", mine=1, date=T)
        made.message(made.chat(made.handle(NORA)), "and from there", date=T + 1, handle_id=1)
        made.message(made.chat(style=43, identifier="chat900"), "nobody left", mine=1, date=T)
        made.message(made.chat(), "no name", mine=1, date=T)
        made.message(made.chat(), "no name either", mine=1, date=T)
    assert [texts(m) for m in read(made.path, groups=True).values()] == [
        ["to myself", "and from there"],
        ["nobody left"],
        ["no name"],
        ["no name either"],
    ]


def test_groups_are_left_out_and_counted_unless_asked_for(db: Callable[..., ChatDb]) -> None:
    with db() as made:
        nora, otto, pia = (made.handle(who) for who in (NORA, OTTO, PIA))
        alone, three = made.chat(nora), made.chat(otto, nora)
        one_left = made.chat(nora, style=43)
        three_sms = made.chat(nora, otto, style=45, service="SMS")
        made.message(alone, "between us", date=T, handle_id=nora)
        made.message(three, "hi all", date=T, handle_id=otto)
        made.message(three_sms, "hi you two", mine=1, date=T + 1)
        made.message(three, "", item_type=2, date=T + 2)
        made.message(three, "", attributedBody=b"broken", date=T + 3)
        made.message(one_left, "bye", date=T, handle_id=nora)
        made.message(None, "lost", date=T, handle_id=pia, cache_roomnames="chat7")
        made.message(None, "lost too", date=T + 1, handle_id=nora, cache_roomnames="chat7")
    left = read(made.path)
    assert left["chat 1"] == [RawMessage("between us", USER, NORA, time=T + EPOCH, id="G-1")]
    assert left["chat 2"] == [
        RawMessage("", ASSISTANT if n == 1 else USER, time=T + EPOCH + n, kind=GROUP) for n in range(4)
    ]
    assert [len(messages) for messages in left.values()] == [1, 4, 1, 2]
    assert {m.kind for chat, messages in left.items() for m in messages if chat != "chat 1"} == {GROUP}
    found = read(made.path, groups=True)
    assert texts(found["chat 2"][:2]) == ["hi all", "hi you two"]
    assert found["chat 2"][2].kind == SERVICE
    assert isinstance(found["chat 2"][3], Bad)
    assert texts(found["chat 3"]) == ["bye"]
    assert [(m.text, m.sender) for m in found["chat 4"]] == [("lost", PIA), ("lost too", NORA)]
    assert filters.message_reason(Turn(USER, "", kind=GROUP)) == "group"


def test_message_in_two_chats_counts_once(db: Callable[..., ChatDb]) -> None:
    with db() as made:
        first, second = made.chat(made.handle(NORA)), made.chat(made.handle(OTTO))
        made.join(second, made.message(first, "once", date=T))
    assert {chat: texts(messages) for chat, messages in read(made.path).items()} == {"chat 1": ["once"]}


def test_what_was_deleted_and_can_still_be_restored_is_deleted(db: Callable[..., ChatDb]) -> None:
    with db() as made:
        chat = made.chat(made.handle(NORA))
        made.message(chat, "stays", date=T)
        made.join(chat, made.message(None, "goes", date=T + 1), "chat_recoverable_message_join")
        made.join(chat, made.message(chat, "came back", date=T + 2), "chat_recoverable_message_join")
    assert [(m.text, m.kind) for m in only(made.path)] == [("stays", None), ("", DELETED), ("came back", None)]


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffc\ufffd"), max_size=300)
MESSAGES = st.lists(
    st.tuples(WORDS, st.booleans(), st.sampled_from([NORA, OTTO]), st.integers(1000, 10**9), st.booleans()), max_size=12
)


def render(path: Path, version: str, said: list[tuple[str, bool, str, int, bool]]) -> None:
    """A database of chats with two people; the last of a message's values: it answers the one before."""
    path.unlink(missing_ok=True)
    with ChatDb(path, version) as db:
        chats = {who: (db.chat(h, identifier=who), h) for who, h in ((NORA, db.handle(NORA)), (OTTO, db.handle(OTTO)))}
        for n, (text, mine, who, date, answers) in enumerate(said):
            columns = {"thread_originator_guid": f"G-{n}"} if answers and version != "sierra" else {}
            db.message(chats[who][0], text, mine=int(mine), date=date, handle_id=chats[who][1], **columns)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=MESSAGES, version=st.sampled_from(sorted(SCHEMAS)))
@example([("\0 \ud7ff\U0010ffff", True, NORA, 1000, True), ("", False, OTTO, 10**9, False)], "ventura")
def test_reads_back_what_was_written(
    tmp_path: Path, said: list[tuple[str, bool, str, int, bool]], version: str
) -> None:
    path = tmp_path / "chat.db"
    render(path, version, said)
    expected = [
        [
            RawMessage(
                text,
                ASSISTANT if mine else USER,
                None if mine else who,
                time=float(date + EPOCH),
                id=f"G-{n + 1}",
                answers=f"G-{n}" if answers and version != "sierra" else None,
            )
            for n, (text, mine, who, date, answers) in sorted(enumerate(said), key=lambda pair: pair[1][3])
            if who == person
        ]
        for person in (NORA, OTTO)
    ]
    assert list(read(path).values()) == [messages for messages in expected if messages]
