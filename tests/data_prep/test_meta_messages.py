"""One message of Messenger or Instagram: what people wrote, what the app wrote, and what is mended."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from data_prep.sources import Bad, RawMessage, meta
from data_prep.sources.base import DELETED, MEDIA, REACTION, SERVICE
from mlx_persona.errors import PersonaError
from tests.data_prep.chats import read_all, zipped
from tests.data_prep.meta_kit import ANNA, RENE, S, a_message, a_thread, only, write


def kind_of(text: str, **more: Any) -> str | None:
    """What becomes of a text in a chat of Anna's with René."""
    people = meta._People()
    people.join([{"name": RENE.encode().decode("latin-1")}, {"name": ANNA}])
    return meta._message(people, a_message(content=text.encode().decode("latin-1"), **more)).kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Anna Holm sent an attachment.", MEDIA),
        ("René sent a photo.", MEDIA),
        ("You sent a live location.", MEDIA),
        ("René shared a story.", MEDIA),
        ("You sent 3 photos.", MEDIA),
        ("Reacted 😂 to your message ", REACTION),
        ("Reacted ❤️ to a message", REACTION),
        ("René reacted 👍🏽 to your message", REACTION),
        ("Liked a message", REACTION),
        ("René Møller liked a message", REACTION),
        ("René unsent a message", DELETED),
        ("You called René.", SERVICE),
        ("You called René Møller.", SERVICE),
        ("René called you.", SERVICE),
        ("René missed your call.", SERVICE),
        ("René missed your video chat.", SERVICE),
        ("You missed a call from René.", SERVICE),
        ("You missed a video call with René.", SERVICE),
        ("The video call ended.", SERVICE),
        ("Audio call ended", SERVICE),
        ("Video chat ended", SERVICE),
        ("You started an audio call", SERVICE),
        ("René started a video chat", SERVICE),
        ("René joined the video call.", SERVICE),
        ("René started sharing video.", SERVICE),
        ("René named the group Weekend plans.", SERVICE),
        ("René changed the group photo.", SERVICE),
        ("You set the quick reaction to 🍕.", SERVICE),
        ("René set the nickname for Zoë Ray to Zo.", SERVICE),
        ("René set your nickname to Boss.", SERVICE),
        ("René cleared your nickname.", SERVICE),
        ("René set his own nickname to R.", SERVICE),
        ("René set ❤ as the word effect for \"love\".", SERVICE),
        ("René added Zoë and 2 others to the group.", SERVICE),
        ("René removed Zoë Ray from the group.", SERVICE),
        ("René created the group.", SERVICE),
        ("René created a poll: Friday?\nor Saturday", SERVICE),
        ("René voted for \"Friday\" in the poll.", SERVICE),
        ("This poll is no longer available.", SERVICE),
        ("You pinned a message.", SERVICE),
        ("René turned on disappearing messages. New messages will vanish.", SERVICE),
        ("René turned off member approval. Anyone with the link can join the group.", SERVICE),
        ("René waved at you.", SERVICE),
        ("You and René waved at each other!", None),
        ("Say hi to your new Facebook friend, René.", SERVICE),
        ("You can now message and call each other and see info like Active Status.", SERVICE),
        ("Messages and calls are secured with end-to-end encryption. Learn more.", SERVICE),
        ("René wasn't notified about this message because he's in quiet mode.", SERVICE),
        ("A contact cleared the nickname for Anna Holm.", SERVICE),
        ("A Messenger user started a call.", SERVICE),
    ],
)  # fmt: skip
def test_what_the_apps_say_is_nobodys_writing(text: str, kind: str | None) -> None:
    assert kind_of(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "You called me yesterday.",
        "You called it!",
        "René called Zoë.",
        "You left the group chat on read",
        "You sent a photo of my dog",
        "She sent an attachment.",
        "my boss sent an attachment.",
        "Reacted badly to your message",
        "Liked a message of hers once",
        "René turned on the light.",
        "You created a plan for us",
        "the video call ended.",
        "You",
        "You ",
        "Missed call",
        "I missed your call.",
        "Call",
        "He named the group Weekend plans.",
        "Reacted",
        "The end",
        "Messages and calls",
        "You added " + "x" * 600 + " to the group.",
    ],
)
def test_what_people_write_themselves_stays(text: str) -> None:
    assert kind_of(text) is None


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"is_unsent": True}, DELETED),
        ({"is_unsent": False}, None),
        ({"call_duration": 0}, SERVICE),
        ({"users": [{"name": "Bob"}]}, SERVICE),
        ({"users": []}, None),
        ({"type": "Call"}, SERVICE),
        ({"type": "Unsubscribe"}, SERVICE),
        ({"type": "Generic"}, None),
        ({"type": ["Call"]}, None),
        ({"photos": [{"uri": "x"}]}, None),
        ({"share": {"link": "x"}}, None),
    ],
)
def test_what_the_json_marks(more: dict[str, Any], kind: str | None) -> None:
    assert kind_of("a photo of the two of us", **more) == kind


