"""What is done in one environment changes no row of those made before and after it, and reads none of theirs."""

from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from app.domain import Context, ItemOption, Preference, RankedEvent, RefitPhase, RefitState, TextOption
from app.store import (
    Database,
    NewModel,
    StoredAdapter,
    adapter_count,
    begin_refit,
    cancel_refit,
    delete_environment,
    environment_summary,
    erase_user,
    export_derived,
    export_user,
    find_event,
    finish_refit,
    get_model,
    import_preferences,
    list_items,
    list_models,
    list_refits,
    list_users,
    load_model,
    load_preferences,
    note_event,
    promote_model,
    publish_model,
    put_environment,
    record_event,
    record_preferences,
    report_progress,
    request_refit,
    retire_item,
    serving_state,
    upsert_items,
    user_comparisons,
    user_count,
)
from app.store.schema import metadata
from tests.support.builders import DIM, catalog, items, prefers

pytestmark = pytest.mark.anyio


async def furnish(db: Database, name: str, number: int) -> None:
    """The same ids everywhere, and contents that tell whose they are."""
    await put_environment(db, catalog(name, context_dim=1))
    await upsert_items(db, name, items(3, seed=number))
    words = TextOption(f"words {number}", np.full(DIM, number, dtype=np.float32))
    context = Context(np.array([number], dtype=np.float32), f"place {number}")
    batch = [
        Preference("anna", words, ItemOption("item-0"), context=context, id="a"),
        *(prefers("ben", "item-1", "item-2", context=context, id=f"b{i}") for i in range(number)),
    ]
    await record_preferences(db, name, batch)
    await record_event(db, name, event(number))
    await publish(db, name, number)
    await request_refit(db, name)


def event(number: int) -> RankedEvent:
    return RankedEvent("e1", "anna", {"item": f"of {number}"}, ({"item": "other"},), None, active=True)


async def publish(db: Database, name: str, number: int) -> int:
    refit, _ = await request_refit(db, name)
    attempt = await begin_refit(db, refit.id)
    await report_progress(db, refit.id, attempt, RefitPhase.FITTING, 0.5)
    adapter = StoredAdapter({"mean": np.full((1, DIM), number)}, feedback_count=1)
    model = NewModel(
        rank=1,
        estimator="evidence",
        n_preferences=number,
        arrays={"B": np.full((DIM, 1), number)},
        adapters={"anna": adapter, "ben": adapter},
        diagnostics={"of": number},
        metrics={},
    )
    published = await publish_model(db, name, refit.id, attempt, model, publish=True, reason=f"of {number}")
    await finish_refit(db, refit.id, attempt, RefitState.SUCCEEDED)
    return published.version


async def rows_of(db: Database, name: str) -> dict[str, list[str]]:
    """All that the database has of an environment."""
    key = (await serving_state(db, name, "anna")).environment_id
    rows = {}
    async with db.begin() as connection:
        for table in metadata.sorted_tables:
            column = "id" if table.name == "environments" else "environment_id"
            if column in table.columns:
                query = text(f"SELECT to_jsonb(t)::text FROM {table.name} t WHERE {column} = :key ORDER BY 1")
                rows[table.name] = list(await connection.scalars(query, {"key": key}))
    return rows


async def read(db: Database, name: str) -> dict[str, Any]:
    """What every look at an environment tells of its contents."""
    state, whole = await serving_state(db, name, "anna"), await environment_summary(db, name)
    said, loaded = await user_comparisons(db, name, "ben"), await load_preferences(db, name)
    kept, shown = await export_derived(db, name, "anna")
    return {
        "items": [item.features.tolist() for item in await list_items(db, name, limit=100)],
        "users": [(user.user, user.feedback_count) for user in await list_users(db, name)],
        "summary": (whole.n_users, whole.n_preferences, whole.n_items, whole.model_version),
        "state": (state.feedback_count, state.published_version),
        "counts": [
            (await user_count(db, state.environment_id, user)).feedback_count for user in ("anna", "ben", "nobody")
        ],
        "comparisons": len(said),
        "preferences": (len(loaded), loaded.user_ids),
        "export": [(one["id"], one["chosen"]) for one in await export_user(db, name, "anna")],
        "adapters": [one.arrays["mean"].tolist() for one in kept],
        "shown": [one.event for one in shown],
        "event": await find_event(db, name, "e1"),
        "models": [(model.version, model.reason) for model in await list_models(db, name)],
        "model": (await get_model(db, name, 1)).reason,
        "arrays": (await load_model(db, name, 1)).arrays["B"].tolist(),
        "kept": await adapter_count(db, state.environment_id, 1),
        "refits": [(refit.state, refit.model_version) for refit in await list_refits(db, name)],
    }


async def test_neighbours_neither_change_nor_are_read(db: Database, environment_name: str) -> None:
    first, middle, last = names = [f"{environment_name}-{letter}" for letter in "abc"]
    alone = {}
    for number, name in enumerate(names, start=1):
        await furnish(db, name, number)
        alone[name] = await read(db, name)
        assert alone[name]["models"] == [(1, f"of {number}")]
        assert alone[name]["users"] == [("anna", 1), ("ben", number)]
        assert alone[name]["counts"] == [1, number, 0]
        assert alone[name]["event"] == event(number)
    assert {name: await read(db, name) for name in names} == alone
    before = {name: await rows_of(db, name) for name in (first, last)}

    await put_environment(db, catalog(middle, context_dim=1, rank=1))
    await upsert_items(db, middle, items(4, seed=9))
    await retire_item(db, middle, "item-2")
    await record_preferences(db, middle, [prefers("ben", "item-0", "item-1", id="c")])
    await import_preferences(
        db, middle, [prefers("ben", "item-0", "item-1", id="d"), prefers("eve", "item-0", "item-1")]
    )
    await record_event(db, middle, event(9))
    await note_event(db, middle, "e1", reward=1.0, active=False)
    refit, _ = await request_refit(db, middle)
    await cancel_refit(db, refit.id)
    await publish(db, middle, 9)
    await promote_model(db, middle, 1)
    await erase_user(db, middle, "anna")
    assert {name: await rows_of(db, name) for name in (first, last)} == before
    await delete_environment(db, middle)
    assert {name: await rows_of(db, name) for name in (first, last)} == before
    assert {name: await read(db, name) for name in (first, last)} == {name: alone[name] for name in (first, last)}
