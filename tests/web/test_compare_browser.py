"""The page of a comparison in a real headless Chromium: keys, mouse, touch, looks, and a program that is gone."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from mlx_persona import ui
from mlx_persona.evals.blind.session import first_sides
from mlx_persona.schema import Message
from mlx_persona.web import local
from mlx_persona.web.compare import CompareSite
from tests.web.browser import CONTRAST, DESK, PHONE, watched_page
from tests.web.kit import items, resumed, saved, write_comparison

Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Serving:
    """``with serving(folder) as address``: the program, in a thread; ``judge=True``: one is asked at the end."""

    @contextmanager
    def serve(folder: Path, judge: bool = False) -> Iterator[str]:
        printed, stops, ready = [], [], threading.Event()
        monkeypatch.setattr(ui, "notice", lambda text, hint=None: (printed.append(text), ready.set()))

        def run() -> None:
            with local.listening(None) as sock, resumed(folder) as comparison:
                site = CompareSite(comparison, judge)

                def start(stop: local.Stop) -> None:
                    stops.append(stop)
                    site.when_done(stop)

                local.serve(site.app(), sock, open_browser=False, what="compare at", on_start=start)

        thread = threading.Thread(target=run)
        thread.start()
        assert ready.wait(30)
        try:
            yield printed[0].partition(": ")[2]
        finally:
            stops[0]()
            thread.join(30)
            assert not thread.is_alive()

    return serve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four items about two models."""
    return write_comparison(tmp_path / "compare-1", items(4))


def press(page: Page, key: str, count: str) -> None:
    """Press a key and wait until the page shows so many answered items."""
    page.keyboard.press(key)
    expect(page.locator("#count")).to_have_text(count)


def test_mouse_undo_and_two_windows(chromium: Browser, serving: Serving, folder: Path) -> None:
    firsts = first_sides(4, 0)
    other = {"a": "b", "b": "a"}
    with serving(folder) as address, watched_page(chromium, address, ("409",)) as page:
        expect(page.locator("#question")).to_have_text("Which one is more like the person?")
        expect(page.locator("#undo")).to_be_disabled()
        page.locator("#reply-2").click()
        expect(page.locator("#count")).to_have_text("1 of 4")
        page.locator("#tie").click()
        expect(page.locator("#count")).to_have_text("2 of 4")
        page.locator("#undo").click()
        expect(page.locator("#count")).to_have_text("1 of 4")
        assert saved(folder) == [other[firsts[0]]]
        with watched_page(chromium, address) as second:
            expect(second.locator("#count")).to_have_text("1 of 4")  # a key before there is a question means nothing
            press(second, "1", "2 of 4")
        page.keyboard.press("2")  # about an item that the other window has answered: not taken
        expect(page.locator("#count")).to_have_text("2 of 4")
        assert saved(folder) == [other[firsts[0]], firsts[1]]
        page.keyboard.press("Control+1")  # the browser's own
        page.keyboard.press("x")
        press(page, "T", "3 of 4")
        # Four messages are shown, and what was said before them on request.
        assert page.locator("#talk .bubble").count() == 4
        expect(page.locator("#earlier")).to_be_hidden()


def test_text_is_shown_as_text_and_older_messages_on_request(
    chromium: Browser, serving: Serving, tmp_path: Path
) -> None:
    nasty = "<img src=x onerror=alert(1)>&amp;\n<b>two</b> lines"
    one = items(7)[6]
    before = (*one.before[:-1], Message("user", nasty))
    made = [replace(one, before=before, replies={"a": nasty, "b": ""})]
    with serving(write_comparison(tmp_path / "c", made)) as address, watched_page(chromium, address) as page:
        expect(page.locator("#asking")).to_be_visible()
        assert page.locator("#talk .bubble").last.text_content() == f"Somebody else: {nasty}"
        assert {page.locator(f"#reply-{i} .text").text_content() for i in (1, 2)} == {nasty, "(no words)"}
        assert page.locator("img, b").count() == 0
        earlier = page.locator("#earlier summary")
        expect(earlier).to_have_text("3 earlier messages")
        assert not page.locator("#earlier .bubble").first.is_visible()
        earlier.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#earlier .bubble").first).to_have_text("Somebody else: message 0 of 6")
        assert page.locator("#earlier .bubble").first.is_visible()


def test_the_rubric_is_asked_after_each_choice(chromium: Browser, serving: Serving, tmp_path: Path) -> None:
    made = write_comparison(tmp_path / "c", items(1), ("real", "sft-1"), rubric=("warm",))
    with serving(made) as address, watched_page(chromium, address) as page:
        expect(page.locator("#question")).to_have_text("Which one did the person really write?")
        page.keyboard.press("2")
        expect(page.locator("#question")).to_have_text("Reply 1: warm")
        expect(page.locator("#reply-2 .mark")).to_have_text("your choice")
        expect(page.locator("#tie")).to_be_hidden()
        page.keyboard.press("4")
        expect(page.locator("#question")).to_have_text("Reply 2: warm")
        page.keyboard.press("u")
        expect(page.locator("#question")).to_have_text("Reply 1: warm")
        page.locator("#scale button").nth(4).click()
        expect(page.locator("#question")).to_have_text("Reply 2: warm")
        press(page, "s", "1 of 1")
        expect(page.locator("#headline")).to_be_visible()
    assert saved(made)[1:] == [5, None]


