"""WhatsApp's files, zips and folders; what is written is read back, and any bytes may come."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources import Bad, Head, RawMessage, whatsapp
from data_prep.sources.whatsapp_words import bare, judge
from mlx_persona.errors import PersonaError
from tests.data_prep.whatsapp_kit import FIXTURES, chats, only, rows

# Files, zips and folders.


@pytest.mark.parametrize("path", sorted(FIXTURES.iterdir()), ids=lambda path: path.stem)
def test_every_fixture_is_known(path: Path):
    assert whatsapp.matches(Head.of(path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just a note",
        "2024-02-14 21:05:33,123 - root - INFO - up: yes",
        "[2024-02-14 21:05:33.123] INFO up: yes",
        "[21:05, 14/02/2024] Mara: hi",
        '{"time": "14/02/2024, 21:05 - Mara: hi"}',
        "14/02/2024, 21:05 - nobody spoke",
        "14/02/2024, 21:05: Mara: hi",
        "14/02/2024, 21:05] Mara: hi",
    ],
)
def test_other_texts_are_not_taken(write_chat: Callable[..., Path], text: str):
    assert not whatsapp.matches(Head.of(write_chat(text)))


def make_zip(path: Path, **files: str | Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content.read_bytes() if isinstance(content, Path) else content)
    return path


def test_the_zip_of_an_iphone_is_called_after_the_chat(tmp_path: Path):
    files = {"_chat.txt": FIXTURES / "ios_de.txt", "00000003-PHOTO.jpg": "\xff", "00000004-notes.txt": "to do: all"}
    path = make_zip(tmp_path / "WhatsApp Chat - Ole Brandt.zip", **files)
    assert whatsapp.matches(Head.of(path))
    assert {"Ole Brandt": only(FIXTURES / "ios_de.txt")} == chats(path)


@pytest.mark.parametrize(
    ("name", "chat"),
    [
        ("WhatsApp Chat with Ann (work).txt", "Ann (work)"),
        ("WhatsApp-Chat mit Ann.txt", "Ann"),
        ("Chat de WhatsApp con Ann.txt", "Ann"),
        ("Discussion WhatsApp avec Ann.txt", "Ann"),
        ("Conversa do WhatsApp com Ann.txt", "Ann"),
        ("Chat WhatsApp con Ann.txt", "Ann"),
        ("WhatsApp-chat met Ann.txt", "Ann"),
        ("whatsapp.txt", "whatsapp"),
        ("Ann.TXT", "Ann"),
    ],
)
def test_a_chat_is_called_after_its_file(tmp_path: Path, name: str, chat: str):
    path = tmp_path / name
    shutil.copyfile(FIXTURES / "android_es.txt", path)
    expected = only(FIXTURES / "android_es.txt")
    assert chats(path) == {chat: expected}
    assert chats(make_zip(tmp_path / "x.zip", **{name: path, "IMG-20240214-WA0001.jpg": "\xff"})) == {chat: expected}


def test_a_folder_of_exports_is_read_whole(tmp_path: Path):
    for name, fixture in (("Ole/_chat.txt", "ios_de.txt"), ("WhatsApp Chat with Ravi.txt", "android_en_in.txt")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(FIXTURES / fixture, tmp_path / name)
    (tmp_path / "IMG-20240214-WA0001.jpg").touch()
    assert whatsapp.matches(Head.of(tmp_path))
    assert list(chats(tmp_path)) == ["Ole", "Ravi"]
    assert list(chats(tmp_path / "Ole")) == ["Ole"]
    assert list(chats(tmp_path / "Ole" / "_chat.txt")) == ["Ole"]


@pytest.mark.parametrize("other", ["result.json", "mail.mbox", "notes.txt", "more.zip"])
def test_a_folder_with_something_else_to_read_is_searched_file_by_file(tmp_path: Path, other: str):
    shutil.copyfile(FIXTURES / "ios_de.txt", tmp_path / "_chat.txt")
    (tmp_path / other).write_text("something else")
    assert not whatsapp.matches(Head.of(tmp_path))


def test_a_tree_without_a_chat_is_an_error_that_names_it(tmp_path: Path):
    path = make_zip(tmp_path / "x.zip", **{"notes.txt": "to do"})
    assert not whatsapp.matches(Head.of(path))
    with pytest.raises(PersonaError, match=r"x\.zip has no chat as WhatsApp exports it"):
        chats(path)


def test_a_file_that_is_no_chat_is_one_bad_line(write_chat: Callable[..., Path]):
    path = write_chat("", "dear diary", "nothing: today")
    assert only(path) == [Bad(str(path), 2, "no date and time as in WhatsApp's exports", "dear diary")]
    path.write_bytes(b"\xef\xbb\xbf\n")
    assert only(path) == [Bad(str(path), 1, "it has no text", "")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_an_editor_saved_is_read(tmp_path: Path, encoding: str):
    path = tmp_path / "ios_de.txt"
    text = (FIXTURES / "ios_de.txt").read_text(encoding="utf-8-sig")
    path.write_text(text, encoding=encoding, newline="\r\n")
    assert whatsapp.matches(Head.of(path))
    assert only(path) == only(FIXTURES / "ios_de.txt")


# Properties.

DAY_FIRST = ("[%d/%m/%Y, %H:%M:%S] ", "%d/%m/%y, %I:%M\u202f%p - ", "%d.%m.%y, %H:%M:%S: ", "[%d-%m-%Y %I.%M.%S %p] ")
STYLES = (
    *DAY_FIRST,
    "[%m/%d/%y, %I:%M:%S\u202f%p] ",
    "%m/%d/%Y, %H:%M - ",
    "%Y-%m-%d, %H:%M - ",
    "[%Y/%m/%d %H:%M:%S] ",
)

names = st.text(st.characters(categories=["L", "N", "So"]), min_size=1, max_size=20)
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r" + "\u200e\u200f\ufeff"), max_size=60)
said = words.map(bare).map(lambda text: text.replace(": ", ":")).filter(lambda text: judge(text, True) == (text, None))
when = st.integers(datetime(2024, 1, 13, tzinfo=UTC).timestamp().__int__() // 60, 40_000_000)  # minutes


def render(messages: list[RawMessage], style: str, end: str) -> bytes:
    """An export with these messages."""
    stamps = [datetime.fromtimestamp(m.time or 0, UTC).strftime(style) for m in messages]
    return "".join(f"{at}{m.sender}: {m.text}{end}" for at, m in zip(stamps, messages, strict=True)).encode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to write again and again."""
    return tmp_path_factory.mktemp("whatsapp") / "chat.txt"


