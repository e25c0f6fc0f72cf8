from dataclasses import replace

import numpy as np
import pytest

from app.domain import InvalidInputError, NotFoundError
from app.store import (
    Database,
    Upserted,
    all_items,
    item_features,
    list_items,
    put_environment,
    retire_item,
    serving_state,
    upsert_items,
)
from tests.support.builders import catalog, items, mdp

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shop(db: Database, environment_name: str) -> str:
    await put_environment(db, catalog(environment_name))
    return environment_name


async def test_items_come_back_as_they_were_given(db: Database, shop: str) -> None:
    given = items(3)
    assert await upsert_items(db, shop, given) == Upserted(created=3, updated=0)
    found = await item_features(db, shop, ["item-1", "nothing"])
    assert list(found) == ["item-1"]
    np.testing.assert_array_equal(found["item-1"].features, given[1].features)
    assert (found["item-1"].text, found["item-1"].title) == ("text 1", "Title 1")


async def test_only_changed_items_count_as_updated(db: Database, shop: str) -> None:
    first, second = items(2)
    await upsert_items(db, shop, [first, second])
    before = await serving_state(db, shop, "anna")
    assert await upsert_items(db, shop, [first, second]) == Upserted(created=0, updated=0)
    assert await serving_state(db, shop, "anna") == before
    assert await upsert_items(db, shop, [first, replace(second, title="Another")]) == Upserted(created=0, updated=1)
    assert (await serving_state(db, shop, "anna")).catalog_revision == before.catalog_revision + 1
    others = [replace(item, title="Others") for item in items(4)]
    assert await upsert_items(db, shop, others) == Upserted(created=2, updated=2)
    again = [replace(item, title="Again") for item in items(5)]
    assert await upsert_items(db, shop, again) == Upserted(created=1, updated=4)


async def test_pages_follow_one_another(db: Database, shop: str) -> None:
    await upsert_items(db, shop, items(5))
    first = await list_items(db, shop, limit=3)
    rest = await list_items(db, shop, limit=3, after=first[-1].id)
    assert [item.id for item in first + rest] == [f"item-{index}" for index in range(5)]


async def test_the_table_of_all_items_is_ordered_by_id(db: Database, shop: str) -> None:
    given = items(12)
    await upsert_items(db, shop, given[::-1])
    table = await all_items(db, shop)
    assert table.ids == tuple(sorted(item.id for item in given))
    by_id = {item.id: item.features for item in given}
    np.testing.assert_array_equal(table.features, np.array([by_id[item_id] for item_id in table.ids]))


async def test_an_empty_catalogue_is_an_empty_table(db: Database, shop: str) -> None:
    assert (await all_items(db, shop)).features.shape == (0, 4)


async def test_a_retired_item_is_gone_until_it_is_given_again(db: Database, shop: str) -> None:
    first, second = items(2)
    await upsert_items(db, shop, [first, second])
    await retire_item(db, shop, first.id)
    assert [item.id for item in await list_items(db, shop, limit=10)] == [second.id]
    assert await item_features(db, shop, [first.id]) == {}
    with pytest.raises(NotFoundError, match="no item 'item-0'"):
        await retire_item(db, shop, first.id)
    assert await upsert_items(db, shop, [first]) == Upserted(created=0, updated=1)
    assert (await all_items(db, shop)).ids == (first.id, second.id)


async def test_bad_batches_are_refused_whole(db: Database, shop: str, environment_name: str) -> None:
    first, second = items(2)
    with pytest.raises(InvalidInputError, match="has 3 features") as refused:
        await upsert_items(db, shop, [first, replace(second, features=np.ones(3, np.float32))])
    assert refused.value.pointer == "/items/1/features"
    with pytest.raises(InvalidInputError, match="given twice") as refused:
        await upsert_items(db, shop, [first, second, first])
    assert refused.value.pointer == "/items/2/id"
    assert await list_items(db, shop, limit=10) == []


async def test_an_mdp_has_no_items(db: Database, environment_name: str) -> None:
    await put_environment(db, mdp(environment_name))
    with pytest.raises(InvalidInputError, match="is an MDP"):
        await upsert_items(db, environment_name, items(1))
