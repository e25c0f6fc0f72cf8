"""How much is said, and by whom: what an operator looks at first."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.database import transaction
from app.store.environments import environment_key
from app.store.schema import users
from app.store.users import UserState


@dataclass(frozen=True, slots=True)
class Bucket:
    start: datetime
    n_preferences: int
    """Recorded from `start` to the next bucket's."""


_ACTIVITY = text(
    """
    WITH marks AS (
        SELECT date_bin(:width, now(), 'epoch') - n * CAST(:width AS interval) AS start
        FROM generate_series(0, :count - 1) AS n
    ), said AS (
        SELECT date_bin(:width, recorded_at, 'epoch') AS start, count(*) AS n
        FROM preferences
        WHERE environment_id = :environment_id AND recorded_at >= (SELECT min(start) FROM marks)
        GROUP BY 1
    )
    SELECT marks.start, COALESCE(said.n, 0) FROM marks LEFT JOIN said USING (start) ORDER BY 1
    """
)


@transaction
async def feedback_activity(connection: AsyncConnection, name: str, *, width: timedelta, count: int) -> list[Bucket]:
    """The newest `count` buckets of that width, oldest first; the last one is still filling."""
    key = await environment_key(connection, name)
    rows = await connection.execute(_ACTIVITY, {"environment_id": key, "width": width, "count": count})
    return [Bucket(start, n) for start, n in rows]


@transaction
async def list_users(
    connection: AsyncConnection, name: str, *, starting_with: str = "", limit: int = 100, after: str | None = None
) -> list[UserState]:
    """Users with preferences, by id."""
    c = users.c
    query = (
        select(c.user_id, c.feedback_count, c.first_at, c.last_at)
        .where(c.environment_id == await environment_key(connection, name), c.feedback_count > 0)
        .order_by(c.user_id)
        .limit(limit)
    )
    if starting_with:
        query = query.where(c.user_id.startswith(starting_with, autoescape=True))
    if after is not None:
        query = query.where(c.user_id > after)
    return [UserState(*row) for row in await connection.execute(query)]
