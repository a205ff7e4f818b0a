"""The page of a cleaning: well-formed, complete, alone, and safe whatever was said in the chats."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_prep.page import MAX_BARS, REASONS, REDACTED, _months, page
from data_prep.report import EXAMPLE_CHARS, Ledger
from data_prep.sessions import Turn
from data_prep.sources import base
from tests import pagekit
from tests.data_prep.chats import ANNA, Cleaned, chat, good
from tests.pagekit import EVIL


class Parsed(pagekit.Parsed):
    """The page of a cleaning."""

    @property
    def headings(self) -> list[str]:
        """The sections' titles, from the source: a heading holds text only."""
        return [self.texts[i].strip() for i in range(len(self.texts)) if self.texts[i].strip() in SECTIONS]


SECTIONS = (
    "Where the messages went",
    "Replies that are not trained on",
    "Personal data",
    "How long the replies are",
    "When",
    "With whom",
    "Languages",
    "What kinds of replies",
    "For training and for testing",
    "Notes",
)


def report(**changes: Any) -> dict[str, Any]:
    """A report with something in every part, and different counts."""
    histogram = [{"from": 0, "to": 9, "count": 4321}, {"from": 10, "to": None, "count": 5432}]
    spread = {"min": 21, "p10": 22, "median": 23, "mean": 24.5, "p90": 25, "max": 26000}
    return {
        "read": 100_000,
        "kept": 40_011,
        "context": 30_012,
        "dropped": {"not_in_conversation": 29_013, "opener": 914, "no_such_reason": 15},
        "quarantined": 35,
        "splits": {
            "train": {"conversations": 1601, "messages": 1602, "replies": 1603, "trained_replies": 1604},
            "valid": {"conversations": 171, "messages": 172, "replies": 173, "trained_replies": 174},
            "test": {"conversations": 181, "messages": 182, "replies": 183, "trained_replies": 184},
        },
        "redacted": {"NAME": 1901, "CARD": 192},
        "seconds": 12.345,
        "out": "data/clean",
        "sources": {"whatsapp": 201, "telegram": 202},
        "person": {"names": ["Anna"], "replies": 50_021, "short_share": 0.1652},
        "set_aside": {"short": 2201, "near_duplicate": 222},
        "examples": {"opener": ["hello you", ""], "no_such_reason": ["what?"]},
        "leaked": 47,
        "stats": {
            "replies": 1604 + 174 + 184,
            "chars": {**spread, "histogram": histogram},
            "words": {**spread, "median": 7, "histogram": histogram},
            "tokens": {**spread, "median": 41, "histogram": histogram},
            "several_lines": 0.4217,
            "turns": {**spread, "max": 777},
            "contacts": {"count": 2301, "largest": 0.3456, "named": True},
            "time": {
                "first": "2018-11-05",
                "last": "2019-02-07",
                "months": {"2018-11": 241, "2019-02": 242},
                "undated": 243,
            },
            "tags": {
                "replies": 1604 + 174 + 184,
                "buckets": {
                    "canonical_voice": {"replies": 1251, "share": 0.6376, "target": 0.45},
                    "exploration": {"replies": 711, "share": 0.3624, "target": 0.12},
                },
                "tiers": {"CORE": {"replies": 1261, "share": 0.6427}, "LOW_FREQ": {"replies": 262, "share": 0.1335}},
                "performative": {"replies": 27, "share": 0.0138},
            },
            "languages": {"en": 0.7071, "tlh": 0.2, "unsure": 0.0929},
            "notes": ["a note on numbers"],
        },
        "notes": ["a note on reading"],
        **changes,
    }


