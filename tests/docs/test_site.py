"""The documentation site: it builds without a broken link, and every block of code on its pages runs, in order."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli import demo_data
from app.client import Client
from tests.support.api import ADMIN_KEY, serving
from tests.support.worker import working

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if BLOCK.search(path.read_text()))
ADDRESS = "http://127.0.0.1:8000"
MADE = ("helpdesk", "answers", "breaks", "front-page")


@pytest.fixture(scope="module")
def service(database_url: str) -> Iterator[str]:
    """What the pages find in the demo: the replies, with fewer readers."""
    definition, items, said = demo_data.replies(users=24, answers=16)
    with serving(database_url) as url, working(database_url), Client(url, key=ADMIN_KEY) as client:
        client.put_environment(demo_data.REPLIES, {**definition, "rank": 2})
        client.put_items(demo_data.REPLIES, items)
        client.record(demo_data.REPLIES, said)
        assert client.wait_for_refit(client.retrain(demo_data.REPLIES)["id"])["state"] == "succeeded"
        yield url
        for one in client.environments()["environments"]:
            if one["name"] in {demo_data.REPLIES, *MADE}:
                client.delete_environment(one["name"])


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT / "docs")) for page in PAGES])
def test_every_block_of_a_page_runs_in_its_order(service: str, tmp_path: Path, page: Path) -> None:
    key = tmp_path / ".psharelora" / "demo.key"
    key.parent.mkdir()
    key.write_text(ADMIN_KEY)
    exports = ""
    for block in BLOCK.finditer(page.read_text()):
        code = block["code"].replace(ADDRESS, service)
        match block["language"]:
            case "sh":
                _run(["bash", "-euo", "pipefail", "-c", exports + code], tmp_path)
                exports += "".join(line + "\n" for line in code.splitlines() if line.startswith("export "))
            case "python":
                _run(["bash", "-euc", f'{exports}exec "{sys.executable}" -W error::UserWarning -'], tmp_path, code)
            case language:
                raise AssertionError(
                    f"{page.name}: a block of {language!r} that nobody runs; indent it if it is no code"
                )


def _run(command: list[str], folder: Path, code: str = "") -> None:
    programs = Path(sys.executable).parent
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "COLUMNS": "120",
        },
        input=code,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"{command[-1]}\n{code}\n{done.stdout}\n{done.stderr}"


def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES)
    loaded = [
        (page.name, link)
        for page in pages
        for link in re.findall(r"<(?:script|img)[^>]+src=\"(https?://[^\"]+)", page.read_text())
    ]
    assert loaded == []


def test_no_command_hides_in_an_indented_block() -> None:
    """What is indented is a formula or a drawing; commands and code stand in blocks that run."""
    for page in (ROOT / "docs").rglob("*.md"):
        text = BLOCK.sub("", page.read_text())
        assert not re.search(r"^    (?:psharelora|make|curl|pip|python|from|import) ", text, re.MULTILINE), page.name


def test_every_tutorial_has_code_that_runs() -> None:
    assert {"llm-reranking.md", "coaching.md", "azure-personalizer.md"} <= {page.name for page in PAGES}
