"""Refits: asked for, begun, followed, cancelled, ended. An attempt that was overtaken changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import NotFoundError, Refit, RefitPhase, RefitState, RefitStateError
from app.store.audit import note
from app.store.database import look_up, transaction
from app.store.encoding import to_json
from app.store.environments import environment_key, lock_environment
from app.store.queue import enqueue_refit
from app.store.schema import environments, refits

_COLUMNS = (
    refits.c.id,
    environments.c.name.label("environment"),
    refits.c.state,
    refits.c.phase,
    refits.c.progress,
    refits.c.attempt,
    refits.c.cancel_requested,
    refits.c.reason,
    refits.c.metrics,
    refits.c.error,
    refits.c.model_version,
    refits.c.created_at,
    refits.c.started_at,
    refits.c.finished_at,
)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a running attempt is told when it reports."""

    cancel_requested: bool
    erasures: int
    """Of its environment, so far: see `erasure_count`."""


@transaction
async def request_refit(
    connection: AsyncConnection, name: str, reason: str = "request", *, origin: Mapping[str, str] | None = None
) -> tuple[Refit, bool]:
    """Ask for a refit and enqueue its job; the second value says that one was waiting already, which this joins.

    `origin` (`request_id`, `traceparent`) goes with the job to the worker.
    """
    environment = await lock_environment(connection, name)
    while True:
        refit_id = uuid4()
        new = upsert(refits).values(
            id=refit_id,
            environment_id=environment.id,
            state=RefitState.QUEUED,
            phase=RefitPhase.WAITING,
            reason=reason,
        )
        created = await connection.scalar(
            new.on_conflict_do_nothing(
                index_elements=["environment_id"], index_where=text("state = 'queued'")
            ).returning(refits.c.id)
        )
        if created is not None:
            await enqueue_refit(connection, environment.id, str(refit_id), origin or {})
            await note(connection, "refit.request", name, str(refit_id))
            return await _read(connection, refit_id), False
        waiting = await connection.scalar(
            select(refits.c.id).where(refits.c.environment_id == environment.id, refits.c.state == RefitState.QUEUED)
        )
        # None: a worker has just begun the one that was in the way, and the next round creates another.
        if waiting is not None:
            return await _read(connection, waiting), True


@look_up
async def get_refit(connection: AsyncConnection, refit_id: UUID) -> Refit:
    return await _read(connection, refit_id)


@transaction
async def list_refits(connection: AsyncConnection, name: str, *, limit: int = 20) -> list[Refit]:
    """An environment's refits, newest first."""
    query = (
        select(*_COLUMNS)
        .join(environments)
        .where(refits.c.environment_id == await environment_key(connection, name))
        .order_by(refits.c.created_at.desc())
        .limit(limit)
    )
    return [_refit(row) for row in await connection.execute(query)]


@transaction
async def begin_refit(connection: AsyncConnection, refit_id: UUID) -> int:
    """Begin, or begin again after a worker was lost; the number of this attempt, which every later call must name.

    Raises
    ------
    RefitStateError
        It has ended, or was cancelled.
    """
    e = environments.c
    count = select(e.preference_count).where(e.id == refits.c.environment_id).scalar_subquery()
    begun = (
        await connection.execute(
            update(refits)
            .where(refits.c.id == refit_id, refits.c.state.in_([RefitState.QUEUED, RefitState.RUNNING]))
            .values(
                state=RefitState.RUNNING,
                phase=RefitPhase.LOADING,
                progress=0.0,
                attempt=refits.c.attempt + 1,
                preference_count=count,
                started_at=func.now(),
            )
            .returning(refits.c.attempt, refits.c.environment_id)
        )
    ).one_or_none()
    if begun is None:
        raise await _overtaken(connection, refit_id)
    await connection.execute(update(environments).where(e.id == begun.environment_id).values(refit_begun_at=func.now()))
    attempt: int = begun.attempt
    return attempt


@transaction
async def report_progress(
    connection: AsyncConnection,
    refit_id: UUID,
    attempt: int,
    phase: RefitPhase,
    progress: float,
    metrics: Mapping[str, Any] | None = None,
) -> Heard:
    """Note how far the refit is, 0..1, adding `metrics` to those noted before; what it must know in return."""
    e = environments.c
    erasures = select(e.erasures).where(e.id == refits.c.environment_id).scalar_subquery()
    row = (
        await connection.execute(
            _running(refit_id, attempt)
            .values(phase=phase, progress=min(max(progress, 0.0), 1.0), metrics=_with_metrics(metrics))
            .returning(refits.c.cancel_requested, erasures)
        )
    ).one_or_none()
    if row is None:
        raise await _overtaken(connection, refit_id)
    return Heard(*row)


