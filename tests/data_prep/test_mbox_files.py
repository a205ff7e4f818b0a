"""Mailboxes: what was sent is read back, and any bytes may come."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_persona.errors import PersonaError
from tests.data_prep.mbox_kit import FIXTURES, TAKEOUT, box, everything, known, messages

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
