"""Group commit: what many requests say at the same time is stored by one transaction, and acknowledged after it.

A group is whatever waits when the one before it is done, so an idle service commits each request by itself at once, and
a busy one commits few and large groups. What waits is bounded, and so is how long it waits.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from app.domain import DomainError, OverloadedError, Preference, Recorded, StoreUnavailableError
from app.store.database import Database
from app.store.preferences import Outcome, Submission, record_group, refresh_statistics
from app.store.usual import UsualRecorder

log = structlog.get_logger()

GROUP_ROWS = 1_000
# Rows of a group, unless a single request has more: enough that a row's own cost dominates.

MAX_GROUPS = 4
# Transactions under way at once: connections of the pool that writing takes at most.

PATIENCE_SECONDS = 0.05
# A group that takes longer (it waits for an erasure, or a database is slow) no longer holds up the next one.

WAITING_ROWS = 20_000
# What waits in one process: some 20 MB, and a fraction of a second's work.

WAITING_SECONDS = 10.0
# After this time what still waits is refused.

GROUP_SECONDS = 60.0
# How long a transaction may take with its repetitions; longer than the lock timeout of a connection.


FIRST_ROWS = 500
# After so many the planner is shown what the tables have become.


class Recorder(Protocol):
    """Stores a request's preferences."""

    async def record(self, name: str, batch: Sequence[Preference]) -> Recorded:
        """Store a batch, whole or not at all; returns after the commit.

        Raises
        ------
        NotFoundError, InvalidInputError, ConflictError
            As `record_preferences`; of this request alone.
        OverloadedError
            Too much waits already, or it waited too long; nothing was stored.
        StoreUnavailableError
            The database did not answer.
        """
        ...


@dataclass(slots=True, eq=False)
class _Waiting:
    submission: Submission
    future: "asyncio.Future[Recorded]"
    until: float


class Writer:
    """One a process, used in one event loop; whoever made it closes it, after the last request.

    Parameters
    ----------
    group_rows
        Rows of a transaction at most, unless one request has more.
    waiting_rows, waiting_seconds
        How much may wait, and for how long, before it is refused.
    group_seconds
        How long a transaction may take with its repetitions.
    committed
        Called after a group's transaction with how many preferences it stored, and in how many seconds.
    """

    def __init__(
        self,
        db: Database,
        *,
        group_rows: int = GROUP_ROWS,
        waiting_rows: int = WAITING_ROWS,
        waiting_seconds: float = WAITING_SECONDS,
        group_seconds: float = GROUP_SECONDS,
        committed: Callable[[int, float], None] | None = None,
    ) -> None:
        self._db = db
        self._committed = committed
        self._group_rows = group_rows
        self._max_waiting_rows = waiting_rows
        self._waiting_seconds = waiting_seconds
        self._group_seconds = group_seconds
        self._queue: deque[_Waiting] = deque()
        self._waiting_rows = 0
        self._groups: dict[asyncio.Task[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._n_rows = 0
        self._usual = UsualRecorder(db)

    async def record(self, name: str, batch: Sequence[Preference]) -> Recorded:
        if self._waiting_rows + len(batch) > self._max_waiting_rows and self._queue:
            raise OverloadedError(
                f"{self._waiting_rows:,} preferences wait to be stored, as many as may; nothing of this request was "
                "stored: send it again."
            )
        loop = asyncio.get_running_loop()
        waiting = _Waiting(Submission(name, batch), loop.create_future(), loop.time() + self._waiting_seconds)
        self._queue.append(waiting)
        self._waiting_rows += len(batch)
        self._begin_groups()
        return await waiting.future

    @property
    def waiting_rows(self) -> int:
        """Preferences that no transaction has begun to store."""
        return self._waiting_rows

    async def aclose(self) -> None:
        """Store and acknowledge all that waits."""
        while self._groups:
            await asyncio.wait(self._groups)
        await self._usual.aclose()

    def _begin_groups(self) -> None:
        """Begin a group if something waits, and there is room or the groups under way are slow."""
        now = asyncio.get_running_loop().time()
        self._refuse_late(now)
        while self._queue and (not self._groups or (len(self._groups) < MAX_GROUPS and self._is_pressing(now))):
            task = asyncio.create_task(self._record(self._next_group()))
            self._groups[task] = now
            task.add_done_callback(self._end_group)
        if self._queue and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._look_again)

    def _is_pressing(self, now: float) -> bool:
        return self._waiting_rows >= self._group_rows or now - max(self._groups.values()) >= PATIENCE_SECONDS

    def _look_again(self) -> None:
        self._timer = None
        self._begin_groups()

    def _end_group(self, task: "asyncio.Task[None]") -> None:
        del self._groups[task]
        self._begin_groups()

    def _refuse_late(self, now: float) -> None:
        while self._queue and self._queue[0].until < now:
            late = self._pop()
            _settle(
                late,
                OverloadedError(
                    f"this request waited {self._waiting_seconds:g} seconds; nothing of it was stored: send it again."
                ),
            )

    def _next_group(self) -> list[_Waiting]:
        group = [self._pop()]
        rows = len(group[0].submission.batch)
        while self._queue and rows + len(self._queue[0].submission.batch) <= self._group_rows:
            group.append(self._pop())
            rows += len(group[-1].submission.batch)
        return group

    def _pop(self) -> _Waiting:
        waiting = self._queue.popleft()
        self._waiting_rows -= len(waiting.submission.batch)
        return waiting

    async def _record(self, group: Sequence[_Waiting]) -> None:
        begun = asyncio.get_running_loop().time()
        stored = 0
        for waiting, outcome in zip(group, await self._outcomes(group), strict=True):
            _settle(waiting, outcome)
            stored += 0 if isinstance(outcome, DomainError) else len(waiting.submission.batch)
        if stored and self._committed is not None:
            self._committed(stored, asyncio.get_running_loop().time() - begun)
        before = self._n_rows
        self._n_rows += sum(len(waiting.submission.batch) for waiting in group)
        if before < FIRST_ROWS <= self._n_rows:
            with suppress(StoreUnavailableError):
                await refresh_statistics(self._db)

    async def _outcomes(self, group: Sequence[_Waiting]) -> Sequence[Outcome]:
        try:
            async with asyncio.timeout(self._group_seconds):
                submissions = [waiting.submission for waiting in group]
                quick = await self._usual.record(submissions)
                return await record_group(self._db, submissions) if quick is None else quick
        except StoreUnavailableError as error:
            reason = error.message
        except TimeoutError:
            reason = f"The database did not answer within {self._group_seconds:g} seconds."
        except Exception:
            # What nobody foresaw in one request must not be the others' failure, and nobody may wait for ever.
            log.exception("group_failed", requests=len(group))
            if len(group) > 1:
                return [outcome for waiting in group for outcome in await self._outcomes([waiting])]
            reason = "The preferences could not be stored; the log has why."
        return [StoreUnavailableError(reason) for _ in group]


def _settle(waiting: _Waiting, outcome: Outcome) -> None:
    if waiting.future.done():
        return  # whoever asked has gone away
    if isinstance(outcome, DomainError):
        waiting.future.set_exception(outcome)
    else:
        waiting.future.set_result(outcome)
