"""Pages in a real browser that notice what they must not do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page


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
