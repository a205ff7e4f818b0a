"""Decisions by hand: what names a reply, the file, the sample, what a cleaning does with them, and the dialogue."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import review
from data_prep.curate import Draft
from data_prep.review import Decision, append, key, read_decisions
from data_prep.review_loop import CONTEXT_CHARS, CONTEXT_TURNS, END, HELP, Card, Summary
from data_prep.review_loop import review as sit
from data_prep.sessions import Turn
from data_prep.tags import BUCKETS
from mlx_persona.config import ReviewConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.schema import Conversation, Message, Role, write_jsonl

A, B = key("hi", "one"), key("hi", "two")


def talk(*replies: str, ask: str = "what about {}?") -> Conversation:
    """Each reply after a question that names it."""
    turns = [(Message("user", ask.format(reply)), Message("assistant", reply)) for reply in replies]
    return Conversation(tuple(itertools.chain(*turns)))


def draft(*said: tuple[Role, str]) -> Draft:
    return Draft([Turn(role, text) for role, text in said], "csv", "c", None, None)


def decisions(*made: Decision) -> dict[str, Decision]:
    return {d.key: d for d in made}


def edited(before: str, old: str, new: str) -> Decision:
    return Decision(key(before, old), "edit", text=new, becomes=key(before, new))


# What names a reply


def test_white_space_and_the_numbers_of_placeholders_do_not_count() -> None:
    assert key("ask [NAME_1] ", "yes,\n [NAME_2] did") == key(" ask\t[NAME_7]", "yes, [NAME_12]  did")


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [("hi there", "yes"), ("", "hi yes"), ("hi yes", ""), ("hi", "Yes"), ("hi", "[EMAIL_1]"), ("hi", "[NAME_x]")],
)
def test_other_words_are_another_reply(prompt: str, reply: str) -> None:
    assert key(prompt, reply) not in {key("hi", "yes"), key("hi", "[NAME_1]")}


def test_what_names_a_reply_stays_the_same_for_ever() -> None:
    """Files of decisions outlive versions: blake2b, 8 bytes, of "5 hi yo ok" (``b2sum -l 64``)."""
    assert key("hi yo", "ok") == "516f2abb302a3194"


# The file

ALL = [
    Decision(A, "keep", "2024-01-01T00:00:00+00:00"),
    Decision(A, "drop", "2024-01-01T00:00:01+00:00"),
    edited("hi", "two", 'zwei\n"2" \u2028'),
    Decision(key("", "x"), "tag", bucket="canonical_voice"),
]


def test_later_lines_win_and_everything_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/review.jsonl"
    for decision in ALL:
        append(path, decision)
    assert read_decisions(path) == decisions(*ALL)
    assert path.read_bytes().count(b"\n") == 4


def test_no_file_is_no_decisions(tmp_path: Path) -> None:
    assert read_decisions(tmp_path / "none.jsonl") == {}


def test_an_undo_brings_back_what_was_decided_before(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    undo = Decision(A, "undo")
    for decision in (ALL[0], ALL[1], ALL[2], undo):
        append(path, decision)
    assert read_decisions(path) == decisions(ALL[0], ALL[2])
    append(path, undo)
    assert read_decisions(path) == decisions(ALL[2])
    append(path, undo)  # of nothing
    append(path, ALL[1])
    assert read_decisions(path) == decisions(ALL[2], ALL[1])


def test_a_last_line_is_ignored_wherever_it_was_cut_off_and_the_next_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    whole = [json.dumps(d.to_json(), ensure_ascii=False).encode() for d in (ALL[0], ALL[2])]
    for end in range(len(whole[1])):
        path.write_bytes(whole[0] + b"\n" + whole[1][:end])
        assert read_decisions(path) == decisions(ALL[0])
        append(path, ALL[3])
        assert read_decisions(path) == decisions(ALL[0], ALL[3])


def test_a_whole_last_line_without_a_newline_counts_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    path.write_text("\n" + json.dumps(ALL[0].to_json()))
    assert read_decisions(path) == decisions(ALL[0])
    append(path, ALL[2])
    assert read_decisions(path) == decisions(ALL[0], ALL[2])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("\udcff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "a decision must be an object, got list"),
        ({}, "action must be one of keep, drop, edit, tag, undo, got None"),
        ({"action": ["keep"]}, "action must be one of keep, drop, edit, tag, undo, got ['keep']"),
        ({"action": "keep"}, "key must be 16 hexadecimal digits, got None"),
        ({"action": "undo", "key": "abc"}, "key must be 16 hexadecimal digits, got 'abc'"),
        ({"action": "keep", "key": A, "when": 3}, "when must be text, got 3"),
        ({"action": "edit", "key": A, "becomes": B}, "text must be non-empty text, got None"),
        ({"action": "edit", "key": A, "becomes": B, "text": " \n"}, "text must be non-empty text, got ' \\n'"),
        (
            {"action": "edit", "key": A, "becomes": B, "text": "\ud800"},
            "text is not valid Unicode (half of a surrogate pair)",
        ),
        ({"action": "edit", "key": A, "text": "x"}, "becomes must be 16 hexadecimal digits, got None"),
        ({"action": "tag", "key": A}, f"bucket must be one of {', '.join(BUCKETS)}, got None"),
        ({"action": "tag", "key": A, "bucket": ["x"]}, f"bucket must be one of {', '.join(BUCKETS)}, got ['x']"),
        ({"action": "tag", "key": A, "bucket": 1}, f"bucket must be one of {', '.join(BUCKETS)}, got 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = tmp_path / "review.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_bytes(f"\n{text}\n".encode(errors="surrogateescape"))
    with pytest.raises(PersonaError) as caught:
        read_decisions(path)
    assert caught.value.message == f"{path}:2: {message}"
    assert caught.value.hint == "mend that line, or delete it"


def test_a_folder_in_the_files_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=r"cannot read .*: Is a directory"):
        read_decisions(tmp_path)


@given(st.binary(max_size=200))
def test_any_bytes_give_decisions_or_an_error(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "review.jsonl"
        path.write_bytes(data)
        try:
            before = read_decisions(path)
        except PersonaError:
            return
        append(path, ALL[0])
        assert read_decisions(path) == before | decisions(ALL[0])


# The sample


def texts(replies: Iterable[review.Reply]) -> list[str]:
    return [reply.text for reply in replies]


def test_every_conversation_gives_one_reply_before_any_gives_a_second() -> None:
    chats = [talk(*(f"{name}{i}" for i in range(count))) for name, count in (("a", 1), ("b", 40), ("c", 2), ("d", 3))]
    shown = [text[0] for text in texts(review.sample(chats, 100, 0, ()))]
    assert [len(shown), sorted(shown[:4]), sorted(shown[4:7]), sorted(shown[7:9])] == [46, [*"abcd"], [*"bcd"], [*"bd"]]
    assert set(shown[9:]) == {"b"}


def test_a_long_conversation_is_not_first_more_often() -> None:
    chats = [talk(*(f"{name}{i}" for i in range(count))) for name, count in (("a", 60), ("b", 1), ("c", 1), ("d", 1))]
    first = [texts(review.sample(chats, 1, seed, ()))[0][0] for seed in range(200)]
    assert 30 < first.count("a") < 70


def test_those_not_decided_come_first_and_the_others_keep_their_order() -> None:
    chats = [talk("a", "b", "c"), talk("d", "e")]
    order = review.sample(chats, 9, 3, ())
    decided = {order[0].key, order[3].key}
    again = review.sample(chats, 9, 3, decided)
    assert texts(again) == texts([order[i] for i in (1, 2, 4, 0, 3)])
    assert texts(review.sample(chats, 2, 3, decided)) == texts(again)[:2]


def test_the_seed_fixes_the_sample() -> None:
    chats = [talk(*(f"{i} {j}" for j in range(4))) for i in range(8)]
    drawn = [tuple(texts(review.sample(chats, 6, seed, ()))) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_only_trained_replies_are_shown_and_what_was_said_twice_once() -> None:
    said = Message("user", "q"), Message("assistant", "same")
    aside = Message("user", "q"), Message("assistant", "aside", train=False)
    chats = [Conversation(said * 2 + aside), Conversation((Message("system", "be x"), *said)), Conversation(aside)]
    assert texts(review.sample(chats, 9, 0, ())) == ["same"]


def test_a_system_prompt_is_not_what_was_said_before() -> None:
    assert review.Reply(Conversation((Message("system", "x"), Message("assistant", "y"))), 1).key == key("", "y")
    assert review.Reply(Conversation((Message("assistant", "y"),)), 0).key == key("", "y")


# What a cleaning does with them

NONE = {"kept": 0, "dropped": 0, "edited": 0, "tagged": 0, "unmatched": 0}


def test_each_decision_does_what_it_says() -> None:
    made = draft(
        *(("user", "q1"), ("assistant", "bad")),
        *(("user", "q2"), ("assistant", "typo")),
        *(("user", "q3"), ("assistant", "tagged")),
        *(("user", "q4"), ("assistant", "fine")),
        *(("user", "q5"), ("assistant", "other")),
        *(("user", "q6"), ("assistant", "tagged too")),
    )
    counts = review.apply(
        [made],
        decisions(
            Decision(key("q1", "bad"), "drop"),
            edited("q2", "typo", "mended"),
            Decision(key("q3", "tagged"), "tag", bucket="pushback"),
            Decision(key("q6", "tagged too"), "tag", bucket="canonical_voice"),
            Decision(key("q4", "fine"), "keep"),
            Decision(key("q1", "other"), "drop"),
        ),
    )
    assert counts == {"kept": 1, "dropped": 1, "edited": 1, "tagged": 2, "unmatched": 1}
    assert [t.text for t in made.turns if t.role == "assistant"] == [
        *("bad", "mended", "tagged", "fine", "other", "tagged too")
    ]
    assert [t.aside for t in made.turns] == [None, "reviewed", *[None] * 10]
    assert list(made.meta["tags_by_hand"].items()) == [("5", "pushback"), ("11", "canonical_voice")]


def test_no_decisions_change_nothing() -> None:
    made = draft(("user", "q"), ("assistant", "a"))
    assert review.apply([made], {}) == NONE
    assert made == draft(("user", "q"), ("assistant", "a"))


def test_a_decision_holds_wherever_the_same_was_said() -> None:
    chats = [draft(("user", "q"), ("assistant", "a")), draft(("user", "q "), ("assistant", "a"))]
    assert review.apply(chats, decisions(Decision(key("q", "a"), "drop"))) == {**NONE, "dropped": 2}


def test_what_is_set_aside_already_keeps_its_reason_but_not_its_text() -> None:
    """An edit may have taken out what nobody should read."""
    chat = draft(("user", "q"), ("assistant", "a"), ("user", "q"), ("assistant", "secret"))
    chat.set_aside(1, "short")
    chat.set_aside(3, "short")
    counts = review.apply([chat], decisions(Decision(key("q", "a"), "drop"), edited("q", "secret", "hush")))
    assert counts == {**NONE, "edited": 1}
    assert chat.turns[1::2] == [Turn("assistant", "a", aside="short"), Turn("assistant", "hush", aside="short")]


def test_decisions_about_an_edited_reply_follow_the_edit() -> None:
    """The second review saw the first one's text."""
    first, second = edited("q", "a", "b"), edited("q", "b", "c")
    drop = Decision(key("q", "c"), "drop")
    chat = draft(("user", "q"), ("assistant", "a"))
    assert review.apply([chat], decisions(first, second, drop)) == {**NONE, "edited": 1, "dropped": 1}
    assert chat.turns[1] == Turn("assistant", "c", aside="reviewed")


