"""Mail: mailboxes are found and cut into mails, mails into what their authors wrote, and threads put together."""

from __future__ import annotations

import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources import mailtext, mbox
from data_prep.sources.base import DELETED, FORWARDED, MEDIA, SERVICE, Bad, RawConversation, RawMessage, ReadOptions
from data_prep.sources.head import Head
from data_prep.sources.mailtext import body, html_text, own_words
from mlx_persona.errors import PersonaError

FIXTURES = Path(__file__).parent / "fixtures" / "mbox"
TAKEOUT = FIXTURES / "All mail Including Spam and Trash.mbox"


def everything(path: Path) -> tuple[list[RawConversation], list[Bad]]:
    items = list(mbox.read(path, ReadOptions()))
    return [i for i in items if isinstance(i, RawConversation)], [i for i in items if isinstance(i, Bad)]


def messages(path: Path) -> list[RawMessage]:
    threads, bad = everything(path)
    assert bad == []
    return [m for thread in threads for m in thread.messages]


def known(path: Path) -> bool:
    return mbox.matches(Head.of(path))


def box(folder: Path, *mails: str | bytes, name: str = "a.mbox") -> Path:
    """A mailbox of mails without their separators."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [m if isinstance(m, bytes) else m.encode() for m in mails]
    path.write_bytes(b"".join(b"From - Mon Jan  1 00:00:00 2024\n" + m + b"\n\n" for m in raw))
    return path


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


# One mail.


@pytest.mark.parametrize(
    ("field", "sender"),
    [
        ("Ada L <Ada@Example.ORG>", "ada@example.org"),
        ('"ada@old.example" <ada@new.example>', "ada@new.example"),
        ("ada@example.org (Ada L)", "ada@example.org"),
        ("=?UTF-8?B?w4RkYQ==?=\n <ada@example.org>", "ada@example.org"),
        ("Mailer Daemon", "mailer daemon"),
        ("((((" * 500, "((((" * 256),
        ("", None),
    ],
)
def test_senders(tmp_path: Path, field: str, sender: str | None) -> None:
    assert messages(box(tmp_path, f"From: {field}\n\nhi"))[0].sender == sender


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("List-Unsubscribe: <mailto:x@y>", SERVICE),
        ("PRECEDENCE: Bulk", SERVICE),
        ("Precedence: list", None),
        ("Auto-Submitted: auto-generated", SERVICE),
        ("Auto-Submitted: No", None),
        ("List-Unsubscribe-Post: x", None),
        ("X-Mozilla-Status: 000g", None),
        ("X-Mozilla-Status: 0011", None),
        ("X-Mozilla-Status: 0008", DELETED),
    ],
)
def test_kinds_by_header(tmp_path: Path, field: str, kind: str | None) -> None:
    assert messages(box(tmp_path, f"From: a@b.example\n{field}\n\nList-Unsubscribe: no header"))[0].kind == kind


@pytest.mark.parametrize(
    "subject", ["Fwd: x", "WG: x", "fw:x", "TR: x", "=?utf-8?B?V0c6IEdyw7zDn2U=?=", "=?utf-8?Q?Fwd=3A_x?="]
)
def test_a_forwarded_mail_with_no_own_words(tmp_path: Path, subject: str) -> None:
    forwarded = "---------- Forwarded message ---------\nFrom: B <b@c.example>\nDate: Mon\nSubject: x\nTo: a\n\n\nnews"
    first, second, third = messages(
        box(
            tmp_path,
            f"From: a@b.example\nSubject: {subject}\n\n{forwarded}",
            f"From: a@b.example\nSubject: {subject}\n\nlook!\n\n{forwarded}",
            f"From: a@b.example\nSubject: x {subject}\n\n{forwarded}",
        )
    )
    assert (first.text, first.kind) == (forwarded, FORWARDED)
    assert (second.text, second.kind) == ("look!", None)
    assert (third.text, third.kind) == ("", None)


def multipart(kind: str, *parts: str) -> str:
    inner = "".join(f"--==b\n{part}\n" for part in parts)
    return f'Content-Type: multipart/{kind}; boundary="==b"\n\n{inner}--==b--\n'


PLAIN, HTML = "Content-Type: text/plain\n\nplain", "Content-Type: text/html\n\n<p>html</p>"
PICTURE = "Content-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBO"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("Subject: x\n\nplain", ("plain", False)),
        (HTML, ("html", False)),
        (multipart("alternative", HTML, PLAIN), ("plain", False)),
        (multipart("alternative", "Content-Type: text/plain\n\n \n", HTML), ("html", False)),
        (multipart("mixed", PLAIN, PICTURE, PLAIN), ("plain\nplain", True)),
        (multipart("mixed", PICTURE), ("", True)),
        (multipart("related", HTML, PICTURE), ("html", True)),
        (multipart("mixed", f"Content-Disposition: attachment\n{PLAIN}"), ("", True)),
        (multipart("mixed", PLAIN, "Content-Type: message/rfc822\n\nSubject: y\n\ninner"), ("plain", True)),
        ("Content-Type: text/calendar\n\nBEGIN:VCALENDAR", ("", True)),
        ("Content-Type: multipart/mixed\n\nno boundary", ("", True)),
        ("Content-Type: multipart/alternative; boundary=x\n\n", ("", True)),
        ("Content-Type: \xff\n\nplain", ("plain", False)),
    ],
)
def test_parts(data: str, expected: tuple[str, bool]) -> None:
    text, attached = body(data.encode("latin-1"))
    assert (text.strip(), attached) == expected


@pytest.mark.parametrize(
    ("charset", "data", "text"),
    [
        ("utf-8", "é".encode(), "é"),
        ("utf-8", b"\xe9", "�"),
        ("us-ascii", "é".encode(), "é"),
        ("us-ascii", b"\x93\xe9\x94", "“é”"),
        ("iso-8859-1", b"\x80", "€"),
        ("gb2312", "镕".encode("gb18030"), "镕"),
        ("iso-2022-jp", "日本".encode("iso-2022-jp"), "日本"),
        ("no-such-charset", "é".encode(), "é"),
        ("unicode-escape", rb"\u0041\q", r"\u0041\q"),
        ("rot13", b"abc", "abc"),
        ("utf-7", b"+2AA-", "?"),
        ('"a\0b"', b"abc", "abc"),
        ("", b"abc", "abc"),
    ],
)
def test_charsets(charset: str, data: bytes, text: str) -> None:
    assert body(f"Content-Type: text/plain; charset={charset}\n\n".encode() + data) == (text, False)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<div>a</div><div><br></div><div>b &amp; c&nbsp;d</div>", "a\n\nb & c d"),
        ("<p>a\n  b</p><p>c</p>", "a b\n\nc"),
        ('<p class="MsoNormal">a</p><p class=MsoNormal>b</p>', "a\nb"),
        ("<ul><li>a<li>b</ul>c", "a\nb\nc"),
        ("<pre>a\n  b</pre>", "a\nb"),
        ("<head><title>x</title><style>y</style></head><body>a<script>z</script></body>", "a"),
        ("<head><meta><body>a", "a"),
        ("a<blockquote>b<br>c</blockquote>d", "a\n> b\n> c\nd"),
        ("</blockquote>a", "a"),
        ("a<!-- b <p> c -->d<!-- e", "ad"),
        ("<![if !mso]>a<![endif]><?xml x?>b", "ab"),
        ("1 < 2 <b>and</b> 3 > 2 <", "1 < 2 and 3 > 2 <"),
        ("<b", "<b"),
        ("&#xD800;&#0;", "��"),
        ("", ""),
    ],
)
def test_html(html: str, text: str) -> None:
    assert html_text(html) == text


def test_hostile_html_takes_no_time() -> None:
    """The standard library's parser needs minutes for some of these."""
    for piece in (
        "<!--",
        "<a <a ",
        '<a b="x>',
        "</a ",
        "<",
        "<![if",
        "<?",
        "&#",
        "<script>x",
        "<blockquote>",
        '<a b="',
    ):
        for end in ("", ">", "-->"):
            html_text(piece * (200_000 // len(piece)) + end)


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("yes\n\nOn Mon, 3 Feb 2020 at 10:11, Ann <a@b.example>\nwrote:\n\n> q\n> r", "yes"),
        ("On 3 Feb 2020 Ann <a@b.example> wrote:\n> q\nmy answer\n> q2\nand this", "my answer\nand this"),
        ("On Monday Ann wrote:\n> q\nmy answer", "my answer"),
        ("yes\n\nOn 3 Feb 2020, at 10:11, Ann <a@b.example> wrote:\n\nq\n\nr", "yes"),
        ("ja\n\nAm 03.02.20 um 10:11 schrieb Ann B:\n> q", "ja"),
        ("ja\n\nAnn B schrieb am 3.2.2020 um 10:11:\n> q", "ja"),
        ("oui\n\nLe lun. 3 févr. 2020 à 10:11, Ann <a@b.example> a écrit :\n> q", "oui"),
        ("sí\n\nEl lun, 3 feb 2020 a las 10:11, Ann (<a@b.example>) escribió:\n\n> q", "sí"),
        ("sim\n\nEm seg., 3 de fev. de 2020 às 10:11, Ann <a@b.example> escreveu:\n\n> q", "sim"),
        ("はい\n\n2020年2月3日(月) 10:11 Ann <a@b.example>:\n> q", "はい"),
        ("yes\n\nOn Mon, 3 Feb 2020 at 10:11, Ann Long <\nann@b.example> wrote:\n> q", "yes"),
        ("yes\n________________________________\nFrom: A <a@b>\nSent: Monday\nTo: C\nSubject: x\n\nq", "yes"),
        ("ja\n\n-----Ursprüngliche Nachricht-----\nVon: A\nGesendet: Montag\nAn: C\nBetreff: x\n\nq", "ja"),
        ("oui\n\nDe : A <a@b>\nEnvoyé : lundi 3\nÀ : C\nObjet : x\n\nq", "oui"),
        ("*From:* A\n*Sent:* Monday\n*To:* C\n\nq", ""),
        ("> q\nmy answer:\n> r\nyes", "my answer:\nyes"),
        ("On 3 Feb 2020 I left\n\nmy answer:\n> r", "On 3 Feb 2020 I left\n\nmy answer:"),
        ("first\n\nhe said at 10:15 he comes:\n\nno quote", "first\n\nhe said at 10:15 he comes:\n\nno quote"),
        ("Data: all of it\nDo: this", "Data: all of it\nDo: this"),
        ("Hi\nThanks, I got it. The rest is\nimportant", "Hi\nThanks, I got it. The rest is\nimportant"),
        ("Hi\nThanks, Anna", "Hi"),
        ("Hi\n\nBest regards,\nAnna\nExample Inc.", "Hi"),
        ("Hi\n\nMit freundlichen Grüßen\n\nAnna Beispiel", "Hi"),
        ("Hi\n\nViele Grüße aus Rom\nAnna", "Hi\n\nViele Grüße aus Rom\nAnna"),
        ("Hej\nTak\nKh Anna", "Hej\nTak\nKh Anna"),
        ("Thanks,\nAnna", "Thanks,\nAnna"),
        ("Hi\nBest regards,\n" + "more\n" * 13, ("Hi\nBest regards,\n" + "more\n" * 13).strip()),
        ("Hi\n\nSent from my iPhone", "Hi"),
        ("Hi\nGesendet von meinem Telefon", "Hi"),
        ("Hi\n-- \nAnna\nExample", "Hi"),
        ("Hi\n---\nthat was a line", "Hi\n---\nthat was a line"),
        ("Hi\n- one\n- two\nend", "Hi\n- one\n- two\nend"),
        ("Hi\n_______________________________________________\nlist mailing list", "Hi"),
        ("a\n\n\n\n\nb  \n", "a\n\nb"),
        ("", ""),
    ],
)
def test_own_words(text: str, own: str) -> None:
    assert own_words(text) == own


