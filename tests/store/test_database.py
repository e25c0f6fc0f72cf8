"""What callers are told when the database does not answer, and what a lost race costs them."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import StoreUnavailableError
from app.store import Database, EmbeddedPostgres, list_environments, migrate, put_environment, serving_state
from app.store.database import transaction
from tests.support.builders import mdp
from tests.support.postgres import NOT_DURABLE

pytestmark = pytest.mark.anyio


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    db = Database("postgresql://nobody@127.0.0.1:1/nothing")
    for deed in (list_environments(db), serving_state(db, "a", "b"), put_environment(db, mdp("a"))):
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            await deed
    await db.dispose()


async def test_a_used_up_pool_is_unavailable(database_url: str) -> None:
    db = Database(database_url, pool_size=1, pool_timeout_seconds=0.05)
    async with db.begin():
        with pytest.raises(StoreUnavailableError, match="did not answer"):
            await list_environments(db)
    await list_environments(db)
    await db.dispose()


async def test_a_connection_lost_in_the_middle_is_unavailable(db: Database) -> None:
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        async with db.begin() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    await list_environments(db)


async def test_a_restarted_server_is_used_again(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, settings=NOT_DURABLE)
    url = await asyncio.to_thread(server.acquire)
    await asyncio.to_thread(migrate, url)
    db = Database(url)
    await put_environment(db, mdp("a"))
    await asyncio.to_thread(server.release)
    with pytest.raises(StoreUnavailableError):
        await list_environments(db)
    await asyncio.to_thread(server.acquire)
    assert [each.environment.name for each in await list_environments(db)] == ["a"]
    await db.dispose()
    await asyncio.to_thread(server.release)


async def test_connections_are_kept_when_the_clock_was_put_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of before were lost at a time that is to come again; nobody may take the new ones for lost as well."""
    db = Database(database_url)

    async def backend() -> int:
        async with db.begin() as connection:
            found: int = await connection.scalar(text("SELECT pg_backend_pid()"))
        return found

    with pytest.raises(StoreUnavailableError):
        async with db.begin() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    earlier = SimpleNamespace(time=lambda: time.time() - 3600, perf_counter=time.perf_counter)
    monkeypatch.setattr("sqlalchemy.pool.base.time", earlier)
    assert len({await backend() for _ in range(5)}) == 1
    await db.dispose()


async def test_a_mistake_in_a_query_is_not_taken_for_an_outage(db: Database) -> None:
    with pytest.raises(Exception, match="nonsense") as mistake:
        async with db.begin() as connection:
            await connection.execute(text("SELECT nonsense"))
    assert not isinstance(mistake.value, StoreUnavailableError)


async def test_a_deadlock_is_tried_again(db: Database) -> None:
    """Two deeds take two locks in opposite order; both are done, one of them the second time."""
    met = asyncio.Barrier(2)
    rounds = {"first": 0, "second": 0}

    @transaction
    async def lock_both(connection: AsyncConnection, who: str, one: int, other: int) -> None:
        rounds[who] += 1
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": one})
        if rounds[who] == 1:
            await met.wait()
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": other})

    await asyncio.gather(lock_both(db, "first", 71, 72), lock_both(db, "second", 72, 71))
    assert sorted(rounds.values()) == [1, 2]


async def test_who_always_loses_is_told(db: Database) -> None:
    @transaction
    async def lose(connection: AsyncConnection) -> None:
        await connection.execute(text("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"))

    with pytest.raises(StoreUnavailableError, match="gave up 5 times"):
        await lose(db)
