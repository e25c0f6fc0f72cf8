"""What the database says about the installation that uses it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.database import look_up


@dataclass(frozen=True, slots=True)
class EnvironmentAge:
    name: str
    preferences: int
    new_preferences: int
    """Since the newest refit began."""
    published_at: datetime | None
    failed: str | None
    """Why the newest refit failed, if it did."""


@dataclass(frozen=True, slots=True)
class Installation:
    server_version: int
    """As PostgreSQL numbers itself: 180001 is 18.1."""
    now: datetime
    """The server's clock."""
    heartbeat: datetime | None
    """Of the worker that was heard of last."""
    waiting_jobs: int
    environments: tuple[EnvironmentAge, ...]


_SERVER = text(
    """
    SELECT current_setting('server_version_num')::int AS version, clock_timestamp() AS now,
           (SELECT max(last_heartbeat) FROM procrastinate_workers) AS heartbeat,
           (SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo') AS waiting
    """
)
_ENVIRONMENTS = text(
    """
    SELECT e.name, e.preference_count, e.preference_count - e.refit_preference_count AS new_preferences,
           (SELECT m.published_at FROM models m WHERE m.environment_id = e.id AND m.version = e.published_version),
           (SELECT CASE WHEN r.state = 'failed' THEN r.error END FROM refits r
            WHERE r.environment_id = e.id ORDER BY r.created_at DESC LIMIT 1)
    FROM environments e ORDER BY e.name
    """
)


@look_up
async def installation(connection: AsyncConnection) -> Installation:
    """The database must have this version's schema."""
    server = (await connection.execute(_SERVER)).one()
    rows = await connection.execute(_ENVIRONMENTS)
    return Installation(
        server_version=server.version,
        now=server.now,
        heartbeat=server.heartbeat,
        waiting_jobs=server.waiting,
        environments=tuple(EnvironmentAge(*row) for row in rows),
    )
