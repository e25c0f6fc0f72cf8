"""The console in a real browser: every page, by keyboard and on small screens, in light and dark."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.api import ADMIN_KEY, Json, client_for, serving
from tests.support.browser import Visit, browsing, visiting
from tests.support.worker import working

SHOP, COURSES = "shop", "courses-simulated"
COLOURS = [(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)]
PAGES = {
    "overview": "#/",
    "a catalogue": f"#/environments/{SHOP}",
    "a decision process": f"#/environments/{COURSES}",
    "a user": f"#/environments/{SHOP}/users/user-3",
    "a user of a decision process": f"#/environments/{COURSES}/users/user-2",
    "nobody known": f"#/environments/{SHOP}/users/nobody",
    "try it": f"#/try/{SHOP}",
}
SCREENS: dict[str, Json] = {
    "light": {"viewport": {"width": 1200, "height": 900}, "color_scheme": "light"},
    "small and dark": {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"},
}


@pytest.fixture(scope="module")
def served(database_url: str) -> Iterator[str]:
    """A catalogue and a decision process, each with a published model."""
    with serving(database_url) as url, working(database_url), client_for(url) as api:
        for name, (definition, items, said) in {SHOP: _shop(), COURSES: _courses()}.items():
            api.put(f"/v1/environments/{name}", json=definition).raise_for_status()
            if items:
                api.put(f"/v1/environments/{name}/items", json={"items": items}).raise_for_status()
            api.post(f"/v1/environments/{name}/preferences", json={"preferences": said}).raise_for_status()
            _refitted(api, name)
        yield url
        for name in (SHOP, COURSES):
            api.delete(f"/v1/environments/{name}").raise_for_status()


def _refitted(api: httpx.Client, name: str) -> None:
    refit = api.post(f"/v1/admin/environments/{name}/retrain").json()["id"]
    with api.stream("GET", f"/v1/admin/refits/{refit}/events") as stream:
        said = [line for line in stream.iter_lines() if line.startswith("data: ")]
    assert '"state":"succeeded"' in said[-1], said[-1]


def _shop() -> tuple[Json, list[Json], list[Json]]:
    rng = np.random.default_rng(3)
    tastes = rng.normal(size=(20, 2)) * 2.0
    said = []
    for number in range(20 * 20):
        one, other = rng.choice(len(COLOURS), 2, replace=False)
        gain = (np.array(COLOURS[one]) - COLOURS[other]) @ tastes[number % 20]
        if rng.random() > 1 / (1 + np.exp(-gain)):
            one, other = other, one
        said.append({"user": f"user-{number % 20}", "chosen": {"item": f"i{one}"}, "rejected": {"item": f"i{other}"}})
    items = [{"id": f"i{n}", "title": f"the number {n} of them", "features": f} for n, f in enumerate(COLOURS)]
    return {"kind": "catalog", "item_dim": 2, "rank": 2, "refit": {"min_new_preferences": 1_000_000}}, items, said


def _courses() -> tuple[Json, list[Json], list[Json]]:
    rng = np.random.default_rng(4)
    places, moves = ["home", "away"], ["stay", "go"]
    transitions = [[s, a, places[(i + j) % 2], 1.0] for i, s in enumerate(places) for j, a in enumerate(moves)]
    said = []
    for number in range(16 * 16):
        pair = [_walk(rng, places, moves) for _ in range(2)]
        if pair[0] == pair[1]:
            continue
        away = [sum(place == "away" for place, _ in course) for course in pair]
        if (away[0] > away[1]) == (number % 2 == 0):
            pair.reverse()
        chosen, rejected = ({"trajectory": course} for course in pair)
        said.append({"user": f"user-{number % 16}", "chosen": chosen, "rejected": rejected})
    definition = {"kind": "mdp", "states": places, "actions": moves, "horizon": 3, "transitions": transitions}
    return {**definition, "rank": 1, "refit": {"min_new_preferences": 1_000_000}}, [], said


def _walk(rng: np.random.Generator, places: list[str], moves: list[str]) -> list[list[str]]:
    at, course = 0, []
    for move in rng.integers(2, size=3).tolist():
        course.append([places[at], moves[move]])
        at = (at + move) % 2
    return course


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as opened:
        yield opened


@pytest.fixture
def visit(browser: Browser, served: str) -> Iterator[Visit]:
    with visiting(browser, served, ADMIN_KEY, **SCREENS["light"]) as opened:
        yield opened


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_whole_accessible_and_without_a_fault(
    browser: Browser, served: str, page: str, screen: str
) -> None:
    with visiting(browser, served, ADMIN_KEY, **SCREENS[screen]) as visit:
        visit.open(PAGES[page])
        expect(visit.page.locator("h1")).to_be_visible()
        assert (visit.problem(), visit.faults) == ("", [])
        width = SCREENS[screen]["viewport"]["width"]
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert _serious(visit.page) == []


def _serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in {"serious", "critical"}]


def test_the_overview_leads_to_an_environment_and_on_to_a_user(visit: Visit) -> None:
    visit.open("#/")
    visit.page.get_by_role("link", name=SHOP, exact=True).click()
    expect(visit.page.get_by_role("heading", name=SHOP)).to_be_visible()
    visit.page.get_by_label("A user's id begins with").fill("user-1")
    expect(visit.page.get_by_role("link", name="user-2", exact=True)).to_have_count(0)
    visit.page.get_by_role("link", name="user-11", exact=True).click()
    expect(visit.page.get_by_role("heading", name="user-11")).to_be_visible()


def test_a_refit_is_followed_live_and_its_version_rolled_back(visit: Visit, served: str) -> None:
    visit.open(f"#/environments/{SHOP}")
    phases: list[str] = []
    visit.page.expose_function("note", lambda text: phases.append(text))  # noqa: PLW0108 - playwright looks into functions
    visit.page.evaluate(
        "new MutationObserver(() => note(document.querySelector('.phase')?.textContent ?? ''))"
        ".observe(document.body, { subtree: true, childList: true, characterData: true })"
    )
    visit.page.get_by_role("button", name="Retrain now").click()
    back = visit.page.get_by_role("button", name="Roll back to version 1")
    expect(back).to_be_visible(timeout=60_000)
    assert {text.split(":")[0] for text in phases} >= {"running"}
    back.click()
    visit.page.get_by_role("dialog").get_by_role("button", name="Roll back to version 1").click()
    expect(visit.page.get_by_role("button", name="Promote version 2")).to_be_visible()
    with client_for(served) as api:
        assert api.get(f"/v1/environments/{SHOP}").json()["model_version"] == 1
    assert (visit.problem(), visit.faults) == ("", [])


def test_a_person_answers_by_keyboard_and_watches_their_ranking_form(visit: Visit, served: str) -> None:
    visit.open(f"#/try/{SHOP}")
    before = _ranked(visit.page)
    (user,) = re.findall(r"visitor-\w+", visit.page.locator("main").inner_text())
    for number, key in enumerate(["ArrowLeft", "ArrowRight", "ArrowDown", "ArrowLeft"], start=1):
        visit.page.keyboard.press(key)
        expect(visit.page.get_by_text(f"Question {number + 1} of 10")).to_be_visible()
    visit.page.locator(".card").first.click()
    expect(visit.page.get_by_text("Rests on 5 of your own answers")).to_be_visible()
    assert _ranked(visit.page) != before
    with client_for(served) as api:
        path = f"/v1/environments/{SHOP}/users/{user}"
        said = api.get(f"{path}/export", params={"format": "json"}).json()["preferences"]
        assert [one["label"] for one in said] == [1.0, 0.0, 0.5, 1.0, 1.0]
        visit.page.get_by_role("button", name="Forget my answers").click()
        visit.page.get_by_role("dialog").get_by_role("button", name="Forget my answers").click()
        expect(visit.page.get_by_text("Before your first answer")).to_be_visible()
        assert api.get(path).json()["feedback_count"] == 0
    assert (visit.problem(), visit.faults) == ("", [])


def _ranked(page: Page) -> Any:
    return page.locator("svg[aria-label^=Ranking]").get_attribute("aria-label")


def test_a_wrong_key_is_told_and_a_right_one_mends_it(browser: Browser, served: str) -> None:
    with visiting(browser, served, None, **SCREENS["light"]) as visit:
        visit.page.goto(f"{served}/console")
        expect(visit.page.locator("#problem")).to_contain_text("an API key is needed")
        visit.page.get_by_label("API key").fill(ADMIN_KEY)
        visit.page.keyboard.press("Enter")
        expect(visit.page.get_by_role("link", name=SHOP, exact=True)).to_be_visible()
        assert visit.problem() == ""


def test_colours_are_the_visitors_choice_and_kept(visit: Visit) -> None:
    visit.open("#/")
    light = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    for name in ("light", "dark"):
        visit.page.get_by_role("button", name="Colours").click()
        expect(visit.page.get_by_role("button", name=f"Colours: {name}")).to_be_visible()
    dark = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    visit.page.reload()
    visit.settle()
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
