"""The columns that a fit reads are what was said, option by option."""

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text

from app.domain import Context, CorruptModelError, FeaturesOption, ItemOption, Option, Preference, TrajectoryOption
from app.domain.arrays import PreferenceTable, comparisons
from app.store import (
    Database,
    get_environment,
    load_preferences,
    loading,
    put_environment,
    record_preferences,
    retire_item,
    upsert_items,
    user_comparisons,
)
from tests.support.builders import DIM, catalog, items, mdp, prefers, walks

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def varied(n: int) -> list[Preference]:
    """Items and inline options, with and without a context, of five users."""
    rng = np.random.default_rng(3)

    def option() -> Option:
        if rng.random() < 0.3:
            return FeaturesOption(rng.normal(size=DIM).astype(np.float32))
        return ItemOption(f"item-{rng.integers(8)}")

    return [
        Preference(
            user=f"user-{rng.integers(5)}",
            chosen=option(),
            rejected=FeaturesOption(rng.normal(size=DIM).astype(np.float32)),
            context=Context(rng.integers(3, size=2).astype(np.float32)) if rng.random() < 0.7 else None,
            label=float(rng.random()),
            weight=float(rng.random()) + 0.5,
            occurred_at=NOON + timedelta(seconds=index),
        )
        for index in range(n)
    ]


def assert_says(table: PreferenceTable, said: list[Preference]) -> None:
    """The table's rows, resolved one at a time, are these preferences."""
    catalogue = {item.id: item.features for item in items(8)}

    def features(option: Option) -> object:
        assert not isinstance(option, TrajectoryOption)
        return catalogue[option.item] if isinstance(option, ItemOption) else option.features

    assert len(table) == len(said)
    for row, each in enumerate(said):
        assert table.user_ids[table.user[row]] == each.user
        np.testing.assert_array_equal(table.items[table.chosen[row]], features(each.chosen))
        np.testing.assert_array_equal(table.items[table.rejected[row]], features(each.rejected))
        if each.context is None:
            assert table.context[row] == -1
        else:
            np.testing.assert_array_equal(table.contexts[table.context[row]], each.context.features)
        assert each.occurred_at is not None
        assert (table.label[row], table.weight[row]) == (each.label, each.weight)
        assert table.occurred_at[row] == each.occurred_at.timestamp()


@pytest.fixture
async def shop(db: Database, environment_name: str) -> str:
    await put_environment(db, catalog(environment_name, context_dim=2))
    await upsert_items(db, environment_name, items(8))
    return environment_name


@pytest.mark.parametrize(("max_keys", "page_bytes"), [(5_000, 2**26), (3, 100)], ids=["at once", "page by page"])
async def test_a_table_says_what_was_said(
    db: Database, shop: str, monkeypatch: pytest.MonkeyPatch, max_keys: int, page_bytes: int
) -> None:
    monkeypatch.setattr(loading, "MAX_KEYS", max_keys)
    monkeypatch.setattr(loading, "PAGE_BYTES", page_bytes)
    said = varied(60)
    await record_preferences(db, shop, said)
    await retire_item(db, shop, "item-1")
    table = await load_preferences(db, shop)
    assert_says(table, said)
    assert table.feedback_count.tolist() == [sum(each.user == user for each in said) for user in table.user_ids]


async def test_one_users_table_is_their_part(db: Database, shop: str) -> None:
    said = varied(60)
    await record_preferences(db, shop, said)
    table = await user_comparisons(db, shop, "user-2")
    assert table.user_ids == ("user-2",)
    assert_says(table, [each for each in said if each.user == "user-2"])


async def test_an_options_key_is_the_same_in_every_table(db: Database, shop: str) -> None:
    await record_preferences(db, shop, varied(60))
    whole, part = await load_preferences(db, shop), await user_comparisons(db, shop, "user-2")
    position = np.searchsorted(whole.item_keys, part.item_keys)
    np.testing.assert_array_equal(whole.item_keys[position], part.item_keys)
    np.testing.assert_array_equal(whole.items[position], part.items)


