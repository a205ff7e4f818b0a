"""Facebook's and Instagram's downloads: exact messages, a way back, and whatever bytes may come."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import Bad, Head, RawMessage, ReadOptions, meta
from data_prep.sources.base import DELETED, MEDIA, REACTION, SERVICE
from mlx_persona.errors import PersonaError
from tests.data_prep.chats import read_all, survives, zipped

FIXTURES = Path(__file__).parent / "fixtures" / "meta"
S = 1700000000.0
ANNA, RENE, ZOE = "Anna Holm", "René Møller", "Zoë Ray"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def broken(value: Any) -> Any:
    """Every string as Meta writes it: UTF-8 that was read as Latin-1."""
    if isinstance(value, dict):
        return {key: broken(v) for key, v in value.items()}
    if isinstance(value, list):
        return [broken(v) for v in value]
    return value.encode().decode("latin-1") if isinstance(value, str) else value


def a_message(**more: Any) -> dict[str, Any]:
    return {"sender_name": ANNA, "timestamp_ms": 1700000000000, "content": "hi"} | more


def a_thread(*messages: Any, people: tuple[str, ...] = (ANNA, RENE), **more: Any) -> dict[str, Any]:
    participants = [{"name": name.encode().decode("latin-1")} for name in people]
    return {"participants": participants, "messages": list(messages), "title": "x", "thread_path": "inbox/x"} | more


def write(folder: Path, value: Any, name: str = "message_1.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def only(path: Path) -> RawMessage:
    """The one message of an export without bad lines."""
    chats, bad = read_all(meta, path)
    assert bad == []
    [[message]] = chats.values()
    return message


def test_a_facebook_download_of_several_files() -> None:
    """message_2.json is older than message_1.json, and in each the oldest message comes last."""
    chats, bad = read_all(meta, FIXTURES / "facebook")
    assert bad == []
    assert chats == {
        "archived_threads/climbers_77": [
            RawMessage("hello all", sender="Facebook user", time=S + 10),
            RawMessage("You named the group Climbers.", sender=ANNA, time=S + 20, kind=SERVICE),
            RawMessage("You added Zoë to the group.", sender=ANNA, time=S + 30, kind=SERVICE),
            RawMessage("René created a poll: When?", sender=RENE, time=S + 40, kind=SERVICE),
            RawMessage("I left the group chat of the others", sender="Zoë", time=S + 50),
            RawMessage("Zoë left the group.", sender="Zoë", time=S + 60, kind=SERVICE),
            RawMessage("René changed the theme to Love.", sender=RENE, time=S + 70, kind=SERVICE),
        ],
        "inbox/renemller_1015": [
            RawMessage("You are now connected on Messenger", sender=RENE, time=S, kind=SERVICE),
            RawMessage("und jetzt?", sender=ANNA, time=S + 50),
            RawMessage("", sender=RENE, time=S + 100, kind=MEDIA),
            RawMessage("", sender=RENE, time=S + 100, kind=MEDIA),
            RawMessage("ça c'est moi", sender=RENE, time=S + 200),
            RawMessage("You sent an attachment.", sender=ANNA, time=S + 300, kind=MEDIA),
            RawMessage("https://example.org/", sender=ANNA, time=S + 400),
            RawMessage("Reacted ❤ to your message ", sender=RENE, time=S + 500, kind=REACTION),
            RawMessage("René called you.", sender=RENE, time=S + 600, kind=SERVICE),
            RawMessage("René missed your call.", sender=ANNA, time=S + 700, kind=SERVICE),
            RawMessage("", sender=RENE, time=S + 800, kind=DELETED),
            RawMessage("bye 😀", sender=ANNA, time=S + 900),
        ],
    }


def test_an_instagram_download() -> None:
    chats, bad = read_all(meta, FIXTURES / "instagram")
    cleo = "Cleo ☀"
    expected = [
        RawMessage("Wollen wir?", sender=cleo, time=S),
        RawMessage("ja, schön!", sender="anna", time=S + 1),
        RawMessage("", sender="anna", time=S + 2, kind=MEDIA),
        RawMessage("cleo.sun sent an attachment.", sender=cleo, time=S + 3, kind=MEDIA),
        RawMessage("Reacted 😂 to your message ", sender="anna", time=S + 4, kind=REACTION),
        RawMessage("Liked a message", sender=cleo, time=S + 5, kind=REACTION),
    ]
    assert (chats, bad) == ({"inbox/cleo_178": expected}, [])


def test_a_download_of_2018_marks_types_in_any_language() -> None:
    chats, bad = read_all(meta, FIXTURES / "facebook_2018")
    expected = [
        RawMessage("naïve, non ?", sender=ANNA, time=S + 1),
        RawMessage("Bob a rejoint le groupe.", sender=ANNA, time=S + 2, kind=SERVICE),
        RawMessage("The video chat ended.", sender="Bob", time=S + 3, kind=SERVICE),
        RawMessage("si, très", sender="Bob", time=S + 4),
    ]
    assert (chats, bad) == ({"inbox/Bob_a1b2": expected}, [])


@pytest.mark.parametrize("newest_first", [True, False])
def test_encrypted_chats_have_sound_texts_in_either_order(tmp_path: Path, newest_first: bool) -> None:
    day = 1746073794.0
    source = FIXTURES / "encrypted" / "Zoe Ray_7.json"
    value = json.loads(source.read_text(encoding="utf-8"))
    if not newest_first:
        value["messages"].reverse()
    path = write(tmp_path / "messages", value, source.name)
    write(tmp_path / "messages", "", "media/a.jpeg")
    packed = zipped(tmp_path / "x.zip", {source.name: path.read_bytes(), "media/a.jpeg": b""})
    expected = [
        RawMessage("Ã© is how it looks broken", sender=ANNA, time=day),
        RawMessage("https://example.org/", sender=ZOE, time=day + 1),
        RawMessage("", sender=ANNA, time=day + 2, kind=DELETED),
        RawMessage("User unsent a message", sender=ZOE, time=day + 3, kind=DELETED),
        RawMessage("", sender=ZOE, time=day + 4, kind=MEDIA),
        RawMessage("à demain", sender=ANNA, time=day + 5),
    ]
    for whole in (path, path.parent, packed):
        assert meta.matches(Head.of(whole))
        assert read_all(meta, whole) == ({"Zoe Ray_7": expected}, [])


def in_tree(fixture: str) -> dict[str, bytes]:
    folder = FIXTURES / fixture
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("fixture", ["facebook", "instagram", "facebook_2018"])
def test_zips_and_folders_at_any_depth_are_known_and_read_alike(tmp_path: Path, fixture: str) -> None:
    expected = read_all(meta, FIXTURES / fixture)
    foreign = {"personal_information/profile.json": b"{}", "posts/media/1.jpg": b"", "start_here.html": b""}
    plain = zipped(tmp_path / "a.zip", in_tree(fixture) | foreign)
    deeper = zipped(tmp_path / "b.zip", {f"download/{name}": data for name, data in in_tree(fixture).items()})
    for path in (FIXTURES / fixture, plain, deeper):
        assert meta.matches(Head.of(path))
        assert read_all(meta, path) == expected
    inbox = next(p for p in (FIXTURES / fixture).rglob("inbox"))
    thread = next(inbox.iterdir())
    for path in (inbox, thread):
        assert meta.matches(Head.of(path))
        assert read_all(meta, path) == ({thread.name: expected[0][f"inbox/{thread.name}"]}, [])


def test_one_file_is_a_chat_named_by_its_folder() -> None:
    path = FIXTURES / "instagram/your_instagram_activity/messages/inbox/cleo_178/message_1.json"
    assert meta.matches(Head.of(path))
    assert list(read_all(meta, path)[0]) == ["cleo_178"]


def test_threads_of_one_name_stay_apart(tmp_path: Path) -> None:
    """As of two accounts in one zip."""
    files = {f"{top}/messages/inbox/x/message_1.json": json.dumps(a_thread(a_message(content=top))) for top in "ab"}
    items = [
        [m.text for m in item.messages if isinstance(m, RawMessage)]
        for item in meta.read(zipped(tmp_path / "x.zip", files), ReadOptions())
        if not isinstance(item, Bad)
    ]
    assert items == [["a"], ["b"]]


def test_ten_files_are_read_by_number_and_not_by_name(tmp_path: Path) -> None:
    for part in range(1, 13):
        write(tmp_path, a_thread(a_message(content=f"{-part}")), f"messages/inbox/x/message_{part}.json")
    chats, bad = read_all(meta, tmp_path)
    assert ([m.text for m in chats["inbox/x"]], bad) == ([f"{-part}" for part in range(12, 0, -1)], [])


@pytest.mark.parametrize(
    "name",
    [
        "WhatsApp.txt",
        "telegram/result.json",
        "your_facebook_activity/posts/posts_1.json",
        "messages/inbox/x/_chat.txt",
        "messages/inbox/x/other/_chat.txt",
    ],
)
def test_a_folder_with_other_files_is_left_to_be_searched(tmp_path: Path, name: str) -> None:
    write(tmp_path, a_thread(a_message()), "messages/inbox/x/message_1.json")
    for beside in ("messages/inbox/x/files/sent.txt", "messages/secret_groups.json", "messages/photos/1.jpg"):
        write(tmp_path, "{}", beside)
    assert meta.matches(Head.of(tmp_path))
    write(tmp_path, "{}", name)
    assert not meta.matches(Head.of(tmp_path))


@pytest.mark.parametrize(
    "value",
    [
        {"messages": [{"role": "user", "content": "hi"}]},
        {"participants": [], "messages": [{"content": "hi"}]},
        {"participants": [], "messages": []},
        {"messages": ["timestamp_ms"]},
        {"id": 7, "messages": [{"id": 1, "type": "message", "text": "hi"}]},
        [a_message()],
        "",
        '{"messages": [{"timestamp_ms": ',
    ],
)
def test_other_files_are_not_taken_for_metas(tmp_path: Path, value: Any) -> None:
    folder = tmp_path / "x"
    assert not meta.matches(Head.of(write(folder, value)))
    assert not meta.matches(Head.of(folder))
    assert not meta.matches(Head.of(zipped(tmp_path / "x.zip", {"a_1.json": json.dumps(value)})))


def test_long_and_empty_threads_are_known_by_their_beginnings(tmp_path: Path) -> None:
    assert meta.matches(Head.of(write(tmp_path, a_thread(*[a_message()] * 20_000))))
    assert meta.matches(Head.of(write(tmp_path, a_thread())))
    value = dict(reversed(a_thread(a_message()).items()))
    path = write(tmp_path, value)
    assert meta.matches(Head.of(path))
    assert only(path).text == "hi"


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


# A message: text, sender, milliseconds later than the one before.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SAID = st.tuples(TEXTS, TEXTS, st.integers(0, 10**9))


def render(said: list[tuple[str, str, int]], per_file: int, encrypted: bool) -> tuple[list[str], list[RawMessage]]:
    """A thread's files, that with the newest messages first, and what they must be read as."""
    time, messages, expected = 1_500_000_000_000, [], []
    people = meta._People()
    for text, sender, later in said:
        time += later
        if encrypted:
            messages.append({"senderName": sender, "text": text, "timestamp": time, "type": "text", "media": []})
        else:
            messages.append(broken({"sender_name": sender, "timestamp_ms": time, "content": text}))
        kind = people.kind(text) if text else MEDIA
        expected.append(RawMessage(text, sender=sender, time=time / 1000, kind=kind))
    messages.reverse()
    parts = [messages[i : i + per_file] for i in range(0, len(messages), per_file)] or [[]]
    if encrypted:
        return [json.dumps({"participants": [], "threadName": "x_1", "messages": messages})], expected
    return [json.dumps(a_thread(*part, people=()), indent=2) for part in parts], expected


