from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.domain import (
    CatalogEnvironment,
    ConflictError,
    EncoderSpec,
    Environment,
    MdpEnvironment,
    NotFoundError,
    RefitPolicy,
)
from app.store import (
    Database,
    delete_environment,
    get_environment,
    list_environments,
    put_environment,
    record_preferences,
    serving_state,
    upsert_items,
    user_state,
)
from tests.support.builders import catalog, items, mdp, prefers, walks

pytestmark = pytest.mark.anyio


def assert_same(found: Environment, expected: Environment) -> None:
    """Dataclasses of arrays have no equality of their own."""
    match found, expected:
        case MdpEnvironment(), MdpEnvironment():
            np.testing.assert_array_equal(found.initial, expected.initial)
            for step, expected_step in zip(found.transitions, expected.transitions, strict=True):
                np.testing.assert_array_equal(step, expected_step)
            np.testing.assert_array_equal(found.reference_policy, expected.reference_policy)
            same: dict[str, Any] = {"initial": found.initial, "transitions": (), "reference_policy": "uniform"}
            assert replace(found, **same) == replace(expected, **same)
        case _:
            assert found == expected


async def test_a_catalogue_comes_back_as_it_was_defined(db: Database, environment_name: str) -> None:
    environment = catalog(
        environment_name,
        context_dim=3,
        encoder=EncoderSpec("url", dim=4, url="http://embeddings.test/v1", model="m"),
        rank=2,
        confidence=0.8,
        refit=RefitPolicy(every_seconds=1.5, min_new_preferences=7),
    )
    assert await put_environment(db, environment) == (environment, True)
    assert await get_environment(db, environment_name) == environment


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reference_policy": np.array([[0.1, 0.9], [1 / 3, 2 / 3]]), "rank": 1},
        {"reference_policy": "feedback", "transitions": tuple(np.array([[0, 0, 1, 1 / 3]]) for _ in range(3))},
    ],
    ids=["stationary", "given reference", "a step at a time"],
)
async def test_an_mdp_comes_back_as_it_was_defined(
    db: Database, environment_name: str, settings: dict[str, object]
) -> None:
    environment = mdp(environment_name, **settings)
    await put_environment(db, environment)
    assert_same(await get_environment(db, environment_name), environment)


async def test_defining_again_changes_nothing(db: Database, environment_name: str) -> None:
    await put_environment(db, mdp(environment_name))
    before = await serving_state(db, environment_name, "anna")
    _, created = await put_environment(db, mdp(environment_name))
    assert not created
    assert await serving_state(db, environment_name, "anna") == before


async def test_settings_may_change_under_stored_preferences(db: Database, environment_name: str) -> None:
    await put_environment(db, mdp(environment_name))
    await record_preferences(db, environment_name, [walks("anna", "000", "111")])
    before = await serving_state(db, environment_name, "anna")
    changed = mdp(environment_name, confidence=0.5, rank=2, reference_policy="feedback")
    await put_environment(db, changed)
    assert_same(await get_environment(db, environment_name), changed)
    assert (await serving_state(db, environment_name, "anna")).revision == before.revision + 1


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        (lambda name: mdp(name, horizon=4), "/horizon"),
        (lambda name: mdp(name, states=("a", "b", "c")), "/states"),
        (catalog, "/kind"),
    ],
)
async def test_the_meaning_of_stored_preferences_is_fixed(
    db: Database, environment_name: str, changed: object, pointer: str
) -> None:
    assert callable(changed)
    await put_environment(db, mdp(environment_name))
    await record_preferences(db, environment_name, [walks("anna", "000", "111")])
    with pytest.raises(ConflictError, match="already has preferences") as refused:
        await put_environment(db, changed(environment_name))
    assert refused.value.pointer == pointer


async def test_stored_items_fix_their_dimension(db: Database, environment_name: str) -> None:
    await put_environment(db, catalog(environment_name))
    await upsert_items(db, environment_name, items(1))
    with pytest.raises(ConflictError, match="already has items"):
        await put_environment(db, catalog(environment_name, item_dim=5))


async def test_an_unused_environment_can_become_anything(db: Database, environment_name: str) -> None:
    await put_environment(db, mdp(environment_name))
    await put_environment(db, catalog(environment_name))
    found = await get_environment(db, environment_name)
    assert found == catalog(environment_name)
    assert isinstance(found, CatalogEnvironment)


async def test_a_summary_counts_what_there_is(db: Database, environment_name: str) -> None:
    await put_environment(db, catalog(environment_name))
    await upsert_items(db, environment_name, items(3))
    batch = [
        prefers("anna", "item-0", "item-1"),
        prefers("ben", "item-1", "item-2"),
        prefers("ben", "item-0", "item-2"),
    ]
    await record_preferences(db, environment_name, batch)
    (summary,) = [each for each in await list_environments(db) if each.environment.name == environment_name]
    assert (summary.n_users, summary.n_preferences, summary.n_items, summary.model_version) == (2, 3, 3, None)


async def test_deleting_takes_everything(db: Database, environment_name: str) -> None:
    await put_environment(db, catalog(environment_name))
    await upsert_items(db, environment_name, items(3))
    await record_preferences(db, environment_name, [prefers("anna", "item-0", "item-1")])
    await delete_environment(db, environment_name)
    with pytest.raises(NotFoundError, match=environment_name):
        await get_environment(db, environment_name)
    await put_environment(db, catalog(environment_name))
    assert await user_state(db, environment_name, "anna") is None


async def test_an_unknown_environment_is_not_found(db: Database) -> None:
    for deed in (get_environment, delete_environment):
        with pytest.raises(NotFoundError, match="no environment 'nowhere'"):
            await deed(db, "nowhere")
    with pytest.raises(NotFoundError):
        await serving_state(db, "nowhere", "anna")
