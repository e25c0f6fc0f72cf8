from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from app.domain import Context, ItemOption, Preference, Recorded, TextOption
from app.store import (
    Database,
    Erased,
    actor,
    erase_again,
    erase_user,
    export_user,
    list_audit,
    list_refits,
    load_preferences,
    put_environment,
    record_preferences,
    serving_state,
    upsert_items,
    user_comparisons,
    user_state,
)
from tests.support.builders import DIM, catalog, items

pytestmark = pytest.mark.anyio


def say(user: str, words: str, where: str, **more: Any) -> Preference:
    """A text over item-0, in a context."""
    option = TextOption(words, np.full(DIM, len(words), dtype=np.float32))
    return Preference(
        user, option, ItemOption("item-0"), context=Context(np.array([len(where)], np.float32), where), **more
    )


async def words_in(db: Database, table: str, name: str) -> set[str]:
    """Every text that the database still has for an environment, the catalogue's excepted."""
    query = f"SELECT text FROM {table} WHERE content_hash IS NOT NULL AND environment_id = :key"
    key = (await serving_state(db, name, "anna")).environment_id
    async with db.begin() as connection:
        return set(await connection.scalars(text(query), {"key": key}))


@pytest.fixture
async def shop(db: Database, environment_name: str) -> str:
    await put_environment(db, catalog(environment_name, context_dim=1))
    await upsert_items(db, environment_name, items(2))
    batch = [say("anna", "hers", "home", id="a"), say("anna", "shared", "work"), say("ben", "shared", "work")]
    await record_preferences(db, environment_name, batch)
    return environment_name


async def test_what_a_later_log_has_erased_is_erased_again(db: Database, shop: str) -> None:
    """As after a restore, which undoes an erasure; but who was erased before the backup and came back may stay."""
    noted = actor.set(("key", None))
    await erase_user(db, shop, "ben")
    actor.reset(noted)
    await record_preferences(db, shop, [say("ben", "back again", "home")])
    own = [(one.id, one.target or "") for one in await list_audit(db, environments=[shop])]
    of_anna = sha256(f"{shop}/anna".encode()).hexdigest()
    assert await erase_again(db, own) == []
    assert await list_refits(db, shop) == []
    assert await erase_again(db, [*own, (own[0][0] + 1, of_anna)]) == [(shop, "anna")]
    assert (await load_preferences(db, shop)).user_ids == ("ben",)
    assert len(await list_refits(db, shop)) == 1


async def test_nothing_is_left_of_an_erased_user(db: Database, shop: str) -> None:
    erased = await erase_user(db, shop, "anna")
    assert (erased.n_preferences, erased.n_events, erased.n_adapters) == (2, 0, 0)
    assert await user_state(db, shop, "anna") is None
    assert await export_user(db, shop, "anna") == []
    assert len(await user_comparisons(db, shop, "anna")) == 0
    assert (await load_preferences(db, shop)).user_ids == ("ben",)
    assert await words_in(db, "items", shop) == {"shared"}
    assert await words_in(db, "contexts", shop) == {"work"}


async def test_others_and_the_catalogue_stay(db: Database, shop: str) -> None:
    before = await export_user(db, shop, "ben")
    await erase_user(db, shop, "anna")
    assert await export_user(db, shop, "ben") == before
    assert len(await load_preferences(db, shop)) == 1


async def test_an_erased_user_comes_back_as_another(db: Database, shop: str) -> None:
    before = await serving_state(db, shop, "anna")
    await erase_user(db, shop, "anna")
    assert await record_preferences(db, shop, [say("anna", "again", "home", id="a")]) == Recorded(1, 0)
    after = await serving_state(db, shop, "anna")
    assert after.feedback_count == 1
    assert after.user_key != before.user_key


async def test_erasing_somebody_unknown_is_no_error(db: Database, shop: str) -> None:
    assert await erase_user(db, shop, "nobody") == Erased(0, 0, 0, None)
    assert len(await load_preferences(db, shop)) == 3
