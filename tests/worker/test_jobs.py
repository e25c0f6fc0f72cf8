"""How jobs end that are not simply done: cancelled, overtaken, tried again, given back."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from app.domain import ModelVersion, RefitPhase, RefitPolicy, RefitState, RefitStateError
from app.observability import WorkerMetrics
from app.serving import ServingRuntime
from app.store import (
    QUEUE,
    Database,
    begin_refit,
    cancel_refit,
    erase_user,
    finish_refit,
    get_refit,
    jobs_in_hand,
    list_models,
    publish_model,
    queue_app,
    request_refit,
)
from app.worker.job import run_job
from app.worker.runner import _take_up_stalled
from tests.support.builders import catalog
from tests.support.feedback import NEVER_BY_ITSELF, choices, define, ended, record, refitted, until, working

pytestmark = pytest.mark.anyio

BY_HAND = RefitPolicy(every_seconds=3600, min_new_preferences=NEVER_BY_ITSELF)


async def little_feedback(db: Database, name: str) -> None:
    catalogue = await define(db, catalog(name, refit=BY_HAND))
    await record(db, name, choices(catalogue, 3, 5))


async def much_feedback(db: Database, name: str) -> None:
    """Enough that a refit takes seconds."""
    catalogue = await define(db, catalog(name, refit=BY_HAND, item_dim=32), n_items=80)
    await record(db, name, choices(catalogue, 80, 40))


async def under_way(db: Database, refit_id: object) -> None:
    """Wait until the refit is well in its work."""
    await until(lambda: get_refit(db, refit_id), lambda one: one.progress > 0.1)  # type: ignore[arg-type]


@asynccontextmanager
async def refusing_models(url: str) -> AsyncIterator[None]:
    """The database refuses every new model."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    async with connection:
        await connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no space for models'; END $$"
        )
        await connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON models EXECUTE FUNCTION refuse()")
        try:
            yield
        finally:
            await connection.execute("DROP FUNCTION IF EXISTS refuse() CASCADE")


async def jobs_of(url: str, refit_id: object) -> list[tuple[str, int]]:
    """Status and attempts of the queue's jobs for a refit."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        query = sql.SQL("SELECT status::text, attempts FROM procrastinate_jobs WHERE args->>'refit_id' = %s")
        return await (await connection.execute(query, [str(refit_id)])).fetchall()


async def test_a_running_refit_is_cancelled_between_passes(
    db: Database, database_url: str, environment_name: str
) -> None:
    await much_feedback(db, environment_name)
    refit, _ = await request_refit(db, environment_name)
    async with working(database_url):
        await under_way(db, refit.id)
        await cancel_refit(db, refit.id)
        found = await ended(db, refit, seconds=10)
    assert (found.state, found.model_version, found.error) == (RefitState.CANCELLED, None, None)
    assert await list_models(db, environment_name) == []


async def test_a_waiting_refit_that_is_cancelled_is_never_begun(
    db: Database, database_url: str, environment_name: str
) -> None:
    await little_feedback(db, environment_name)
    cancelled, _ = await request_refit(db, environment_name)
    await cancel_refit(db, cancelled.id)
    later, joined = await request_refit(db, environment_name)
    async with working(database_url):
        assert (await ended(db, later)).state is RefitState.SUCCEEDED
    found = await get_refit(db, cancelled.id)
    assert (joined, found.state, found.attempt) == (False, RefitState.CANCELLED, 0)


async def test_a_cancellation_at_the_last_moment_still_counts(db: Database, environment_name: str) -> None:
    """The fit may be done before the worker hears of it: then publishing is refused."""
    await little_feedback(db, environment_name)
    refit, _ = await request_refit(db, environment_name)
    job = asyncio.create_task(run_job(db, refit.id, last=False, shutdown=threading.Event()))
    await until(lambda: get_refit(db, refit.id), lambda one: one.state is RefitState.RUNNING, every=0.001)
    await cancel_refit(db, refit.id)
    await job
    assert (await get_refit(db, refit.id)).state is RefitState.CANCELLED
    assert await list_models(db, environment_name) == []


async def test_a_fit_ends_when_somebody_is_erased_and_begins_again_without_them(
    db: Database, environment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be published is not computed to its end."""
    catalogue = await define(db, catalog(environment_name, rank=1, refit=BY_HAND, item_dim=8))
    await record(db, environment_name, choices(catalogue, 40, 20))
    refit, _ = await request_refit(db, environment_name)
    finished = list[int]()

    async def publish(database: Database, *given: Any, **named: Any) -> ModelVersion:
        finished.append(given[3].erasures)
        return await publish_model(database, *given, **named)

    monkeypatch.setattr("app.worker.refit.publish_model", publish)
    monkeypatch.setattr("app.worker.progress.WRITE_SECONDS", 0.02)
    job = asyncio.create_task(run_job(db, refit.id, last=False, shutdown=threading.Event()))
    await under_way(db, refit.id)
    await erase_user(db, environment_name, "user-3")
    await job
    (model,) = await list_models(db, environment_name)
    assert (model.n_users, model.erasures, finished) == (39, 1, [1])


