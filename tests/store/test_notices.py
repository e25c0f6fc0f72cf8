from collections.abc import AsyncIterator
from contextlib import suppress

import psycopg
import pytest
import structlog

from app.store import Database, Notice, Notices, announce
from app.store.database import EVERYTHING
from app.store.notices import announce_environment, announce_key
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def notices(database_url: str) -> AsyncIterator[Notices]:
    made = Notices(Database(database_url).url)
    await made.start()
    yield made
    await made.aclose()


def heard_by(notices: Notices) -> list[Notice]:
    heard: list[Notice] = []
    notices.tell(heard.append)
    return heard


async def until_heard(notices: Notices, position: int) -> None:
    await eventually(lambda: notices.has_heard(position))


async def test_every_kind_of_change_is_heard_after_its_commit(db: Database, notices: Notices) -> None:
    heard = heard_by(notices)
    async with db.begin() as connection:
        said = await announce(connection, {7: ["ada", "bob"], 8: ["eve"]})
        assert not notices.has_heard(said)
    async with db.begin() as connection:
        changed = await announce_environment(connection, 7)
    async with db.begin() as connection:
        revoked = await announce_key(connection, "k1")
    await until_heard(notices, revoked)
    assert notices.has_heard(said)
    assert notices.has_heard(changed)
    ours = [one for one in heard if one.environment_id in {7, 8} or one.key_id == "k1"]
    assert ours == [
        Notice(7, ("ada", "bob")),
        Notice(8, ("eve",)),
        Notice(7),
        Notice(key_id="k1"),
    ]


async def test_what_is_rolled_back_is_never_heard(db: Database, notices: Notices) -> None:
    heard = heard_by(notices)
    with suppress(ZeroDivisionError):
        async with db.begin() as connection:
            await announce(connection, {70: ["ada"]})
            raise ZeroDivisionError
    async with db.begin() as connection:
        position = await announce(connection, {71: ["ada"]})
    await until_heard(notices, position)
    assert [one.environment_id for one in heard if one.environment_id in {70, 71}] == [71]


async def test_many_users_take_several_payloads_and_too_many_stand_for_all(db: Database, notices: Notices) -> None:
    heard = heard_by(notices)
    some = [f"user-{number:0120}" for number in range(300)]
    many = [f"user-{number:0120}" for number in range(3000)]
    async with db.begin() as connection:
        await announce(connection, {80: some})
    async with db.begin() as connection:
        position = await announce(connection, {81: many})
    await until_heard(notices, position)
    told = [user for one in heard if one.environment_id == 80 for user in one.users or ()]
    assert told == some
    assert [one for one in heard if one.environment_id == 81] == [Notice(81, ())]


async def test_a_position_below_the_horizon_of_a_later_notice_has_been_heard(db: Database, notices: Notices) -> None:
    """Also that of a transaction which committed late, after others with higher positions."""
    async with db.begin() as slow:
        early = await announce(slow, {90: ["slow"]})
        async with db.begin() as quick:
            late = await announce(quick, {90: ["quick"]})
        await until_heard(notices, late)
        assert early < late
        assert not notices.has_heard(early)
    await until_heard(notices, early)
    async with db.begin() as connection:
        await until_heard(notices, await _announced(db))
        assert await announce(connection, {90: []})
    assert notices.has_heard(early)
    assert not notices.has_heard(1 << 60)


async def _announced(db: Database) -> int:
    async with db.begin() as connection:
        return await announce(connection, {91: ["ada"]})


async def test_a_lost_connection_is_noticed_and_everything_may_have_changed(
    db: Database, notices: Notices, database_url: str
) -> None:
    heard = heard_by(notices)
    position = await _announced(db)
    await until_heard(notices, position)
    with structlog.testing.capture_logs() as logged:
        with psycopg.connect(db.url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND (query IN ('SELECT 1', 'LISTEN psharelora_notices') OR query LIKE 'SELECT pg_snapshot_xmin%')"
            )
        await eventually(lambda: EVERYTHING in heard)
    # Other ears of this process on the same database say so too.
    assert "notices_lost" in {event["event"] for event in logged}
    await eventually(lambda: notices.is_listening)
    await eventually(lambda: notices.has_heard(position))
    again = await _announced(db)
    await until_heard(notices, again)


async def test_without_a_connection_nothing_has_been_heard() -> None:
    deaf = Notices("postgresql://nobody@127.0.0.1:1/none")
    await deaf.start()
    assert not deaf.is_listening
    assert not deaf.has_heard(0)
    await deaf.aclose()
