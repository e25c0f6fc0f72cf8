"""Models: what is published is what was fitted, by whoever may, and all of it at once."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from app.domain import (
    ConflictError,
    CorruptModelError,
    ErasedMeanwhileError,
    ModelStatus,
    NotFoundError,
    RefitPolicy,
    RefitState,
    RefitStateError,
)
from app.store import (
    Database,
    NewModel,
    StoredAdapter,
    begin_refit,
    cancel_refit,
    due_environments,
    erase_user,
    erasure_count,
    finish_refit,
    get_model,
    get_refit,
    list_models,
    load_model,
    promote_model,
    publish_model,
    put_environment,
    record_preferences,
    request_refit,
    served_model,
    serving_state,
    stored_adapter,
)
from tests.support.builders import mdp, walks

pytestmark = pytest.mark.anyio

USERS = ("anna", "ben")


@pytest.fixture
async def place(db: Database, environment_name: str) -> str:
    await put_environment(db, mdp(environment_name, refit=RefitPolicy(every_seconds=1, min_new_preferences=1)))
    await record_preferences(db, environment_name, [walks(user, "000", "111") for user in USERS])
    return environment_name


def fitted(seed: int = 0, **changes: Any) -> NewModel:
    rng = np.random.default_rng(seed)
    adapters = {
        user: StoredAdapter(
            {"mean": rng.normal(size=(2, 3)), "covariance": rng.normal(size=(6, 6)), "n": np.array(4)}, feedback_count=1
        )
        for user in USERS
    }
    values: dict[str, Any] = {
        "rank": 2,
        "estimator": "evidence",
        "n_preferences": 2,
        "arrays": {
            "B": rng.normal(size=(5, 2)),
            "turned": np.asfortranarray(rng.normal(size=(3, 4))),
            "big-endian": np.arange(3, dtype=">i4"),
            "scalar": np.array(0.5),
            "flags": np.array([True, False]),
            "names": np.array(["a", "böse"]),
            "empty": np.zeros((0, 3), dtype=np.float32),
        },
        "adapters": adapters,
        "diagnostics": {"singular_values": np.array([2.0, 1.0]), "nu": np.float64(0.5), "worst": np.inf},
        "metrics": {"log_loss": 0.5},
    }
    return NewModel(**values | changes)


async def publish(db: Database, name: str, model: NewModel, *, serve: bool = True) -> int:
    """The whole way of a refit; the version."""
    refit, _ = await request_refit(db, name)
    attempt = await begin_refit(db, refit.id)
    published = await publish_model(db, name, refit.id, attempt, model, publish=serve, reason="why")
    await finish_refit(db, refit.id, attempt, RefitState.SUCCEEDED)
    return published.version


def assert_same_arrays(found: Any, expected: Any) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.asarray(array).dtype.newbyteorder("<")
        assert found[name].shape == np.shape(array)


async def test_a_model_comes_back_bit_by_bit(db: Database, place: str) -> None:
    model = fitted()
    version = await publish(db, place, model)
    stored = await load_model(db, place, version)
    assert_same_arrays(stored.arrays, model.arrays)
    for user, adapter in model.adapters.items():
        found = await stored_adapter(db, place, version, user)
        assert found is not None
        assert found.feedback_count == 1
        assert_same_arrays(found.arrays, adapter.arrays)
    assert await stored_adapter(db, place, version, "nobody") is None


async def test_a_version_says_how_it_came_about(db: Database, place: str) -> None:
    refit, _ = await request_refit(db, place)
    attempt = await begin_refit(db, refit.id)
    version = await publish_model(db, place, refit.id, attempt, fitted(), publish=True, reason="first")
    assert (version.environment, version.version, version.status) == (place, 1, ModelStatus.PUBLISHED)
    assert (version.reason, version.rank, version.estimator) == ("first", 2, "evidence")
    assert (version.n_users, version.n_preferences) == (2, 2)
    assert version.diagnostics == {"singular_values": [2.0, 1.0], "nu": 0.5, "worst": None}
    assert version.metrics == {"log_loss": 0.5}
    assert version.published_at is not None
    assert (await get_refit(db, refit.id)).model_version == 1
    assert await get_model(db, place, 1) == version
    assert (await serving_state(db, place, "anna")).published_version == 1


async def test_a_newer_model_retires_the_older(db: Database, place: str) -> None:
    for seed in range(3):
        await publish(db, place, fitted(seed))
    assert [(each.version, each.status) for each in await list_models(db, place)] == [
        (3, ModelStatus.PUBLISHED),
        (2, ModelStatus.RETIRED),
        (1, ModelStatus.RETIRED),
    ]
    # Who still answers from version 2 finds its adapters; those of version 1 are folded in again if it comes back.
    assert await stored_adapter(db, place, 2, "anna") is not None
    assert await stored_adapter(db, place, 1, "anna") is None


async def test_a_candidate_is_not_served_until_it_is_promoted(db: Database, place: str) -> None:
    await publish(db, place, fitted(0))
    candidate = await publish(db, place, fitted(1), serve=False)
    found = await get_model(db, place, candidate)
    assert (found.status, found.published_at) == (ModelStatus.CANDIDATE, None)
    assert (await serving_state(db, place, "anna")).published_version == 1
    assert (await promote_model(db, place, candidate)).status is ModelStatus.PUBLISHED
    assert (await serving_state(db, place, "anna")).published_version == candidate
    assert (await get_model(db, place, 1)).status is ModelStatus.RETIRED


async def test_an_older_model_can_be_served_again(db: Database, place: str) -> None:
    first = fitted(0)
    assert await served_model(db, place) is None
    await publish(db, place, first)
    await publish(db, place, fitted(1))
    assert await served_model(db, place) == await get_model(db, place, 2)
    assert (await promote_model(db, place, 1)).status is ModelStatus.PUBLISHED
    assert_same_arrays((await load_model(db, place, 1)).arrays, first.arrays)
    again = await promote_model(db, place, 1)
    assert again.status is ModelStatus.PUBLISHED
    assert await served_model(db, place) == again
    assert [each.status for each in await list_models(db, place)] == [ModelStatus.RETIRED, ModelStatus.PUBLISHED]


async def test_an_old_attempt_cannot_publish(db: Database, place: str) -> None:
    refit, _ = await request_refit(db, place)
    old, new = await begin_refit(db, refit.id), await begin_refit(db, refit.id)
    with pytest.raises(RefitStateError, match="came too late"):
        await publish_model(db, place, refit.id, old, fitted(), publish=True, reason="late")
    assert await list_models(db, place) == []
    assert (await serving_state(db, place, "anna")).published_version is None
    await publish_model(db, place, refit.id, new, fitted(), publish=True, reason="in time")
    assert len(await list_models(db, place)) == 1


async def test_what_shall_stop_or_has_ended_cannot_publish(db: Database, place: str) -> None:
    refit, _ = await request_refit(db, place)
    attempt = await begin_refit(db, refit.id)
    await cancel_refit(db, refit.id)
    with pytest.raises(RefitStateError, match="cancellation asked for"):
        await publish_model(db, place, refit.id, attempt, fitted(), publish=True, reason="cancelled")
    await finish_refit(db, refit.id, attempt, RefitState.CANCELLED)
    with pytest.raises(RefitStateError, match="is cancelled"):
        await publish_model(db, place, refit.id, attempt, fitted(), publish=True, reason="ended")
    assert await list_models(db, place) == []


async def test_attempts_at_once_publish_one_model(db: Database, place: str) -> None:
    """While one publishes, another begins the same refit again: one of the two comes too late."""
    for _ in range(8):
        refit, _ = await request_refit(db, place)
        old = await begin_refit(db, refit.id)

        async def overtake(refit_id: Any = refit.id) -> None:
            new = await begin_refit(db, refit_id)
            await publish_model(db, place, refit_id, new, fitted(1), publish=True, reason="new")
            await finish_refit(db, refit_id, new, RefitState.SUCCEEDED)

        late = publish_model(db, place, refit.id, old, fitted(0), publish=True, reason="old")
        answers = await asyncio.gather(late, overtake(), return_exceptions=True)
        assert answers[1] is None
        assert not isinstance(answers[0], BaseException) or isinstance(answers[0], RefitStateError)
        newest, *older = await list_models(db, place)
        assert (newest.status, newest.reason) == (ModelStatus.PUBLISHED, "new")
        assert all(each.status is ModelStatus.RETIRED for each in older)


async def test_a_reader_never_sees_two_versions(db: Database, place: str) -> None:
    """The version that is published always has its arrays and its adapters, whichever comes next meanwhile."""
    await publish(db, place, fitted(0))
    done = asyncio.Event()

    async def read() -> int:
        seen = set()
        while not done.is_set():
            version = (await serving_state(db, place, "anna")).published_version
            assert version is not None
            stored = await load_model(db, place, version)
            np.testing.assert_array_equal(stored.arrays["B"], fitted(version - 1).arrays["B"])
            seen.add(version)
        return len(seen)

    async def write() -> None:
        for seed in range(1, 8):
            await publish(db, place, fitted(seed))
            # Back to the one before, as who rolls back does it.
            await promote_model(db, place, seed)
        done.set()

    seen, _ = await asyncio.gather(read(), write())
    assert seen > 1


async def test_an_erased_user_has_no_adapter(db: Database, place: str) -> None:
    await publish(db, place, fitted())
    await erase_user(db, place, "anna")
    assert await stored_adapter(db, place, 1, "anna") is None
    # Fitted before the erasure, and come too late with it.
    with pytest.raises(ErasedMeanwhileError, match="was erased while the refit ran"):
        await publish(db, place, fitted())
    assert [one.version for one in await list_models(db, place)] == [1]


async def test_a_version_that_rests_on_an_erased_user_cannot_come_back(db: Database, place: str) -> None:
    await publish(db, place, fitted(1))
    await publish(db, place, fitted(2))
    await erase_user(db, place, "anna")
    # As long as the served version rests on her too, nothing is lost by going back.
    assert (await promote_model(db, place, 1)).status is ModelStatus.PUBLISHED
    await publish(db, place, fitted(3, erasures=await erasure_count(db, place)))
    for version in (1, 2):
        with pytest.raises(RefitStateError, match="rests on users who were erased since"):
            await promote_model(db, place, version)
        with pytest.raises(RefitStateError, match="was emptied"):
            await load_model(db, place, version)
    assert [one.version for one in await list_models(db, place)] == [3, 2, 1]


async def test_a_published_model_settles_the_news(db: Database, place: str) -> None:
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert place in await due_environments(db, later)
    await publish(db, place, fitted(), serve=False)
    assert place not in await due_environments(db, later)
    await record_preferences(db, place, [walks("carl", "000", "111")])
    assert place in await due_environments(db, later)


async def test_other_settings_leave_the_model_that_is_served(db: Database, place: str) -> None:
    await publish(db, place, fitted())
    before = await serving_state(db, place, "anna")
    await put_environment(db, mdp(place, rank=2, confidence=0.5, reference_policy="feedback"))
    after = await serving_state(db, place, "anna")
    assert (after.revision, after.published_version) == (before.revision + 1, 1)
    np.testing.assert_array_equal((await load_model(db, place, 1)).arrays["B"], fitted().arrays["B"])
    assert [(one.version, one.status) for one in await list_models(db, place)] == [(1, ModelStatus.PUBLISHED)]


async def test_models_fix_the_environment(db: Database, place: str) -> None:
    await publish(db, place, fitted())
    for user in USERS:
        await erase_user(db, place, user)
    with pytest.raises(ConflictError, match="already has models"):
        await put_environment(db, mdp(place, horizon=4))


@pytest.mark.parametrize("change", ["data = data || '\\x00'", "dtype = '<i8'", "shape = '{2,5}'"])
async def test_a_damaged_array_is_noticed(db: Database, place: str, change: str) -> None:
    await publish(db, place, fitted())
    key = (await serving_state(db, place, "anna")).environment_id
    async with db.begin() as connection:
        await connection.execute(
            text(f"UPDATE model_arrays SET {change} WHERE name = 'B' AND environment_id = :key"), {"key": key}
        )
    with pytest.raises(CorruptModelError, match="The array 'B'"):
        await load_model(db, place, 1)


async def test_a_damaged_adapter_is_noticed(db: Database, place: str) -> None:
    await publish(db, place, fitted())
    key = (await serving_state(db, place, "anna")).environment_id
    async with db.begin() as connection:
        await connection.execute(
            text("UPDATE adapters SET data = substring(data, 1, length(data) - 1) WHERE environment_id = :key"),
            {"key": key},
        )
    with pytest.raises(CorruptModelError, match="adapter cannot be read back"):
        await stored_adapter(db, place, 1, "anna")


async def test_an_unknown_version_is_not_found(db: Database, place: str) -> None:
    for deed in (get_model, load_model, promote_model):
        with pytest.raises(NotFoundError, match="no model version 9"):
            await deed(db, place, 9)