@given(st.lists(st.tuples(names, said, when), min_size=1), st.sampled_from(STYLES), st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read(place: Path, drawn: list[tuple[str, str, int]], style: str, end: str):
    # The first day cannot be a month, so that the order is clear.
    begin = RawMessage("begin", sender="Mara", time=datetime(2024, 1, 13, tzinfo=UTC).timestamp())
    ordered = sorted(drawn, key=lambda message: message[2])
    messages = [begin, *(RawMessage(text, sender=sender, time=60.0 * at) for sender, text, at in ordered)]
    if "[" not in style and "S" not in style:
        messages = [m for m in messages if judge(m.text, False) == (m.text, None)]
    place.write_bytes(render(messages, style, end))
    assert only(place) == messages


def check(path: Path) -> list[RawMessage | Bad]:
    """Whatever a file holds: only PersonaError, or items that can be written as UTF-8."""
    try:
        whatsapp.matches(Head.of(path))
        found = [m for messages in chats(path).values() for m in messages]
    except PersonaError:
        return []
    for item in found:
        if isinstance(item, Bad):
            assert len(item.text) <= 200
            "".join((item.file, item.reason, item.text)).encode()
        else:
            assert item.time is not None
            (item.text + (item.sender or "")).encode()
    return found


PIECES = (
    *(b"14/02/2024, 21:05 - ", b"[14/02/2024, 21:05:33] ", b"99/99/9999, 99:99 - ", b"0/0/0, 0:00 - ", b"Mara: "),
    *(b"\xed\xa0\x80", b"\xff", b"\0", b"\n", b"\r", b": ", b"<", b">", b")", b"\xe2\x80\x8e", b"\xc2\xa0", b"PM"),
    *("٣/٣/٣, ".encode(), b"image omitted", b"(file attached)", b"<attached: ", b".jpg", b"\xff\xfe", b"\xef\xbb\xbf"),
)


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=20))).map(b"".join))
@settings(max_examples=300)
def test_any_bytes_make_messages_or_bad_lines(place: Path, data: bytes):
    place.write_bytes(data)
    check(place)


@given(st.lists(st.sampled_from(PIECES[4:]).filter(lambda piece: b"\n" not in piece)).map(b"".join), st.integers(1, 5))
def test_no_message_is_lost(place: Path, data: bytes, count: int):
    place.write_bytes((b"14/02/2024, 21:05 - Mara: " + data + b"\n") * count)
    assert len(check(place)) == count


@given(st.sampled_from(sorted(FIXTURES.iterdir())), st.data())
def test_a_broken_export_loses_only_what_is_broken(place: Path, fixture: Path, data: st.DataObject):
    whole = fixture.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    place.write_bytes(whole[:cut])
    found, expected = check(place), only(fixture)
    assert len(found) <= len(expected) or cut == 0
    at = data.draw(st.integers(0, len(whole) - 1))
    place.write_bytes(whole[:at] + data.draw(st.binary(min_size=1, max_size=3)) + whole[at + 1 :])
    check(place)


def test_bytes_that_are_no_utf8_spoil_their_message_only(write_chat: Callable[..., Path]):
    path = write_chat(
        "14/02/2024, 21:05 - Mara: hi",
        b"14/02/2024, 21:06 - Mara: caf\xe9 and " + b"x" * 300,
        "and more",
        "14/02/2024, 21:07 - Mara: bye",
    )
    first, bad, last = only(path)
    assert [row[2] for row in rows([first, last])] == ["hi", "bye"]
    assert isinstance(bad, Bad)
    assert (bad.line, bad.reason) == (2, "not UTF-8")
    assert bad.text == "14/02/2024, 21:06 - Mara: caf? and " + "x" * 165


@pytest.mark.parametrize("filling", ["x", "\u200e", "<", ")", ": ", "1/", "a.bb (", "<a: ", " ", "[", "\0"])
def test_a_line_of_a_megabyte_takes_no_time(write_chat: Callable[..., Path], filling: str):
    long = filling * (1_000_000 // len(filling))
    path = write_chat(f"14/02/2024, 21:05 - Mara: {long}", long, f"14/02/2024, 21:06 - {long}", f"[14/02/2024, {long}")
    assert [m.time for m in check(path) if isinstance(m, RawMessage)] == [1707944700.0, 1707944760.0]


@given(st.sampled_from(["STORED", "DEFLATED", "BZIP2", "LZMA"]), st.data())
@settings(max_examples=200)
def test_a_broken_zip_is_an_error_for_the_user(place: Path, method: str, data: st.DataObject):
    path = place.with_name("broken.zip")
    with zipfile.ZipFile(path, "w", getattr(zipfile, f"ZIP_{method}")) as archive:
        archive.writestr("_chat.txt", (FIXTURES / "ios_de.txt").read_bytes())
    whole = path.read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    path.write_bytes(whole)
    check(path)