def test_gmail_and_outlook_replies_in_html() -> None:
    gmail = (
        '<div dir="ltr">yes, at 8</div><br><div class="gmail_quote"><div dir="ltr" class="gmail_attr">'
        'On Mon, Feb 3, 2020 at 10:11 AM Ann &lt;<a href="mailto:a@b.example">a@b.example</a>&gt; wrote:<br></div>'
        "<blockquote>when?<br><div>On Sun, Feb 2, 2020 Bo wrote:</div><blockquote>q</blockquote></blockquote></div>"
    )
    assert own_words(html_text(gmail)) == "yes, at 8"
    outlook = (
        '<p class="MsoNormal">Ja, um 8.<o:p></o:p></p><p class="MsoNormal"><o:p>&nbsp;</o:p></p>'
        '<div style="border-top:1pt"><p class="MsoNormal"><b>Von:</b> Ann &lt;a@b.example&gt; <br>'
        "<b>Gesendet:</b> Montag, 3. Februar 2020<br><b>An:</b> Bo<br><b>Betreff:</b> x</p></div>"
        '<p class="MsoNormal">wann?</p>'
    )
    assert own_words(html_text(outlook)) == "Ja, um 8."


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mailparser_reply", None)
    mailtext._patterns.cache_clear()
    with pytest.raises(PersonaError, match="mail-parser-reply") as e:
        messages(TAKEOUT)
    assert e.value.hint == "pip install 'mlx-persona[data]'"
    mailtext._patterns.cache_clear()