@transaction
async def finish_refit(
    connection: AsyncConnection,
    refit_id: UUID,
    attempt: int,
    state: RefitState,
    error: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Refit:
    """End the running attempt as succeeded, failed or cancelled."""
    done = {"phase": RefitPhase.DONE, "progress": 1.0} if state is RefitState.SUCCEEDED else {}
    finished = await connection.scalar(
        _running(refit_id, attempt)
        .values(state=state, error=error, metrics=_with_metrics(metrics), finished_at=func.now(), **done)
        .returning(refits.c.id)
    )
    if finished is None:
        raise await _overtaken(connection, refit_id)
    return await _read(connection, refit_id)


@transaction
async def cancel_refit(connection: AsyncConnection, refit_id: UUID) -> Refit:
    """Cancel a refit that waits, or ask a running one to stop at its next report.

    Raises
    ------
    RefitStateError
        It has ended already; asking twice is no error.
    """
    state = await connection.scalar(select(refits.c.state).where(refits.c.id == refit_id).with_for_update())
    if state is None:
        raise _unknown(refit_id)
    values: dict[str, Any] = {"cancel_requested": True}
    match RefitState(state):
        case RefitState.QUEUED:
            values |= {"state": RefitState.CANCELLED, "finished_at": func.now()}
        case RefitState.RUNNING | RefitState.CANCELLED:
            pass
        case RefitState.SUCCEEDED | RefitState.FAILED:
            raise RefitStateError(f"Refit {refit_id} has {state}; there is nothing to cancel.")
    await connection.execute(update(refits).where(refits.c.id == refit_id).values(values))
    cancelled = await _read(connection, refit_id)
    await note(connection, "refit.cancel", cancelled.environment, str(refit_id))
    return cancelled


_DUE = text(
    """
    SELECT name FROM environments e, (SELECT COALESCE(CAST(:now AS timestamptz), now()) AS moment) AS the
    WHERE preference_count - refit_preference_count >= GREATEST(refit_min_new_preferences, 1)
      AND (
          refit_begun_at IS NULL OR refit_begun_at <= the.moment - make_interval(secs => refit_every_seconds)
          OR refit_begun_at > the.moment
      )
      AND NOT EXISTS (SELECT FROM refits r WHERE r.environment_id = e.id AND r.state IN ('queued', 'running'))
    ORDER BY refit_begun_at NULLS FIRST, name
    """
)


@look_up
async def due_environments(connection: AsyncConnection, now: datetime | None = None) -> list[str]:
    """Environments whose refit policy asks for a refit now, by the server's clock, and that have none under way.

    A refit that was begun in the future was begun before the clock was put right, and holds up nothing.
    """
    return list(await connection.scalars(_DUE, {"now": now}))


async def claim_publication(connection: AsyncConnection, refit_id: UUID, attempt: int, version: int) -> int:
    """Bind a running attempt to the model that it publishes; the preferences that there were when it began.

    The row is held to the end of the transaction, so nobody can begin the refit again in between.
    """
    count = await connection.scalar(
        _running(refit_id, attempt)
        .where(refits.c.cancel_requested.is_(False))
        .values(model_version=version, phase=RefitPhase.PUBLISHING)
        .returning(refits.c.preference_count)
    )
    if count is None:
        raise await _overtaken(connection, refit_id)
    return int(count)


def _running(refit_id: UUID, attempt: int) -> Any:
    return update(refits).where(
        refits.c.id == refit_id, refits.c.attempt == attempt, refits.c.state == RefitState.RUNNING
    )


def _with_metrics(metrics: Mapping[str, Any] | None) -> Any:
    return refits.c.metrics.op("||")(to_json(metrics or {}))


async def _read(connection: AsyncConnection, refit_id: UUID) -> Refit:
    query = select(*_COLUMNS).join(environments).where(refits.c.id == refit_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise _unknown(refit_id)
    return _refit(row)


def _refit(row: Any) -> Refit:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return Refit(**values | {"state": RefitState(row.state), "phase": RefitPhase(row.phase)})


async def _overtaken(connection: AsyncConnection, refit_id: UUID) -> RefitStateError | NotFoundError:
    query = select(refits.c.state, refits.c.attempt, refits.c.cancel_requested).where(refits.c.id == refit_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return _unknown(refit_id)
    cancelled = ", cancellation asked for" if row.cancel_requested else ""
    return RefitStateError(
        f"Refit {refit_id} is {row.state}, attempt {row.attempt}{cancelled}: this step came too late."
    )


def _unknown(refit_id: UUID) -> NotFoundError:
    return NotFoundError(f"There is no refit {refit_id}.")
