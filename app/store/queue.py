"""The job queue, which lives in the same database: procrastinate's tables, written in our own transactions."""

import json
from collections.abc import Mapping

import procrastinate
from procrastinate.jobs import Job
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.database import PATIENCE_SECONDS, look_up, plain_url
from app.store.patience import patient

QUEUE = "refits"
REFIT_TASK = "refit"
"""The name of the task that the worker registers; its arguments are `refit_id`, a string, and perhaps `origin`."""

_DEFER = text(
    """
    SELECT procrastinate_defer_jobs_v1(ARRAY[
        ROW(:queue, :task, 0, :lock, NULL, CAST(:args AS jsonb), NULL)::procrastinate_job_to_defer_v1
    ])
    """
)


def queue_app(url: str, *, pool_size: int = 4) -> procrastinate.App:
    """The queue at a database, not yet open: `async with app.open_async()`."""
    connector = procrastinate.PsycopgConnector(
        conninfo=plain_url(url), connection_class=patient(PATIENCE_SECONDS), min_size=1, max_size=pool_size
    )
    return procrastinate.App(connector=connector)


_PULL_FORWARD = text(
    """
    UPDATE procrastinate_jobs SET scheduled_at = now()
    WHERE queue_name = :queue AND status = 'todo'
      AND scheduled_at > now() + make_interval(secs => :seconds) RETURNING id
    """
)


@look_up
async def pull_forward(connection: AsyncConnection, *, longest_seconds: float) -> int:
    """Let jobs go on at once that wait for longer than any may; how many these were.

    They were to be tried again at a moment by a clock that has been put back since, or that is ahead of this server's.
    """
    pulled = await connection.scalars(_PULL_FORWARD, {"queue": QUEUE, "seconds": longest_seconds})
    return len(pulled.all())


async def enqueue_refit(
    connection: AsyncConnection, environment_id: int, refit_id: str, origin: Mapping[str, str]
) -> None:
    """Enqueue the job of a refit; it exists when the transaction commits. One environment's refits run one by one.

    `origin` says whose wish it was: the worker's log lines and spans have it.
    """
    await connection.execute(
        _DEFER,
        {
            "queue": QUEUE,
            "task": REFIT_TASK,
            "lock": f"environment:{environment_id}",
            "args": json.dumps({"refit_id": refit_id, **({"origin": dict(origin)} if origin else {})}),
        },
    )


async def retry_stalled_jobs(app: procrastinate.App, *, stalled_seconds: float, own_worker: int | None) -> int:
    """Put back into the queue what workers were doing that are not heard of any more; how many jobs these were.

    What the caller's own worker is doing stays: a late heartbeat of this very process is no loss.
    """
    stalled = await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=stalled_seconds)
    lost = [job for job in stalled if job.worker_id != own_worker]
    for job in lost:
        await app.job_manager.retry_job(job)
    return len(lost)


async def jobs_in_hand(app: procrastinate.App, worker: int) -> list[Job]:
    """What the queue takes for being done by a worker."""
    return list(await app.job_manager.list_jobs_async(queue=QUEUE, status="doing", worker_id=worker))
