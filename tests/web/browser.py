"""Pages in a real browser that notice what they must not do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
# The least contrast (WCAG 2) of a text with the paper behind it, and where that is.
CONTRAST = """() => {
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126*r + 0.7152*g + 0.0722*b; };
  const paper = (e) => { for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c; } return "rgb(255, 255, 255)"; };
  const texts = [...document.querySelectorAll("body *")].filter((e) => e.offsetParent && !e.closest(":disabled")
      && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()));
  return texts.map((e) => { const [a, b] = [light(getComputedStyle(e).color), light(paper(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.id || e.className || e.tagName]; }).sort((x, y) => x[0] - y[0])[0]; }"""


@contextmanager
def watched_page(browser: Browser, address: str, expected: tuple[str, ...] = (), **options: object) -> Iterator[Page]:
    """A page at ``address``. At the end: it asked nobody but that server, and nothing went wrong in it.

    Args:
        browser: from the fixture.
        address: what to open.
        expected: words of console errors that a test provokes.
        options: of Playwright's ``new_page`` (viewport, colour scheme).
    """
    page = browser.new_page(**options)  # type: ignore[arg-type]
    asked: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    try:
        yield page
    finally:
        page.close()
    home = urlsplit(address).netloc
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "about:"))} == {home}
    assert [text for text in problems if not any(word in text for word in expected)] == []
