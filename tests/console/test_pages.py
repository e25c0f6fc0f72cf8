import re
from collections.abc import Iterator
from importlib.resources import files

import httpx
import pytest

from app.main import create_app
from tests.support.api import client_for, serving, settings_for

STATIC = files("app.console").joinpath("static")
ASSETS = sorted(file.name for file in STATIC.iterdir() if file.is_file())


@pytest.fixture(scope="module")
def visitor(database_url: str) -> Iterator[httpx.Client]:
    with serving(database_url) as url, client_for(url, None) as client:
        yield client


@pytest.mark.parametrize(("page", "file"), [("/console", "index.html"), ("/docs", "docs.html")])
def test_a_page_and_all_that_it_names_are_served(visitor: httpx.Client, page: str, file: str) -> None:
    response = visitor.get(page)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text == STATIC.joinpath(file).read_text()
    named = re.findall(r'(?:src|href)="(/console/[^"]+)"', response.text)
    assert len(named) >= 2
    for path in named:
        served = visitor.get(path)
        assert served.status_code == 200
        assert served.headers["content-type"].startswith(
            {"css": "text/css", "js": "text/javascript"}[path.split(".")[-1]]
        )


def test_the_root_leads_to_the_console(visitor: httpx.Client) -> None:
    response = visitor.get("/")
    assert (response.status_code, response.headers["location"]) == (307, "/console")


@pytest.mark.parametrize("name", ASSETS)
def test_nothing_is_loaded_from_elsewhere(name: str) -> None:
    text = STATIC.joinpath(name).read_text()
    assert "//" not in re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE).replace("</", "")
    assert "innerHTML" not in re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"<style|<script(?! (?:type=\"module\" )?src=\"/console/)|\son\w+=", text)


@pytest.mark.parametrize("name", ["..%2fpages.py", "nothing.js", "%2e%2e"])
def test_only_the_pages_own_files_are_served(visitor: httpx.Client, name: str) -> None:
    assert visitor.get(f"/console/{name}").status_code == 404


def test_the_libraries_are_served_with_their_licence(visitor: httpx.Client) -> None:
    for name in ("d3.min.js", "plot.min.js", "LICENCES.txt"):
        assert visitor.get(f"/console/vendor/{name}").text == STATIC.joinpath("vendor", name).read_text()


def test_the_console_calls_only_what_the_api_has() -> None:
    document = create_app(settings_for("postgresql://nowhere")).openapi()
    scripts = "".join(STATIC.joinpath(name).read_text() for name in ASSETS if name.endswith(".js"))
    called = re.findall(r"(?:call|optional|follow)\([`\"](.+?)[`\"]", scripts)
    assert len(called) >= 12
    meant = {
        r"\$\{environmentPath\([^)]*\)\}": "/v1/environments/{environment}",
        r"\$\{adminPath\([^)]*\)\}": "/v1/admin/environments/{environment}",
        r"\$\{userPath\([^)]*\)\}": "/v1/environments/{environment}/users/{user}",
        r"\$\{refit\.id\}": "{refit}",
        r"\$\{model\.version\}": "{version}",
    }
    for written in called:
        path = written.split("?")[0]
        for expression, parameter in meant.items():
            path = re.sub(expression, parameter, path)
        assert path in document["paths"], written
