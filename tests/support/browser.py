"""Headless Chromium on the console, and everything that went wrong in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    """The program; a run that must not do without it says PSHARELORA_TEST_BROWSER=required."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is not None:
        return found
    missing = f"no browser: install Chromium (looked for {', '.join(NAMES)})"
    if os.environ.get("PSHARELORA_TEST_BROWSER") == "required":
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def browsing() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One tab of a visitor with a key."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)
    """Errors and warnings in the browser's console, and requests that left the server."""

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}/console{path}")
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_selector(".page[aria-busy=false]", timeout=30_000)

    def problem(self) -> str:
        return self.page.locator("#problem").inner_text()


@contextmanager
def visiting(browser: Browser, url: str, key: str | None, **context: Any) -> Iterator[Visit]:
    with browser.new_context(**context) as opened:
        if key is not None:
            opened.add_init_script(
                f"sessionStorage.getItem('psharelora-key') ?? sessionStorage.setItem('psharelora-key', '{key}')"
            )
        visit = Visit(opened.new_page(), url)
        visit.page.on("console", lambda said: _note(visit, said.type, said.text))
        visit.page.on("pageerror", lambda error: visit.faults.append(str(error)))
        visit.page.on("request", lambda sent: _stays(visit, sent.url))
        yield visit


def _note(visit: Visit, kind: str, text: str) -> None:
    if kind in {"error", "warning"}:
        visit.faults.append(text)


def _stays(visit: Visit, url: str) -> None:
    if not url.startswith((visit.url, "data:")):
        visit.faults.append(f"a request left for {url}")
