"""What is asked of a database that says nothing ends in time; the network between is a real one that fails."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text

from app.domain import StoreUnavailableError
from app.store import Database, Notices, list_environments
from tests.support.faults.proxy import Network
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 0.4


@pytest.fixture
def network(server_url: str) -> Iterator[Network]:
    folder = parse_qs(urlsplit(server_url).query)["host"][0]
    with Network(Path(folder, ".s.PGSQL.5432")).connecting() as network:
        yield network


@pytest.fixture
def far_url(network: Network, database_url: str) -> str:
    return f"postgresql://psharelora@127.0.0.1:{network.port}{urlsplit(database_url).path}"


@pytest.fixture
async def far_db(far_url: str) -> AsyncIterator[Database]:
    database = Database(far_url, pool_size=2, patience_seconds=PATIENCE_SECONDS)
    yield database
    await database.dispose()


async def test_a_silent_database_is_unavailable_in_time_and_is_used_again_when_it_speaks(
    far_db: Database, network: Network
) -> None:
    await list_environments(far_db)
    network.stall()
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        await list_environments(far_db)
    # Its patience for the old connection, and that for making another one.
    assert time.monotonic() - begun < PATIENCE_SECONDS + 8
    network.heal()
    await list_environments(far_db)


async def test_a_connection_lost_silently_costs_one_wait(far_db: Database, network: Network) -> None:
    await list_environments(far_db)
    network.lose()
    begun = time.monotonic()
    await list_environments(far_db)
    assert PATIENCE_SECONDS * 0.7 < time.monotonic() - begun < 5


async def test_a_statement_that_takes_too_long_is_given_up(far_db: Database) -> None:
    async def sleep() -> None:
        async with far_db.begin() as connection:
            await connection.execute(text("SELECT pg_sleep(30)"))

    with pytest.raises(StoreUnavailableError):
        await sleep()


async def test_a_slow_but_talking_database_is_waited_for(far_db: Database) -> None:
    rows = "SELECT pg_sleep(0.001), repeat('x', 4000) FROM generate_series(1, 800)"
    begun = time.monotonic()
    async with far_db.begin() as connection:
        assert len((await connection.execute(text(rows))).all()) == 800
    assert time.monotonic() - begun > PATIENCE_SECONDS


async def test_notices_lost_silently_are_noticed_and_heard_again(far_url: str, network: Network) -> None:
    notices = Notices(far_url)
    await notices.start()
    await asyncio.sleep(2.0)
    assert notices.is_listening, "silence alone is no loss"
    network.lose()
    await eventually(lambda: not notices.is_listening)
    await eventually(lambda: notices.is_listening)
    await notices.aclose()


async def test_a_read_only_database_is_unavailable_and_not_a_fault(db: Database) -> None:
    async def write() -> None:
        async with db.begin() as connection:
            await connection.execute(text("SET TRANSACTION READ ONLY"))
            await connection.execute(text("UPDATE environments SET name = name"))

    with pytest.raises(StoreUnavailableError, match="read-only"):
        await write()