async def test_an_overtaken_attempt_leaves_everything_to_the_newer_one(db: Database, environment_name: str) -> None:
    await much_feedback(db, environment_name)
    refit, _ = await request_refit(db, environment_name)
    job = asyncio.create_task(run_job(db, refit.id, last=False, shutdown=threading.Event()))
    await under_way(db, refit.id)
    newer = await begin_refit(db, refit.id)
    await job
    found = await get_refit(db, refit.id)
    assert (found.state, found.attempt, newer) == (RefitState.RUNNING, 2, 2)
    assert await list_models(db, environment_name) == []
    with pytest.raises(RefitStateError):
        await finish_refit(db, refit.id, 1, RefitState.SUCCEEDED)
    await finish_refit(db, refit.id, newer, RefitState.CANCELLED)


async def test_a_failure_is_tried_again(db: Database, database_url: str, environment_name: str) -> None:
    await little_feedback(db, environment_name)
    refit, _ = await request_refit(db, environment_name)
    async with working(database_url, retry_seconds=0.3):
        async with refusing_models(database_url):
            await until(lambda: get_refit(db, refit.id), lambda one: one.attempt == 2)
        found = await ended(db, refit)
    assert (found.state, found.model_version, found.error) == (RefitState.SUCCEEDED, 1, None)
    assert found.attempt >= 2


async def test_after_five_failures_the_refit_has_failed_and_the_model_stays(
    db: Database, database_url: str, environment_name: str
) -> None:
    await little_feedback(db, environment_name)
    await refitted(db, database_url, environment_name)
    async with refusing_models(database_url):
        found = await refitted(db, database_url, environment_name)
    assert (found.state, found.attempt) == (RefitState.FAILED, 5)
    assert found.error is not None
    assert found.error.startswith("It failed 5 times, at last with ")
    assert "no space for models" in found.error
    assert await jobs_of(database_url, found.id) == []
    runtime = ServingRuntime(db)
    summary = await runtime.user_summary(environment_name, "user-0")
    assert summary is not None
    assert summary.model_version == 1
    await runtime.aclose()


async def test_a_worker_whose_heartbeat_is_late_does_not_take_up_its_own_job(
    db: Database, database_url: str, environment_name: str
) -> None:
    await much_feedback(db, environment_name)
    refit, _ = await request_refit(db, environment_name)
    async with working(database_url, stalled_seconds=0.003):
        found = await ended(db, refit)
    assert (found.state, found.attempt) == (RefitState.SUCCEEDED, 1)


async def test_a_worker_that_has_no_number_yet_takes_nothing_up(
    db: Database, database_url: str, environment_name: str
) -> None:
    """It cannot tell its own jobs from others'."""
    await little_feedback(db, environment_name)
    await request_refit(db, environment_name)
    app = queue_app(database_url)
    async with app.open_async():
        late, here = await app.job_manager.register_worker(), await app.job_manager.register_worker()
        assert await app.job_manager.fetch_job(queues=[QUEUE], worker_id=late) is not None
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            await connection.execute(
                "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 minute' WHERE id = %s", [late]
            )
        for worker, left in ((None, 1), (late, 1), (here, 0)):
            await _take_up_stalled(app, db, 30.0, worker, WorkerMetrics())
            assert len(await jobs_in_hand(app, late)) == left


