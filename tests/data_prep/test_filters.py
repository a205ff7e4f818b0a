"""Which replies are not trained on, and why."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.filters import (
    Rules,
    code_dump,
    content_key,
    judge,
    links_only,
    message_reason,
    meta,
    reply_reason,
    too_long,
    without_urls,
)
from data_prep.sessions import Turn

LINKS = [
    "https://example.org/a?b=c#d",
    "http://example.org",
    "HTTPS://EXAMPLE.ORG/",
    "www.example.org",
    "Www.example.org/x",
    "youtu.be/dQw4w9WgXcQ",
    "open.music.example/track/4uLU6hMCjMI75M1A2tKUQC",
    "https://example.org/a\nhttps://example.org/b",
    "(https://example.org), <https://example.org/c>!",
    "https://de.example.org/wiki/Köln",
    "tg://resolve?domain=x",
    "→ https://example.org/a …".replace("→", "—"),
    "https://example.org/a。",
    "https://example.org/a :)",
]
NO_LINKS = [
    "look https://example.org/a",
    "https://example.org/a lol",
    "https://example.org/a 😂",
    "https://example.org/a😂",
    "https://example.org/a看这个",
    "...",
    "?!",
    "",
    "either/or",
    "example.org",
    "e.g. this",
    "24/7",
    "10.5/10",
]


@pytest.mark.parametrize("text", LINKS)
def test_nothing_but_urls_is_links(text: str) -> None:
    assert links_only(text) == "links"


@pytest.mark.parametrize("text", NO_LINKS)
def test_a_word_or_an_emoji_beside_a_url_is_a_reply(text: str) -> None:
    assert links_only(text) is None


def test_urls_are_taken_out_and_nothing_else() -> None:
    assert without_urls("see https://example.org/a?b=1, and/or www.example.org ok") == "see  and/or  ok"


CODE = {
    "python": 'def area(r):\n    """Of a circle."""\n    # in metres\n    return 3.14 * r ** 2',
    "python without def": "import os\nx = os.getcwd()\nprint(x)",
    "python traceback": (
        'Traceback (most recent call last):\n  File "app.py", line 3, in <module>\n    main()\nKeyError: 3'
    ),
    "a word and a traceback": (
        "help\nTraceback (most recent call last):\n"
        '  File "app.py", line 3, in <module>\n    main()\n  File "a.py", line 9, in f\n    print(d[3])\nKeyError: 3'
    ),
    "java trace": (
        "java.lang.NullPointerException: shop is null\n\tat org.example.Shop.open(Shop.java:12)\n\t... 3 more"
    ),
    "javascript trace": "TypeError: x is undefined\n    at open (/srv/shop.js:12:5)\n    at /srv/main.js:3:1",
    "java": "public class Shop {\n  private int size;\n  public int size() { return size; }\n}",
    "javascript": "const a = items.map((i) => {\n  return i.price;\n});",
    "c": '#include <stdio.h>\nint main(void) {\n  puts("hi");\n  return 0;\n}',
    "macros": "#define A 1\n#define B 2",
    "css": "a:hover {\n  color: red;\n  margin: 0;\n}",
    "html": '<div class="a">\n<p>hello</p>\n</div>',
    "xml": '<?xml version="1.0"?>\n<a/>',
    "json": '{"name": "x", "items": [1, 2]}',
    "json over lines": '{\n  "name": "x",\n  "items": [\n    1\n  ]\n}',
    "log": "2024-01-31 10:11:12,123 INFO started\n2024-01-31 10:11:13,456 WARNING slow: shop",
    "java log": "2024-01-31 10:11:12.123  [main] org.example.Shop INFO : open\n2024-01-31 10:11:13.000 [x] WARN: slow",
    "log with time only": "[10:11:12] [main/ERROR]: shop is closed",
    "syslog": "Jan 31 10:11:12 box sshd[123]: closed by 192.0.2.1\nJan  1 10:11:13 box sshd[123]: bye",
    "diff": "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,2 @@\n-a word\n+another word\n same",
    "hunk": "@@ -1,2 +1,2 @@\n-a word was here\n+another word is here",
    "sql": "SELECT name FROM shops WHERE open = 1 ORDER BY name",
    "shell": "anna@box:~/shop$ make all\nmake: done\nanna@box:~/shop$ ",
    "shell commands": "$ cd shop\n$ git pull\n$ sudo make install",
    "fenced": "```\nhere a\nthere b\nthen c\n```",
    "fenced with a name": "```python\nx = 1\nfor a in b:\n    x += a\n```",
    "fenced in one line": "```Traceback (most recent call last)```",
    "fenced with a name, and short": "```python\na b\nc d\ne f\n```",
    "a body": "for a in b:\n    do this\n    and that",
    "comments": "x = 1\n# what this is for, in many words\ny = 2\n-- and what that is for\nz = 3",
    "rust": "thread 'main' panicked at src/main.rs:4:5:\nno shop\n   0: shop::open\n             at ./src/main.rs:4:5",
}
SPEECH = {
    "winks": "hey ;) hey ;) hey ;)\nok ;)\nsee you ;)",
    "braces": "{} {} {}\n{hugs}\n{{{you}}}",
    "smiles": "))))\nok)\nпривет)))\nну да))",
    "hearts": "<3 <3\n<3\n<333",
    "faces": ":} :{ =) =( =D =]\n(; (:\n>:[ >;)",
    "url": "https://example.org/a?b=c;d={e}&f=(g)",
    "urls": "https://example.org/a?b=c;\nhttps://example.org/{b};\nhttps://example.org/a(b);",
    "list": "- milk\n- eggs\n* bread\n+ butter\n1) tea",
    "numbers": "me = idiot\nyou = smart\nlife = good",
    "time": "10:11:12 was my time today!! INFO for you",
    "schedule": "10:00 breakfast\n11:00 museum\n12:30 lunch (with anna)",
    "brackets": "ok (lol)\nsure (not)\nhaha (really)",
    "if": "if you want:\nwe could go\nor not",
    "class": "class today: boring",
    "at": "at home (alone)\nat work (not alone)",
    "from": "from what I know\nimport duties are high\nreturn it",
    "quote": '"me": nobody ever said that',
    "hashtags": "#include everybody\n#love\n#define",
    "mentions": "@anna\n@bob\n@cleo",
    "public": "public transport (again) is late\nprivate life (what is that)",
    "select": "Select one FROM these",
    "error": "Error 404 lol\nexceptions prove the rule",
    "code inside": "you write x = 1 and then\nprint(x)\nand that is all there is to it, really",
    "a line of code": "print(x)",
    "speech around": (
        "hm, I think that you have it the wrong way round there. try\nfor (i = 0; i < n; i++) {\n  a[i] = 0;\n}\n"
        "and then tell me whether it works on your side too, I am off for lunch"
    ),
    "speech around a fence": "you have to type\n```\nmake all\n```\nand wait, it takes a few minutes on my machine",
    "indented speech": "roses are red\n    violets are blue (so they say)\n    and so on",
    "indented under nothing": "so (here)\n  the one is here\n  the other is there\n  and that is all",
    "poem;": "the sea is grey;\nthe sky is too;\nthe wind is cold;",
    "dollars": "$ 20\n$ 30\n$50 in all = too much",
    "empty": "",
    "fence": "```",
}


@pytest.mark.parametrize("name", CODE)
def test_pasted_code_is_code(name: str) -> None:
    assert code_dump(CODE[name]) == "code"


@pytest.mark.parametrize("name", SPEECH)
def test_speech_is_not_code(name: str) -> None:
    assert code_dump(SPEECH[name]) is None


@pytest.mark.parametrize("name", CODE)
def test_code_in_a_longer_answer_is_no_dump(name: str) -> None:
    answer = "so this is what I have here, and it is not what I thought that it would be at all. " * 10
    assert code_dump(f"{answer}\n{CODE[name]}\n{answer}") is None


def test_three_lines_that_may_be_code_are_code() -> None:
    assert [code_dump("\n".join(["x = 1"] * n)) for n in (1, 2, 3)] == [None, None, "code"]


def test_code_has_seven_tenths_of_the_characters() -> None:
    code = "\n".join(["a(1);"] * 14)
    assert [code_dump(f"{code}\n{'x' * speech}") for speech in (30, 31)] == ["code", None]


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    rules = Rules(2, ("x",), 20, links=True, code=True)
    assert reply_reason(Turn("assistant", text), rules) in (None, "meta", "links", "long", "code", "short")


@given(st.lists(st.sampled_from(["ok", "haha nice one", "see you at 8 then", "why not?", "no no no"]), min_size=1))
def test_plain_words_are_never_code_or_links(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert (code_dump(text), links_only(text)) == (None, None)


def test_too_long_counts_characters() -> None:
    assert [too_long("x" * n, 5) for n in (0, 5, 6)] == [None, None, "long"]


def test_meta_ignores_case_and_empty_patterns() -> None:
    assert meta("well. [STOP] there", ("", "[stop]")) == "meta"
    assert meta("well", ("", "[stop]")) is None


def test_rules_that_are_off_keep_everything() -> None:
    for text in ("", "x", "https://example.org/a", CODE["python"], "x" * 100_000):
        assert reply_reason(Turn("assistant", text), Rules()) is None


@pytest.mark.parametrize(
    ("text", "rules", "reason"),
    [
        ("www.example.org [x]", Rules(100, ("[x]",), 5, links=True), "meta"),
        ("www.example.org", Rules(100, (), 5, links=True), "links"),
        (CODE["json"], Rules(100, (), 5, code=True), "long"),
        (CODE["json"], Rules(100, (), 0, code=True), "code"),
        ("see you", Rules(100, ("[x]",), 50, links=True, code=True), "short"),
        ("see you", Rules(7, ("[x]",), 7, links=True, code=True), None),
    ],
)
def test_the_first_rule_that_holds_is_the_reason(text: str, rules: Rules, reason: str | None) -> None:
    assert reply_reason(Turn("assistant", text), rules) == reason


def test_a_reason_from_the_export_comes_first() -> None:
    assert reply_reason(Turn("assistant", "x", aside="forwarded"), Rules(10)) == "forwarded"


def test_only_replies_are_judged() -> None:
    rules = Rules(10)
    assert judge(Turn("user", "x"), rules) == Turn("user", "x")
    assert judge(Turn("assistant", "x", 2), rules) == Turn("assistant", "x", 2, aside="short")


def test_messages_that_nobody_wrote_go() -> None:
    assert message_reason(Turn("tool", "x")) == "tool_call"
    assert message_reason(Turn("user", "x", kind="deleted")) == "deleted"
    assert message_reason(Turn("user", "x", kind="forwarded")) is None
    assert message_reason(Turn("user", "")) == "empty"


def _dropped(conversations: tuple[tuple[str, ...], ...]) -> list[bytes]:
    """The keys of the conversations that were there already."""
    seen: set[bytes] = set()
    gone = []
    for texts in conversations:
        key = content_key([Turn("user", text) for text in texts])
        gone += [key] if key in seen else []
        seen.add(key)
    return sorted(gone)


@given(st.lists(st.lists(st.sampled_from(["a", "b", "ab", ""]), max_size=2).map(tuple), max_size=4))
def test_which_exact_duplicates_go_does_not_depend_on_the_order(conversations: list[tuple[str, ...]]) -> None:
    expected = _dropped(tuple(conversations))
    assert len(expected) == len(conversations) - len(set(conversations))
    assert all(_dropped(order) == expected for order in permutations(conversations))


TURNS = st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text("a0 \x00", max_size=12)), max_size=3)


@given(TURNS, TURNS)
def test_content_keys_are_equal_only_for_equal_turns(left: list[Turn], right: list[Turn]) -> None:
    assert (content_key(left) == content_key(right)) == (left == right)


def test_a_text_that_looks_like_two_turns_is_one() -> None:
    one = [Turn("user", "a\x00assistant\x00b"), Turn("user", "x")]
    two = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "x")]
    assert content_key(one) != content_key(two)
    assert content_key([Turn("user", "auser b")]) != content_key([Turn("user", "a"), Turn("user", "b")])
    assert content_key([Turn("user", "auser 1 b")]) != content_key([Turn("user", "a"), Turn("user", "b")])
