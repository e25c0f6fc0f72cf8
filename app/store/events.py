"""Ranked events: what was chosen for a user among what, kept until its reward comes or it expires."""

from datetime import timedelta
from typing import Any

from sqlalchemy import Row, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import ConflictError, NotFoundError, RankedEvent
from app.store.database import transaction
from app.store.environments import environment_key
from app.store.schema import ranked_events

EVENT_LIFETIME = timedelta(days=7)
"""How long a reward is waited for."""

SWEPT_EVENTS = 100
"""Expired events that a new one takes away, so that none needs a job of its own."""

_SWEEP = text(
    """
    DELETE FROM ranked_events WHERE (environment_id, event_id) IN (
        SELECT environment_id, event_id FROM ranked_events
        WHERE environment_id = :environment_id AND expires_at < now()
        LIMIT :n FOR UPDATE SKIP LOCKED
    )
    """
)


@transaction
async def record_event(connection: AsyncConnection, name: str, event: RankedEvent) -> None:
    """Keep an event; the same id again replaces it while it has no reward.

    Raises
    ------
    ConflictError
        The event has had its reward.
    """
    key = await environment_key(connection, name)
    await connection.execute(_SWEEP, {"environment_id": key, "n": SWEPT_EVENTS})
    e = ranked_events.c
    known = await connection.execute(
        select(e.reward).where(e.environment_id == key, e.event_id == event.id).with_for_update()
    )
    row = known.one_or_none()
    if row is not None and row.reward is not None:
        raise ConflictError(f"Event {event.id!r} has had its reward.", pointer="/eventId")
    values = {
        "user_id": event.user,
        "chosen": event.chosen,
        "others": list(event.others),
        "context": event.context,
        "active": event.active,
        "expires_at": func.now() + EVENT_LIFETIME,
    }
    if row is not None:
        await connection.execute(
            update(ranked_events).where(e.environment_id == key, e.event_id == event.id).values(values)
        )
    else:
        await connection.execute(insert(ranked_events).values(environment_id=key, event_id=event.id, **values))


@transaction
async def find_event(connection: AsyncConnection, name: str, event_id: str) -> RankedEvent:
    """An event that has not expired."""
    e = ranked_events.c
    row = (
        await connection.execute(
            select(ranked_events).where(
                e.environment_id == await environment_key(connection, name),
                e.event_id == event_id,
                e.expires_at >= func.now(),
            )
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"There is no event {event_id!r}, or it has expired.")
    return event_of(row)


def event_of(row: Row[Any]) -> RankedEvent:
    return RankedEvent(
        id=row.event_id,
        user=row.user_id,
        chosen=row.chosen,
        others=tuple(row.others),
        context=row.context,
        active=row.active,
        reward=row.reward,
    )


@transaction
async def note_event(
    connection: AsyncConnection, name: str, event_id: str, *, reward: float | None = None, active: bool | None = None
) -> None:
    """Keep what became of an event; a reward that it has stays."""
    e = ranked_events.c
    values = {"reward": func.coalesce(e.reward, reward)} if reward is not None else {}
    seen = {"active": active} if active is not None else {}
    await connection.execute(
        update(ranked_events)
        .where(e.environment_id == await environment_key(connection, name), e.event_id == event_id)
        .values({**values, **seen})
    )
