import threading
from typing import Any

import numpy as np
import pytest

from app.domain import ModelStatus, ModelVersion, RefitPhase, RefitPolicy, RefitState, RefitStateError
from app.domain.arrays import comparisons
from app.learning import evaluate_predictions, fold_in_users
from app.serving import ServingRuntime
from app.store import (
    Database,
    begin_refit,
    delete_environment,
    erase_user,
    get_model,
    get_refit,
    list_models,
    load_model,
    load_preferences,
    publish_model,
    request_refit,
    stored_adapter,
)
from app.worker.evaluation import twin_from_arrays
from app.worker.holdout import hold_out
from app.worker.job import run_job
from app.worker.runner import request_due_refits
from tests.support.builders import catalog, mdp
from tests.support.feedback import (
    NEVER_BY_ITSELF,
    choices,
    define,
    ended,
    record,
    refitted,
    until,
    walk_choices,
    working,
)

pytestmark = pytest.mark.anyio

BY_HAND = RefitPolicy(every_seconds=3600, min_new_preferences=NEVER_BY_ITSELF)


async def test_a_refit_publishes_a_model_with_everybody_in_it(
    db: Database, database_url: str, environment_name: str
) -> None:
    catalogue = await define(db, catalog(environment_name, refit=BY_HAND))
    await record(db, environment_name, choices(catalogue, 30, 20))

    refit = await refitted(db, database_url, environment_name)

    assert (refit.state, refit.phase, refit.progress, refit.error) == (RefitState.SUCCEEDED, RefitPhase.DONE, 1.0, None)
    assert refit.model_version == 1
    model = await get_model(db, environment_name, 1)
    assert (model.status, model.n_users, model.n_preferences) == (ModelStatus.PUBLISHED, 30, 600)
    assert model.reason == "It is the first model of this environment."
    assert model.diagnostics["rank"] == model.rank
    adapter = await stored_adapter(db, environment_name, 1, "user-7")
    assert adapter is not None
    assert adapter.feedback_count == 20


async def test_evaluation_sees_that_people_differ(db: Database, database_url: str, environment_name: str) -> None:
    catalogue = await define(db, catalog(environment_name, refit=BY_HAND), n_items=30)
    await record(db, environment_name, choices(catalogue, 40, 30))

    metrics = (await refitted(db, database_url, environment_name)).metrics

    assert metrics["new"]["n"] == metrics["global"]["n"] == metrics["per_user"]["n"] > 100
    assert metrics["new"]["log_loss"] < metrics["global"]["log_loss"]
    assert metrics["new"]["log_loss"] < metrics["per_user"]["log_loss"]
    assert metrics["personalisation"].startswith("The personal model is better")
    assert "current" not in metrics


async def test_a_second_refit_is_compared_with_the_first(
    db: Database, database_url: str, environment_name: str
) -> None:
    catalogue = await define(db, catalog(environment_name, refit=BY_HAND))
    await record(db, environment_name, choices(catalogue, 30, 15))
    await refitted(db, database_url, environment_name)
    await record(db, environment_name, choices(catalogue, 30, 10))

    refit = await refitted(db, database_url, environment_name)

    assert refit.metrics["current"]["n"] == refit.metrics["new"]["n"]
    newest, oldest = await list_models(db, environment_name)
    assert (newest.version, newest.status) == (2, ModelStatus.PUBLISHED)
    assert oldest.status is ModelStatus.RETIRED
    assert "that of the current model is" in newest.reason


async def test_refitting_the_same_feedback_again_is_within_noise(
    db: Database, database_url: str, environment_name: str
) -> None:
    """The published model was fitted on all of it, and must not win for knowing the answers."""
    catalogue = await define(db, catalog(environment_name, refit=BY_HAND))
    await record(db, environment_name, choices(catalogue, 30, 8))
    await refitted(db, database_url, environment_name)

    refit = await refitted(db, database_url, environment_name)

    assert refit.model_version == 2
    assert (await get_model(db, environment_name, 2)).status is ModelStatus.PUBLISHED
    difference = refit.metrics["new_minus_current"]
    assert abs(difference["log_loss"]) < 0.02


async def test_an_mdp_is_refitted_from_trajectories(db: Database, database_url: str, environment_name: str) -> None:
    environment = mdp(environment_name, refit=BY_HAND, reference_policy="feedback")
    await define(db, environment)
    await record(db, environment_name, walk_choices(environment, 20, 12))

    refit = await refitted(db, database_url, environment_name)

    assert refit.error is None
    assert refit.model_version == 1


async def test_one_user_with_one_preference_is_enough(db: Database, database_url: str, environment_name: str) -> None:
    catalogue = await define(db, catalog(environment_name, refit=BY_HAND))
    await record(db, environment_name, choices(catalogue, 1, 1))
    for version in (1, 2):
        refit = await refitted(db, database_url, environment_name)
        assert (refit.error, refit.model_version, refit.metrics) == (None, version, {})
    assert "never evaluated" in (await get_model(db, environment_name, 2)).reason


async def test_without_preferences_a_refit_fails_at_once_and_says_so(
    db: Database, database_url: str, environment_name: str
) -> None:
    await define(db, catalog(environment_name, refit=BY_HAND))

    refit = await refitted(db, database_url, environment_name)

    assert (refit.state, refit.attempt) == (RefitState.FAILED, 1)
    assert refit.error == f"Environment '{environment_name}' has no preferences yet: there is nothing to learn from."


