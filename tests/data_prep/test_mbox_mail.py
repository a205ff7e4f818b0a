"""One mail: who wrote it, which part of it counts, and which words are the sender's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from data_prep.sources import mailtext
from data_prep.sources.base import DELETED, FORWARDED, SERVICE
from data_prep.sources.mailtext import body, html_text, own_words
from mlx_persona.errors import PersonaError
from tests.data_prep.mbox_kit import TAKEOUT, box, messages

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