@pytest.mark.parametrize("kind", [catalog, mdp])
async def test_tables_without_preferences_make_no_comparisons(
    db: Database, environment_name: str, kind: object
) -> None:
    assert callable(kind)
    await put_environment(db, kind(environment_name))
    environment = await get_environment(db, environment_name)
    assert len(comparisons(await load_preferences(db, environment_name), environment)) == 0
    alone = comparisons(await user_comparisons(db, environment_name, "nobody"), environment)
    assert (len(alone), alone.n_users) == (0, 1)


async def test_comparisons_of_a_catalogue_subtract_its_options(db: Database, shop: str) -> None:
    said = varied(20)
    await record_preferences(db, shop, said)
    table = await load_preferences(db, shop)
    absent = np.array([10.0, -10.0])
    environment = await get_environment(db, shop)
    made = comparisons(table, environment, absent_context=absent, now=NOON.timestamp() + 100)
    for row in range(len(said)):
        terms = slice(made.indptr[row], made.indptr[row + 1])
        design = np.einsum("l,li,lj->ij", made.signs[terms], made.items[made.rows[terms]], made.Y[made.cols[terms]])
        context = absent if table.context[row] < 0 else table.contexts[table.context[row]]
        difference = table.items[table.chosen[row]].astype(float) - table.items[table.rejected[row]]
        np.testing.assert_allclose(design, np.outer(difference, context))
    assert made.age_seconds is not None
    np.testing.assert_allclose(made.age_seconds, 100.0 - np.arange(20))
    np.testing.assert_array_equal(made.user, table.user)


async def test_an_absent_context_is_by_default_the_mean(db: Database, shop: str) -> None:
    await record_preferences(db, shop, varied(20))
    table = await load_preferences(db, shop)
    made = comparisons(table, await get_environment(db, shop))
    np.testing.assert_allclose(made.Y[-1], table.contexts.mean(axis=0), rtol=1e-6)
    assert made.age_seconds is None


async def test_comparisons_of_trajectories_count_visits(db: Database, environment_name: str) -> None:
    await put_environment(db, mdp(environment_name))
    await record_preferences(db, environment_name, [walks("anna", "011", "100"), walks("ben", "000", "010")])
    made = comparisons(await load_preferences(db, environment_name), mdp(environment_name))
    design = np.zeros((2, 2, 2))
    comparison = np.repeat(np.arange(2), np.diff(made.indptr))
    np.add.at(design, (comparison, made.rows, made.cols), made.signs)
    # By hand: "011" from state 0 visits (0,0), (0,1), (1,1), and "100" visits (0,1), (1,0), (0,0);
    # "000" visits (0,0) three times, and "010" visits (0,0), (0,1), (1,0).
    np.testing.assert_array_equal(design[0], [[0, 0], [-1, 1]])
    np.testing.assert_array_equal(design[1], [[2, -1], [-1, 0]])


async def test_a_load_sees_one_moment(db: Database, shop: str) -> None:
    """Users, preferences and options belong together, however much is recorded in between."""

    async def record() -> None:
        for index in range(30):
            option = FeaturesOption(np.full(DIM, index, dtype=np.float32))
            await record_preferences(db, shop, [Preference(f"new-{index}", option, ItemOption("item-0"))])

    async def load() -> None:
        for _ in range(15):
            table = await load_preferences(db, shop)
            np.testing.assert_array_equal(table.feedback_count, np.ones(table.n_users))

    await asyncio.gather(record(), load())


async def test_missing_options_are_noticed(db: Database, shop: str) -> None:
    await record_preferences(db, shop, [prefers("anna", "item-0", "item-1")])
    async with db.begin() as connection:
        await connection.execute(
            text("DELETE FROM items USING environments e WHERE e.id = environment_id AND e.name = :name"),
            {"name": shop},
        )
    with pytest.raises(CorruptModelError, match="2 rows of items are missing"):
        await load_preferences(db, shop)
