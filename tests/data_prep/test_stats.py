"""The written conversations in numbers: exact values, and numbers for whatever may be in meta."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import languages, stats
from data_prep.languages import UNSURE
from mlx_persona.schema import Conversation, Message

ENGLISH = "i really think that we should go there together again on sunday"


def talk(*replies: str, **meta: Any) -> Conversation:
    """A conversation in which somebody asks before every reply."""
    said = [(Message("user", "well?"), Message("assistant", reply)) for reply in replies]
    return Conversation(tuple(m for pair in said for m in pair), meta)


def spread_of(*values: int) -> dict[str, float]:
    return stats.spread(Counter(values))


def test_only_replies_that_are_trained_on_are_measured() -> None:
    said = (
        Message("system", "You are Max, and this is long."),
        Message("user", "a question that is much longer than all of the replies"),
        Message("assistant", "set aside, and rather long too", train=False),
        Message("user", "so?"),
        Message("assistant", "yes\nof course"),
    )
    found = stats.summary({"train": [Conversation(said)], "valid": [talk("no")], "test": []})
    assert found["replies"] == 2
    assert found["chars"]["min"] == 2
    assert found["chars"]["max"] == 13
    assert found["words"]["max"] == 3
    assert found["several_lines"] == 0.5
    assert found["turns"] == {"min": 2, "p10": 2, "median": 2, "mean": 3.0, "p90": 4, "max": 4}


def test_tokens_are_counted_by_whoever_can() -> None:
    asked: list[list[str]] = []

    def count(texts: Sequence[str]) -> list[int]:
        asked.append(list(texts))
        return [len(text) * 100 for text in texts]

    found = stats.summary({"train": [talk("a", "bb")], "valid": [talk("cccc")]}, count)
    assert asked == [["a", "bb", "cccc"]]
    assert (found["tokens"]["min"], found["tokens"]["median"], found["tokens"]["max"]) == (100, 200, 400)
    assert {b["from"]: b["count"] for b in found["tokens"]["histogram"] if b["count"]} == {64: 1, 128: 1, 256: 1}
    assert stats.summary({"train": [talk("a")]})["tokens"] == {}


def test_percentiles_are_values_that_so_many_do_not_exceed() -> None:
    assert spread_of(*range(1, 11)) == {"min": 1, "p10": 1, "median": 5, "mean": 5.5, "p90": 9, "max": 10}
    assert spread_of(7) == {"min": 7, "p10": 7, "median": 7, "mean": 7.0, "p90": 7, "max": 7}
    assert spread_of(1, 1, 100) == {"min": 1, "p10": 1, "median": 1, "mean": 34.0, "p90": 100, "max": 100}
    assert spread_of() == {}


@given(values=st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_percentiles_are_those_of_the_sorted_values(values: list[int]) -> None:
    found, ranked = spread_of(*values), sorted(values)
    for key, percent in (("p10", 10), ("median", 50), ("p90", 90)):
        assert sum(v <= found[key] for v in values) * 100 >= percent * len(values)
        assert sum(v < found[key] for v in values) * 100 < percent * len(values)
    assert (found["min"], found["max"]) == (ranked[0], ranked[-1])


def test_bins_hold_their_edges() -> None:
    found = stats.lengths([0, 9, 10, 19, 20, 1279, 1280, 9999], stats.CHAR_BINS)["histogram"]
    assert [b["count"] for b in found] == [2, 2, 1, 0, 0, 0, 0, 1, 2]
    assert found[0] == {"from": 0, "to": 9, "count": 2}
    assert found[-1] == {"from": 1280, "to": None, "count": 2}


@given(sizes=st.lists(st.integers(0, 5000), max_size=50))
def test_every_size_is_in_one_bin(sizes: list[int]) -> None:
    for edges in (stats.CHAR_BINS, stats.WORD_BINS):
        for b in stats.lengths(sizes, edges)["histogram"]:
            top = 5000 if b["to"] is None else b["to"]
            assert b["count"] == sum(b["from"] <= size <= top for size in sizes)


def test_contacts_are_chats_and_the_largest_gives_most_replies() -> None:
    every = [talk("a", "b", chat="x", id="x#1"), talk("c", chat="x", id="x#2"), talk("d", chat="y", id="y#1")]
    assert stats.contacts(every) == {"count": 2, "largest": 0.75, "named": True}


def test_without_chats_every_conversation_is_a_contact() -> None:
    every = [talk("a", id="f:1"), talk("b", id="f:2"), talk("c"), talk("d", chat=["?"], id={})]
    assert stats.contacts(every) == {"count": 4, "largest": 0.25, "named": False}
    assert stats.contacts([]) == {"count": 0, "largest": 0.0, "named": False}


def test_the_time_span_is_in_days_and_months_of_utc() -> None:
    starts = ["2018-05-31T23:59:59Z", "2018-06-01T01:00:00+02:00", 1_704_067_200, None, "yesterday", "2018-05-01"]
    assert stats.time_span([talk("a", start=start) for start in starts]) == {
        "first": "2018-05-01",
        "last": "2024-01-01",
        "months": {"2018-05": 3, "2024-01": 1},
        "undated": 2,
    }
    assert stats.time_span([talk("a")]) == {"first": None, "last": None, "months": {}, "undated": 1}


def test_a_date_that_no_calendar_has_is_no_date() -> None:
    assert stats.time_span([talk("a", start=1e300), talk("b", start=-9e10)])["undated"] == 2


def test_tags_are_counted() -> None:
    tagged = [
        {"turn": 1, "bucket": "restraint", "tier": "CORE", "performative": False},
        {"turn": 3, "bucket": "pushback", "tier": "CORE", "performative": True},
        {"turn": 5, "bucket": "restraint", "tier": "LOW_FREQ", "performative": False},
    ]
    found = stats.tag_mix([talk("a", tags=tagged[:2]), talk("b"), talk("c", tags=tagged[2:])])
    assert found["replies"] == 3
    assert found["buckets"]["restraint"] == {"replies": 2, "share": 0.6667, "target": 0.09}
    assert {name: sizes["replies"] for name, sizes in found["buckets"].items() if sizes["replies"]} == {
        "pushback": 1,
        "restraint": 2,
    }
    assert [found["tiers"][tier]["replies"] for tier in ("CORE", "LOW_FREQ")] == [2, 1]
    assert found["performative"] == {"replies": 1, "share": 0.3333}


@pytest.mark.parametrize(
    "found",
    [None, "restraint", ["restraint", None, {}], [{"bucket": 3}], [{"bucket": "pushback", "tier": []}], {}, []],
)
def test_what_is_no_tag_is_not_counted(found: object) -> None:
    assert stats.tag_mix([talk("a", tags=found)]) == {}


def test_languages_are_shares_of_the_replies() -> None:
    pytest.importorskip("lingua")
    german = "ich glaube wirklich, dass wir am sonntag wieder zusammen hingehen sollten"
    found = stats.summary({"train": [talk(ENGLISH, german, german, "ok")]})
    assert found["languages"] == {"de": 0.5, "en": 0.25, UNSURE: 0.25}
    assert found["notes"] == []


@pytest.mark.parametrize(("n", "looked"), [(3, 3), (500, 500), (501, 500), (5000, 500)])
def test_the_sample_for_languages_is_spread_evenly(monkeypatch: pytest.MonkeyPatch, n: int, looked: int) -> None:
    seen: list[int] = []

    def shares(texts: list[str]) -> dict[str, float]:
        seen.extend(int(text) for text in texts)
        return {}

    monkeypatch.setattr(languages, "shares", shares)
    stats.summary({"train": [talk(str(i)) for i in range(n)]})
    assert len(seen) == looked
    assert seen[0] == 0
    assert seen[-1] >= n - -(-n // looked)
    assert {b - a for a, b in pairwise(seen)} <= {n // looked, -(-n // looked)}


def test_a_missing_library_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    languages._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "lingua", None)
    found = stats.summary({"train": [talk(ENGLISH)]})
    assert found["languages"] == {}
    assert found["notes"] == [
        "languages were not looked for: telling languages apart needs lingua-language-detector; "
        "pip install 'mlx-persona[data]'"
    ]


def test_nothing_at_all_has_numbers_too() -> None:
    found = stats.summary({"train": []})
    assert (found["replies"], found["turns"], found["several_lines"]) == (0, {}, 0.0)
    assert sum(b["count"] for b in found["chars"]["histogram"]) == 0


_META = st.dictionaries(
    st.sampled_from(["chat", "id", "start", "tags"]),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["bucket", "tier", "performative"]), inner, max_size=3)
        ),
        max_leaves=5,
    ),
)


@given(metas=st.lists(_META, max_size=4))
def test_whatever_meta_holds_the_numbers_are_json(metas: list[dict[str, Any]]) -> None:
    found = stats.summary({"train": [talk("yes", **meta) for meta in metas]})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert sum(found["time"]["months"].values()) + found["time"]["undated"] == len(metas)
