"""The live page in a real headless Chromium: it follows the run, keeps what the reader did, and ends with the run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from mlx_persona.config import ReportConfig
from mlx_persona.report.make import make_report
from mlx_persona.runs import Run
from tests.pagekit import EVIL
from tests.web.browser import CONTRAST, DESK, PHONE, watched_page
from tests.web.watchkit import begin, end, step, watching

REFUSED = ("ERR_CONNECTION_REFUSED", "Failed to load resource")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of six updates, two of them made, in the current directory."""
    monkeypatch.chdir(tmp_path)
    run = begin(Path("runs/sft-1"))
    step(run, 1, 2)
    return run


def asked(page: Page) -> list[str]:
    """What the page asks for from now on."""
    found: list[str] = []
    page.on("request", lambda request: found.append(request.url))
    return found


def words(page: Page, selector: str) -> str:
    """All text below an element, seen or not."""
    return " ".join((page.locator(selector).text_content() or "").split())


def test_the_page_follows_the_run_to_its_end(
    chromium: Browser, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with watching(monkeypatch) as address, watched_page(chromium, address, viewport=PHONE) as page:
        expect(page.locator("#state")).to_have_text("live")
        expect(page.locator("#count")).to_have_text("update 2 of 6")
        expect(page.locator("#left")).to_have_text(re.compile(r"about \d+ s left"))
        expect(page.locator("#when")).to_have_text(re.compile(r"as of \d"))
        assert page.title() == "2 of 6 · sft-1"
        assert page.locator("main svg").count() > 3
        assert "No evaluation has judged" not in words(page, "#report")

        options = page.locator("details", has=page.locator("summary", has_text="all options"))
        options.locator("summary").click()
        page.evaluate("window.kept = document.querySelectorAll('details[open], #report h1')")
        top = options.bounding_box()
        assert top is not None
        assert page.evaluate("window.scrollY") > 0
        # An evaluation after the first update: a table of them and more words come in above what is read.
        step(run, 3)
        expect(page.locator("#count")).to_have_text("update 3 of 6")
        expect(page.locator("#report")).to_contain_text("its loss went from 4.000 to 3.400")
        assert page.evaluate("[...window.kept].every((e) => e.isConnected) && window.kept.length") == 2
        assert options.get_attribute("open") is not None
        now = options.bounding_box()
        assert now is not None
        assert now["y"] == pytest.approx(top["y"], abs=2)

        step(run, 4, 5, 6)
        end(run, eval_loss=2.8, base_eval_loss=4.0, best_update=6, updates=6, seconds=12.0, peak_bytes=10**9)
        expect(page.locator("#state")).to_have_text("finished")
        expect(page.locator("#when")).to_have_text(re.compile(r"final, as of \d"))
        expect(page.locator("#count")).to_have_text("update 6 of 6")
        assert options.get_attribute("open") is not None
        later = asked(page)
        page.wait_for_timeout(1500)
        assert later == []
        shown = words(page, "#report")
    report = chromium.new_page()
    report.goto(make_report(ReportConfig(runs=("runs/sft-1",))).path.resolve().as_uri())
    assert words(report, "main") == shown
    report.close()


def test_a_page_that_was_there_before_the_run_shows_it_when_it_begins(
    chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with watching(monkeypatch, "runs/sft-1") as address, watched_page(chromium, address) as page:
        expect(page.locator("#waiting")).to_contain_text("There is no run runs/sft-1 yet.")
        expect(page.locator("#state")).to_have_text("waiting")
        run = begin(Path("runs/sft-1"))
        expect(page.locator("#state")).to_have_text("live")
        expect(page.locator("#waiting")).to_be_hidden()
        expect(page.locator("#count")).to_have_text("update 0 of 6")
        expect(page.locator("h1:visible")).to_have_text("sft-1: Fine-tuning (SFT) of model")
        end(run, "stopped")
        expect(page.locator("#state")).to_have_text("stopped")
        expect(page.locator("#report")).to_contain_text("mlx-persona sft --resume runs/sft-1")


def test_a_run_that_dies_is_told(chromium: Browser, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(monkeypatch) as address, watched_page(chromium, address) as page:
        expect(page.locator("#state")).to_have_text("live")
        run.close()  # as kill -9 does: no file changes
        expect(page.locator("#state")).to_have_text("died")
        expect(page.locator("#report")).to_contain_text("nothing writes to it")
        later = asked(page)
        page.wait_for_timeout(1200)
        assert later == []


def test_a_program_that_is_gone_is_told_and_the_page_can_still_be_read(
    chromium: Browser, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = chromium.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(f"page error: {error}"))
    with watching(monkeypatch) as address:
        page.goto(address)
        expect(page.locator("#state")).to_have_text("live")
    expect(page.locator("#trouble")).to_contain_text("The program that shows this page does not answer.")
    expect(page.locator("#trouble")).to_contain_text("What is below is as of")
    expect(page.locator("#state")).to_have_text("not connected")
    assert page.locator("main svg:visible").count() > 1
    assert all(any(word in text for word in REFUSED) for text in said)
    page.close()
    run.close()


def test_whatever_was_named_or_said_is_text(chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = EVIL + "</main></svg><style>*{display:none}</style>"
    run = begin(Path("runs/sft-1"), model_identity={"name": evil}, device=evil, versions={evil: evil})
    step(run, 1)
    told = ("Content Security Policy",)
    with watching(monkeypatch) as address, watched_page(chromium, address, told) as page:
        expect(page.locator("h1:visible")).to_have_text(f"sft-1: Fine-tuning (SFT) of {' '.join(evil.split())}")
        assert page.locator("main img, main script, main style, main :not(.facts > div) > b").count() == 0
        # Were it markup after all, the policy would not let it do anything.
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p id=evil style=\"display: none\">seen</p>')")
        expect(page.locator("#evil")).to_be_visible()
    run.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_it_looks_right_on_a_phone_and_on_a_desk(
    chromium: Browser, run: Run, monkeypatch: pytest.MonkeyPatch, size: dict[str, Any], scheme: str
) -> None:
    step(run, 3, 4)
    options = {"viewport": size, "color_scheme": scheme}
    with watching(monkeypatch) as address, watched_page(chromium, address, **options) as page:
        expect(page.locator("#state")).to_have_text("live")
        expect(page.locator("#progress")).to_have_attribute("value", "4")
        page.evaluate("() => document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        ratio, where = page.evaluate(CONTRAST)
        assert ratio >= 4.5, where
        strokes = page.evaluate("getComputedStyle(document.querySelector('[data-series] path')).stroke")
        assert strokes == ("rgb(47, 111, 187)" if scheme == "light" else "rgb(91, 155, 230)")
        page.mouse.wheel(0, 400)
        expect(page.locator(".bar")).to_be_in_viewport(ratio=1)  # how far it is stays in sight
    run.close()
