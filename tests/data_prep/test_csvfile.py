"""Tables of messages: columns are found or named, chats are told apart, and every row is a message or a bad line."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources import csvfile
from data_prep.sources.base import Bad, RawChat, RawMessage, ReadOptions
from data_prep.sources.head import Head
from mlx_persona.errors import PersonaError

FIXTURES = Path(__file__).parent / "fixtures" / "csv"
Chats = list[tuple[str, list[RawMessage]]]


def everything(path: Path, **columns: str) -> tuple[Chats, list[Bad]]:
    chats, bad = [], []
    for item in csvfile.read(path, ReadOptions(columns=columns)):
        if isinstance(item, Bad):
            bad.append(item)
            continue
        assert isinstance(item, RawChat)
        messages = list(item.messages)
        assert all(isinstance(m, RawMessage) for m in messages)
        chats.append((item.id, [m for m in messages if isinstance(m, RawMessage)]))
    return chats, bad


def known(path: Path) -> bool:
    return csvfile.matches(Head.of(path))


def table(folder: Path, data: str | bytes, name: str = "chat.csv") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def said(chats: Chats) -> list[tuple[str, list[str]]]:
    return [(chat, [m.text for m in messages]) for chat, messages in chats]


def test_a_table_with_usual_names_and_several_chats() -> None:
    path = FIXTURES / "channels.csv"
    assert known(path)
    chats, bad = everything(path)
    assert bad == []
    assert chats == [
        (
            "kitchen",
            [
                RawMessage("who ate the cake?", sender="Mira", time=1704067200.0, id="1"),
                RawMessage('me, "sorry"\nit was good', sender="Tom Berg", time=1704067260.5, id="3", answers="1"),
                RawMessage("", sender="Mira", time=1704067300.0, id="4", answers="3"),
            ],
        ),
        ("garden", [RawMessage("it rains", sender="Tom Berg", time=1704067230.0, id="2")]),
    ]


def test_a_spreadsheet_in_german_with_semicolons_days_first_and_windows_line_ends() -> None:
    path = FIXTURES / "tabelle.csv"
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert b"\r\n" in path.read_bytes()
    assert not known(path), "Absender is no usual name"
    chats, bad = everything(path, text="Nachricht", sender="absender", time="Datum")
    assert bad == []
    assert chats == [
        (
            "tabelle.csv",
            [
                RawMessage("Kommst du; oder nicht?", sender="Jörg", time=1704114300.0),
                RawMessage("ja", sender="Ayşe", time=1706792700.0),
                RawMessage("schön", sender="Jörg", time=1707829500.0),
            ],
        )
    ]


def test_a_tsv_newest_first_with_milliseconds() -> None:
    path = FIXTURES / "log.tsv"
    assert known(path)
    chats, bad = everything(path)
    assert bad == []
    assert [(m.sender, m.text, m.time) for m in chats[0][1]] == [
        ("ada", "one", 1700000000.0),
        ("bo", "two, in the same second", 1700000000.0),
        ("ada", "three", 1700000001.25),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    bom = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    path = table(tmp_path, (bom + "Sender,Text\r\nZoë,héllo 🙂\r\nBo,日本\r\n").encode(encoding))
    assert known(path)
    chats, bad = everything(path)
    assert bad == []
    assert [(m.sender, m.text) for m in chats[0][1]] == [("Zoë", "héllo 🙂"), ("Bo", "日本")]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("Timestamp,From,Message", {}),
        ("user,content,date", {}),
        ("AUTHOR,Body,Created At,Conversation-ID", {}),
        ("who,name,text", {}),
        ("who,what", {"text": "what", "sender": "who"}),
        ("who,text", {"sender": "WHO"}),
    ],
)
def test_columns_that_are_found(tmp_path: Path, header: str, columns: dict[str, str]) -> None:
    width = header.count(",") + 1
    path = table(tmp_path, f"{header}\n{','.join('abcde'[:width])}\n")
    assert known(path) is (not columns)
    chats, bad = everything(path, **columns)
    assert (len(chats[0][1]), bad) == (1, [])


def test_named_columns_go_before_usual_ones(tmp_path: Path) -> None:
    path = table(tmp_path, "text,author,message,name\nno,x,yes,Ada\n")
    message = everything(path, text="message", sender="name")[0][0][1][0]
    assert (message.text, message.sender) == ("yes", "Ada")
    message = everything(path, sender="text")[0][0][1][0]
    assert (message.text, message.sender) == ("yes", "no"), "a column has one use"


def test_a_missing_column_lists_those_there_are(tmp_path: Path) -> None:
    path = table(tmp_path, "who,text,colour\na,b,c\n")
    with pytest.raises(
        PersonaError, match="no column that I know for the sender; its columns are who, text, colour"
    ) as e:
        everything(path)
    assert e.value.hint == "say which it is with --column sender=NAME"
    with pytest.raises(PersonaError, match="no column 'Who is it'; its columns are who, text, colour"):
        everything(path, sender="Who is it")
    with pytest.raises(PersonaError, match="--column must name one of text, sender, time, chat, id, answers, got 'me'"):
        everything(path, me="who")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just a line of talk\nand one more",
        '{"text": "a", "sender": "b"}\n{"text": "c", "sender": "d"}',
        "sender,text",
        "sender,text\n\n",
        "sender,text\nonly one",
        "sender,colour\na,b",
        'sender,"text\na,b',
        "12/31/23, 10:15 - Ada: sender, text\n12/31/23, 10:16 - Bo: b",
        "\0\0,\0",
    ],
)
def test_what_is_no_table_of_messages(tmp_path: Path, text: str) -> None:
    assert not known(table(tmp_path, text))


def test_folders_are_no_tables(tmp_path: Path) -> None:
    table(tmp_path, "sender,text\na,b\n")
    assert not known(tmp_path)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2023-01-02T03:04:05Z", 1672628645.0),
        ("2023-01-02T03:04:05.1234567+00:00", 1672628645.123456),
        ("2023-01-02 04:04:05+01:00", 1672628645.0),
        ("2023-01-02 03:04:05 UTC", 1672628645.0),
        ("1672628645", 1672628645.0),
        ("1672628645.5", 1672628645.5),
        ("1672628645000", 1672628645.0),
        ("20230102", 1672617600.0),
        ("2023/01/02 03:04", 1672628640.0),
        ("02/01/2023 03:04", 1672628640.0),
        ("2.1.23, 15:04:05", 1672671845.0),
        ("02-01-2023", 1672617600.0),
        ("2/1/2023 3:04:05 PM", 1672671845.0),
        ("2/1/2023 12:04 a.m.", 1672617840.0),
        ("31/31/2023 10:00", None),
        ("yesterday", None),
        ("nan", None),
        ("9" * 400, None),
        ("١٦", 16.0),
        ("²", None),
        ("", None),
    ],
)
def test_times(tmp_path: Path, text: str, time: float | None) -> None:
    path = table(tmp_path, f'sender,text,time\na,b,"{text}"\n')
    assert everything(path)[0][0][1][0].time == time


def test_the_whole_file_says_whether_days_or_months_come_first(tmp_path: Path) -> None:
    def times(*dates: str) -> list[float | None]:
        rows = "".join(f"a,b,{date}\n" for date in dates)
        return [m.time for m in everything(table(tmp_path, "sender,text,time\n" + rows))[0][0][1]]

    assert times("01/02/2023 10:00", "01/13/2023 10:00") == [1672653600.0, 1673604000.0], "there is no 13th month"
    assert times("02/01/2023 10:00", "13/01/2023 10:00") == [1672653600.0, 1673604000.0]
    days_first = times("05/01/2023", "06/01/2023", "01/02/2023", "02/02/2023")
    assert days_first == [1672876800.0, 1672963200.0, 1675209600.0, 1675296000.0], "it runs forward with days first"
    months_first = times("01/05/2023", "01/06/2023", "02/01/2023", "02/02/2023")
    assert months_first == [1672876800.0, 1672963200.0, 1675209600.0, 1675296000.0]
    newest_first = times("02/02/2023", "02/01/2023", "01/06/2023", "01/05/2023")
    assert newest_first == months_first


def test_rows_in_no_order_are_sorted_and_rows_without_a_time_stay_behind_the_one_before(tmp_path: Path) -> None:
    rows = [("c", "300"), ("c2", ""), ("a", "100"), ("a2", "soon"), ("b", "200")]
    path = table(tmp_path, "sender,text,time\n" + "".join(f"x,{text},{time}\n" for text, time in rows))
    assert said(everything(path)[0]) == [("chat.csv", ["a", "a2", "b", "c", "c2"])]


def test_order_without_times_is_that_of_the_file(tmp_path: Path) -> None:
    path = table(tmp_path, "sender,text\nx,b\ny,a\nx,c\n")
    assert said(everything(path)[0]) == [("chat.csv", ["b", "a", "c"])]


def test_chats_can_be_read_late_and_again(tmp_path: Path) -> None:
    """Each chat is read from its own places, whatever was read before."""
    path = table(tmp_path, "chat,sender,text\nc1,a,1\nc2,a,2\nc1,b,3\nc2,b,4\n,c,5\n")
    items = [item for item in csvfile.read(path, ReadOptions()) if isinstance(item, RawChat)]
    assert [item.id for item in items] == ["c1", "c2", "chat.csv"]
    assert said(everything(path)[0]) == [("c1", ["1", "3"]), ("c2", ["2", "4"]), ("chat.csv", ["5"])]


def test_bad_rows_have_their_line(tmp_path: Path) -> None:
    data = b'sender,text\na,"two\nlines"\nonly\n\na,b,c\na,nul\0\na,\xff\xfe latin\na,fine\na,"cut\nb,next\nc,"cu'
    path = table(tmp_path, data)
    chats, bad = everything(path)
    assert said(chats) == [("chat.csv", ["two\nlines", "fine", "next"])]
    assert [(b.line, b.reason, b.text) for b in bad] == [
        (4, "a row must have 2 fields, got 1", "only"),
        (6, "a row must have 2 fields, got 3", "a,b,c"),
        (7, "it has a NUL in it", "a,nul\0"),
        (8, "not UTF-8", "a,?? latin"),
        (10, "not CSV (',' expected after '\"')", 'a,"cut'),
        (12, "not CSV (unexpected end of data)", 'c,"cu'),
    ]
    assert {b.file for b in bad} == {str(path)}


def test_a_quotation_mark_that_is_never_closed_takes_one_row(tmp_path: Path) -> None:
    path = table(tmp_path, 'text,sender\n"oh,a\nb,c\nd,e\n"f",g\nh,i\n')
    chats, bad = everything(path)
    assert said(chats) == [("chat.csv", ["b", "d", "f", "h"])]
    assert [(b.line, b.text) for b in bad] == [(2, '"oh,a')]


def test_a_field_may_be_large_and_one_that_is_too_large_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * 1_000_000
    path = table(tmp_path, f'sender,text\na,{long}\na,"{long}\n{long}"\nb,c\n')
    assert [len(text) for text in said(everything(path)[0])[0][1]] == [1_000_000, 2_000_001, 1]
    monkeypatch.setattr(csvfile, "_MOST_CHARS", 1_500_000)
    chats, bad = everything(path)
    assert said(chats) == [("chat.csv", [long, "c"])]
    assert [(b.line, len(b.text)) for b in bad] == [(3, 200), (4, 200)]
    assert "field larger than field limit (1500000)" in bad[0].reason


def test_a_file_without_rows_or_without_anything(tmp_path: Path) -> None:
    assert everything(table(tmp_path, "sender,text\n")) == ([], [])
    for data in (b"", b"\n\n", b"\xff\xfe"):
        with pytest.raises(PersonaError, match=r"its columns are \(none\)"):
            everything(table(tmp_path, data))
    assert said(everything(table(tmp_path, "\n\r\nsender,text\na,b\n"))[0]) == [("chat.csv", ["b"])]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "none.csv", "No such file")):
        with pytest.raises(PersonaError, match=f"cannot read .*: {why}"):
            everything(path)


def test_a_header_that_is_no_utf8_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(PersonaError) as e:
        everything(table(tmp_path, b"sender,\xfctext\na,b\n"))
    assert e.value.message.endswith("its columns are sender, ?text")


Row = tuple[str, str, int, str]
# Names lose white space around them; lone surrogates are no UTF-8; and Python's writer does not quote "\r".
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), max_size=40)
names = texts.map(str.strip).filter(bool)
rows = st.lists(
    st.tuples(texts, names, st.integers(10**9, 10**10), st.sampled_from(["red", "blue", "a;b"])), max_size=20
)


def render(messages: Iterable[Row], delimiter: str, end: str, quoting: int) -> bytes:
    """Messages as a table, as Python or a spreadsheet writes it."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(["text", "sender", "time", "chat"])
    writer.writerows(messages)
    return out.getvalue().encode()


