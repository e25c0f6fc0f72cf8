"""What a process remembers, against what another one (here: raw SQL with notices) does meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest
from sqlalchemy import text

from app.domain import CatalogEnvironment, NotFoundError, Scope, UnauthenticatedError
from app.store import (
    Current,
    Database,
    EnvironmentState,
    Notices,
    create_key,
    delete_environment,
    put_environment,
    record_preferences,
    revoke_key,
)
from app.store.current import Remembered
from tests.support.builders import prefers
from tests.support.feedback import define, until
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def notices(db: Database) -> AsyncIterator[Notices]:
    made = Notices(db.url)
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
def current(db: Database, notices: Notices) -> Current:
    return Current(db, notices)


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Database]:
    """The database as another process has it."""
    database = Database(database_url, pool_size=2)
    yield database
    await database.dispose()


class Source:
    """A value whose reading can be held up between looking and answering."""

    def __init__(self) -> None:
        self.value = 0
        self.reads = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def read(self) -> int:
        self.reads += 1
        found = self.value
        await self.go_on.wait()
        return found


async def test_a_value_is_read_once(notices: Notices) -> None:
    source, remembered = Source(), Remembered[str, int](notices, 10)
    source.go_on.clear()
    asked = [asyncio.create_task(remembered.get("a", source.read)) for _ in range(5)]
    await asyncio.sleep(0)
    source.go_on.set()
    assert await asyncio.gather(*asked) == [0] * 5
    assert await remembered.get("a", source.read) == 0
    assert source.reads == 1


async def test_a_read_that_a_notice_overtakes_is_not_remembered(notices: Notices) -> None:
    source, remembered = Source(), Remembered[str, int](notices, 10)
    source.go_on.clear()
    early = asyncio.create_task(remembered.get("a", source.read))
    await eventually(lambda: source.reads == 1)
    source.value = 1
    remembered.drop("a")
    late = asyncio.create_task(remembered.get("a", source.read))
    await eventually(lambda: source.reads == 2)
    source.go_on.set()
    assert await early == 0
    assert await late == 1
    assert await remembered.get("a", source.read) == 1
    assert source.reads == 2


async def test_only_so_many_are_remembered(notices: Notices) -> None:
    source, remembered = Source(), Remembered[int, int](notices, 3)
    for key in range(10):
        await remembered.get(key, source.read)
    assert len(remembered) == 3


async def test_nothing_is_remembered_while_notices_cannot_be_heard() -> None:
    source, remembered = Source(), Remembered[str, int](Notices("postgresql://nobody@127.0.0.1:1/none"), 10)
    for _ in range(2):
        await remembered.get("a", source.read)
    assert source.reads == 2
    assert len(remembered) == 0


async def test_a_redefinition_by_another_process_is_seen(
    current: Current, other: Database, environment_name: str
) -> None:
    await put_environment(other, CatalogEnvironment(environment_name, item_dim=2))
    first = await current.environment(environment_name)
    assert await current.environment(environment_name) is first
    await put_environment(other, CatalogEnvironment(environment_name, item_dim=2, confidence=0.5))

    def current_one() -> Awaitable[EnvironmentState]:
        return current.environment(environment_name)

    await until(current_one, lambda now: now.definition.confidence == 0.5, every=0.002)
    await delete_environment(other, environment_name)
    with pytest.raises(NotFoundError):
        await until(current_one, lambda _: False, every=0.002)


async def test_a_change_of_this_process_is_seen_at_once(current: Current, db: Database, environment_name: str) -> None:
    await put_environment(db, CatalogEnvironment(environment_name, item_dim=2))
    for confidence in (0.5, 0.6, 0.7):
        await put_environment(db, CatalogEnvironment(environment_name, item_dim=2, confidence=confidence))
        assert (await current.environment(environment_name)).definition.confidence == confidence


async def test_what_another_process_recorded_is_counted(
    current: Current, other: Database, environment_name: str
) -> None:
    await define(other, CatalogEnvironment(environment_name, item_dim=2))
    assert (await current.user(environment_name, "ada"))[1].feedback_count == 0
    await record_preferences(other, environment_name, [prefers("ada", "item-0", "item-1")])

    async def count() -> int:
        return (await current.user(environment_name, "ada"))[1].feedback_count

    await until(count, lambda found: found == 1, every=0.002)


async def test_who_asks_for_what_was_not_heard_yet_is_answered_from_the_database(
    current: Current, notices: Notices, db: Database, environment_name: str
) -> None:
    await define(db, CatalogEnvironment(environment_name, item_dim=2))
    recorded = await record_preferences(db, environment_name, [prefers("ada", "item-0", "item-1")])
    assert recorded.position is not None
    await eventually(lambda: notices.has_heard(recorded.position or 0))
    environment, count = await current.user(environment_name, "ada", recorded.position)
    assert count.feedback_count == 1
    async with db.begin() as connection:
        query = text("UPDATE users SET feedback_count = 7 WHERE environment_id = :here")
        await connection.execute(query, {"here": environment.id})
    assert (await current.user(environment_name, "ada", recorded.position))[1].feedback_count == 1
    assert (await current.user(environment_name, "ada", 1 << 60))[1].feedback_count == 7


async def test_a_key_that_another_process_revoked_is_refused(current: Current, other: Database) -> None:
    key, secret = await create_key(other, "reader", [Scope.READ])
    assert await current.key(secret) is await current.key(secret)
    await revoke_key(other, key.id)
    with pytest.raises(UnauthenticatedError):
        await until(lambda: current.key(secret), lambda _: False, every=0.002)


async def test_a_key_that_this_process_revoked_is_refused_at_once(current: Current, db: Database) -> None:
    key, secret = await create_key(db, "reader", [Scope.READ])
    await current.key(secret)
    await revoke_key(db, key.id)
    with pytest.raises(UnauthenticatedError):
        await current.key(secret)
