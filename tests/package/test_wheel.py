"""The wheel in an empty environment with the light dependencies only: what `pip install psharelora` gives."""

import re
import subprocess
import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SERVER = ("fastapi", "sqlalchemy", "psycopg", "pydantic", "typer", "rich", "alembic", "procrastinate", "wordllama")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light")
    build: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
    ]
    subprocess.run([*build, folder / "wheel", ROOT], check=True, capture_output=True)
    (wheel,) = (folder / "wheel").glob("*.whl")
    venv.create(folder / "venv")
    site = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        site,
        wheel,
    ]
    subprocess.run(install, check=True, capture_output=True)
    for needed in _closure("psharelora"):
        _link(needed, site)
    return folder / "venv" / "bin" / "python"


def _closure(name: str) -> dict[str, Distribution]:
    """What a distribution needs without extras, and what that needs."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(one) for one in distribution(name).requires or ()]
    while waiting:
        requirement = waiting.pop()
        key = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if key in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            found[key] = distribution(key)
        except PackageNotFoundError:
            continue
        waiting += [Requirement(one) for one in found[key].requires or ()]
    return found


def _link(name: str, site: Path) -> None:
    needed = distribution(name)
    for top in {Path(file).parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(needed.locate_file(top))))


def _run(python: Path, program: str) -> str:
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_library_works_without_the_server(python: Path) -> None:
    program = f"""
import importlib.util, sys
assert [name for name in {SERVER} if importlib.util.find_spec(name)] == []
from psharelora import ApiError, AsyncClient, Client, ServerUnreachableError
from psharelora.learning import Comparisons, fit
from psharelora.policy import FiniteHorizonMDP, robust_policy
from psharelora.trl import trl_reward
from psharelora.verl import compute_score
try:
    Client("http://127.0.0.1:1", attempts=1).environments()
except ServerUnreachableError as error:
    print(error)
"""
    assert _run(python, program).startswith("no answer from http://127.0.0.1:1")


def test_the_command_says_how_to_get_the_server(python: Path) -> None:
    command: list[str | Path] = [python, "-I", "-m", "psharelora", "serve"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 2
    assert "pip install 'psharelora[server]'" in told.stderr
    assert "Traceback" not in told.stderr


def test_the_types_come_along(python: Path) -> None:
    files = _run(
        python, "import psharelora, pathlib; print(*pathlib.Path(psharelora.__file__).parent.glob('py.typed'))"
    )
    assert files.strip()
