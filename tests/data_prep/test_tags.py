"""Buckets, tiers and caricatures: the rules, their file, and a person's catch-phrases."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.catchphrases import SAMPLE, Catchphrases, Habits, gestures, words
from data_prep.tags import BUCKETS, TIERS, Condition, Rules, Tag, Tagger, load_rules, mix
from mlx_persona.errors import PersonaError

RULES = load_rules()
TAGGER = Tagger(RULES)
LONG = "so yesterday we went up to the lake and it was cold and windy and nobody else was there " * 3


@pytest.mark.parametrize(
    ("prompt", "reply", "bucket"),
    [
        ("how are you", "fine, just ate", "canonical_voice"),
        ("", "", "canonical_voice"),
        ("Кто там?", "Я не знаю, честно говоря", "canonical_voice"),
        ("你好", "我不知道", "canonical_voice"),
        ("did you like it", "I hate to say it but no", "difficult_honesty"),
        ("did you like it", "Honestly? It was awful.", "difficult_honesty"),
        ("did you like it", "Honestly? Yes.", "canonical_voice"),
        ("wie fandest du es", "Ehrlich gesagt ziemlich schlecht", "difficult_honesty"),
        ("¿te gustó?", "La verdad, no me gustó nada", "difficult_honesty"),
        ("t'as aimé ?", "Franchement j’aime pas trop", "difficult_honesty"),
        ("and?", "I shouldnt have said that", "difficult_honesty"),
        ("he is the best", "I disagree!", "pushback"),
        ("cats are better than dogs", "Nope. Dogs.", "pushback"),
        ("cats are better than dogs?", "Nope. Dogs.", "canonical_voice"),
        ("do you like cats", "no", "canonical_voice"),
        ("you never come", "no", "canonical_voice"),
        ("sorry about that my friend", "no worries", "canonical_voice"),
        ("we could leave at six", "not really, the bus is at five", "pushback"),
        ("das war doch gut", "Seh ich anders", "pushback"),
        ("fue el mejor", "Qué va, ni de lejos", "pushback"),
        ("c'était bien", "C’est pas vrai", "pushback"),
        ("what happened?", "I'd rather not talk about it", "restraint"),
        ("was ist los?", "Will ich nicht drüber reden", "restraint"),
        (LONG, "sounds cold", "restraint"),
        (LONG + "?", "sounds cold", "canonical_voice"),
        (LONG, "I hate cold", "canonical_voice"),
        (LONG, "sounds cold!", "canonical_voice"),
        ("say", "Let's go to teh park\nthe*", "imperfection_memory"),
        ("say", "Let's go to teh park\n*the", "imperfection_memory"),
        ("say", "2 * 3 * 4", "canonical_voice"),
        ("when", "oops, forgot", "imperfection_memory"),
        ("when", "I don't know", "imperfection_memory"),
        ("when", "Remember when we got lost?", "imperfection_memory"),
        ("wann", "keine Ahnung", "imperfection_memory"),
        ("cuándo", "no sé", "imperfection_memory"),
        ("quand", "Aucune idée", "imperfection_memory"),
        ("which", "It depends, both are nice", "exploration"),
        ("so", "What if the moon were closer?", "exploration"),
        ("welcher", "kommt drauf an", "exploration"),
        ("cuál", "Depende del día", "exploration"),
        ("lequel", "Ça dépend", "exploration"),
        # The first rule that fits.
        ("he is the best", "I disagree, but it depends", "pushback"),
        ("he is the best", "i must admit i disagree", "difficult_honesty"),
    ],
)
def test_a_reply_has_the_bucket_of_the_first_rule_that_fits(prompt: str, reply: str, bucket: str) -> None:
    assert TAGGER.tag(prompt, reply).bucket == bucket


@pytest.mark.parametrize(
    ("prompt", "reply", "tier"),
    [
        ("hi", "hi", "CORE"),
        ("hi", "my grandma passed away", "HIGH_RISK_EMOTIONAL"),
        ("my grandma passed away", "oh no", "HIGH_RISK_EMOTIONAL"),
        ("hi", "I had a panic attack haha", "CORE"),
        ("hi", "funeral potatoes", "CORE"),
        ("hi", "Meine Oma ist gestorben", "HIGH_RISK_EMOTIONAL"),
        ("hi", "Mi abuelo falleció ayer", "HIGH_RISK_EMOTIONAL"),
        ("hi", "Mon chat est mort", "HIGH_RISK_EMOTIONAL"),
        ("hi", "so what is the meaning of life", "PHILOSOPHICAL_LOW_FREQ"),
        ("so what is the meaning of life", "pizza", "CORE"),
        ("hi", "the meaning of life after the funeral", "HIGH_RISK_EMOTIONAL"),
        ("hi", "word " * 99, "CORE"),
        ("hi", "word " * 100, "LOW_FREQ"),
        ("hi", "THAT IS SO COOL", "LOW_FREQ"),
        ("hi", "that is so cool", "CORE"),
        ("hi", "NASA and ESA say so", "CORE"),
        ("hi", "- bread and milk\n- eggs\n- tea please", "LOW_FREQ"),
        ("hi", "- bread and milk\n- eggs or tea please", "CORE"),
    ],
)
def test_a_reply_has_the_tier_of_the_first_rule_that_fits(prompt: str, reply: str, tier: str) -> None:
    assert TAGGER.tag(prompt, reply).tier == tier


@pytest.mark.parametrize(
    ("reply", "performative"),
    [
        ("*nods* *winks slyly*", True),
        ("*nods* sure. *winks*", True),
        ("*nods* sure", False),
        ("I *really* mean *it*", False),
        ("**Step one** and **step two**", False),
    ],
)
def test_strings_of_stage_directions_are_performative(reply: str, performative: bool) -> None:
    assert TAGGER.tag("hi", reply).performative == performative


def test_weights_are_by_tier_and_smaller_for_caricature() -> None:
    tags = [Tag("pushback", tier, performative) for tier in TIERS for performative in (False, True)]
    assert [RULES.weight(tag) for tag in tags] == [1.0, 0.5, 0.5, 0.25, 0.5, 0.25, 0.25, 0.125]


# ---- The rules' file


def _load(folder: Path, text: str) -> Rules:
    file = folder / "my-tags.yaml"
    file.write_text(text, encoding="utf-8")
    return load_rules(file)


def test_what_a_users_file_does_not_have_is_the_default(tmp_path: Path) -> None:
    own = _load(tmp_path, "performative_weight: 0")
    assert own == Rules(RULES.rules, RULES.weights, 0.0)
    assert _load(tmp_path, "") == RULES


def test_a_users_rules_take_the_place_of_all_others(tmp_path: Path) -> None:
    own = _load(
        tmp_path,
        """
        rules:
          - {name: shield, bucket: canonical_voice, reply: {phrases: [i disagree with myself]}}
          - {name: mine, bucket: pushback, reply: {phrases: [i disagree]}}
          - {name: rare, tier: LOW_FREQ, prompt: {max_words: 1}}
        """,
    )
    tagger = Tagger(own)
    assert tagger.tag("a b", "I disagree") == Tag("pushback", "CORE")
    assert tagger.tag("a", "I disagree with myself") == Tag("canonical_voice", "LOW_FREQ")
    assert tagger.tag("a b", "I don't know") == Tag("canonical_voice", "CORE")
    assert own.weights == RULES.weights


@pytest.mark.parametrize(
    ("condition", "fitting", "others"),
    [
        ("phrases: [can't do, 'no']", ["I CAN’T DO it", "cant. do", "well, no."], ["can do", "nope", "know", ""]),
        ("phrases: [über]", ["ÜBER", "u\u0308ber"], ["uber", "darüber"]),
        ("starts: [oh well]", ["Oh, well done", "OH WELL"], ["so oh well", "oh", "oh wells"]),
        ("without: [ok]", ["fine", "", "okay"], ["ok", "that's OK!"]),
        ("signs: [😂, ':)']", ["a😂b", "ok:)"], [":", "ok", ""]),
        ("regex: '^b+$'", ["a\nBB", "b"], ["ab", "ba", ""]),
        ("min_words: 2", ["a b", "a, b, c"], ["a", "don't", ""]),
        ("max_words: 2", ["a b", "", "[NAME_1] a b"], ["a b c"]),
        ("question: true", ["so?", "really? \n", "？"], ["so", "? no", ""]),
        ("question: false", ["so", "? no", ""], ["so?"]),
        ("phrases: [a], max_words: 2", ["a b", "a"], ["b", "a b c"]),
    ],
)
@pytest.mark.parametrize("side", ["reply", "prompt"])
def test_conditions(tmp_path: Path, side: str, condition: str, fitting: list[str], others: list[str]) -> None:
    rules = _load(tmp_path, f"rules: [{{name: x, bucket: restraint, {side}: {{{condition}}}}}]")
    tagger = Tagger(rules)

    def fits(text: str) -> bool:
        prompt, reply = ("other", text) if side == "reply" else (text, "other")
        return tagger.tag(prompt, reply).bucket == "restraint"

    assert [fits(text) for text in fitting + others] == [True] * len(fitting) + [False] * len(others)


def test_conditions_on_both_sides_must_both_hold(tmp_path: Path) -> None:
    tagger = Tagger(
        _load(tmp_path, "rules: [{name: x, bucket: restraint, reply: {phrases: [a]}, prompt: {phrases: [b]}}]")
    )
    found = [tagger.tag(prompt, reply).bucket for prompt in ("a", "b") for reply in ("a", "b")]
    assert found == ["canonical_voice", "canonical_voice", "restraint", "canonical_voice"]


RULE = "rules: [{name: x, bucket: restraint, reply: %s}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "must hold a mapping"),
        ("wieghts: {}", "unknown key 'wieghts'"),
        ("weights: 3", ": weights must be a mapping, got int"),
        ("weights: {CORE: 1}", ": weights must have every tier, and LOW_FREQ is missing"),
        ("weights: {CORE: 1, MINE: 1}", ": weights: unknown key 'MINE'"),
        ("performative_weight: -1", ": performative_weight must be a number >= 0, got -1"),
        ("performative_weight: .nan", ": performative_weight must be a number >= 0, got nan"),
        ("performative_weight: .inf", ": performative_weight must be a number >= 0, got inf"),
        ("performative_weight: true", ": performative_weight must be a number >= 0, got True"),
        ("performative_weight: much", ": performative_weight must be a number >= 0, got 'much'"),
        ("rules: {}", ": rules must be a list, got dict"),
        ("rules: [3]", ": rules[0] must be a mapping, got int"),
        ("rules: [{bucket: restraint}]", ": rules[0].name must be text, got None"),
        ("rules: [{name: x, reply: {min_words: 1}}]", ": rules[0] (x) must have one of bucket, tier, performative"),
        ("rules: [{name: x, bucket: restraint, tier: CORE}]", ": rules[0] (x) must have one of bucket, tier,"),
        ("rules: [{name: x, bucket: restrained, reply: {}}]", ": rules[0] (x): unknown bucket 'restrained'"),
        ("rules: [{name: x, bucket: [], reply: {}}]", ": rules[0] (x): unknown bucket []"),
        ("rules: [{name: x, tier: core, reply: {}}]", ": rules[0] (x): unknown tier 'core'"),
        ("rules: [{name: x, performative: false, reply: {}}]", ": rules[0] (x).performative must be true"),
        ("rules: [{name: x, bucket: restraint}]", ": rules[0] (x) must have conditions on reply or prompt"),
        ("rules: [{name: x, bucket: restraint, answer: {}}]", ": rules[0] (x): unknown key 'answer'"),
        (RULE % "{}", ": rules[0] (x).reply must have a condition"),
        (RULE % "[]", ": rules[0] (x).reply must be a mapping, got list"),
        (RULE % "{phrase: [a]}", ": rules[0] (x).reply: unknown key 'phrase'"),
        (RULE % "{phrases: a}", ": rules[0] (x).reply.phrases must be a list, got str"),
        (RULE % "{phrases: []}", ": rules[0] (x).reply.phrases must not be empty"),
        (RULE % "{phrases: [a, no]}", ": rules[0] (x).reply.phrases must be a list of texts, and False is none"),
        (RULE % "{starts: [12]}", ": rules[0] (x).reply.starts must be a list of texts, and 12 is none"),
        (RULE % "{without: [😂]}", ": rules[0] (x).reply.without: '😂' has no word in it"),
        (RULE % "{signs: ['']}", ": rules[0] (x).reply.signs must be a list of texts, and '' is none"),
        (RULE % "{signs: []}", ": rules[0] (x).reply.signs must not be empty"),
        (RULE % "{regex: 3}", ": rules[0] (x).reply.regex must be text, got 3"),
        (RULE % "{regex: 'a(b'}", ": rules[0] (x).reply.regex is no regular expression: missing ), unterminated"),
        (RULE % "{regex: 'a{99999999999}'}", ": rules[0] (x).reply.regex is no regular expression: "),
        (RULE % "{min_words: 0}", ": rules[0] (x).reply.min_words must be a whole number >= 1, got 0"),
        (RULE % "{max_words: 1.5}", ": rules[0] (x).reply.max_words must be a whole number >= 1, got 1.5"),
        (RULE % "{max_words: true}", ": rules[0] (x).reply.max_words must be a whole number >= 1, got True"),
        (RULE % "{question: maybe}", ": rules[0] (x).reply.question must be true or false, got 'maybe'"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PersonaError, match=re.escape(message)) as caught:
        _load(tmp_path, text)
    assert "my-tags.yaml" in caught.value.message


def test_hints_help(tmp_path: Path) -> None:
    with pytest.raises(PersonaError) as caught:
        _load(tmp_path, RULE % "{phrases: [no]}")
    assert caught.value.hint == 'quote it: "no", "on", "12"'
    with pytest.raises(PersonaError) as caught:
        _load(tmp_path, RULE % "{phrasse: [a]}")
    assert caught.value.hint == "did you mean phrases?"


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="no such config file"):
        load_rules(tmp_path / "none.yaml")


# ---- Properties

ANY = st.text(st.characters(exclude_categories=()))
SAID = [p.strip() for rule in RULES.rules if rule.reply for p in (*rule.reply.phrases, *rule.reply.starts)]
PIECES = st.sampled_from([*SAID[::7], "no", "well", "?", "!", "\n", "haha", "word*", "SO VERY COOL"])
TEXTS = st.lists(PIECES, max_size=12).map(" ".join)


def _slowly(prompt: str, reply: str) -> tuple[str, str]:
    """The bucket and tier, each rule asked in turn."""
    found = {"tier": "CORE", "bucket": "canonical_voice"}
    for rule in reversed(RULES.rules):
        sides = [(rule.reply, reply), (rule.prompt, prompt)]
        if all(condition is None or _holds(condition, text) for condition, text in sides):
            found[rule.kind] = rule.value
    return found["bucket"], found["tier"]


def _holds(condition: Condition, text: str) -> bool:
    said = f" {' '.join(words(text))} "
    count = len(words(text))
    return all(
        (
            not condition.phrases or any(p in said for p in condition.phrases),
            not condition.starts or any(said.startswith(p) for p in condition.starts),
            not any(p in said for p in condition.without),
            not condition.signs or any(sign in text for sign in condition.signs),
            condition.regex is None or condition.regex.search(text),
            (condition.min_words or 0) <= count <= (condition.max_words or count),
            condition.question in (None, text.rstrip().endswith("?")),
        )
    )


@given(TEXTS, TEXTS)
def test_the_index_finds_what_asking_every_rule_finds(prompt: str, reply: str) -> None:
    tag = TAGGER.tag(prompt, reply)
    assert (tag.bucket, tag.tier) == _slowly(prompt, reply)


@given(ANY, ANY)
def test_any_text_has_a_tag(prompt: str, reply: str) -> None:
    tag = TAGGER.tag(prompt, reply)
    assert tag.bucket in BUCKETS
    assert tag.tier in TIERS
    assert tag == TAGGER.tag(prompt, reply)


@given(ANY)
def test_words_of_ascii_are_words_like_others(text: str) -> None:
    assert words("é " + text) == ["é", *words(text)]


@pytest.mark.parametrize(
    "unit", ["A", "*a ", "*ab*. ", "no ", "- a\n", "-", "AB 1", "n't ", "!?. ", "haha", "“ ", "not very "]
)
def test_no_rule_is_slow_on_a_huge_text(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    began = time.process_time()
    TAGGER.tag(text, text)
    assert time.process_time() - began < 2


# ---- Catch-phrases


def _collect(pairs: list[tuple[str, str]]) -> Habits:
    found = Catchphrases()
    for prompt, reply in pairs:
        found.add(prompt, reply)
    return found.habits()


ORDINARY = [(f"what about day{i} and the thing{i}", f"place{i} man{i}") for i in range(190)]
STACK = "Holy moly! Living the dream, you know the drill"


def _person(per_phrase: int) -> list[tuple[str, str]]:
    said = ["holy moly", "Living the dream...", "you know the drill"]
    return ORDINARY + [("and the thing", s) for s in said for _ in range(per_phrase)]


def test_catchphrases_are_what_a_person_says_often_and_others_do_not() -> None:
    assert _collect(_person(5)).phrases == {
        *{("holy", "moly"), ("living", "the"), ("the", "dream"), ("living", "the", "dream"), ("you", "know")},
        *{("know", "the"), ("the", "drill"), ("you", "know", "the"), ("know", "the", "drill")},
        ("you", "know", "the", "drill"),
    }


def test_what_is_in_four_replies_is_no_catchphrase() -> None:
    assert _collect(_person(4)).phrases == frozenset()


def test_what_is_in_less_than_half_a_percent_is_no_catchphrase() -> None:
    many = _person(5) + [("and the thing", f"a{i} b{i}") for i in range(1000)]
    assert _collect(many).phrases == frozenset()


def test_what_the_others_say_as_often_is_no_catchphrase() -> None:
    """Six against eleven among twice as many words: nothing is said three times as often."""
    own = _collect(_person(5) + [("holy moly", "ok")] * 5).phrases
    assert ("holy", "moly") not in own
    assert ("living", "the", "dream") in own


def test_function_words_alone_are_no_catchphrase() -> None:
    pairs = [("and the thing and the", f"x{i} the and") for i in range(40)]
    assert _collect(pairs).phrases == frozenset()


def test_without_prompts_there_is_nothing_to_compare_with() -> None:
    assert _collect([("", reply) for _, reply in _person(20)]).phrases == frozenset()


def test_names_behind_placeholders_are_no_catchphrase() -> None:
    assert _collect(ORDINARY + [("and the thing", "[NAME_1] [PHONE_2]")] * 50).phrases == frozenset()


def test_three_catchphrases_in_one_short_reply_are_performative() -> None:
    habits = _collect(_person(5))
    tagger = Tagger(RULES, habits)
    replies = [
        STACK,
        STACK + " word" * 51,  # 60 words
        STACK + " word" * 52,
        "Holy moly! Living the dream",
        "Holy moly! Living the dream. Holy moly!",
        "",
    ]
    assert [tagger.tag("hi", r).performative for r in replies] == [True, True, False, False, False, False]
    assert not TAGGER.tag("hi", STACK).performative


def test_a_phrase_in_a_longer_one_is_not_counted_twice() -> None:
    habits = _collect(_person(5))
    assert habits.found(words(STACK)) == {
        ("holy", "moly"),
        ("living", "the", "dream"),
        ("you", "know", "the", "drill"),
    }


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("hello", 0),
        ("", 0),
        ("!!!", 3),
        ("ha!", 1),
        ("hahaha", 3),
        ("JAJAJAJA", 4),
        ("soooo", 2),
        ("aaaa", 2),
        ("noon 1111 anna", 0),
        ("😂😂 ok ❤️", 3),
        ("хахаха", 3),
        ("ㅋㅋㅋㅋ", 2),
    ],
)
def test_gestures_are_counted(text: str, count: int) -> None:
    assert gestures(text, words(text)) == count


def test_more_gestures_than_in_99_of_100_replies_are_performative() -> None:
    pairs = [("hi", "so" + "!" * n) for n in range(200)]
    habits = _collect(pairs)
    assert habits.gestures == 197
    assert [habits.overdone("so" + "!" * n, ["so"]) for n in (197, 198)] == [False, True]


def test_few_gestures_are_no_caricature_of_anybody() -> None:
    habits = _collect(ORDINARY)
    assert habits.gestures == 0
    assert [habits.overdone("!" * n, []) for n in (6, 7)] == [False, True]


def test_the_first_replies_and_the_last_count_alike_in_a_bounded_sample() -> None:
    """A fifth of 4 x 10,000 replies at either end says so; the sample has about a fifth of either."""
    found = Catchphrases()
    for i in range(4 * SAMPLE):
        fifth = i * 5 // (4 * SAMPLE)
        found.add(f"and thing{i}", "early bird" if fifth == 0 else "late riser" if fifth == 4 else f"w{i} v{i}")
    sample = [reply for _, reply in found._sample]
    assert len(sample) == SAMPLE
    for phrase in ("early bird", "late riser"):
        assert 0.18 < sample.count(phrase) / SAMPLE < 0.22
    assert found.habits().phrases == {("early", "bird"), ("late", "riser")}


def test_habits_are_the_same_every_time() -> None:
    pairs = _person(7)
    random.Random(3).shuffle(pairs)
    assert _collect(pairs) == _collect(pairs)


def test_nothing_has_no_habits() -> None:
    assert _collect([]) == Habits(frozenset(), 0)


# ---- The mix


def test_the_mix_stands_beside_the_papers() -> None:
    tags = [Tag("canonical_voice", "CORE")] * 5 + [Tag("pushback", "CORE", True)] * 2 + [Tag("pushback", "LOW_FREQ")]
    found = mix(iter(tags))
    assert found["replies"] == 8
    assert found["buckets"]["canonical_voice"] == {"replies": 5, "share": 0.625, "target": 0.45}
    assert found["buckets"]["pushback"] == {"replies": 3, "share": 0.375, "target": 0.11}
    assert found["buckets"]["restraint"] == {"replies": 0, "share": 0.0, "target": 0.09}
    assert list(found["buckets"]) == list(BUCKETS)
    assert found["tiers"] == {
        "CORE": {"replies": 7, "share": 0.875},
        "LOW_FREQ": {"replies": 1, "share": 0.125},
        "PHILOSOPHICAL_LOW_FREQ": {"replies": 0, "share": 0.0},
        "HIGH_RISK_EMOTIONAL": {"replies": 0, "share": 0.0},
    }
    assert found["performative"] == {"replies": 2, "share": 0.25}


def test_the_mix_of_nothing_is_nothing() -> None:
    found = mix([])
    assert found["replies"] == 0
    assert found["buckets"]["canonical_voice"] == {"replies": 0, "share": 0.0, "target": 0.45}


def test_the_papers_shares_are_whole() -> None:
    assert round(sum(BUCKETS.values()), 9) == 1
