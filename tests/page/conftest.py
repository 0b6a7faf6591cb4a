"""A real browser on a real server. Chromium: PICOLLM_CHROMIUM, else the one on the PATH."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright import sync_api as playwright
from tests.unit.serve.conftest import Live, live, runs

__all__ = ["live", "runs"]
LOOK = 50  # ms between two looks
PATIENCE = 1200  # looks until a page that has hung is given up
SHOTS = Path(os.environ.get("PICOLLM_SHOTS") or "target/page")


@pytest.fixture(scope="session")
def browser() -> Iterator["playwright.Browser"]:
    path = os.environ.get("PICOLLM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium: install it, or set PICOLLM_CHROMIUM")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def until(page: "playwright.Page", condition: str) -> None:
    """Wait for a condition. Asked from outside: the page's own policy forbids it to evaluate text."""
    for _ in range(PATIENCE):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(LOOK)
    raise AssertionError(f"never true: {condition}")


class Watched:
    """A page, and what it complained of or asked the network for."""

    def __init__(self, page: "playwright.Page", url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(url)
        until(page, "document.getElementById('about').textContent.includes('parameters')")


@pytest.fixture
def watched(browser: "playwright.Browser", live: Live) -> Iterator[Watched]:
    """The page of the tiny chat model; no console error and no foreign request whatever a test does (W1)."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    found = Watched(context.new_page(), live.url)
    yield found
    context.close()
    assert not found.complaints
    assert all(url.startswith((live.url, "data:", "blob:")) for url in found.asked)


def shot(page: "playwright.Page", name: str) -> None:
    """Keep a picture to look at."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"{name}.png"), full_page=True)