def test_an_edit_that_was_edited_back_ends_with_the_first_text() -> None:
    chat = draft(("user", "q"), ("assistant", "a"))
    assert review.apply([chat], decisions(edited("q", "a", "b"), edited("q", "b", "a"))) == NONE
    assert chat.turns[1].text == "a"


def test_an_edit_of_white_space_alone_is_carried_out() -> None:
    chat = draft(("user", "q"), ("assistant", "a b"))
    review.apply([chat], decisions(edited("q", "a b", "a\nb")))
    assert chat.turns[1].text == "a\nb"


def test_a_reply_is_known_by_what_stood_before_it_before_edits() -> None:
    chat = draft(("assistant", "a"), ("assistant", "b"))
    review.apply([chat], decisions(edited("", "a", "x"), edited("a", "b", "y")))
    assert [t.text for t in chat.turns] == ["x", "y"]


def test_an_edited_reply_needs_no_more_asking() -> None:
    made = edited("q", "a", "b")
    assert review.decided_keys(decisions(made, ALL[0])) == {key("q", "a"), key("q", "b"), A}


# The dialogue

WORDS = ("tea", "rain", "music", "cats", "snow")

ASKED = "which bucket? " + "  ".join(f"{number}: {name}" for number, name in enumerate(BUCKETS, 1))


