"""Facebook's and Instagram's downloads: exact messages, a way back, and whatever bytes may come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import Bad, Head, RawMessage, ReadOptions, meta
from data_prep.sources.base import DELETED, MEDIA, REACTION, SERVICE
from mlx_persona.errors import PersonaError
from tests.data_prep.chats import read_all, survives, zipped
from tests.data_prep.meta_kit import ANNA, FIXTURES, JSON, RENE, ZOE, S, a_message, a_thread, broken, only, write


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
