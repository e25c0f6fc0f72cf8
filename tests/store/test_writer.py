"""Group commit: many requests share a transaction, and none of them notices."""

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import text

from app.domain import (
    ConflictError,
    DomainError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    Preference,
    Recorded,
    StoreUnavailableError,
)
from app.store import Database, Writer, export_user, list_environments, put_environment, upsert_items
from app.store.environments import lock_environment
from tests.support.builders import catalog, items, prefers
from tests.support.feedback import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shop(db: Database, environment_name: str) -> str:
    await put_environment(db, catalog(environment_name))
    await upsert_items(db, environment_name, items(5))
    return environment_name


async def n_preferences(db: Database, name: str) -> int:
    (summary,) = [each for each in await list_environments(db) if each.environment.name == name]
    return summary.n_preferences


async def n_transactions(db: Database, name: str) -> int:
    """How many transactions wrote the preferences of an environment."""
    query = text(
        "SELECT count(DISTINCT p.xmin::text) FROM preferences p JOIN environments e ON e.id = p.environment_id "
        "WHERE e.name = :name"
    )
    async with db.begin() as connection:
        count: int = await connection.scalar(query, {"name": name})
        return count


async def outcomes(writer: Writer, said: Sequence[tuple[str, list[Preference]]]) -> list[Recorded | BaseException]:
    return await asyncio.gather(*(writer.record(name, batch) for name, batch in said), return_exceptions=True)


async def test_requests_of_all_environments_share_few_transactions(db: Database, shop: str) -> None:
    other = f"{shop}-2"
    await put_environment(db, catalog(other))
    await upsert_items(db, other, items(5))
    writer = Writer(db)
    said = [((shop, other)[index % 2], [prefers(f"u{index % 7}", "item-0", "item-1")]) for index in range(200)]
    assert await outcomes(writer, said) == [Recorded(1, 0)] * 200
    assert (await n_preferences(db, shop), await n_preferences(db, other)) == (100, 100)
    assert await n_transactions(db, shop) <= 3
    assert len(await export_user(db, shop, "u0")) + len(await export_user(db, other, "u0")) == 29
    await writer.aclose()


async def test_a_bad_request_fails_alone_and_whole(db: Database, shop: str) -> None:
    writer = Writer(db)
    await writer.record(shop, [prefers("anna", "item-0", "item-1", id="taken")])
    good = prefers("ben", "item-0", "item-1")
    said = [
        (shop, [prefers("u0", "item-0", "item-1", id="a")]),
        (shop, [good, prefers("carl", "item-0", "nothing")]),
        (f"{shop}-not", [good]),
        (shop, [prefers("u0", "item-0", "item-1", id="a")]),
        (shop, [good, prefers("anna", "item-1", "item-0", id="taken")]),
        (shop, [good, prefers("u0", "item-2", "item-1", id="a")]),
        (shop, [prefers("anna", "item-0", "item-1", id="taken"), prefers("u1", "item-0", "item-1", id="b")]),
        (shop, [prefers("u1", "item-3", "item-3")]),
        (shop, [prefers("u2", "item-0", "item-1")]),
    ]
    found = await outcomes(writer, said)
    errors = [(type(one), one.pointer) if isinstance(one, DomainError) else one for one in found]
    assert errors == [
        Recorded(1, 0),
        (InvalidInputError, "/preferences/1/rejected/item"),
        (NotFoundError, None),
        Recorded(0, 1),
        (ConflictError, "/preferences/1/id"),
        (ConflictError, "/preferences/1/id"),
        Recorded(1, 1),
        (InvalidInputError, "/preferences/0/rejected"),
        Recorded(1, 0),
    ]
    assert await n_preferences(db, shop) == 4
    assert await export_user(db, shop, "ben") == []


async def test_an_id_is_free_again_when_the_request_that_used_it_failed(db: Database, shop: str) -> None:
    writer = Writer(db)
    said = [
        (shop, [prefers("anna", "item-0", "item-1")]),  # alone in its group, so that the others share one
        (shop, [prefers("anna", "item-0", "item-1", id="a"), prefers("anna", "item-0", "nothing")]),
        (shop, [prefers("ben", "item-2", "item-1", id="a")]),
    ]
    first, failed, last = await outcomes(writer, said)
    assert (first, last) == (Recorded(1, 0), Recorded(1, 0))
    assert isinstance(failed, InvalidInputError)


