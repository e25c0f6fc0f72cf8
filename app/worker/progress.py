"""How far a refit is, told by the thread that fits, written by the event loop; and how the thread is asked to stop."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from uuid import UUID

import structlog

from app.domain import NotFoundError, RefitPhase, RefitStateError, StoreUnavailableError
from app.learning import FitProgress
from app.store import Database, report_progress

log = structlog.get_logger(__name__)

T = TypeVar("T")
Report = Callable[[T], None]

WRITE_SECONDS = 0.5
"""How often progress is written, and a cancellation noticed."""


class StoppedError(Exception):
    """A refit ends before it is done, and nothing is wrong with it."""


class CancelledRefitError(StoppedError):
    """Somebody asked for it."""


class OvertakenError(StoppedError):
    """Another worker has begun the refit again, or its environment is gone."""


class ShutdownError(StoppedError):
    """The worker shuts down; the job goes back to the queue."""


class ErasedError(StoppedError):
    """A user was erased since the preferences were loaded: what is fitted must not be published."""


class Progress:
    """One attempt's progress. `shutdown` is the whole worker's."""

    def __init__(self, shutdown: threading.Event) -> None:
        self.phase = RefitPhase.LOADING
        self.done = 0.0
        self.stop: type[StoppedError] | None = None
        self.erasures: int | None = None
        """How many there had been before the preferences were loaded, once they are."""
        self.seconds: dict[str, float] = {}
        """Of the phases that are behind; where a fit begins again, of both."""
        self._begun = time.monotonic()
        self._shutdown = shutdown

    def begin_again(self) -> None:
        """After an erasure: whatever else it was asked to stop for still counts."""
        self.erasures = None
        if self.stop is ErasedError:
            self.stop = None

    def reach(self, phase: RefitPhase, done: float) -> None:
        """Note a step, and stop here if so asked.

        Raises
        ------
        StoppedError
            The subclass says why.
        """
        if phase is not self.phase:
            self.end_phase()
        self.phase, self.done = phase, done
        if self.stop is not None:
            raise self.stop
        if self._shutdown.is_set():
            raise ShutdownError

    def end_phase(self) -> None:
        now = time.monotonic()
        phase = str(self.phase)
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + now - self._begun, 3)
        self._begun = now

    def within(self, phase: RefitPhase, begin: float, end: float) -> Report[FitProgress]:
        """A fit's own progress as a part of the refit's."""
        return lambda fit: self.reach(phase, begin + (end - begin) * fit.done)


@asynccontextmanager
async def written(db: Database, refit_id: UUID, attempt: int, progress: Progress) -> AsyncIterator[None]:
    """Write progress at intervals for as long as the block runs, and pass on what the answers say."""

    async def write() -> None:
        while True:
            await write_progress(db, refit_id, attempt, progress)
            await asyncio.sleep(WRITE_SECONDS)

    writer = asyncio.create_task(write())
    try:
        yield
    except asyncio.CancelledError:
        # The thread that fits cannot be cancelled; it stops itself at its next step.
        progress.stop = ShutdownError
        raise
    finally:
        writer.cancel()
        with suppress(asyncio.CancelledError):
            await writer


async def write_progress(
    db: Database, refit_id: UUID, attempt: int, progress: Progress, metrics: dict[str, Any] | None = None
) -> None:
    try:
        heard = await report_progress(db, refit_id, attempt, progress.phase, progress.done, metrics)
        if heard.cancel_requested:
            progress.stop = CancelledRefitError
        elif progress.erasures is not None and heard.erasures > progress.erasures:
            progress.stop = ErasedError
    except (RefitStateError, NotFoundError):
        progress.stop = OvertakenError
    except StoreUnavailableError as error:
        # The next report may come through; if none does, publishing fails and the job is tried again.
        log.warning("progress_not_written", refit=str(refit_id), error=error.message)