@pytest.mark.parametrize("key", ["photos", "videos", "audio_files", "gifs", "files", "sticker", "share"])
def test_media_without_words(tmp_path: Path, key: str) -> None:
    message = a_message(**{key: [{"uri": "x"}]})
    del message["content"]
    assert only(write(tmp_path, a_thread(message))).kind == MEDIA


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u00c3\u00a9t\u00c3\u00a9", "été"),
        ("\u00f0\u009f\u0098\u0080", "😀"),
        ("été", "été"),
        ("\u00c3", "Ã"),
        ("sound – \u00c3\u00a9", "sound – Ã©"),
        ("plain", "plain"),
    ],
)
def test_only_a_text_that_repairs_is_repaired(tmp_path: Path, text: str, expected: str) -> None:
    found = only(write(tmp_path, a_thread(a_message(content=text, sender_name=text))))
    assert (found.text, found.sender) == (expected, expected)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"content": None}, {"text": "", "kind": MEDIA}),
        ({"sender_name": None}, {"sender": None}),
        ({"timestamp_ms": None}, {"time": None}),
        ({"timestamp_ms": "1700000000000"}, {"time": None}),
        ({"timestamp_ms": True}, {"time": None}),
        ({"timestamp_ms": 10**400}, {"time": None}),
        ({"timestamp_ms": float("nan")}, {"time": None}),
        ({"timestamp_ms": 1700000000500}, {"time": S + 0.5}),
    ],
)
def test_odd_but_usable_fields(tmp_path: Path, more: dict[str, Any], expected: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"text": "hi", "sender": ANNA, "time": S}
    assert only(write(tmp_path, a_thread(a_message(**more)))) == RawMessage(**(usual | expected))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (7, "a message must be an object, got int"),
        ({}, "a message must have a sender or a time"),
        (a_message(content=["hi"]), "content must be text, got list"),
        (a_message(content="\ud83d"), "content is not valid Unicode (half of a surrogate pair)"),
        (a_message(sender_name={"a": 1}), "sender must be text, got dict"),
        ({"senderName": ANNA, "text": 1}, "text must be text, got int"),
    ],
)
def test_a_bad_message_is_named_with_its_line(tmp_path: Path, value: Any, reason: str) -> None:
    path = write(tmp_path, f'{{"messages": [\n{json.dumps(a_message())},\n{json.dumps(value)}\n]}}')
    chats, bad = read_all(meta, path)
    assert [m.text for found in chats.values() for m in found] == ["hi"]
    assert bad == [Bad(str(path), 3, reason, (json.dumps(value) + "\n]}")[:200])]


def test_messages_that_are_no_list_are_a_bad_line(tmp_path: Path) -> None:
    path = write(tmp_path, '{"participants": [],\n"messages": {"a": 1}}')
    assert read_all(meta, path)[1] == [Bad(str(path), 2, '"messages" must be a list', '{"a": 1}}')]


def test_what_is_no_export_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=r"x\.zip has no message_1\.json of a chat") as caught:
        read_all(meta, zipped(tmp_path / "x.zip", {"messages/inbox/x/message_1.html": "hi"}))
    assert caught.value.hint == "ask Meta for the download as JSON, not HTML"
    with pytest.raises(PersonaError, match=r"message_1\.json:1:1: not JSON"):
        read_all(meta, write(tmp_path, "[1]"))
    with pytest.raises(PersonaError, match=r"message_1\.json:1:\d+: not JSON \(Extra data\)"):
        read_all(meta, write(tmp_path, json.dumps(a_thread()) + "x"))


def test_a_zip_is_listed_once_however_many_threads_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"messages/inbox/{i}/message_1.json": json.dumps(a_thread(a_message())) for i in range(50)}
    path = zipped(tmp_path / "x.zip", files)
    opened = 0

    class Counted(zipfile.ZipFile):
        def __init__(self, *args: Any) -> None:
            nonlocal opened
            opened += 1
            super().__init__(*args)

    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    chats, _ = read_all(meta, path)
    assert (len(chats), opened) == (50, 2)
