from collections.abc import AsyncIterator

import pytest

from app.serving import ServingRuntime
from app.store import Database


@pytest.fixture
async def runtime(db: Database) -> AsyncIterator[ServingRuntime]:
    """Of one process."""
    made = ServingRuntime(db)
    yield made
    await made.aclose()


@pytest.fixture
async def other_runtime(database_url: str) -> AsyncIterator[ServingRuntime]:
    """Of another process: nothing is shared but the database."""
    database = Database(database_url, pool_size=2)
    made = ServingRuntime(database)
    yield made
    await made.aclose()
    await database.dispose()
