"""Our jobs as procrastinate's own worker sees them."""

from collections.abc import AsyncIterator
from uuid import uuid4

import procrastinate
import pytest
from sqlalchemy import text

from app.store import (
    QUEUE,
    REFIT_TASK,
    Database,
    pull_forward,
    put_environment,
    queue_app,
    request_refit,
    retry_stalled_jobs,
)
from tests.support.builders import mdp
from tests.support.postgres import migrated_database

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue_url(server_url: str) -> AsyncIterator[str]:
    """A database of its own: a worker takes every job that it finds."""
    with migrated_database(server_url, f"psharelora_test_{uuid4().hex}") as url:
        yield url


@pytest.fixture
async def own_db(queue_url: str) -> AsyncIterator[Database]:
    database = Database(queue_url)
    yield database
    await database.dispose()


@pytest.fixture
async def queue(queue_url: str) -> AsyncIterator[procrastinate.App]:
    app = queue_app(queue_url)
    async with app.open_async():
        yield app


async def test_a_worker_is_given_the_refit_that_was_asked_for(own_db: Database, queue: procrastinate.App) -> None:
    done: list[str] = []

    @queue.task(name=REFIT_TASK, queue=QUEUE)
    async def refit(refit_id: str) -> None:
        done.append(refit_id)

    await put_environment(own_db, mdp("place"))
    asked, _ = await request_refit(own_db, "place")
    await queue.run_worker_async(queues=[QUEUE], wait=False, install_signal_handlers=False, listen_notify=False)
    assert done == [str(asked.id)]


async def test_a_failed_request_enqueues_nothing(own_db: Database, queue: procrastinate.App) -> None:
    await put_environment(own_db, mdp("place"))
    await request_refit(own_db, "place")
    await request_refit(own_db, "place")
    assert len(list(await queue.job_manager.list_jobs_async(task=REFIT_TASK))) == 1


async def test_jobs_of_a_lost_worker_are_taken_up_again(own_db: Database, queue: procrastinate.App) -> None:
    await put_environment(own_db, mdp("place"))
    await request_refit(own_db, "place")
    lost = await queue.job_manager.register_worker()
    job = await queue.job_manager.fetch_job(queues=[QUEUE], worker_id=lost)
    assert job is not None
    assert await retry_stalled_jobs(queue, stalled_seconds=30.0, own_worker=None) == 0
    async with own_db.begin() as connection:
        await connection.execute(text("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 minute'"))
    assert await retry_stalled_jobs(queue, stalled_seconds=30.0, own_worker=lost) == 0
    assert await retry_stalled_jobs(queue, stalled_seconds=30.0, own_worker=None) == 1
    again = await queue.job_manager.fetch_job(queues=[QUEUE], worker_id=await queue.job_manager.register_worker())
    assert again is not None
    assert again.id == job.id


async def test_one_environments_refits_run_one_by_one(own_db: Database, queue: procrastinate.App) -> None:
    await put_environment(own_db, mdp("here"))
    await put_environment(own_db, mdp("there"))
    worker = await queue.job_manager.register_worker()
    first, _ = await request_refit(own_db, "here")
    taken = await queue.job_manager.fetch_job(queues=[QUEUE], worker_id=worker)
    assert taken is not None
    assert taken.task_kwargs == {"refit_id": str(first.id)}
    async with own_db.begin() as connection:
        await connection.execute(text("UPDATE refits SET state = 'running'"))
    await request_refit(own_db, "here")
    assert await queue.job_manager.fetch_job(queues=[QUEUE], worker_id=worker) is None
    other, _ = await request_refit(own_db, "there")
    elsewhere = await queue.job_manager.fetch_job(queues=[QUEUE], worker_id=worker)
    assert elsewhere is not None
    assert elsewhere.task_kwargs == {"refit_id": str(other.id)}


async def test_a_job_that_waits_for_another_clock_is_pulled_forward(own_db: Database, queue: procrastinate.App) -> None:
    for name, wait in (("near", "200 s"), ("far", "1 day")):
        await put_environment(own_db, mdp(name))
        refit, _ = await request_refit(own_db, name)
        async with own_db.begin() as connection:
            await connection.execute(
                text(
                    "UPDATE procrastinate_jobs SET scheduled_at = now() + CAST(:wait AS interval) "
                    "WHERE args->>'refit_id' = :id"
                ),
                {"id": str(refit.id), "wait": wait},
            )
    assert await pull_forward(own_db, longest_seconds=300.0) == 1
    assert await pull_forward(own_db, longest_seconds=300.0) == 0
    worker = await queue.job_manager.register_worker()
    fetched = await queue.job_manager.fetch_job(queues=[QUEUE], worker_id=worker)
    assert fetched is not None
    assert fetched.task_kwargs["refit_id"] == str(refit.id)
    assert await queue.job_manager.fetch_job(queues=[QUEUE], worker_id=worker) is None
