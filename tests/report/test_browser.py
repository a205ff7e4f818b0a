"""The pages in a real browser, opened from disk: alone, silent, in light and dark, on a phone and on paper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.report.kit import written

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")
PAGES = {
    "sft": ("runs/sft-1",),
    "dpo": ("runs/dpo-1",),
    "fuse": ("runs/fused-1",),
    "eval": ("runs/eval-1",),
    "several": ("runs/sft-1", "runs/sft-2", "runs/dpo-1", "runs/fused-1", "runs/eval-1"),
}
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
# The contrast (WCAG 2) of every text with the page behind it, where it is under 4.5.
FAINT = """() => {
  const light = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const faint = [];
  for (const element of document.body.querySelectorAll('*')) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    const style = getComputedStyle(element);
    const ink = light(element instanceof SVGElement ? style.fill : style.color);
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) faint.push([element.tagName, element.textContent.slice(0, 20), contrast]);
  }
  return faint; }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; in a container it has no sandbox to make."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=PAGES)
def file(request: pytest.FixtureRequest, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each kind of page, on disk."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        written(*PAGES[request.param], out=str(path))
    return path


def opened(browser: Browser, file: Path, width: int, scheme: Any) -> tuple[Page, list[str]]:
    """The page in a window of this width, and all that it asked for or complained about."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto(file.as_uri())
    return page, said


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_is_alone_silent_and_fits(browser: Browser, file: Path, width: int, scheme: str) -> None:
    page, said = opened(browser, file, width, scheme)
    assert page.evaluate(OVERFLOW) == 0
    page.evaluate("() => document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate(OVERFLOW) == 0
    assert page.evaluate(FAINT) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 27)"
    assert dark is (scheme == "dark")
    assert said == [file.as_uri()]
    page.close()


@pytest.mark.parametrize(("width", "seen"), [(390, "only-narrow"), (1280, "only-wide")])
def test_charts_can_be_read_at_every_width_and_follow_the_scheme(
    browser: Browser, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, seen: str
) -> None:
    monkeypatch.chdir(made)
    written("runs/sft-1", out=str(tmp_path / "page.html"))
    strokes = []
    for scheme in ("light", "dark"):
        page, _ = opened(browser, tmp_path / "page.html", width, scheme)
        [shown] = [c for c in ("only-narrow", "only-wide") if page.locator(f"figure .{c}").first.is_visible()]
        assert shown == seen
        heights = page.evaluate(
            "[...document.querySelectorAll('svg text')].map((t) => t.getBoundingClientRect().height).filter(Boolean)"
        )
        assert min(heights) > 11
        line = page.locator("[data-series='training, smoothed'] path").first
        strokes.append(line.evaluate("(path) => getComputedStyle(path).stroke"))
        page.close()
    assert strokes == ["rgb(47, 111, 187)", "rgb(91, 155, 230)"]


def test_paper_is_white_and_holds_everything(browser: Browser, file: Path) -> None:
    page, _ = opened(browser, file, 1280, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")
    page.close()


@pytest.mark.parametrize("policy", [True, False])
def test_the_policy_stops_what_should_never_be_there(
    browser: Browser, file: Path, tmp_path: Path, policy: bool
) -> None:
    """Even markup that escaped the escaping could not load or run anything, as it does without the policy."""
    (tmp_path / "other.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="5" height="5"/>')
    evil = "<script>document.title = 'run'</script><img src='other.svg'></main>"
    text = file.read_text(encoding="utf-8").replace("</main>", evil)
    if not policy:
        text = text.replace("http-equiv", "data-was")
    (tmp_path / "hurt.html").write_text(text, encoding="utf-8")
    page, said = opened(browser, tmp_path / "hurt.html", 390, "light")
    assert (page.title() == "run") is not policy
    assert (page.evaluate("document.images[0].naturalWidth") == 5) is not policy
    assert any("Content Security Policy" in line for line in said) is policy
    page.close()