def counts(value: Any) -> Iterator[int]:
    """Every whole number in a report that counts something."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from () if key in ("from", "to") else counts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from counts(inner)
    elif isinstance(value, int):
        yield value


def test_every_count_of_the_report_is_on_the_page() -> None:
    shown = report()
    text = Parsed(page(shown)).text
    numbers = set(re.findall(r"[\d,]+", text))
    assert {n for n in counts(shown) if f"{n:,}" not in numbers} == set()
    for share in ("40.0 %", "30.0 %", "29.0 %", "0.9 %", "under 0.1 %", "16.5 %", "42.2 %", "34.6 %", "70.7 %"):
        assert share in text
    assert f"{1601 + 171 + 181:,} conversations" in text


def test_a_page_has_all_sections_in_order() -> None:
    parsed = Parsed(page(report()))
    assert parsed.headings == list(SECTIONS)
    assert parsed.tags[0] == ("html", {"lang": "en"})
    assert "Cleaned chats of Anna" in parsed.text
    assert "The length limit drops 16.5 % of the 50,021 replies; --min-chars 0 keeps all." in parsed.text
    assert "2018-11-05 to 2019-02-07" in parsed.text
    assert "201 whatsapp, 202 telegram" in parsed.text
    assert "nearly the same as one that is trained on: 47." in parsed.text
    assert [parsed.items[i] for i in (-2, -1)] == ["a note on reading", "a note on numbers"]


def test_examples_and_sentences_stand_with_their_reasons() -> None:
    parsed = Parsed(page(report()))
    assert parsed.items[:3] == ["hello you", "(nothing)", "what?"]
    assert f"opener {REASONS['opener']} examples hello you" in parsed.text
    assert "no_such_reason examples what?" in parsed.text


def test_the_mix_stands_beside_the_paper_s() -> None:
    text = Parsed(page(report())).text
    assert "canonical_voice 1,251 63.8 % 45.0 % exploration 711 36.2 % 12.0 %" in text
    assert "CORE 1,261 64.3 % LOW_FREQ 262 13.4 %" in text
    assert "sounds performed 27 1.4 %" in text


def test_the_bar_and_the_months_are_drawn_to_scale() -> None:
    parsed = Parsed(page(report()))
    styles = [a["style"] for tag, a in parsed.tags if tag == "span" and "title" in a]
    assert styles == [f"flex:{n} 0 0" for n in (40_011, 30_012, 29_013, 914, 15, 35)]
    rects = [(a["x"], a["height"]) for tag, a in parsed.tags if tag == "rect"]
    assert rects == [("0", "39.83"), ("3", "40.00")]
    bars = [a["style"] for tag, a in parsed.tags if tag == "span" and (a.get("style") or "").startswith("width")]
    assert bars == ["width:79.5%", "width:100.0%"] * 3


def test_lengths_in_tokens_stand_with_the_others_where_they_were_counted() -> None:
    text = Parsed(page(report())).text
    assert "words 21 22 7 24.5 25 26,000 tokens 21 22 41 24.5 25 26,000 turns" in text
    assert "Replies by their tokens: 0 to 9 4,321" in text
    shown = report()
    shown["stats"]["tokens"] = {}
    text = Parsed(page(shown)).text
    assert "words 21 22 7 24.5 25 26,000 turns" in text
    assert "Replies by their tokens" not in text


def test_nothing_is_loaded_and_nothing_runs() -> None:
    text = page(report(examples={"opener": ["see https://example.com/x.png", EVIL]}))
    for tag, attributes in Parsed(text).tags:
        assert tag not in {"script", "link", "iframe", "img", "object", "embed", "base", "form", "a"}
        assert not {"src", "href", "srcset", "data", "action"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    [policy] = [a["content"] for tag, a in Parsed(text).tags if tag == "meta" and "http-equiv" in a]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def hostile(text: str) -> dict[str, Any]:
    """A report with a text wherever one may come from outside."""
    shown = report(
        examples={text: [text], "opener": [text]},
        dropped={text: 3, "opener": 4},
        set_aside={text: 5},
        redacted={text: 6},
        notes=[text],
        sources={text: 1},
        out=text,
        person={"names": [text], "replies": 7, "short_share": 0.5},
    )
    one = {"replies": 1, "share": 1.0}
    shown["stats"]["tags"] = {"buckets": {text: one | {"target": 0.5}}, "tiers": {text: one}, "performative": one}
    shown["stats"]["languages"] = {text: 1.0}
    shown["stats"]["notes"] = [text]
    return shown


def test_markup_in_the_chats_is_text() -> None:
    text = page(hostile(EVIL))
    assert "<script" not in text
    assert "<img" not in text
    parsed = Parsed(text)
    assert parsed.items == [EVIL, EVIL, EVIL, EVIL]
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in Parsed(page(hostile("x"))).tags]


@given(text=st.text(st.characters(exclude_categories=()), max_size=30))
def test_whatever_the_chats_hold_the_page_is_whole(text: str) -> None:
    assume(text not in REASONS and text not in REDACTED)  # these are explained
    made = page(hostile(text))
    made.encode()
    assert [tag for tag, _ in Parsed(made).tags] == [tag for tag, _ in Parsed(page(hostile("x"))).tags]


def test_a_report_with_nothing_in_it_has_a_page() -> None:
    shown = report(
        dropped={},
        quarantined=0,
        redacted={},
        set_aside={},
        examples={},
        leaked=None,
        notes=[],
        sources={},
        person={"names": [], "replies": 3, "short_share": 0.0},
    )
    stats = shown["stats"]
    stats["tags"], stats["languages"], stats["notes"] = {}, {}, []
    stats["contacts"] = {"count": 3, "largest": 0.4, "named": False}
    stats["time"] = {"first": None, "last": None, "months": {}, "undated": 0}
    parsed = Parsed(page(shown))
    assert parsed.headings == [s for s in SECTIONS if s not in {"When", "Languages", "What kinds of replies", "Notes"}]
    assert "Cleaned chats of the person" in parsed.text
    assert "None of the 3 replies is under the length limit." in parsed.text
    assert "The export does not say which conversations are with the same people." in parsed.text
    assert "Nobody looked" in parsed.text
    assert "No held-out reply" in Parsed(page(report(leaked=0))).text


def test_months_without_a_conversation_are_gaps() -> None:
    assert _months({"2018-11": 2, "2019-01": 3}) == [("2018-11", 2), ("2018-12", 0), ("2019-01", 3)]


@given(months=st.dictionaries(st.integers(12, 119_999), st.integers(1, 9), min_size=1, max_size=6))
def test_months_are_few_enough_to_draw_and_none_is_lost(months: dict[int, int]) -> None:
    bars = _months({f"{m // 12:04}-{m % 12 + 1:02}": n for m, n in sorted(months.items())})
    assert len(bars) <= MAX_BARS
    assert sum(n for _, n in bars) == sum(months.values())
    assert bars[0][1] > 0
    assert bars[-1][1] > 0


def test_every_reason_that_is_known_has_a_sentence() -> None:
    kinds = {base.SERVICE, base.DELETED, base.MEDIA, base.REACTION, base.FORWARDED, base.GROUP}
    replies = {"marked", "meta", "links", "long", "code", "short", "language", "boilerplate", "near_duplicate"}
    messages = {"tool_call", "empty", "system_prompt", "opener", "unanswered", "no_trained_reply", "outside_dates"}
    assert kinds | replies | messages | {"duplicate", "not_in_conversation", "over_cap"} <= REASONS.keys()


def test_a_cleaning_writes_its_page(jsonl: Callable[..., str], run: Callable[..., Cleaned]) -> None:
    lost = chat(("user", EVIL), ("assistant", "yo"))
    result = run(jsonl(*(good(i) for i in range(30)), lost, "{"))
    written = (result.out / "report.html").read_text(encoding="utf-8")
    account = json.loads((result.out / "report.json").read_text(encoding="utf-8"))
    assert written == page(account)
    assert account["stats"]["replies"] == 30
    assert EVIL in Parsed(written).items
    assert {f"{n:,}" for n in account["dropped"].values()} <= set(re.findall(r"[\d,]+", Parsed(written).text))


def test_the_page_says_who_and_when(export: str, run: Callable[..., Cleaned]) -> None:
    text = Parsed((run(export, me=(ANNA,)).out / "report.html").read_text(encoding="utf-8")).text
    assert f"Cleaned chats of {ANNA}" in text
    assert "2018-05-01 to 2018-05-03" in text


def test_examples_are_hidden_before_they_are_cut() -> None:
    ledger = Ledger(hide=lambda text: text.replace("4111 1111", "[CARD_1]"))
    ledger.drop("opener", [Turn("assistant", "x" * (EXAMPLE_CHARS - 4) + "4111 1111")])
    made = ledger.report({}, out="", sources={}, names=[], leaked=None, notes=[])
    assert made.examples == {"opener": ["x" * (EXAMPLE_CHARS - 4) + "[CAR..."]}


def test_only_the_examples_that_are_shown_are_hidden() -> None:
    seen: list[str] = []

    def hide(text: str) -> str:
        seen.append(text)
        return text

    ledger = Ledger(hide=hide)
    ledger.drop("opener", [Turn("assistant", str(i)) for i in range(9)])
    assert seen == []
    ledger.report({}, out="", sources={}, names=[], leaked=None, notes=[])
    assert seen == ["0", "1", "2"]


@pytest.mark.parametrize(("chars", "shown"), [(120, 120), (121, 123), (5000, 123)])
def test_long_examples_are_cut(chars: int, shown: int) -> None:
    ledger = Ledger()
    ledger.drop("opener", [Turn("assistant", "x" * chars)])
    made = ledger.report({}, out="", sources={}, names=[], leaked=None, notes=[])
    assert [len(text) for text in made.examples["opener"]] == [shown]
