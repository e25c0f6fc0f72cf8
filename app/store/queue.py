"""The job queue, which lives in the same database: procrastinate's tables, written in our own transactions."""

import json
from collections.abc import Collection

import procrastinate
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.database import plain_url

QUEUE = "refits"
REFIT_TASK = "refit"
"""The name of the task that the worker registers; its only argument is `refit_id`, a string."""

_DEFER = text(
    """
    SELECT procrastinate_defer_jobs_v1(ARRAY[
        ROW(:queue, :task, 0, :lock, NULL, CAST(:args AS jsonb), NULL)::procrastinate_job_to_defer_v1
    ])
    """
)


def queue_app(url: str, *, pool_size: int = 4) -> procrastinate.App:
    """The queue at a database, not yet open: `async with app.open_async()`."""
    connector = procrastinate.PsycopgConnector(conninfo=plain_url(url), min_size=1, max_size=pool_size)
    return procrastinate.App(connector=connector)


async def enqueue_refit(connection: AsyncConnection, environment_id: int, refit_id: str) -> None:
    """Enqueue the job of a refit; it exists when the transaction commits. One environment's refits run one by one."""
    await connection.execute(
        _DEFER,
        {
            "queue": QUEUE,
            "task": REFIT_TASK,
            "lock": f"environment:{environment_id}",
            "args": json.dumps({"refit_id": refit_id}),
        },
    )


async def retry_stalled_jobs(app: procrastinate.App, *, stalled_seconds: float, own_workers: Collection[int]) -> int:
    """Put back into the queue what workers were doing that are not heard of any more; how many jobs these were.

    What the caller's own workers are doing stays: a late heartbeat of this very process is no loss.
    """
    stalled = await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=stalled_seconds)
    lost = [job for job in stalled if job.worker_id not in own_workers]
    for job in lost:
        await app.job_manager.retry_job(job)
    return len(lost)
