"""The quick way of a group stores what the careful way stores, or nothing."""

from collections.abc import Sequence

import numpy as np
import pytest
from sqlalchemy import text

from app.domain import FeaturesOption, Preference, Recorded, StoreUnavailableError
from app.store import (
    Database,
    Notice,
    erase_user,
    record_preferences,
    retire_item,
)
from app.store.preferences import Submission, record_group
from app.store.usual import UsualRecorder
from tests.support.builders import DIM, prefers
from tests.support.shops import all_of, open_shop, said

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shops(db: Database, environment_name: str) -> tuple[str, str]:
    names = environment_name, f"{environment_name}-2"
    for name in names:
        await open_shop(db, name)
    return names


def groups(names: Sequence[str], seed: int, n: int = 12) -> list[Submission]:
    return [Submission(names[index % len(names)], said(seed + index, 1 + index % 3)) for index in range(n)]


async def test_both_ways_store_the_same(db: Database, shops: tuple[str, str]) -> None:
    quick, careful = shops
    usual = UsualRecorder(db)
    for seed in (0, 100):
        assert await usual.record(groups([quick], seed)) is not None
        assert all(isinstance(one, Recorded) for one in await record_group(db, groups([careful], seed)))
        assert await all_of(db, quick) == await all_of(db, careful)
        for name in shops:
            await erase_user(db, name, "u1")
    await usual.aclose()


async def test_environments_share_a_transaction_and_this_process_hears_of_both(
    db: Database, shops: tuple[str, str]
) -> None:
    heard: list[Notice] = []
    db.tell(heard.append)
    usual = UsualRecorder(db)
    found = await usual.record([Submission(name, [prefers("u0", "item-0", "item-1")]) for name in shops])
    assert found == [Recorded(1, 0)] * 2
    assert found[0].position == found[1].position is not None
    assert [one.users for one in heard] == [("u0",)] * 2
    assert len({one.environment_id for one in heard}) == 2
    await usual.aclose()


async def test_whatever_is_out_of_the_ordinary_is_left_to_the_careful_way(db: Database, shops: tuple[str, str]) -> None:
    shop, _ = shops
    await record_preferences(db, shop, [prefers("u0", "item-0", "item-1", id="stored")])
    await retire_item(db, shop, "item-4")
    before = await all_of(db, shop)
    usual = UsualRecorder(db)
    odd = [
        prefers("u1", "item-0", "nothing"),
        prefers("u1", "item-4", "item-0"),
        prefers("u1", "item-1", "item-1"),
        prefers("u1", "item-0", "item-1", id="stored"),
        Preference("u1", FeaturesOption(np.zeros(DIM, dtype=np.float32)), prefers("u1", "item-0", "item-1").chosen),
        prefers("no\x00", "item-0", "item-1"),
    ]
    good = Submission(shop, [prefers("u2", "item-0", "item-1")])
    for one in odd:
        assert await usual.record([good, Submission(shop, [one])]) is None
    twice = prefers("u1", "item-0", "item-1", id="twice")
    assert await usual.record([Submission(shop, [twice, twice])]) is None
    assert await usual.record([good, Submission(f"{shop}-not", [twice])]) is None
    assert await all_of(db, shop) == before
    assert await usual.record([good]) == [Recorded(1, 0)]
    await usual.aclose()


async def test_a_connection_that_breaks_in_between_says_that_nothing_is_known(
    db: Database, shops: tuple[str, str]
) -> None:
    """It may have been stored: to store it another way could count it twice."""
    shop, _ = shops
    usual = UsualRecorder(db)
    good = Submission(shop, [prefers("u2", "item-0", "item-1")])
    assert await usual.record([good]) == [Recorded(1, 0)]
    async with db.begin() as connection:
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%record_item_preferences%'"
                " AND datname = current_database()"
                " AND pid <> pg_backend_pid()"
            )
        )
    with pytest.raises(StoreUnavailableError):
        await usual.record([good])
    assert await usual.record([good]) == [Recorded(1, 0)]
    await usual.aclose()
