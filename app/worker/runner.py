"""The worker's process: it takes jobs, asks for the refits that are due, and takes up what lost workers left."""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import procrastinate
import psycopg
import structlog
from procrastinate.exceptions import ProcrastinateException
from procrastinate.jobs import DeleteJobCondition
from procrastinate.worker import Worker

from app.compiling import prepare
from app.domain import NotFoundError, StoreUnavailableError
from app.observability import WorkerMetrics, configure_tracing, end_tracing
from app.settings import Settings
from app.store import (
    QUEUE,
    Database,
    due_environments,
    jobs_in_hand,
    pull_forward,
    queue_app,
    request_refit,
    retry_stalled_jobs,
)
from app.worker.job import LONGEST_WAIT_SECONDS, OwnJobs, register_refit

log = structlog.get_logger(__name__)

CONCURRENCY = 2
"""Refits at once, of different environments: a long one does not hold up a short one."""

POLL_SECONDS = 1.0
"""New jobs announce themselves; retries, and jobs whose lock has come free, are found by looking."""

GRACE_SECONDS = 30.0
"""How long a shutdown waits for fits to come to the end of a pass."""

PATIENCE_SECONDS = 30.0
"""How long a statement may take without a sign of life: those that read for a refit are larger than a request's."""

UNHEARD_SECONDS = 2.0
"""How long a job that is not running here may count as being done here: longer than a word to the queue takes."""

RESTART_SECONDS = 2.0
"""Pause before the queue is opened again after the database went away."""

_AWAY = (StoreUnavailableError, ProcrastinateException, psycopg.Error, OSError)


async def run_worker(
    url: str, settings: Settings, *, stop: asyncio.Event | None = None, retry_seconds: float = 2.0
) -> None:
    """Work until SIGTERM, SIGINT or `stop`; then give unfinished jobs back to the queue.

    The first retry of a failed refit is after `retry_seconds`, each further one after twice as long.
    """
    stopping = asyncio.Event() if stop is None else stop
    db = Database(url, pool_size=CONCURRENCY * 2 + 2, patience_seconds=PATIENCE_SECONDS)
    metrics = WorkerMetrics()
    try:
        with _signals(stopping), _observed(metrics, settings):
            # Compiling in the middle of a refit would hold up the heartbeats.
            await asyncio.to_thread(prepare, settings.caches)
            while not stopping.is_set():
                try:
                    await _work(url, db, settings, stopping, retry_seconds, metrics)
                except _AWAY as error:
                    log.warning("worker_lost_the_database", error=str(error))
                await _pause(stopping, 0 if stopping.is_set() else RESTART_SECONDS)
    finally:
        await db.dispose()


async def _work(
    url: str,
    db: Database,
    settings: Settings,
    stopping: asyncio.Event,
    retry_seconds: float,
    metrics: WorkerMetrics,
) -> None:
    """Work on one opening of the queue; it ends with `stopping`, or when the database is away."""
    shutdown = threading.Event()
    app = queue_app(url, pool_size=CONCURRENCY + 4)
    own = OwnJobs()
    register_refit(app, db, shutdown=shutdown, retry_seconds=retry_seconds, own=own, metrics=metrics)
    async with app.open_async():
        stalled = settings.stalled_seconds
        queue_worker = Worker(
            app,
            queues=[QUEUE],
            concurrency=CONCURRENCY,
            install_signal_handlers=False,
            fetch_job_polling_interval=POLL_SECONDS,
            shutdown_graceful_timeout=GRACE_SECONDS,
            update_heartbeat_interval=stalled / 3,
            stalled_worker_timeout=stalled,
            delete_jobs=DeleteJobCondition.SUCCESSFUL,
        )
        worker = asyncio.create_task(queue_worker.run())  # type: ignore[no-untyped-call] # it says nothing
        loops = [
            asyncio.create_task(_every(settings.schedule_seconds, lambda: request_due_refits(db))),
            asyncio.create_task(
                _every(stalled / 3, lambda: _take_up_stalled(app, db, stalled, queue_worker.worker_id, metrics))
            ),
            asyncio.create_task(_every(stalled / 3, lambda: _take_up_missed(app, queue_worker.worker_id, own))),
        ]
        log.info("worker_started")
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait([worker, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            shutdown.set()
            for task in (stopped, *loops, worker):
                task.cancel()
            results = await asyncio.gather(worker, stopped, *loops, return_exceptions=True)
            log.info("worker_stopped")
        if isinstance(results[0], Exception):
            raise results[0]


async def request_due_refits(db: Database) -> list[str]:
    """Ask for the refits that are due; the environments. Several workers may: requests join."""
    due = await due_environments(db)
    for name in due:
        with suppress(NotFoundError):
            await request_refit(db, name, "schedule")
    return due


async def _take_up_stalled(
    app: procrastinate.App, db: Database, stalled_seconds: float, worker: int | None, metrics: WorkerMetrics
) -> None:
    """What other workers leave; `worker` is this one's id with the queue, None before it has one.

    Until then nothing is taken up: it may have one, and a job, before the queue has said which jobs are late.
    """
    pulled = await pull_forward(db, longest_seconds=LONGEST_WAIT_SECONDS)
    if pulled:
        log.warning("jobs_waited_for_another_clock", jobs=pulled)
    count = 0 if worker is None else await retry_stalled_jobs(app, stalled_seconds=stalled_seconds, own_worker=worker)
    if count:
        metrics.count_stalled(count)
        log.warning("stalled_jobs_taken_up", jobs=count)


async def _take_up_missed(app: procrastinate.App, worker: int | None, own: OwnJobs) -> None:
    """What the queue believes that this worker is doing."""
    missed = [] if worker is None else own.missed_for(UNHEARD_SECONDS, await jobs_in_hand(app, worker))
    for job in missed:
        await app.job_manager.retry_job(job)
    if missed:
        log.warning("missed_jobs_taken_up", jobs=len(missed))


async def _every(seconds: float, deed: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await deed()
        except _AWAY as error:
            log.warning("worker_round_failed", error=str(error))
        await asyncio.sleep(seconds)


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)


@contextmanager
def _observed(metrics: WorkerMetrics, settings: Settings) -> Iterator[None]:
    """Answer /metrics and trace, where the settings say so."""
    with ExitStack() as stack:
        if settings.tracing == "on":
            configure_tracing("worker")
            stack.callback(end_tracing)
        if settings.worker_metrics_port is not None:
            stack.enter_context(metrics.answering(settings.host, settings.worker_metrics_port))
        yield


@contextmanager
def _signals(stopping: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT stop the worker, where this thread may say so."""
    loop = asyncio.get_running_loop()
    handled = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    for number in handled:
        loop.add_signal_handler(number, stopping.set)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
