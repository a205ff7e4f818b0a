"""What is kept, set aside and dropped; the account; the split; and what stays the same on a second run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import sources
from data_prep.files import Inputs
from data_prep.pipeline import Cleaning, process
from data_prep.report import Ledger
from data_prep.sources import Bad, RawConversation, RawMessage
from data_prep.split import chronological, sizes, split, timestamp
from mlx_persona.config import CleanConfig
from mlx_persona.errors import PersonaError
from mlx_persona.schema import Conversation, Message
from tests.data_prep.chats import ANNA, BOB, Cleaned, bursts, chat, good

Write = Callable[..., str]
Run = Callable[..., Cleaned]
LONG = "a long enough reply"


def test_a_short_reply_stays_as_context(jsonl: Write, run: Run) -> None:
    result = run(jsonl(chat(("user", "hi"), ("assistant", " yo "), ("user", "well?"), ("assistant", LONG))))
    assert result.turns == [
        [("user", "hi", True), ("assistant", "yo", False), ("user", "well?", True), ("assistant", LONG, True)]
    ]
    assert (result.report.kept, result.report.context, result.report.set_aside) == (1, 3, {"short": 1})
    assert result.report.person["short_share"] == 0.5


@pytest.mark.parametrize(("text", "trained"), [("123456789", False), ("1234567890", True), ("  123456789  ", False)])
def test_min_chars_counts_characters_without_space_around(jsonl: Write, run: Run, text: str, trained: bool) -> None:
    raw = jsonl(chat(("user", "hi"), ("assistant", text), ("user", "hm"), ("assistant", LONG)))
    assert run(raw).turns[0][1] == ("assistant", text.strip(), trained)


def test_min_chars_zero_keeps_every_reply(jsonl: Write, run: Run) -> None:
    result = run(jsonl(chat(("user", "hi"), ("assistant", "k"))), min_chars=0)
    assert (result.report.kept, result.report.dropped) == (1, {})


def test_min_chars_looks_at_the_joined_burst(whole: Write, run: Run) -> None:
    raw = whole({"c": bursts("2020-01-01T00:00", (BOB, "hi"), (ANNA, "hey"), (ANNA, "you"), (ANNA, "two"))})
    result = run(raw, me=(ANNA,))
    assert result.turns == [[("user", "hi", True), ("assistant", "hey\nyou\ntwo", True)]]
    assert result.report.kept == 3


def test_a_meta_reply_is_not_trained_on(jsonl: Write, run: Run) -> None:
    meta = "well. [request INTERRUPTED by user]"
    result = run(jsonl(chat(("user", "hi"), ("assistant", meta), ("user", "hm"), ("assistant", LONG))))
    assert result.turns[0][1] == ("assistant", meta, False)
    assert result.report.set_aside == {"meta": 1}
    own = run(jsonl(chat(("user", "hi"), ("assistant", meta))), meta_patterns=("something else",))
    assert own.turns[0][1] == ("assistant", meta, True)


def test_empty_messages_go(jsonl: Write, run: Run) -> None:
    raw = jsonl(chat(("user", "hi"), ("assistant", " "), ("user", "\n"), ("assistant", LONG)))
    result = run(raw)
    assert result.turns == [[("user", "hi", True), ("assistant", LONG, True)]]
    assert result.report.dropped == {"empty": 2}


def test_a_conversation_without_a_trained_reply_goes(jsonl: Write, run: Run) -> None:
    lost = chat(("user", "a"), ("assistant", "yo"), ("user", "b"), ("assistant", "[No response given"))
    result = run(jsonl(good(1), lost))
    assert len(result.turns) == 1
    assert result.report.dropped == {"no_trained_reply": 2, "meta": 1, "short": 1}


def test_what_follows_the_last_trained_reply_goes(jsonl: Write, run: Run) -> None:
    said = (("user", "hi"), ("assistant", LONG), ("user", "ok"), ("assistant", "bye"), ("user", "bye"))
    result = run(jsonl(chat(*said)))
    assert result.turns == [[("user", "hi", True), ("assistant", LONG, True)]]
    assert result.report.dropped == {"unanswered": 2, "short": 1}


def test_an_opener_has_no_context(jsonl: Write, run: Run) -> None:
    said = (("system", "s"), ("assistant", "welcome, stranger"), ("user", "hi"), ("assistant", LONG))
    result = run(jsonl(chat(*said)))
    assert result.turns == [[("user", "hi", True), ("assistant", LONG, True)]]
    assert result.report.dropped == {"opener": 1, "system_prompt": 1}


def test_the_system_prompt_is_stripped_or_replaced(jsonl: Write, run: Run) -> None:
    raw = jsonl(chat(("system", "You are a long prompt."), ("user", "hi"), ("assistant", LONG)), good(2))
    stripped, replaced = run(raw), None
    assert [turns[0][0] for turns in stripped.turns] == ["user", "user"]
    replaced = run(raw, system_prompt="You are Max.")
    assert [turns[0] for turns in replaced.turns] == [("system", "You are Max.", True)] * 2
    assert stripped.report.dropped == replaced.report.dropped == {"system_prompt": 1}
    assert (replaced.report.kept, replaced.report.context) == (2, 2)


def test_a_system_message_in_the_middle_goes_and_its_neighbours_join(jsonl: Write, run: Run) -> None:
    raw = jsonl(chat(("user", "a"), ("system", "s"), ("user", "b"), ("assistant", LONG)))
    assert run(raw).turns == [[("user", "a\nb", True), ("assistant", LONG, True)]]


def test_exact_duplicates_go_and_near_ones_stay(jsonl: Write, run: Run) -> None:
    almost = chat(("user", "question 1"), ("assistant", "a long enough reply 1!"))
    padded = chat(("system", "s"), ("user", " question 1"), ("assistant", "a long enough reply 1\n"))
    result = run(jsonl(good(1), almost, padded, good(1)))
    assert len(result.turns) == 2
    assert result.report.dropped == {"duplicate": 4, "system_prompt": 1}


def test_typos_and_inner_space_are_kept(jsonl: Write, run: Run) -> None:
    text = "i thinkk  its teh\n\n  bset \u200b thing evr!!1 😂 e\u0301"
    assert run(jsonl(chat(("user", "waht?"), ("assistant", text)))).turns == [
        [("user", "waht?", True), ("assistant", text, True)]
    ]


def test_replies_that_the_export_marks_are_context(jsonl: Write, run: Run) -> None:
    record = chat(("user", "a"), ("assistant", LONG), ("user", "b"), ("assistant", LONG), ("user", "c"))
    record["messages"][1]["train"] = False
    record["messages"][3]["weight"] = 0
    record["messages"].append({"role": "assistant", "content": LONG})
    result = run(jsonl(record))
    assert [train for role, _, train in result.turns[0] if role == "assistant"] == [False, False, True]
    assert result.report.set_aside == {"marked": 2}


@pytest.mark.parametrize("marked", [1, 2])
def test_a_marked_message_sets_its_whole_burst_aside(jsonl: Write, run: Run, marked: int) -> None:
    record = chat(("user", "a"), ("assistant", LONG), ("assistant", LONG), ("user", "b"), ("assistant", LONG))
    record["messages"][marked]["train"] = False
    assert run(jsonl(record)).turns[0][1] == ("assistant", f"{LONG}\n{LONG}", False)


def test_nothing_left_is_an_error_with_the_reasons(jsonl: Write, run: Run, tmp_path: Path) -> None:
    with pytest.raises(PersonaError) as caught:
        run(jsonl(chat(("user", "hi"), ("assistant", "yo"))))
    assert caught.value.message == "no conversation is left of 2 messages (dropped: no_trained_reply 1, short 1)"
    assert caught.value.hint == "--min-chars 0 keeps short replies"
    assert not (tmp_path / "out").exists()
    with pytest.raises(PersonaError) as caught:
        run(jsonl(chat(("assistant", LONG), ("user", "hi"))))
    assert caught.value.hint == "the person must answer somebody: is --me the right one?"


def test_the_report_is_written_and_has_the_agreed_keys(jsonl: Write, run: Run) -> None:
    result = run(jsonl(good(1), good(2), good(3), chat(("user", "x" * 200), ("assistant", "yo"))))
    written = json.loads((result.out / "report.json").read_text())
    assert written == result.report.to_json()
    agreed = {"read", "kept", "context", "dropped", "quarantined", "splits", "redacted", "seconds"}
    assert agreed <= written.keys()
    assert written["splits"] == {
        name: {"conversations": 1, "messages": 2, "replies": 1, "trained_replies": 1}
        for name in ("train", "valid", "test")
    }
    assert written["examples"] == {"no_trained_reply": ["x" * 120 + "..."], "short": ["yo"]}


_MESSAGES = st.builds(
    RawMessage,
    text=st.sampled_from(
        ["", " ", "k", "hello there friend", "hello there friend", "[No response]", "\nlonger than ten "]
    ),
    role=st.sampled_from(["system", "user", "assistant", "assistant", "user", "tool"]),
    sender=st.sampled_from([None, None, "me", "you"]),
    train=st.sampled_from([True, True, True, False]),
)
_SENT = st.builds(
    RawMessage, text=st.sampled_from(["", "k", "hello there friend", "yes"]), sender=st.sampled_from(["me", "a", "b"])
)
_CONVERSATION = st.lists(_MESSAGES, min_size=1, max_size=8) | st.lists(_SENT, min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    raws=st.lists(_CONVERSATION | st.none(), max_size=8),
    me=st.sampled_from([frozenset(), frozenset({"me"})]),
    min_chars=st.sampled_from([0, 1, 10]),
    prompt=st.sampled_from(["none", "You are Max."]),
)
def test_every_message_is_accounted_for_and_what_stays_is_sound(
    raws: list[list[RawMessage] | None], me: frozenset[str], min_chars: int, prompt: str
) -> None:
    items = [
        (sources.messages, Bad("f", i, "r", "t") if raw is None else RawConversation(str(i), tuple(raw)))
        for i, raw in enumerate(raws)
    ]
    config = CleanConfig(min_chars=min_chars, system_prompt=prompt)
    first = Cleaning(config, Inputs((), ()), me)
    out = process(items, first)
    ledger = first.ledger
    ledger.check()
    assert ledger.read == sum(1 if raw is None else len(raw) for raw in raws)
    assert len({tuple((m.role, m.content) for m in c.messages) for c in out}) == len(out)
    for conversation in out:
        roles = [m.role for m in conversation.messages]
        turns = roles[1:] if prompt != "none" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert conversation.messages[-1].train
        for m in conversation.messages:
            assert m.content == m.content.strip() != ""
            assert m.role != "assistant" or not m.train or len(m.content) >= min_chars
    # Cleaning what is clean changes nothing.
    again = [
        RawConversation("x", tuple(RawMessage(m.content, m.role, train=m.train) for m in c.messages), meta=c.meta)
        for c in out
    ]
    second = Cleaning(CleanConfig(min_chars=0, system_prompt=prompt), Inputs((), ()))
    assert process([(sources.messages, r) for r in again], second) == out
    assert set(second.ledger.dropped) <= {"system_prompt"}


def test_a_lost_message_is_noticed() -> None:
    ledger = Ledger(read=3, kept=1)
    with pytest.raises(RuntimeError, match="3 messages read, 1 accounted for"):
        ledger.check()


@given(
    n=st.integers(0, 200),
    valid=st.floats(0, 0.5, allow_nan=False),
    test=st.floats(0, 0.4999, allow_nan=False),
)
def test_sizes_of_the_splits(n: int, valid: float, test: float) -> None:
    parts = sizes(n, valid, test)
    assert sum(parts) == n
    assert min(parts) >= 0
    assert parts[0] >= 1 or n == 0
    if n >= 3:
        assert (parts[1] > 0) == (valid > 0)
        assert (parts[2] > 0) == (test > 0)


@pytest.mark.parametrize(
    ("n", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (10, (8, 1, 1)), (542, (434, 54, 54))]
)
def test_sizes_with_the_defaults(n: int, expected: tuple[int, int, int]) -> None:
    assert sizes(n, 0.1, 0.1) == expected


@given(starts=st.lists(st.integers(0, 50) | st.none(), max_size=40))
def test_the_split_is_disjoint_complete_and_chronological(starts: list[int | None]) -> None:
    every = [
        Conversation((Message("user", str(i)),), {} if start is None else {"start": start})
        for i, start in enumerate(starts)
    ]
    parts = split(every, 0.2, 0.2)
    together = [c for name in ("train", "valid", "test") for c in parts[name]]
    assert sorted(c.messages[0].content for c in together) == sorted(c.messages[0].content for c in every)
    order = [(-1 if c.meta.get("start") is None else c.meta["start"], int(c.messages[0].content)) for c in together]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("start", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-01 00:01:00", 60.0),
        (60, 60.0),
        (1_500_000_000_000, 1.5e9),
        ("yesterday", None),
        (float("nan"), None),
        (True, None),
        (None, None),
    ],
)
def test_timestamps(start: object, seconds: float | None) -> None:
    assert timestamp(start) == seconds


def test_undated_conversations_come_first() -> None:
    every = [Conversation((), m) for m in ({"start": 5}, {"id": "x"}, {"start": 1})]
    assert [c.meta for c in chronological(every)] == [{"id": "x"}, {"start": 1}, {"start": 5}]


def test_dates_of_records_and_messages_order_the_split(jsonl: Write, run: Run) -> None:
    records: list[dict[str, Any]] = [good(0), good(1), good(2), good(3)]
    records[0]["timestamp"] = "2024-01-04"
    records[1]["meta"] = {"start": "2024-01-03", "tag": "t"}
    records[2]["messages"][0]["timestamp"] = "2024-01-02"
    records[3]["create_time"] = 1_704_067_200  # 2024-01-01
    result = run(jsonl(*records))
    assert [c.meta["start"] for c in result.conversations] == [1_704_067_200, "2024-01-02", "2024-01-03", "2024-01-04"]
    assert result.conversations[2].meta == {
        "source": "messages",
        "id": "raw.jsonl:2",
        "start": "2024-01-03",
        "tag": "t",
    }


def test_fractions_must_leave_something_to_train_on(jsonl: Write, run: Run) -> None:
    with pytest.raises(PersonaError, match="must add up to less than 1, got 1"):
        run(jsonl(good(1)), valid_fraction=0.5, test_fraction=0.5)


def test_two_runs_write_the_same_bytes(export: str, run: Run, tmp_path: Path) -> None:
    first, second = run(export, me=(ANNA,), out=tmp_path / "1"), run(export, me=(ANNA,), out=tmp_path / "2")
    for name in ("train", "valid", "test"):
        assert (first.out / f"{name}.jsonl").read_bytes() == (second.out / f"{name}.jsonl").read_bytes()


def test_cleaning_the_cleaned_changes_nothing(export: str, run: Run, tmp_path: Path) -> None:
    first = run(export, me=(ANNA,))
    files = [str(first.out / f"{name}.jsonl") for name in ("train", "valid", "test")]
    second = run(*files, out=tmp_path / "again", min_chars=0)
    assert second.report.dropped == {}
    assert second.conversations == first.conversations