# Properties.

lines = st.text("abcdfgz äöü.!?,🙂日", max_size=90).map(str.strip) | st.sampled_from(
    ["From me", "From - Mon 10:00:00 2024"]
)
texts = st.lists(lines, min_size=1, max_size=6).map("\n".join).map(lambda t: re.sub(r"\n{3,}", "\n\n", t).strip())
addresses = st.from_regex(r"[a-z0-9.+-]{1,12}@[a-z0-9]{1,9}\.example", fullmatch=True)
thread = st.lists(st.tuples(texts.filter(bool), addresses), min_size=1, max_size=5)
styles = st.tuples(
    st.sampled_from(["8bit", "quoted-printable", "base64"]), st.booleans(), st.booleans(), st.booleans(), st.booleans()
)


def render(
    threads: list[list[tuple[str, str]]], order: list[int], style: tuple[str, bool, bool, bool, bool]
) -> Iterator[bytes]:
    """Threads as mails with separators, quoting each other, in an order of its own for the mails."""
    encoding, as_html, signed, quoting, crlf = style
    made: list[bytes] = []
    for t, said in enumerate(threads):
        for k, (text, address) in enumerate(said):
            message = EmailMessage()
            message["Message-ID"] = f"<{t}.{k}@x.example>"
            message["From"] = f"Somebody Else <{address.upper()}>"
            message["Date"] = formatdate(1_600_000_000 + 86_400 * k)
            if k:
                message["References"] = " ".join(f"<{t}.{i}@x.example>" for i in range(k))
            written = text + ("\n\n-- \nSomebody\nElse" if signed else "")
            if quoting and k:
                quote = "".join(f"> {line}\n" for line in said[k - 1][0].split("\n"))
                written += f"\n\nOn Mon, 3 Feb 2020 at 10:11, Ann <a@b.example> wrote:\n\n{quote}"
            message.set_content(written, cte=encoding)
            if as_html:
                message.add_alternative("<p>not this</p>", subtype="html")
            data = re.sub(rb"(?m)^(>*From )", rb">\1", message.as_bytes().replace(b"\r\n", b"\n"))
            made.append(b"From 12@xxx Mon Jan 08 09:15:02 +0000 2024\n" + data + b"\n")
    for i in sorted(range(len(made)), key=lambda i: order[i % len(order)]):
        yield made[i].replace(b"\n", b"\r\n") if crlf else made[i]


