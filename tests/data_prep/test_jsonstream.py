"""JSON of any size is walked through in small steps, and what is broken is named with its place."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import jsonstream
from data_prep.sources.jsonstream import JsonStream
from mlx_persona.errors import PersonaError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def stream(text: str | bytes) -> JsonStream:
    return JsonStream(io.BytesIO(text if isinstance(text, bytes) else text.encode()), "f.json")


def elements(walk: JsonStream) -> list[object]:
    found = [walk.value() for _ in walk.elements()]
    walk.end()
    return found


@pytest.fixture(params=[1, 3, 1 << 16])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """However little is read at once, nothing changes."""
    monkeypatch.setattr(jsonstream, "_CHUNK", request.param)
    return int(request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("indent", [None, 2])
def test_elements_and_members_come_one_by_one(indent: int | None) -> None:
    value: dict[str, Any] = {"a": [1, -2.5e3, 'x\n"é😀\\', [], {}], "b": {}, "c": {"d": [None, True]}, "e": 12}
    walk = stream("\ufeff " + json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    found: dict[str, Any] = {}
    for key in walk.members():
        found[key] = [walk.value() for _ in walk.elements()] if key == "a" else walk.value()
    walk.end()
    assert found == value


@given(VALUES, st.sampled_from([1, 2, 7, 50]))
def test_any_value_is_read_as_json_reads_it(value: Any, size: int) -> None:
    before, jsonstream._CHUNK = jsonstream._CHUNK, size
    try:
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1) + " "):
            walk = stream(text.encode("utf-8", errors="surrogatepass") if text.isascii() else text.encode("utf-8"))
            assert walk.value() == value
            walk.end()
    finally:
        jsonstream._CHUNK = before


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[1,\n 2,\n x]", "3:2: not JSON (Expecting value)"),
        ("[1\n 2]", "2:2: not JSON (Expecting ',')"),
        ("[1, 2", "1:6: not JSON (Expecting ',')"),
        ('["ab', "1:2: not JSON (Unterminated string starting at)"),
        ("[1] 2", "1:5: not JSON (Extra data)"),
        ("{}", "1:1: not JSON (Expecting '[')"),
        ("", "1:1: not JSON (Expecting '[')"),
        ("[" + "9" * 5000 + "]", "1:2: not JSON (Exceeds the limit"),
    ],
)
def test_what_is_broken_is_named_with_line_and_column(text: str, place: str) -> None:
    with pytest.raises(PersonaError) as caught:
        elements(stream(text))
    assert caught.value.message.startswith(f"f.json:{place}")


@pytest.mark.usefixtures("chunk")
def test_bytes_that_are_no_text_are_named_with_their_line() -> None:
    with pytest.raises(PersonaError, match=r"f\.json:3: not UTF-8"):
        elements(stream(b'["a",\n"b",\n"\xff"]'))


def test_nesting_without_end_is_an_error() -> None:
    with pytest.raises(PersonaError, match="nested too deeply"):
        stream("[" * 200_000).value()


@pytest.mark.usefixtures("chunk")
def test_lines_and_quotes_are_those_of_the_next_value() -> None:
    walk = stream('[1,\n\n  {"k": "v"},\n3]')
    seen = []
    for _ in walk.elements():
        seen.append((walk.line, walk.quote(6)))
        walk.value()
    assert seen == [(1, "1,\n\n  "), (3, '{"k": '), (4, "3]")]


def test_only_the_value_at_hand_is_held(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    path.write_text("[" + ",".join(f'"{"x" * 900}{i}"' for i in range(3000)) + "]")
    with path.open("rb") as file:
        walk = JsonStream(file, "big")
        for count, _ in enumerate(walk.elements()):
            assert walk.value() == "x" * 900 + str(count)
            assert len(walk._text) < 3 * jsonstream._CHUNK
    assert count == 2999
