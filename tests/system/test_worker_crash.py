"""Real worker processes, and how they die."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from app.domain import ModelStatus, RefitPolicy, RefitState
from app.serving import ServingRuntime
from app.store import Database, get_model, get_refit, request_refit
from tests.support.builders import catalog
from tests.support.feedback import NEVER_BY_ITSELF, choices, define, ended, record, refitted, until

pytestmark = pytest.mark.anyio

STALLED_SECONDS = "2"

WORKER = """
import asyncio, os
from app.settings import Settings
from app.worker import run_worker
asyncio.run(run_worker(os.environ["DATABASE"], Settings()))
"""


@contextmanager
def worker_process(url: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "DATABASE": url, "PSHARELORA_STALLED_SECONDS": STALLED_SECONDS}
    process = subprocess.Popen([sys.executable, "-c", WORKER], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def under_way(db: Database, refit_id: UUID, attempt: int = 1) -> None:
    await until(lambda: get_refit(db, refit_id), lambda one: one.attempt == attempt and one.progress > 0.1)


async def published_with_more_feedback_after_it(db: Database, url: str, name: str) -> None:
    policy = RefitPolicy(every_seconds=3600, min_new_preferences=NEVER_BY_ITSELF)
    catalogue = await define(db, catalog(name, refit=policy, item_dim=32), n_items=80)
    await record(db, name, choices(catalogue, 20, 5))
    await refitted(db, url, name)
    await record(db, name, choices(catalogue, 80, 40))


async def test_a_killed_workers_refit_is_taken_up_by_another(
    db: Database, database_url: str, environment_name: str
) -> None:
    await published_with_more_feedback_after_it(db, database_url, environment_name)
    refit, _ = await request_refit(db, environment_name)
    with worker_process(database_url) as first:
        await under_way(db, refit.id)
        first.send_signal(signal.SIGKILL)
        first.wait()

    left = await get_refit(db, refit.id)
    assert (left.state, left.attempt, left.model_version) == (RefitState.RUNNING, 1, None)
    runtime = ServingRuntime(db)
    meanwhile = await runtime.rank(environment_name, "user-3", top_n=3)
    assert (meanwhile.model_version, meanwhile.feedback_seen) == (1, 45)
    assert (await get_model(db, environment_name, 1)).status is ModelStatus.PUBLISHED

    with worker_process(database_url):
        found = await ended(db, refit)
    assert (found.state, found.attempt, found.model_version) == (RefitState.SUCCEEDED, 2, 2)
    after = await runtime.rank(environment_name, "user-3", top_n=3)
    assert (after.model_version, after.feedback_seen) == (2, 45)
    await runtime.aclose()


async def test_a_terminated_worker_leaves_its_refit_to_the_next_at_once(
    db: Database, database_url: str, environment_name: str
) -> None:
    await published_with_more_feedback_after_it(db, database_url, environment_name)
    refit, _ = await request_refit(db, environment_name)
    with worker_process(database_url) as first:
        await under_way(db, refit.id)
        first.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.wait, 20) == 0
    with worker_process(database_url):
        found = await ended(db, refit)
    assert (found.state, found.attempt) == (RefitState.SUCCEEDED, 2)
