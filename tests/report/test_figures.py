"""Reading what may be damaged, and showing figures as people read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_persona.report.drawing import MOST_POINTS, thinned
from mlx_persona.report.figures import Document, Figure, duration, is_number, read_document, shown, total
from mlx_persona.report.plots import smoothed
from tests.report.kit import says


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 0 s"), (119.6, "2 min 0 s"), (3599.4, "59 min 59 s")],
        *[(3599.6, "1 h 0 min"), (7530, "2 h 6 min"), (90000, "25 h 0 min")],
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(value=st.floats(0, 1e12), form=st.sampled_from(["count", "loss", "one", "plain", "share", "time", "bytes"]))
def test_what_is_shown_is_the_value_rounded(value: float, form: str) -> None:
    assert says(shown(Figure(value, "x"), form), value)


@pytest.mark.parametrize(
    "value", [True, "1", None, [1], float("nan"), float("inf"), -float("inf"), 10**400, -(10**400)]
)
def test_what_is_no_figure(value: object) -> None:
    assert not is_number(value)


def test_a_sum_names_its_parts() -> None:
    assert total([Figure(1, "a"), None, Figure(2.5, "b")]) == Figure(3.5, "a + b")
    assert total([Figure(1, "a")], "all of it") == Figure(1, "all of it")
    assert total([None]) is None


def test_a_document_gives_what_is_there_and_nothing_else() -> None:
    document = Document("r/run.json", {"a": {"b/~": [1, "x"]}, "n": None, "t": "text", 3: "odd"})
    assert document.number("a", "b/~", 0) == Figure(1, "r/run.json#/a/b~1~0/0")
    assert document.number("a", "b/~", 1) is None
    assert document.number("a", "b/~", 7) is None
    assert document.number("t", "x") is None
    assert document.text("t") == "text"
    assert document.text("n") == document.text("a") == ""
    assert document.mapping("t") == {}
    assert list(document.mapping()) == ["a", "n", "t"]
    assert document.items("a", "b/~") == [1, "x"]
    assert document.items("a") == []


@given(value=st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_a_place_leads_back_to_the_figure(value: dict[str, float]) -> None:
    document = Document("r/run.json", value)
    for key, number in value.items():
        figure = document.number(key)
        if figure is not None:
            pointer = figure.place.partition("#/")[2]
            assert (figure.value, pointer.replace("~1", "/").replace("~0", "~")) == (number, key)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.json", "{}", ""),
        ("a.json", "[]", "a.json is damaged"),
        ("a.json", "{", "a.json is damaged"),
        ("a.yaml", "a: 1", ""),
        ("a.yaml", "a: [", "a.yaml is damaged"),
        ("a.yaml", "", "a.yaml is damaged"),
        ("a.json", None, "a.json is missing"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    document = read_document(tmp_path / name)
    assert (document.problem, document.name) == (problem, f"{tmp_path.name}/{name}")
    assert json.dumps(document.value) == ('{"a": 1}' if text == "a: 1" else "{}")


def test_a_smoothed_line_begins_with_the_first_value_and_keeps_a_constant() -> None:
    assert smoothed([]) == []
    constant = smoothed([(1, 4.0), (2, 4.0), (3, 4.0)])
    assert [x for x, _ in constant] == [1, 2, 3]
    assert [y for _, y in constant] == pytest.approx([4.0, 4.0, 4.0])
    ramp = smoothed([(i, float(i)) for i in range(100)])
    assert ramp[0] == (0, 0.0)
    assert all(0 <= x - y < 8 for x, y in ramp)
    # Weights 1 and 2/3, the newest first.
    assert smoothed([(1, 0.0), (2, 5.0)])[1][1] == pytest.approx(3.0)


@given(count=st.integers(0, 5000))
def test_a_thinned_line_keeps_its_ends(count: int) -> None:
    points = [(float(i), 0.0) for i in range(count)]
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS + 1
    assert (kept[:1], kept[-1:]) == (points[:1], points[-1:])
    assert set(kept) <= set(points)
    if count <= MOST_POINTS:
        assert kept == points