class Desk:
    """A terminal whose user types given keys, and leaves by Ctrl-D when there are no more."""

    def __init__(self, folder: Path, keys: Iterable[str | type[BaseException]] = (), edit: str | None = "new") -> None:
        self.file = folder / "review.jsonl"
        self.config = ReviewConfig(data=str(folder), file=str(self.file))
        self.shown: list[Card | str] = []
        self._keys, self._edit = iter(keys), edit

    def read_key(self) -> str:
        """The next key, or what was put in its place to be raised."""
        pressed = next(self._keys, EOFError)
        if isinstance(pressed, str):
            return pressed
        raise pressed

    def run(self) -> Summary:
        """The whole dialogue."""
        return sit(self.config, read_key=self.read_key, show=self.shown.append, edit=lambda text: self._edit)

    @property
    def titles(self) -> list[str]:
        """Of the replies as they were shown."""
        return [card.title for card in self.shown if isinstance(card, Card)]

    @property
    def said(self) -> list[str]:
        """The lines of news."""
        return [line for line in self.shown if isinstance(line, str)]

    @property
    def actions(self) -> list[tuple[str, str]]:
        """``(reply's key, action)`` of every line of the file."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [(value["key"], value["action"]) for value in map(json.loads, lines)]


@pytest.fixture
def desk(tmp_path: Path) -> Callable[..., Desk]:
    """``desk("kd", edit="new")`` before five conversations of a reply each."""
    write_data(tmp_path)
    return lambda keys="", **options: Desk(tmp_path, keys, **options)


def write_data(folder: Path) -> None:
    for name, words in (("train", WORDS[:3]), ("valid", WORDS[3:4]), ("test", WORDS[4:])):
        write_jsonl(folder / f"{name}.jsonl", [talk(word) for word in words])


def replies(desk: Desk) -> list[str]:
    return [card.reply for card in desk.shown if isinstance(card, Card)]


def asked(word: str) -> str:
    return key(f"what about {word}?", word)


def test_every_key_decides_about_the_reply_that_is_shown(desk: Callable[..., Desk]) -> None:
    one = desk("kdet4s")
    assert one.run() == Summary(4, kept=1, dropped=1, edited=1, tagged=1, left=1, file=str(one.file))
    order = replies(one)
    assert sorted(order) == sorted(WORDS)
    assert one.actions == [(asked(w), a) for w, a in zip(order, ("keep", "drop", "edit", "tag"), strict=False)]
    made = read_decisions(one.file)
    assert (made[asked(order[2])].text, made[asked(order[2])].becomes) == (
        "new",
        key(f"what about {order[2]}?", "new"),
    )
    assert made[asked(order[3])].bucket == "restraint"
    assert all(d.when.endswith("+00:00") for d in made.values())
    assert one.titles == [f"{i + 1} of 5, {int(i > 1)} dropped" for i in range(5)]
    assert one.said == [ASKED, END]


def test_keys_in_capitals_and_the_other_ways_to_keep(desk: Callable[..., Desk]) -> None:
    one = desk("K \r\nDq")
    assert one.run().kept == 4
    assert [action for _, action in one.actions] == ["keep"] * 4 + ["drop"]


def test_undo_goes_back_any_number_of_times_and_no_further(desk: Callable[..., Desk]) -> None:
    one = desk("ukdsuuuud")
    summary = one.run()
    assert one.said == ["nothing to undo", "nothing to undo"]
    order = replies(one)
    assert order[:7] == [*order[:4], order[2], order[1], order[0]]
    assert one.titles[3:7] == ["4 of 5, 1 dropped", "3 of 5, 1 dropped", "2 of 5, 0 dropped", "1 of 5, 0 dropped"]
    assert [action for _, action in one.actions] == ["keep", "drop", "undo", "undo", "drop"]
    assert read_decisions(one.file).keys() == {asked(order[0])}
    assert (summary.decided, summary.dropped, summary.left) == (1, 1, 4)


def test_after_the_last_one_there_is_still_undo(desk: Callable[..., Desk]) -> None:
    one = desk("dddddkud\rd")
    assert one.run().dropped == 5
    assert one.said == [END, END, END]
    assert [action for _, action in one.actions] == [*["drop"] * 5, "undo", "drop"]


def test_a_sitting_that_was_left_goes_on_with_those_not_decided(desk: Callable[..., Desk]) -> None:
    first, second = desk("kdq"), desk("t2")
    first.run()
    summary = second.run()
    assert replies(second)[:2] == [replies(first)[2], second.shown[-1].reply]  # type: ignore[union-attr]
    assert (summary.decided, summary.left) == (1, 2)


def test_those_decided_before_come_last_and_say_so(desk: Callable[..., Desk]) -> None:
    first = desk("kdet4q")
    first.run()
    again = desk("sssss")
    assert again.run() == Summary(0, kept=0, dropped=0, edited=0, tagged=0, left=1, file=str(again.file))
    assert again.titles[0] == "1 of 5, 0 dropped"
    assert sorted(title.partition("; ")[2] for title in again.titles[1:]) == [
        *("before: dropped", "before: edited", "before: kept", "before: tagged restraint")
    ]


def test_deciding_again_wins_and_undo_brings_back_the_first(desk: Callable[..., Desk]) -> None:
    desk("ddddd").run()
    before = read_decisions(desk().file)
    desk("kk").run()
    assert sorted(d.action for d in read_decisions(desk().file).values()) == ["drop", "drop", "drop", "keep", "keep"]
    desk("kkuu").run()
    now = read_decisions(desk().file)
    assert before.keys() == now.keys()
    assert sum(now[name].action == "keep" for name in now) == 2


@pytest.mark.parametrize("edit", [None, "", " \n", "same\n"])
def test_an_edit_that_changes_nothing_decides_nothing(tmp_path: Path, edit: str | None) -> None:
    write_jsonl(tmp_path / "train.jsonl", [talk("same")])
    one = Desk(tmp_path, "e", edit)
    assert one.run().left == 1
    assert one.said == ["nothing was changed"]
    assert one.actions == []


def test_an_edited_text_has_no_white_space_around_it(desk: Callable[..., Desk]) -> None:
    one = desk("e", edit=" a\n b \n")
    one.run()
    assert [d.text for d in read_decisions(one.file).values()] == ["a\n b"]


@pytest.mark.parametrize("pressed", ["x", "\x1b[A", "10", "²", "٣", ""])
def test_a_tag_needs_one_digit(desk: Callable[..., Desk], pressed: str) -> None:
    one = desk(["t", pressed, "q"])
    one.run()
    assert one.said[1:] == ["none of them, so it is not tagged"]
    assert one.actions == []


def test_help_and_keys_that_are_none(desk: Callable[..., Desk]) -> None:
    one = desk("?x")
    one.run()
    assert one.said == [HELP, "? shows the keys"]
    assert len(one.titles) == 1


def test_ctrl_c_keeps_everything(desk: Callable[..., Desk]) -> None:
    one = desk(["k", "d", "u", "t", KeyboardInterrupt])
    with pytest.raises(Interrupted) as caught:
        one.run()
    assert (caught.value.message, caught.value.hint) == (
        f"stopped: 1 of 5 decided, and kept in {one.file}",
        "the same command continues from there",
    )
    assert [d.action for d in read_decisions(one.file).values()] == ["keep"]


def test_every_decision_is_in_the_file_before_the_next_key(desk: Callable[..., Desk]) -> None:
    one = desk()
    seen: list[int] = []

    def read_key() -> str:
        seen.append(len(one.actions))
        return "kduq"[len(seen) - 1]

    sit(one.config, read_key=read_key, show=one.shown.append, edit=lambda text: None)
    assert seen == [0, 1, 2, 3]


def test_the_last_few_turns_are_shown_and_long_ones_by_their_end(tmp_path: Path) -> None:
    turns = [Message("user" if i % 2 == 0 else "assistant", f"turn {i}", train=False) for i in range(10)]
    turns += [Message("user", "x" * CONTEXT_CHARS + "end"), Message("assistant", "y" * 5000)]
    write_jsonl(tmp_path / "train.jsonl", [Conversation(tuple(turns))])
    one = Desk(tmp_path)
    one.run()
    card = one.shown[0]
    assert isinstance(card, Card)
    assert len(card.context) == CONTEXT_TURNS == 6
    assert [who for who, _ in card.context] == ["me", "them"] * 3
    assert card.context[0] == ("me", "turn 5")
    assert card.context[-1][1] == "... " + "x" * (CONTEXT_CHARS - 3) + "end"
    assert card.reply == "y" * 5000


def test_a_system_prompt_is_shown_as_what_it_is(tmp_path: Path) -> None:
    turns = Message("system", "be x"), Message("user", "q"), Message("assistant", "a")
    write_jsonl(tmp_path / "train.jsonl", [Conversation(turns)])
    one = Desk(tmp_path)
    one.run()
    assert one.shown == [Card("1 of 1, 0 dropped", (("system", "be x"), ("them", "q")), "a")]


def test_nothing_to_review_is_told(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=r"no data: .*train\.jsonl is missing"):
        Desk(tmp_path).run()
    write_jsonl(tmp_path / "valid.jsonl", [Conversation((Message("user", "hm"),))])
    with pytest.raises(PersonaError, match="has no reply that is trained on"):
        Desk(tmp_path).run()


def test_a_bad_line_stops_before_anything_is_asked(desk: Callable[..., Desk]) -> None:
    one = desk("k")
    one.file.write_text("{}\n")
    with pytest.raises(PersonaError, match=r"review\.jsonl:1: action must be"):
        one.run()
    assert one.shown == []


PRESSED = st.lists(st.sampled_from(["k", "d", "e", "t1", "t8", "tx", "s", "u", "?", "x", " "]), max_size=16)


@settings(max_examples=50)  # every decision is written to the disk
@given(PRESSED, PRESSED)
def test_undoing_all_of_any_keys_leaves_the_decisions_as_before(first: list[str], second: list[str]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        Desk(folder, "".join(first)).run()
        one = Desk(folder)
        before = read_decisions(one.file)
        summary = Desk(folder, "".join([*second, *["u"] * len(second), "q"])).run()
        assert read_decisions(one.file) == before
        assert summary.decided == 0
        assert summary.left == len(WORDS) - len(before)


@settings(max_examples=50)
@given(PRESSED)
def test_a_summary_counts_what_the_file_says(keys: list[str]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        one = Desk(folder, "".join(keys))
        summary = one.run()
        made = [d.action for d in read_decisions(one.file).values()]
        assert summary.decided == len(made) == len(WORDS) - summary.left
        assert (summary.kept, summary.dropped) == (made.count("keep"), made.count("drop"))
        assert (summary.edited, summary.tagged) == (made.count("edit"), made.count("tag"))
