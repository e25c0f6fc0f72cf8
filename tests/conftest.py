"""What every test can ask for. Isolation is a fresh environment name a test, in one migrated database a process.

All processes of a run share one embedded server, whose data lie in a directory of this run.
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from app.api import prepare as prepare_api
from app.learning import prepare as prepare_learning
from app.policy import prepare as prepare_planner
from app.store import Database, EmbeddedPostgres
from tests.support.postgres import NOT_DURABLE, migrated_database, second_server

_DIRECTORY = "PSHARELORA_TEST_DIRECTORY"
# Workers of pytest-xdist inherit the environment of the process that starts them.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Rewrite tests/golden from what is said now.")


def pytest_configure(config: pytest.Config) -> None:
    if _DIRECTORY not in os.environ:
        os.environ[_DIRECTORY] = tempfile.mkdtemp(prefix="psharelora-tests-")
        # Several processes share the cores: idle threads that spin would take them from each other.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # Once, before several processes would compile the same at the same time.
        prepare_learning()
        prepare_planner()
        prepare_api()
        config.add_cleanup(_remove_directory)


def _remove_directory() -> None:
    shutil.rmtree(os.environ.pop(_DIRECTORY), ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests with the same id pytest-xdist runs one, and says nothing of the others."""
    twice = [nodeid for nodeid, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:
        raise pytest.UsageError(f"several tests have the same id: {twice[0]}")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The embedded server, not durable."""
    with EmbeddedPostgres(Path(os.environ[_DIRECTORY], "embedded"), settings=NOT_DURABLE) as url:
        yield url


@pytest.fixture(scope="session")
def database_url(server_url: str) -> Iterator[str]:
    """A migrated database for this process."""
    with migrated_database(server_url, f"psharelora_test_{uuid4().hex}") as url:
        yield url


@pytest.fixture(scope="session")
def second_database_url() -> Iterator[str]:
    """A migrated database on a server that is not the embedded one; skips where there is none."""
    with (
        second_server(Path(os.environ[_DIRECTORY], "second")) as server,
        migrated_database(server, f"psharelora_test_{uuid4().hex}") as url,
    ):
        yield url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, pool_size=10)
    yield database
    await database.dispose()


@pytest.fixture
def environment_name() -> str:
    """A name that no other test uses."""
    return f"test-{uuid4().hex}"
