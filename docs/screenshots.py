"""Makes the pictures of docs/console.md from a running demo: `python docs/screenshots.py`."""

import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

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
    program = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for name, page in PAGES.items():
            shoot(browser, name, page, width=1100, scheme="light")
        shoot(browser, "small", PAGES["try"], width=390, scheme="dark")
        browser.close()


def shoot(browser: Browser, name: str, path: str, *, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    context.add_init_script(f"sessionStorage.setItem('psharelora-key', '{KEY}')")
    page = context.new_page()
    page.goto(f"{URL}/console{path}")
    page.wait_for_selector(".page[aria-busy=false]")
    if path.startswith("#/try"):
        for number in range(4):
            page.keyboard.press("ArrowLeft" if number % 2 else "ArrowRight")
            page.get_by_text(f"Question {number + 2} of 10").wait_for()
    height = min(TALLEST, page.evaluate("document.documentElement.scrollHeight"))
    page.screenshot(
        path=IMAGES / f"{name}.png", clip={"x": 0, "y": 0, "width": width, "height": height}, full_page=True
    )
    context.close()


if __name__ == "__main__":
    main()