def test_a_program_that_is_gone_is_told_with_the_way_on(chromium: Browser, serving: Serving, folder: Path) -> None:
    with serving(folder) as address:
        page = chromium.new_page()
        page.goto(address)
        expect(page.locator("#asking")).to_be_visible()
        press(page, "1", "1 of 4")
    page.keyboard.press("2")
    expect(page.locator("#trouble")).to_contain_text(f"mlx-persona compare --resume {folder}")
    expect(page.locator("#again")).to_be_visible()
    page.close()
    assert len(saved(folder)) == 1


def test_a_page_that_is_left_at_the_end_ends_the_program(chromium: Browser, serving: Serving, folder: Path) -> None:
    with serving(folder) as address:
        with watched_page(chromium, address) as page:
            for done, key in enumerate("12t1", 1):
                expect(page.locator("#count")).to_have_text(f"{done - 1} of 4")
                press(page, key, f"{done} of 4")
            page.reload()  # it comes back, and so the program waits
            expect(page.locator("#headline")).to_be_visible()
            page.goto("about:blank")
            # While the browser lives: closed in the same moment it may not have sent the page's last word.
            where, deadline = ("127.0.0.1", urlsplit(address).port), time.monotonic() + 30
            while not (gone := refuses(where)) and time.monotonic() < deadline:
                time.sleep(0.1)
        assert gone
    assert (folder / "result.json").exists()


def refuses(where: tuple[str, int | None]) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(where) != 0


def test_every_control_has_a_name_and_the_page_can_be_used_by_tabbing(
    chromium: Browser, serving: Serving, folder: Path
) -> None:
    with serving(folder) as address, watched_page(chromium, address) as page:
        for role, name in (
            ("progressbar", "Items answered"),
            ("button", f"1 {'alpha' if first_sides(4, 0)[0] == 'a' else 'beta'} says 0"),
            ("button", "t Tie: no difference"),
            ("region", "What was said before"),
            ("heading", "Which one is more like the person?"),
        ):
            expect(page.get_by_role(role, name=name)).to_be_visible()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "reply-1"
        page.keyboard.press("Enter")
        expect(page.locator("#count")).to_have_text("1 of 4")
        expect(page.get_by_role("status")).to_have_text("Saved. 1 of 4 answered.")
        assert page.evaluate("document.activeElement.id") == "question"


LONG = (
    "ok so i was thinking, we could just take the late train and walk from there? its only like twenty minutes "
    "and the weather looks fine, and then we dont have to care about parking at all",
    "hahaha yes\nfinally someone says it",
)


def looks_right(page: Page, name: Path) -> None:
    """Nothing sticks out, text stands out from its paper, and what is to be pressed is large enough for a finger."""
    page.screenshot(path=str(name))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, where
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 44


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_it_looks_right_on_a_phone_and_on_a_desk(
    chromium: Browser, serving: Serving, tmp_path: Path, size: dict[str, Any], scheme: str
) -> None:
    said = ("are we still on for tomorrow?", "yes!! 10 at the station?", "10 is early 😅", "its not that bad", LONG[0])
    before = tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(said))
    made = [replace(item, before=before, replies=dict(zip("ab", LONG, strict=True))) for item in items(3)]
    compared = write_comparison(tmp_path / "compare-1", made, ("real", "sft-1"), rubric=("sounds like them",))
    options = {"viewport": size, "color_scheme": scheme, "has_touch": size is PHONE, "is_mobile": size is PHONE}
    name = f"{size['width']}-{scheme}"
    with serving(compared) as address, watched_page(chromium, address, **options) as page:
        expect(page.locator("#asking")).to_be_visible()
        looks_right(page, tmp_path / f"question-{name}.png")
        expect(page.locator("#tie")).to_be_in_viewport(ratio=1)  # no scrolling to answer
        page.locator("#reply-1").click()
        expect(page.locator("#skip")).to_be_in_viewport(ratio=1)
        looks_right(page, tmp_path / f"rating-{name}.png")
        for done, key in enumerate("42235143", 2):
            page.keyboard.press(key)
            page.wait_for_function("(done) => document.body.dataset.step === String(done)", arg=done)
        expect(page.locator("#outcome")).to_be_visible()
        looks_right(page, tmp_path / f"result-{name}.png")
        rows = dict(row.split("\t") for row in page.locator("#rows").inner_text().splitlines())
        result = json.loads((compared / "result.json").read_text())
        assert rows["sft-1 was taken for the person"] == f"{result['b_wins']} of 3"
        page.keyboard.press("Enter")
        expect(page.locator("#over")).to_be_focused()
        looks_right(page, tmp_path / f"over-{name}.png")


@pytest.mark.parametrize("judge", [False, True])
def test_at_the_end_it_says_whether_a_judge_is_next(
    chromium: Browser, serving: Serving, folder: Path, judge: bool
) -> None:
    with serving(folder, judge) as address, watched_page(chromium, address) as page:
        expect(page.locator("#asking")).to_be_visible()
        for done in range(4):
            press(page, "1", f"{done + 1} of 4")
        page.keyboard.press("Enter")
        next_one = " The judge is asked next: the terminal shows what it says." if judge else ""
        expect(page.locator("#over")).to_have_text(f"Saved. You can close this page.{next_one}")