@given(st.lists(SAID, max_size=8), st.integers(1, 4), st.booleans())
def test_what_meta_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str, int]], per_file: int, encrypted: bool
) -> None:
    """Two files or one: the order is the writer's, also where times are equal."""
    files, expected = render(said, per_file, encrypted)
    folder = tmp_path_factory.mktemp("meta")
    for part, text in enumerate(files, 1):
        write(folder, text, "x_1.json" if encrypted else f"inbox/x/message_{part}.json")
    assert meta.matches(Head.of(folder))
    assert read_all(meta, folder) == ({"x_1" if encrypted else "inbox/x": expected}, [])


E2EE = {"senderName": ANNA, "text": "hi", "timestamp": 1, "type": "text", "isUnsent": False, "media": []}
HOSTILE = (
    st.binary()
    | st.builds(lambda key, value: json.dumps(a_thread(a_message() | {key: value})).encode(),
                st.sampled_from([*a_message(), "users", "type", "is_unsent", "share"]), JSON)
    | st.builds(lambda key, value: json.dumps(a_thread(E2EE | {key: value})).encode(), st.sampled_from([*E2EE]), JSON)
    | st.builds(lambda key, value: json.dumps(a_thread(a_message()) | {key: value}).encode(),
                st.sampled_from([*a_thread()]), JSON)
    | st.builds(lambda value: json.dumps({"participants": ["\ud800", value], "messages": [value]}).encode(), JSON)
)  # fmt: skip