@settings(max_examples=100, deadline=None)
@given(st.lists(thread, min_size=1, max_size=4), st.lists(st.integers(0, 20), min_size=20, max_size=20), styles)
def test_what_was_sent_is_read_back(
    threads: list[list[tuple[str, str]]], order: list[int], style: tuple[str, bool, bool, bool, bool]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Sent"
        path.write_bytes(b"".join(render(threads, order, style)))
        assert known(path)
        found, bad = everything(path)
    assert bad == []
    read = [[(m.text, m.sender, m.time) for m in t.messages] for t in found]
    expected = [[(text, who, 1_600_000_000.0 + 86_400 * k) for k, (text, who) in enumerate(t)] for t in threads]
    assert sorted(read) == sorted(expected)


HOSTILE = """\
From - Mon Jan  1 00:00:00 2024
From: a@b.c
From:
Date: 1 Jan 99999999999
Date:
Message-ID: <\udced\udca0\udc80>
References: <a><b>
Subject: =?utf-8?B?!!!?= Fwd:
Subject: =?\udcff?Q?=ZZ?=
Content-Type: text/html; charset=utf-7
Content-Type: text/plain; charset*=\udcff''\udcff%
Content-Type: multipart/mixed; boundary=x
Content-Type: multipart/digest; boundary*0=x; boundary*=y
Content-Type: message/rfc822
Content-Transfer-Encoding: base64
Content-Transfer-Encoding: x-uuencode
Content-Disposition: \udcff;;=
--x
--x--
<p <!-- &#xD800; &
+2AA-
\0\udcff
On 10:10 x:
> x
"""
pieces = st.sampled_from(
    [*HOSTILE.encode("utf-8", "surrogateescape").splitlines(keepends=True), b"\n", b"\r\n", b"\nFrom \n"]
)


def fully(path: Path) -> None:
    """Everything is read, whatever it is, and can be written."""
    known(path)
    try:
        threads, bad = everything(path)
    except PersonaError as error:
        error.message.encode()
        return
    for m in (m for t in threads for m in t.messages):
        (m.text + (m.sender or "")).encode()
        assert m.time is None or m.time == m.time
    for b in bad:
        (b.reason + b.text).encode()
        assert len(b.text) <= 200


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.lists(pieces, max_size=25).map(b"".join)), st.booleans())
def test_any_bytes_give_messages_bad_lines_or_an_error(data: bytes, as_mail: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mbox"
        path.write_bytes((b"From - Mon Jan  1 00:00:00 2024\nFrom: a@b.example\n" if as_mail else b"") + data)
        fully(path)


def test_cut_off_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.mbox"
    for whole in (TAKEOUT, FIXTURES / "thunderbird" / "Inbox", FIXTURES / "apple" / "Archive.mbox" / "mbox"):
        data = whole.read_bytes()
        for end in range(0, len(data), 11):
            path.write_bytes(data[:end])
            fully(path)


def test_a_broken_zip_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(TAKEOUT, "a.mbox")
    data = bytearray(path.read_bytes())
    data[80:120] = b"\xff" * 40
    path.write_bytes(data)
    assert not known(path)
    with pytest.raises(PersonaError, match="cannot read"):
        everything(path)
    with pytest.raises(PersonaError, match=r"cannot read .*none\.mbox: No such file"):
        everything(tmp_path / "none.mbox")


def test_what_the_email_package_cannot_stand_is_bad(tmp_path: Path) -> None:
    """Parts within parts until Python gives up, and the mails around are read all the same."""
    nested = "".join(f"Content-Type: multipart/mixed; boundary=b{i}\n\n--b{i}\n" for i in range(3000))
    path = box(tmp_path, "From: a@b.example\n\none", f"From: c@b.example\n{nested}", "From: a@b.example\n\ntwo")
    threads, bad = everything(path)
    assert [m.text for t in threads for m in t.messages] == ["one", "two"]
    assert [(b.line, b.reason, b.text[:17]) for b in bad] == [
        (6, "a mail that cannot be read (RecursionError)", "From: c@b.example")
    ]


def test_lines_of_a_megabyte(tmp_path: Path) -> None:
    long = "On 10:10 " + "a " * 500_000
    found = messages(box(tmp_path, f"From: a@b.example\n\n{long}:\n> q", f"From: a@b.example\nX: {long}\n\nhi"))
    assert (len(found[0].text), found[1].text) == (1 << 17, "hi")