async def test_a_job_whose_worker_never_heard_of_it_is_taken_up(
    db: Database, database_url: str, environment_name: str
) -> None:
    """The queue gave it to a worker, and the answer was lost with the connection: it lives, and does nothing."""
    await little_feedback(db, environment_name)
    refit, _ = await request_refit(db, environment_name)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:

        async def value(query: LiteralString, *parameters: object) -> object:
            row = await (await connection.execute(query, parameters)).fetchone()
            return row and row[0]

        nobody = await value(
            "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() + interval '1 hour') RETURNING id"
        )
        job = await value("SELECT id FROM procrastinate_fetch_job_v2(ARRAY['refits']::varchar[], %s)", nobody)
        async with working(database_url):
            worker = await until(
                lambda: value("SELECT id FROM procrastinate_workers WHERE id > %s", nobody), lambda one: one is not None
            )
            await value("UPDATE procrastinate_jobs SET worker_id = %s WHERE id = %s RETURNING id", worker, job)
            found = await ended(db, refit, seconds=30)
    assert (found.state, found.attempt) == (RefitState.SUCCEEDED, 1)


async def test_a_worker_outlives_a_database_that_hangs_up(
    db: Database, database_url: str, environment_name: str
) -> None:
    await little_feedback(db, environment_name)
    hang_up = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid()"
    )
    async with working(database_url):
        await refitted_by_the_worker(db, environment_name)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            ended_connections = await (await connection.execute(hang_up)).fetchall()
        assert len(ended_connections) > 2
        await refitted_by_the_worker(db, environment_name)


async def refitted_by_the_worker(db: Database, name: str) -> None:
    refit, _ = await request_refit(db, name)
    assert (await ended(db, refit)).state is RefitState.SUCCEEDED


async def test_a_worker_that_is_told_to_stop_gives_its_job_back(
    db: Database, database_url: str, environment_name: str
) -> None:
    await much_feedback(db, environment_name)
    refit, _ = await request_refit(db, environment_name)
    async with working(database_url):
        await under_way(db, refit.id)
    left = await get_refit(db, refit.id)
    assert left.state is RefitState.RUNNING
    assert await jobs_of(database_url, refit.id) == [("todo", 1)]
    async with working(database_url):
        found = await ended(db, refit)
    assert (found.state, found.attempt, found.model_version) == (RefitState.SUCCEEDED, 2, 1)


async def test_refits_of_one_environment_never_run_at_once(
    db: Database, database_url: str, environment_name: str
) -> None:
    await much_feedback(db, environment_name)
    first, _ = await request_refit(db, environment_name)
    async with working(database_url), working(database_url):
        await under_way(db, first.id)
        second, joined = await request_refit(db, environment_name)
        assert not joined
        seen = []
        while (one := await get_refit(db, first.id)).state is RefitState.RUNNING:
            seen.append((await get_refit(db, second.id)).state)
            await asyncio.sleep(0.02)
        done = await ended(db, second)
    assert one.finished_at is not None
    assert done.started_at is not None
    assert done.started_at >= one.finished_at
    assert set(seen) <= {RefitState.QUEUED, RefitState.RUNNING}
    assert seen[:-1] == [RefitState.QUEUED] * (len(seen) - 1)
    assert (one.state, done.state) == (RefitState.SUCCEEDED, RefitState.SUCCEEDED)
    assert done.phase is RefitPhase.DONE


async def test_progress_rises_through_the_phases(db: Database, database_url: str, environment_name: str) -> None:
    await much_feedback(db, environment_name)
    refit, _ = await request_refit(db, environment_name)
    seen: list[tuple[RefitPhase, float]] = []
    async with working(database_url):
        while (one := await get_refit(db, refit.id)).finished_at is None:
            seen.append((one.phase, one.progress))
            await asyncio.sleep(0.05)
    assert one.state is RefitState.SUCCEEDED
    assert {RefitPhase.EVALUATING, RefitPhase.FITTING} <= {phase for phase, _ in seen}
    assert all(0 <= progress <= 1 for _, progress in seen)
    steps = [progress for _, progress in seen if progress > 0]
    assert steps == sorted(steps)
    assert steps[0] < 0.5 < steps[-1]
