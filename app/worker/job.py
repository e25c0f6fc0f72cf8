"""The job's boundary: every way in which a refit can end becomes its state, or a retry."""

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import procrastinate
import structlog
from procrastinate.jobs import Job
from procrastinate.retry import BaseRetryStrategy, RetryDecision
from procrastinate.utils import utcnow
from typing_extensions import override

from app.domain import (
    InvalidInputError,
    NotFoundError,
    RefitState,
    RefitStateError,
    StoreUnavailableError,
)
from app.learning import InvalidComparisonsError
from app.observability import WorkerMetrics, span
from app.store import QUEUE, REFIT_TASK, Database, begin_refit, finish_refit, get_refit
from app.worker.memory import give_back
from app.worker.progress import CancelledRefitError, OvertakenError, Progress, ShutdownError, written
from app.worker.refit import refit

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
"""How often a refit that fails is tried."""

MAX_BEGINNINGS = 10
"""How often a refit is begun, counting workers that were lost or shut down: what kills every worker must end too."""

LONGEST_WAIT_SECONDS = 300.0


class BackOff(BaseRetryStrategy):
    """Waits twice as long each time. A shutdown costs no waiting, and a database that is away costs no attempt."""

    def __init__(self, first_seconds: float) -> None:
        self._first_seconds = first_seconds

    @override
    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, ShutdownError) or not isinstance(exception, Exception):
            return RetryDecision(retry_at=utcnow())
        if isinstance(exception, StoreUnavailableError):
            # However long it was away, the refit is not to wait for long once it is back.
            return RetryDecision(retry_at=utcnow() + timedelta(seconds=self._first_seconds))
        wait = min(self._first_seconds * 2.0 ** min(job.attempts, 30), LONGEST_WAIT_SECONDS)
        return RetryDecision(retry_at=utcnow() + timedelta(seconds=wait))


@dataclass(slots=True)
class OwnJobs:
    """What this process does for the queue, and what the queue takes it to be doing."""

    running: set[int] = field(default_factory=set)
    missed: dict[int, float] = field(default_factory=dict)
    """Jobs that the queue takes for being done here and that are not, by when that was noticed (monotonic clock).

    What it was told last, or what it answered, was lost with a connection: nobody else would ever take them up.
    """

    def missed_for(self, seconds: float, in_hand: Iterable[Job]) -> list[Job]:
        """Of those in hand as the queue sees it, those that have not been running here for so long."""
        now = time.monotonic()
        missed = {job.id: job for job in in_hand if job.id is not None and job.id not in self.running}
        self.missed = {key: self.missed.get(key, now) for key in missed}
        return [missed[key] for key, since in self.missed.items() if now - since >= seconds]


def register_refit(
    app: procrastinate.App,
    db: Database,
    *,
    shutdown: threading.Event,
    retry_seconds: float,
    own: OwnJobs,
    metrics: WorkerMetrics,
) -> None:
    """Give the queue's app its one task, which notes in `own` what it does."""

    @app.task(name=REFIT_TASK, queue=QUEUE, retry=BackOff(retry_seconds), pass_context=True)
    async def refit_job(
        context: procrastinate.JobContext, refit_id: str, origin: Mapping[str, str] | None = None
    ) -> None:
        job = context.job
        assert job.id is not None
        own.running.add(job.id)
        last = job.attempts + 1 >= MAX_ATTEMPTS
        try:
            await run_job(db, UUID(refit_id), last=last, shutdown=shutdown, origin=origin, metrics=metrics)
        finally:
            own.running.discard(job.id)
            await asyncio.to_thread(give_back)


async def run_job(
    db: Database,
    refit_id: UUID,
    *,
    last: bool,
    shutdown: threading.Event,
    origin: Mapping[str, str] | None = None,
    metrics: WorkerMetrics | None = None,
) -> None:
    """One attempt at a refit; what it raises is tried again. `last`: a failure now is final."""
    asked = origin or {}
    bound = {name: asked[name] for name in ("request_id",) if name in asked}
    with (
        structlog.contextvars.bound_contextvars(refit=str(refit_id), **bound),
        span("refit", {"psharelora.refit": str(refit_id)}, kind="consumer", parent=asked.get("traceparent")),
    ):
        try:
            attempt = await begin_refit(db, refit_id)
        except (RefitStateError, NotFoundError) as error:
            # Cancelled while it waited, or deleted with its environment.
            log.info("refit_not_begun", reason=error.message)
            return
        if attempt > MAX_BEGINNINGS:
            await _fail(
                db, refit_id, attempt, f"It was begun {MAX_BEGINNINGS} times, and each time the worker was lost."
            )
            return
        counted = metrics or WorkerMetrics()
        counted.begin_refit()
        progress = Progress(shutdown)
        outcome = "again"
        try:
            outcome = await _attempt(db, refit_id, attempt, last=last, progress=progress)
        finally:
            counted.end_refit(outcome, progress.seconds)


async def _attempt(db: Database, refit_id: UUID, attempt: int, *, last: bool, progress: Progress) -> str:
    """How it ended."""
    name = (await get_refit(db, refit_id)).environment
    log.info("refit_begun", environment=name, attempt=attempt)
    try:
        async with written(db, refit_id, attempt, progress):
            model = await refit(db, name, refit_id, attempt, progress)
        progress.end_phase()
        await finish_refit(db, refit_id, attempt, RefitState.SUCCEEDED, metrics=model.metrics)
        log.info(
            "refit_succeeded",
            environment=name,
            version=model.version,
            status=model.status,
            reason=model.reason,
            seconds=progress.seconds,
        )
    except CancelledRefitError:
        return await _cancel(db, refit_id, attempt)
    except (OvertakenError, NotFoundError) as error:
        log.info("refit_abandoned", environment=name, attempt=attempt, reason=str(error) or "begun again elsewhere")
        return "abandoned"
    except RefitStateError:
        if not (await get_refit(db, refit_id)).cancel_requested:
            log.info("refit_abandoned", environment=name, attempt=attempt, reason="begun again elsewhere")
            return "abandoned"
        return await _cancel(db, refit_id, attempt)
    except (InvalidInputError, InvalidComparisonsError, ValueError) as error:
        # The same input would fail again.
        return await _fail(db, refit_id, attempt, str(error))
    except (ShutdownError, StoreUnavailableError):
        raise
    except Exception as error:
        if not last:
            log.warning("refit_to_be_tried_again", environment=name, attempt=attempt, error=type(error).__name__)
            raise
        log.exception("refit_failed", environment=name, attempt=attempt)
        return await _fail(db, refit_id, attempt, f"It failed {MAX_ATTEMPTS} times, at last with {_words(error)}")
    return "succeeded"


async def _cancel(db: Database, refit_id: UUID, attempt: int) -> str:
    await finish_refit(db, refit_id, attempt, RefitState.CANCELLED)
    log.info("refit_cancelled", attempt=attempt)
    return "cancelled"


async def _fail(db: Database, refit_id: UUID, attempt: int, sentence: str) -> str:
    await finish_refit(db, refit_id, attempt, RefitState.FAILED, error=sentence)
    # The sentence is the refit's own `error`; it may quote what was said, and a log must not.
    log.info("refit_ended_in_failure", attempt=attempt)
    return "failed"


def _words(error: Exception) -> str:
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"
