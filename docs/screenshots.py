"""Makes the pictures of docs/console.md from a running demo: `python docs/screenshots.py`."""

import os
import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.browser import browsing, visiting

URL = os.environ.get("PSHARELORA_URL", "http://127.0.0.1:8000")
KEY = Path(".psharelora/demo.key").read_text().strip()
IMAGES = Path(__file__).parent / "images"
PAGES = {
    "overview": "#/",
    "environment": "#/environments/electricity",
    "user": "#/environments/electricity/users/household-001",
    "policy": "#/environments/coaching-simulated/users/simulated-runner-00",
    "try": "#/try/replies-simulated",
}
TALLEST = 1400
"""Pixels: what lies below is more of the same."""


def main() -> None:
    with browsing() as browser:
        for name, page in PAGES.items():
            shoot(browser, name, page, width=1100, scheme="light")
        shoot(browser, "small", PAGES["try"], width=390, scheme="dark")


def shoot(browser: Browser, name: str, path: str, *, width: int, scheme: Literal["light", "dark"]) -> None:
    with visiting(browser, URL, KEY, viewport={"width": width, "height": 800}, color_scheme=scheme) as visit:
        visit.open(path)
        page = visit.page
        if path.startswith("#/try"):
            for number in range(4):
                page.keyboard.press("ArrowLeft" if number % 2 else "ArrowRight")
                page.get_by_text(f"Question {number + 2} of 10").wait_for()
        height = min(TALLEST, page.evaluate("document.documentElement.scrollHeight"))
        clip = {"x": 0, "y": 0, "width": width, "height": height}
        page.screenshot(path=IMAGES / f"{name}.png", clip=clip, full_page=True)


if __name__ == "__main__":
    main()