@given(HOSTILE)
def test_hostile_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    for file in ("message_1.json", "inbox/x/message_2.json"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
    survives(meta, folder / "message_1.json")
    survives(meta, folder)
    survives(meta, zipped(folder / "x.zip", {"a_1.json": data}))


NAMES = st.text(st.sampled_from("ab/_1.ö"), max_size=12).map(lambda name: f"{name}message_{len(name)}.json")


@given(st.lists(NAMES, max_size=4, unique=True))
def test_odd_names_in_a_zip(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    data = json.dumps(a_thread(a_message()))
    survives(meta, zipped(tmp_path_factory.mktemp("hostile") / "x.zip", dict.fromkeys(names, data)))


@pytest.mark.parametrize("cut", range(0, 2_300, 173))
def test_a_cut_off_file_is_an_error(tmp_path: Path, cut: int) -> None:
    source = next((FIXTURES / "facebook").rglob("renemller_1015/message_1.json"))
    path = tmp_path / "message_1.json"
    path.write_bytes(source.read_bytes()[:cut])
    meta.matches(Head.of(path))
    with pytest.raises(PersonaError):
        read_all(meta, path)


def test_a_long_line_nuls_deep_nesting_and_many_senders(tmp_path: Path) -> None:
    long = "x" * (1 << 20)
    assert only(write(tmp_path, a_thread(a_message(content=long)))).text == long
    path = tmp_path / "message_1.json"
    for data in (b"\0" * 5_000, b'{"messages": [' + b"[" * 100_000, b'{"messages": [{"a": 1' + b"1" * 5_000):
        path.write_bytes(data)
        survives(meta, path)
        with pytest.raises(PersonaError, match="not JSON"):
            read_all(meta, path)
    many = [a_message(sender_name=f"{i} x", content=f"{i} sent a photo.") for i in range(3_000)]
    chats, bad = read_all(meta, write(tmp_path, a_thread(*many, people=())))
    # Only so many people's names are kept, whole and first ones: the rest is taken for writing.
    assert (bad, [m.kind for found in chats.values() for m in found]) == ([], [None] * 2_750 + [MEDIA] * 250)