@settings(max_examples=150, deadline=None)
@given(rows, st.sampled_from([",", ";", "\t"]), st.sampled_from(["\n", "\r\n"]), st.sampled_from([0, 1]))
def test_what_was_written_is_read_back(messages: list[Row], delimiter: str, end: str, quoting: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = table(Path(folder), render(messages, delimiter, end, quoting))
        chats, bad = everything(path)
        assert known(path) is bool(messages)
    assert bad == []
    expected: dict[str, list[Row]] = {}
    for message in messages:
        expected.setdefault(message[3], []).append(message)
    read = {chat: [(m.text, m.sender, m.time, chat) for m in found] for chat, found in chats}
    assert list(read) == list(expected)
    for chat, found in read.items():
        assert sorted(map(str, found)) == sorted(str((t, s, float(when), c)) for t, s, when, c in expected[chat])
        times = [m[2] or 0.0 for m in found]
        assert times == sorted(times)
        if times != sorted({m[2] for m in found if m[2] is not None}):
            continue  # equal times: their order is tested with fixed rows
        assert [m[0] for m in found] == [m[0] for m in sorted(expected[chat], key=lambda m: m[2])]


pieces = st.sampled_from(
    [b"sender,text,time\n", b"a,b,1\n", b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\xed\xa0\x80", b'""']
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.lists(pieces, max_size=30).map(b"".join)), st.booleans())
def test_any_bytes_give_messages_bad_lines_or_an_error(data: bytes, with_header: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = table(Path(folder), (b"sender,text,time\n" if with_header else b"") + data)
        known(path)
        try:
            chats, bad = everything(path)
        except PersonaError:
            return
    for text in [m.text + (m.sender or "") for _, found in chats for m in found] + [b.text + b.reason for b in bad]:
        text.encode()


@given(st.lists(st.sampled_from([b"a,1,2\n", b"a,b\n", b"a,\0,2\n", b"a,\xff,2\n", b"\n"]), max_size=20))
def test_every_row_is_a_message_or_a_bad_line(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        chats, bad = everything(table(Path(folder), b"sender,text,time\n" + b"".join(lines)))
    assert sum(len(found) for _, found in chats) == lines.count(b"a,1,2\n")
    assert len(bad) == len(lines) - lines.count(b"a,1,2\n") - lines.count(b"\n")


def test_cut_off_anywhere(tmp_path: Path) -> None:
    data = (FIXTURES / "channels.csv").read_bytes()
    header = data.index(b"\n") + 1
    for end in range(header, len(data)):
        chats, bad = everything(table(tmp_path, data[:end]))
        assert sum(len(found) for _, found in chats) + len(bad) <= 5


def test_one_line_of_a_megabyte(tmp_path: Path) -> None:
    chats, bad = everything(table(tmp_path, b"sender,text\n" + b"," * 1_000_000))
    assert (chats, [b.reason for b in bad]) == ([], ["a row must have 2 fields, got 1000001"])
