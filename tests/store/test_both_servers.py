"""The life of an environment on the embedded server, and on the oldest one that this machine has."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import numpy as np
import psycopg
import pytest

from app.domain import Context, FeaturesOption, ItemOption, ModelStatus, Preference, Recorded, RefitState, Scope
from app.store import (
    Database,
    NewModel,
    StoredAdapter,
    Upserted,
    authenticate,
    begin_refit,
    create_key,
    delete_environment,
    due_environments,
    erase_user,
    export_user,
    finish_refit,
    list_environments,
    load_model,
    load_preferences,
    publish_model,
    put_environment,
    record_preferences,
    request_refit,
    require_current_schema,
    serving_state,
    stored_adapter,
    upsert_items,
    user_comparisons,
)
from tests.support.builders import DIM, catalog, items, mdp, prefers, walks
from tests.support.postgres import OLDEST_SUPPORTED

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["embedded", "second"])
async def any_db(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    url = request.getfixturevalue("database_url" if request.param == "embedded" else "second_database_url")
    database = Database(url)
    yield database
    await database.dispose()


def test_the_second_server_is_another_version(database_url: str, second_database_url: str) -> None:
    versions = []
    for url in (database_url, second_database_url):
        with psycopg.connect(url) as connection:
            versions.append(connection.info.server_version // 10_000)
    assert min(versions) >= OLDEST_SUPPORTED


async def test_a_catalogue_lives(any_db: Database, environment_name: str) -> None:
    db, name = any_db, environment_name
    await require_current_schema(db)
    await put_environment(db, catalog(name, context_dim=1))
    assert await upsert_items(db, name, items(4)) == Upserted(created=4, updated=0)
    inline = FeaturesOption(np.ones(DIM, dtype=np.float32))
    batch = [
        prefers("anna", "item-0", "item-1", id="a"),
        prefers("anna", "item-0", "item-1", id="a"),
        Preference("ben", inline, ItemOption("item-2"), context=Context(np.ones(1, dtype=np.float32))),
    ]
    assert await record_preferences(db, name, batch) == Recorded(accepted=2, duplicates=1)
    assert (await serving_state(db, name, "ben")).feedback_count == 1
    table = await load_preferences(db, name)
    assert (table.user_ids, table.context.tolist(), len(table.items)) == (("anna", "ben"), [-1, 0], 4)
    assert (await erase_user(db, name, "ben")).n_preferences == 1
    assert len(await load_preferences(db, name)) == 1
    await delete_environment(db, name)
    assert name not in {each.environment.name for each in await list_environments(db)}


async def test_an_mdp_is_refitted(any_db: Database, environment_name: str) -> None:
    db, name = any_db, environment_name
    await put_environment(db, mdp(name))
    await record_preferences(db, name, [walks("anna", "011", "100", id=str(index)) for index in range(20)])
    assert name in await due_environments(db, datetime.now(UTC))
    refit, _ = await request_refit(db, name)
    assert (await request_refit(db, name))[1]
    attempt = await begin_refit(db, refit.id)
    arrays = {"B": np.eye(2)}
    model = NewModel(1, "mle", 20, arrays, {"anna": StoredAdapter({"mean": np.ones((1, 2))}, 20)})
    published = await publish_model(db, name, refit.id, attempt, model, publish=True, reason="first")
    assert published.status is ModelStatus.PUBLISHED
    assert (await finish_refit(db, refit.id, attempt, RefitState.SUCCEEDED)).model_version == 1
    np.testing.assert_array_equal((await load_model(db, name, 1)).arrays["B"], arrays["B"])
    adapter = await stored_adapter(db, name, 1, "anna")
    assert adapter is not None
    assert adapter.feedback_count == len(await user_comparisons(db, name, "anna")) == 20
    assert len(await export_user(db, name, "anna")) == 20


async def test_keys_open(any_db: Database) -> None:
    key, secret = await create_key(any_db, "app", [Scope.READ])
    assert await authenticate(any_db, secret) == key
