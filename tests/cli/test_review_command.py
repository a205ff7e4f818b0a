"""The review command: at a terminal with injected keys, at a real one, and where there is none."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from data_prep.review import read_decisions
from mlx_persona import cli, ui
from mlx_persona.schema import Conversation, Message, write_jsonl

KEYS = {"decided", "kept", "dropped", "edited", "tagged", "left", "file"}
Typed = Callable[..., tuple[int, str, str]]


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with three clean conversations."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    chats = [
        Conversation((Message("user", f"what about {word}?"), Message("assistant", f"oh\n{word}")))
        for word in ("tea", "rain", "snow")
    ]
    write_jsonl(tmp_path / "data/clean/train.jsonl", chats)
    return tmp_path


@pytest.fixture
def typed(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """``typed(["k", "dq"], "--json")``: what click.getchar gives, one after another; status, stdout, stderr."""

    def call(keys: list[str], *args: str, lines: str = "") -> tuple[int, str, str]:
        given = iter(keys)
        monkeypatch.setattr(click, "getchar", lambda: next(given))
        monkeypatch.setattr(sys, "stdin", Terminal(lines))
        capsys.readouterr()
        status = cli._status(["review", *args])
        return status, *capsys.readouterr()

    return call


def actions() -> list[str]:
    return [d.action for d in read_decisions(Path("data/review.jsonl")).values()]


def test_json_is_one_object_on_stdout_and_the_dialogue_on_stderr(typed: Typed) -> None:
    status, out, err = typed(["k", "d", "q"], "--json")
    assert status == 0
    assert out.count("\n") == 1
    said = json.loads(out)
    assert said.keys() == KEYS
    assert said == {
        **{"decided": 2, "kept": 1, "dropped": 1, "edited": 0, "tagged": 0, "left": 1},
        "file": "data/review.jsonl",
    }
    assert actions() == ["keep", "drop"]
    assert "1 of 3, 0 dropped" in err
    assert "3 of 3, 1 dropped" in err


def test_without_json_the_result_is_the_file(typed: Typed) -> None:
    status, out, err = typed(["k", "q"])
    assert (status, out) == (0, "data/review.jsonl\n")
    assert err.splitlines()[-2:] == [
        "1 decided: 1 kept, 0 dropped, 0 edited, 0 tagged; 2 of the sample left",
        "the next mlx-persona clean carries them out",
    ]
    assert "carries them out" not in typed(["q"])[2]


def test_quiet_is_the_dialogue_alone(typed: Typed) -> None:
    _, _, err = typed(["k", "q"], "-q")
    assert "k keep  d drop" in err
    assert "decided:" not in err


def test_what_is_shown_without_colours(typed: Typed) -> None:
    _, _, err = typed(["q"], "--n", "1")
    rule, asked, reply, more, keys = err.splitlines()[:5]
    assert rule.startswith("1 of 1, 0 dropped ─")
    word = more.strip()
    assert asked == f"them   what about {word}?"
    assert [reply, more] == [">      oh", f"       {word}"]
    assert keys == "k keep  d drop  e edit  t tag  u undo  s skip  ? help  q quit"


def test_keys_that_were_typed_fast_come_one_by_one_and_arrows_are_one(typed: Typed) -> None:
    status, _, err = typed(["kd", "\x1b[A", "t6", "q"])
    assert status == 0
    assert actions() == ["keep", "drop", "tag"]
    assert err.count("? shows the keys") == 1


@pytest.mark.parametrize("gone", ["\x04", ""])
def test_the_end_of_input_quits(typed: Typed, gone: str) -> None:
    assert typed(["k", gone])[0] == 0
    assert actions() == ["keep"]


@pytest.mark.parametrize("stop", [["k", "\x03"], ["k\x03"]])
def test_ctrl_c_keeps_everything_and_is_130(typed: Typed, stop: list[str]) -> None:
    status, out, err = typed(stop, "--json")
    assert (status, out) == (130, "")
    assert err.splitlines()[-2:] == [
        "stopped: 1 of 3 decided, and kept in data/review.jsonl",
        "hint: the same command continues from there",
    ]
    assert actions() == ["keep"]


def test_without_a_terminal_it_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("kkk"))
    assert cli._status(["review"]) == 1
    assert capsys.readouterr() == (
        "",
        "error: review needs a terminal: it asks for keys\nhint: run it in one, with nothing piped into it\n",
    )
    assert not Path("data/review.jsonl").exists()


def test_a_bad_line_of_the_file_is_an_error(typed: Typed) -> None:
    Path("mine.jsonl").write_text('{"action": "keep"}\n')
    status, out, err = typed([], "--file", "mine.jsonl")
    assert (status, out) == (1, "")
    assert err == (
        "error: mine.jsonl:1: key must be 16 hexadecimal digits, got None\nhint: mend that line, or delete it\n"
    )


def test_where_stdout_is_no_terminal_lines_are_typed(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor would draw on what must hold the result alone."""
    monkeypatch.setattr(click, "edit", lambda text: pytest.fail("an editor was called"))
    status, out, err = typed(["e", "q"], "--json", lines="new words\n  and more\n\nnot read\n")
    assert (status, json.loads(out)["edited"]) == (0, 1)
    assert [d.text for d in read_decisions(Path("data/review.jsonl")).values()] == ["new words\n  and more"]
    assert "type the new reply; an empty line ends it" in err


