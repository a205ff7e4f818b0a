"""Mail: mailboxes are found and cut into mails, mails into what their authors wrote, and threads put together."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from data_prep.sources import mbox
from data_prep.sources.base import DELETED, FORWARDED, MEDIA, SERVICE, RawConversation, RawMessage
from mlx_persona.errors import PersonaError
from tests.data_prep.mbox_kit import FIXTURES, TAKEOUT, box, everything, known, messages

# The three programs.


def test_takeout() -> None:
    assert known(TAKEOUT)
    threads, bad = everything(TAKEOUT)
    assert bad == []
    assert threads == [
        RawConversation(
            f"{TAKEOUT.name}:1",
            (
                RawMessage(
                    "Hallo Lena,\n\nkommst du am Freitag? Ich bringe Kuchen mit 🍰",
                    sender="joerg@example.net",
                    time=1704705301.0,
                ),
                RawMessage(
                    "Ja gern! Wann denn?\n\nFrom now on mag ich Kuchen =)",
                    sender="lena.beispiel@example.org",
                    time=1704744000.0,
                ),
            ),
            1704705301.0,
        ),
        RawConversation(
            f"{TAKEOUT.name}:29",
            (RawMessage("", sender="news@shop.example", time=1704823200.0, kind=SERVICE),),
            1704823200.0,
        ),
    ]


def test_apple_mail() -> None:
    folder = FIXTURES / "apple" / "Archive.mbox"
    assert known(folder)
    assert known(folder.parent)
    assert known(folder / "mbox")
    threads, bad = everything(folder)
    assert bad == []
    assert [t.id for t in threads] == ["Archive.mbox/mbox:1", "Archive.mbox/mbox:50", "Archive.mbox/mbox:69"]
    boat, forwarded, photo = (t.messages for t in threads)
    flowed = "Ana, shall we take the boat out this weekend, or is the wind too strong for you?\n - bring rope"
    assert [(m.sender, m.text) for m in boat] == [
        ("tom@example.org", flowed),
        ("ana@example.com", "Sounds good.\n\nNever!\nAna"),
    ]
    assert forwarded[0].kind == FORWARDED
    assert forwarded[0].text.endswith("> A night is 20 euros.")
    assert photo == (RawMessage("", sender="ana@example.com", time=1709459100.0, kind=MEDIA),)


def test_thunderbird_files_without_a_suffix_meet_in_their_threads() -> None:
    folder = FIXTURES / "thunderbird"
    assert known(folder)
    assert known(folder / "Inbox")
    assert not known(folder / "Inbox.msf")
    threads, bad = everything(folder)
    assert bad == []
    assert [[(m.sender, m.text, m.kind) for m in t.messages] for t in threads] == [
        [
            ("kim@example.dk", "Where is the key? It’s getting cold, søren is here too.", None),
            (
                "sam@example.com",
                "Under the mat, as always, and there is a second one at the neighbour's, if you need it.\n\n"
                "Nice company :)",
                None,
            ),
            ("auto@example.dk", "", SERVICE),
        ],
        [("kim@example.dk", "", DELETED)],
        [("sam@example.com", "Same subject,\nanother thread.", None)],
    ]


def test_a_zip_is_read_as_the_folder_is(tmp_path: Path) -> None:
    path = tmp_path / "takeout.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Takeout/archive_browser.html", "<html></html>")
        archive.write(TAKEOUT, f"Takeout/Mail/{TAKEOUT.name}")
        archive.write(FIXTURES / "thunderbird" / "Sent", "Takeout/Mail/Sent.mbox")
        archive.writestr("Takeout/Mail/User Settings/Filters.json", "{}")
    assert known(path)
    expected = messages(TAKEOUT) + messages(FIXTURES / "thunderbird" / "Sent")
    assert messages(path) == expected


def test_what_is_no_mail(tmp_path: Path) -> None:
    for text in (
        "",
        "From ",
        "From - Mon Jan  1 00:00:00 2024\n",
        "From here on: nothing\nTo: you\n",
        "From \nhello\n",
    ):
        (tmp_path / "a.mbox").write_text(text)
        assert not known(tmp_path / "a.mbox")
        assert not known(tmp_path)
        with pytest.raises(PersonaError, match="has no mail in it"):
            everything(tmp_path / "a.mbox")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("chat.txt", TAKEOUT.read_bytes())
    assert not known(tmp_path / "a.zip")


def test_a_folder_with_other_exports_is_not_taken_for_mail(tmp_path: Path) -> None:
    box(tmp_path, "From: a@b.example\n\nhi")
    assert known(tmp_path)
    (tmp_path / "WhatsApp.txt").write_text("1/2/24, 10:00 - Ada: hi\n")
    assert not known(tmp_path)


# Cutting a mailbox into mails.


@pytest.mark.parametrize(
    ("separator", "time"),
    [
        ("From 1789012345678901234@xxx Mon Jan 08 09:15:02 +0000 2024", 1704705302.0),
        ("From ada@example.org Mon Jan  8 09:15:02 2024", 1704705302.0),
        ("From MAILER-DAEMON Mon Jan  8 09:15 2024", 1704705300.0),
        ("From - Mon Jan 08 09:15:02 2024", 1704705302.0),
        ("From ada@example.org at 10:15 in 2024", None),
        ("From - ", None),
        ("From ", None),
    ],
)
def test_separators_and_the_time_in_them(tmp_path: Path, separator: str, time: float | None) -> None:
    path = tmp_path / "a.mbox"
    path.write_text(f"{separator}\nFrom: A <a@b.example>\n\none\n\n{separator}\nfrom: C@d.example\n\ntwo\n")
    assert [(m.sender, m.text, m.time) for m in messages(path)] == [
        ("a@b.example", "one", time),
        ("c@d.example", "two", time),
    ]


@pytest.mark.parametrize("date", ["Mon, 1 Jan 99999999999 10:00:00 +0000", "soon", ""])
def test_a_date_that_is_none_gives_way_to_the_separator(tmp_path: Path, date: str) -> None:
    assert messages(box(tmp_path, f"From: a@b.example\nDate: {date}\n\nhi"))[0].time == 1704067200.0


def test_lines_that_are_no_separators(tmp_path: Path) -> None:
    text = "\n".join(
        [
            "one",
            "From - Mon Jan  1 00:00:00 2024",
            "Note: there is no empty line before that",
            "",
            "From - Mon Jan  1 00:00:00 2024",
            "and no header after this",
            "",
            "From now: on",
            "Note: that has no time",
        ]
    )
    assert [m.text for m in messages(box(tmp_path, f"From: a@b.example\n\n{text}"))] == [text]


def test_quoted_from_lines(tmp_path: Path) -> None:
    path = box(tmp_path, "From: a@b.example\n\na\n\n>From here\nb")
    assert [m.text for m in messages(path)] == ["a\n\nFrom here\nb"]


def test_what_lies_before_the_first_mail_is_bad(tmp_path: Path) -> None:
    path = box(tmp_path, "From: a@b.example\n\nhi")
    path.write_bytes(b"junk \xff\n" * 100 + b"\n" + path.read_bytes())
    threads, bad = everything(path)
    assert [m.text for t in threads for m in t.messages] == ["hi"]
    assert [t.id for t in threads] == ["a.mbox:102"]
    assert [(b.file, b.line, b.text[:7], len(b.text)) for b in bad] == [(str(path), 1, "junk �\n", 200)]


def test_a_mailbox_larger_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mails = [
        f"From: a@b.example\nMessage-ID: <{i}@x>\nX: {'y' * (i * 37 % 400)}\n\ntext {i}\n{'z' * i}" for i in range(99)
    ]
    path = box(tmp_path, *mails)
    whole = everything(path)
    for size in range(1100, 1900, 7):
        monkeypatch.setattr(mbox, "_CHUNK", size)
        assert everything(path) == whole
    assert [m.text for t in whole[0] for m in t.messages] == [f"text {i}\n{'z' * i}".strip() for i in range(99)]


def test_a_huge_mail_is_cut_and_a_long_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received = "Received: from x\n\tby y\n" * 2000
    path = box(
        tmp_path,
        f"{received}From: a@b.example\nDate: Mon, 1 Jan 2024 10:00:00 +0000\n\nhi " + "x " * 5000,
        "To: b\n\nyo",
    )
    assert [(m.sender, m.time) for m in messages(path)] == [("a@b.example", 1704103200.0), (None, 1704067200.0)]
    monkeypatch.setattr(mbox, "_MOST_BYTES", len(received) + 200)
    cut, after = (m.text for m in messages(path))
    assert re.fullmatch("hi (x ?)+", cut)
    assert len(cut) < 150
    assert after == "yo"


# Threads.


def mail(name: str, day: int, text: str = "", **fields: str) -> str:
    head = f"Message-ID: <{name}@x>\nFrom: {name[0]}@b.example\nDate: {day} Jan 2024 10:00:00 +0000\n"
    return head + "".join(f"{k.replace('_', '-')}: {v}\n" for k, v in fields.items()) + f"\n{text or name}"


def thread_texts(path: Path) -> list[list[str]]:
    threads, bad = everything(path)
    assert bad == []
    return [[m.text for m in t.messages] for t in threads]


def test_threads_are_joined_by_ids_and_sorted_by_time(tmp_path: Path) -> None:
    path = box(
        tmp_path,
        mail("c", 20, References="<a@x>\n <b@x>", Subject="Re: x"),
        mail("other", 2, Subject="x"),
        mail("a", 1, Subject="x"),
        mail("b", 10, In_Reply_To="Message of Monday <a@x>", Subject="Re: x"),
        mail("p", 4, References="<lost@x>"),
        mail("q", 3, References="<lost@x>"),
    )
    assert thread_texts(path) == [["a", "b", "c"], ["other"], ["q", "p"]]
    assert [t.start for t in everything(path)[0]] == [1704103200.0, 1704189600.0, 1704276000.0]
    assert [t.id for t in everything(path)[0]] == ["a.mbox:19", "a.mbox:11", "a.mbox:44"]


def test_copies_are_passed_over_and_reused_ids_are_not(tmp_path: Path) -> None:
    box(tmp_path, mail("a", 1), mail("a", 1, "once more"), mail("a", 2, "another with this id"), name="in.mbox")
    box(tmp_path, mail("b", 3, References="<a@x>"), mail("a", 1), name="sent.mbox")
    assert thread_texts(tmp_path) == [["a", "another with this id", "b"]]


def test_a_moved_mail_does_not_hide_its_living_copy(tmp_path: Path) -> None:
    path = box(tmp_path, mail("a", 1, X_Mozilla_Status="0009"), mail("a", 1, X_Mozilla_Status="0001"))
    assert [(m.text, m.kind) for m in messages(path)] == [("", DELETED), ("a", None)]


def test_mails_without_a_time_come_last(tmp_path: Path) -> None:
    path = tmp_path / "a.mbox"
    dated = mail("b", 5, References="<a@x>")
    path.write_text(f"From \nFrom: a@b.example\nMessage-ID: <a@x>\nDate: soon\n\nno time\n\nFrom \n{dated}\n")
    assert [(m.text, m.time) for m in messages(path)] == [("b", 1704448800.0), ("no time", None)]