async def test_a_rank_beyond_features_and_items_is_cut_to_them(
    db: Database, database_url: str, environment_name: str
) -> None:
    catalogue = await define(db, catalog(environment_name, refit=BY_HAND, rank=64))
    await record(db, environment_name, choices(catalogue, 8, 10))

    refit = await refitted(db, database_url, environment_name)

    assert refit.state is RefitState.SUCCEEDED
    published = (await load_model(db, environment_name, 1)).version
    assert published.rank <= 4 + len(catalogue)


async def test_the_schedule_asks_when_enough_is_new(db: Database, database_url: str, environment_name: str) -> None:
    policy = RefitPolicy(every_seconds=0.1, min_new_preferences=50)
    catalogue = await define(db, catalog(environment_name, refit=policy))
    await record(db, environment_name, choices(catalogue, 7, 7))
    assert environment_name not in await request_due_refits(db)

    await record(db, environment_name, choices(catalogue, 1, 1))

    assert environment_name in await request_due_refits(db)
    assert environment_name not in await request_due_refits(db)
    refit, joined = await request_refit(db, environment_name)
    assert (joined, refit.reason) == (True, "schedule")
    async with working(database_url):
        assert (await ended(db, refit)).state is RefitState.SUCCEEDED


async def test_a_worker_refits_by_itself(db: Database, database_url: str, environment_name: str) -> None:
    policy = RefitPolicy(every_seconds=0.1, min_new_preferences=10)
    catalogue = await define(db, catalog(environment_name, refit=policy))
    runtime = ServingRuntime(db)
    async with working(database_url):
        await record(db, environment_name, choices(catalogue, 10, 5))
        summary = await until(lambda: runtime.user_summary(environment_name, "user-3"), lambda one: one is not None)
    assert summary is not None
    assert summary.feedback_seen == 5
    await runtime.aclose()


async def test_a_deleted_environments_job_ends_quietly(db: Database, environment_name: str) -> None:
    catalogue = await define(db, catalog(environment_name, refit=BY_HAND))
    await record(db, environment_name, choices(catalogue, 5, 5))
    refit, _ = await request_refit(db, environment_name)
    await delete_environment(db, environment_name)

    await run_job(db, refit.id, last=False, shutdown=threading.Event())


async def test_what_kills_every_worker_ends_too(db: Database, environment_name: str) -> None:
    await define(db, catalog(environment_name, refit=BY_HAND))
    refit, _ = await request_refit(db, environment_name)
    for _ in range(10):
        await begin_refit(db, refit.id)

    await run_job(db, refit.id, last=False, shutdown=threading.Event())

    found = await get_refit(db, refit.id)
    assert found.state is RefitState.FAILED
    assert found.error == "It was begun 10 times, and each time the worker was lost."


async def test_a_twin_is_kept_that_has_not_seen_what_was_held_out(
    db: Database, database_url: str, environment_name: str
) -> None:
    catalogue = await define(db, catalog(environment_name, refit=BY_HAND))
    await record(db, environment_name, choices(catalogue, 30, 20))
    refit = await refitted(db, database_url, environment_name)
    table = await load_preferences(db, environment_name)

    twin = twin_from_arrays((await load_model(db, environment_name, 1)).arrays)

    assert twin is not None
    split = hold_out(table)
    said = comparisons(table, catalog(environment_name))
    adapters = fold_in_users(twin, said.subset(split.train))
    test = said.subset(split.scored)
    found = evaluate_predictions(twin.predict(test, adapters), test.label)
    assert found.log_loss == pytest.approx(refit.metrics["new"]["log_loss"], abs=1e-6)


async def test_an_erased_user_is_in_no_model_also_one_that_is_being_fitted(
    db: Database, database_url: str, environment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model after an erasure is, to the last bit, the one of a place where the erased had never been."""
    gone = ("user-3", "user-5")
    environment = catalog(environment_name, rank=1, refit=BY_HAND)
    catalogue = await define(db, environment)
    said = choices(catalogue, 12, 15)
    await record(db, environment_name, said)
    await refitted(db, database_url, environment_name)
    await erase_user(db, environment_name, gone[0])

    erased = list[str]()

    async def publish_late(database: Database, *given: Any, **named: Any) -> ModelVersion:
        if not erased:
            erased.append(gone[1])
            await erase_user(database, environment_name, gone[1])
        return await publish_model(database, *given, **named)

    monkeypatch.setattr("app.worker.refit.publish_model", publish_late)
    refit = await refitted(db, database_url, environment_name)
    assert (refit.state, refit.attempt, erased) == (RefitState.SUCCEEDED, 1, [gone[1]])
    after = await load_model(db, environment_name, 2)
    assert (after.version.n_users, after.version.status) == (10, ModelStatus.PUBLISHED)
    assert after.version.reason.startswith("The current model rests on a user who was erased.")
    with pytest.raises(RefitStateError, match="was emptied"):
        await load_model(db, environment_name, 1)

    await delete_environment(db, environment_name)
    await define(db, environment)
    await record(db, environment_name, [one for one in said if one.user not in gone])
    await refitted(db, database_url, environment_name)
    never = (await load_model(db, environment_name, 1)).arrays
    # Not the rows' own numbers, nor what is held out by them.
    numbered = {name for name in never if name.startswith("twin_")} | {"item_ids"}
    assert after.arrays.keys() - numbered == never.keys() - numbered
    for name in never.keys() - numbered:
        np.testing.assert_array_equal(after.arrays[name], never[name], err_msg=name)