@pytest.mark.parametrize("lines", ["", "\n", "half\n", "\udcff\n\n"])
def test_no_line_half_a_text_and_no_text_change_nothing(typed: Typed, lines: str) -> None:
    status, _, err = typed(["e", "q"], lines=lines)
    assert status == 0
    assert "nothing was changed" in err
    assert not Path("data/review.jsonl").exists()


def test_control_characters_of_a_chat_are_spelled_out(typed: Typed) -> None:
    evil = "\x1b]0;owned\x07 \x9b2J a\rb \u202eback\u2066 [bold]x[/bold] :100: \U0001f468\u200d\U0001f469 tab\there"
    chat = Conversation((Message("user", evil), Message("assistant", f"yes {evil}")))
    write_jsonl(Path("data/clean/train.jsonl"), [chat])
    _, _, err = typed(["q"])
    shown = (
        r"\x1b]0;owned\x07 \x9b2J a\x0db \u202eback\u2066 [bold]x[/bold] :100: "
        "\U0001f468\u200d\U0001f469"
    )
    assert err.count(shown) == 2
    assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e", "\u2066"} & set(err)


def test_only_newline_and_tab_are_left_of_the_control_characters() -> None:
    for code in (*range(0x20), *range(0x7F, 0xA0)):
        assert ui.visible(chr(code)) == (chr(code) if chr(code) in "\t\n" else f"\\x{code:02x}")


# At a real terminal, in a process of its own


class Sitting:
    """The command in a process of its own, and the other end of its terminal."""

    def __init__(self, place: Path, **env: str) -> None:
        self._end, child = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlx_persona", "review"],
            stdin=child,
            stdout=child,
            stderr=child,
            cwd=place,
            env={**os.environ, "TERM": "xterm", **env},
        )
        os.close(child)

    def press(self, after: str, keys: str) -> str:
        """Type keys once a text was shown; gives everything that was shown up to then."""
        shown = b""
        while after.encode() not in shown:
            assert select.select([self._end], [], [], 60)[0], f"nothing after {shown!r}"
            shown += os.read(self._end, 4096)
        # A switch to raw mode throws away what was typed before it.
        time.sleep(0.2)
        os.write(self._end, keys.encode())
        return shown.decode()

    def close(self) -> None:
        """End what has not ended."""
        self.process.kill()
        self.process.wait()
        os.close(self._end)


@contextmanager
def sitting(place: Path, **env: str) -> Iterator[Sitting]:
    one = Sitting(place, **env)
    try:
        yield one
    finally:
        one.close()


def test_a_real_terminal_and_a_real_editor(place: Path) -> None:
    editor = place / "my editor"
    editor.write_text("#!/bin/sh\nprintf 'by hand\\n' > \"$1\"\n")
    editor.chmod(0o755)
    with sitting(place, EDITOR=f"'{editor}'") as one:
        first = one.press("1 of 3, 0 dropped", "d")
        assert "\x1b[1;32m>" in first + one.press("2 of 3, 1 dropped", "e")
        one.press("3 of 3, 1 dropped", "\x1b[B")
        one.press("? shows the keys", "kq")
        assert one.process.wait(60) == 0
    made = read_decisions(place / "data/review.jsonl")
    assert [d.action for d in made.values()] == ["drop", "edit", "keep"]
    assert [d.text for d in made.values()] == [None, "by hand", None]


def test_an_editor_that_fails_is_told_and_lines_are_typed(place: Path) -> None:
    with sitting(place, VISUAL="no-such-editor-here") as one:
        one.press("1 of 3, 0 dropped", "e")
        shown = one.press("an empty line ends it", "typed\n\n")
        assert "no-such-editor-here: Editing failed" in shown
        one.press("2 of 3, 0 dropped", "q")
        assert one.process.wait(60) == 0
    assert [d.text for d in read_decisions(place / "data/review.jsonl").values()] == ["typed"]


@pytest.mark.parametrize("how", ["key", "signal"])
def test_ctrl_c_at_a_real_terminal(place: Path, how: str) -> None:
    """As a key where keys are read, as a signal anywhere."""
    with sitting(place) as one:
        one.press("1 of 3, 0 dropped", "k")
        one.press("2 of 3, 0 dropped", "\x03" if how == "key" else "")
        if how == "signal":
            one.process.send_signal(signal.SIGINT)
        assert one.process.wait(60) == 130
    assert [d.action for d in read_decisions(place / "data/review.jsonl").values()] == ["keep"]