async def test_what_nobody_foresaw_fails_alone(db: Database, shop: str) -> None:
    """PostgreSQL refuses a text that the edge would never let through."""
    writer = Writer(db)
    said = [(shop, [prefers(user, "item-0", "item-1")]) for user in ("a", "b", "no\x00", "c")]
    found = await outcomes(writer, said)
    assert [one if isinstance(one, Recorded) else type(one).__name__ for one in found] == [
        Recorded(1, 0),
        Recorded(1, 0),
        "StoreUnavailableError",
        Recorded(1, 0),
    ]


async def test_two_processes_that_write_the_same_ids_store_each_once(db: Database, shop: str) -> None:
    writers = [Writer(db, group_rows=5) for _ in range(3)]
    batches = [[prefers(f"u{index}", "item-0", "item-1", id=str(index))] for index in range(60)]
    found = await asyncio.gather(*(writer.record(shop, batch) for batch in batches for writer in writers))
    assert sum(one.accepted for one in found) == 60
    assert sum(one.duplicates for one in found) == 120
    assert await n_preferences(db, shop) == 60


async def test_too_much_is_refused_at_once_and_nothing_accepted_is_lost(db: Database, shop: str) -> None:
    writer = Writer(db, group_rows=10, waiting_rows=50)
    said = [(shop, [prefers(f"u{index}", "item-0", "item-1")]) for index in range(500)]
    found = await outcomes(writer, said)
    refused = [one for one in found if isinstance(one, OverloadedError)]
    assert len(refused) + found.count(Recorded(1, 0)) == 500
    assert refused
    assert await n_preferences(db, shop) == found.count(Recorded(1, 0)) > 0


async def test_as_many_wait_as_may(db: Database, shop: str) -> None:
    writer = Writer(db, waiting_rows=3)
    said = [(shop, [prefers(f"u{index}", "item-0", "item-1")]) for index in range(5)]
    *stored, refused = await outcomes(writer, said)  # the first does not wait
    assert stored == [Recorded(1, 0)] * 4
    assert isinstance(refused, OverloadedError)
    assert writer.waiting_rows == 0
    await writer.aclose()


async def test_nobody_waits_for_ever_for_a_database_that_stands_still(db: Database, shop: str) -> None:
    writer = Writer(db, group_rows=10, waiting_rows=60, waiting_seconds=0.2, group_seconds=1.0)
    said = [(shop, [prefers(f"u{index}", "item-0", "item-1")]) for index in range(200)]
    async with db.begin() as connection:
        await lock_environment(connection, shop, exclusive=True)
        async with asyncio.timeout(10):
            found = await outcomes(writer, said)
    kinds = {type(one) for one in found}
    assert kinds == {OverloadedError, StoreUnavailableError}
    async with asyncio.timeout(10):
        assert await writer.record(*said[0]) == Recorded(1, 0)
    assert await n_preferences(db, shop) == 1
    await writer.aclose()


async def test_an_environment_that_is_held_does_not_hold_up_another(db: Database, shop: str) -> None:
    other = f"{shop}-2"
    await put_environment(db, catalog(other))
    await upsert_items(db, other, items(2))
    writer = Writer(db)
    async with db.begin() as connection:
        await lock_environment(connection, shop, exclusive=True)
        held = asyncio.create_task(writer.record(shop, [prefers("anna", "item-0", "item-1")]))
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert await writer.record(other, [prefers("anna", "item-0", "item-1")]) == Recorded(1, 0)
        assert not held.done()
    assert await held == Recorded(1, 0)


async def test_closing_stores_and_acknowledges_what_waits(db: Database, shop: str) -> None:
    writer = Writer(db, group_rows=10)
    tasks = [asyncio.create_task(writer.record(shop, [prefers("anna", "item-0", "item-1")])) for _ in range(95)]
    await asyncio.sleep(0)
    await writer.aclose()
    assert await asyncio.gather(*tasks) == [Recorded(1, 0)] * 95
    assert await n_preferences(db, shop) == 95


async def test_the_planner_is_shown_what_the_tables_have_become(db: Database, shop: str) -> None:
    looked = text("SELECT sum(analyze_count) FROM pg_stat_user_tables WHERE relname IN ('users', 'preferences')")

    async def n_looks() -> int:
        async with db.begin() as connection:
            return int(await connection.scalar(looked))

    before = await n_looks()
    writer = Writer(db)
    await writer.record(shop, [prefers(f"u{index}", "item-0", "item-1") for index in range(600)])
    await writer.aclose()
    await until(n_looks, lambda looks: looks >= before + 2)
