"""What the database says about the installation that uses it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

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


@dataclass(frozen=True, slots=True)
class QueueHealth:
    queued: int
    running: int
    oldest_seconds: float
    """How long the oldest refit has waited that nobody has begun; 0 where none waits."""
    heartbeat_age_seconds: float | None
    """Since any worker was heard of; None where none has ever been."""


@dataclass(frozen=True, slots=True)
class EnvironmentHealth:
    """An environment's feedback and published model, in numbers; None where there is no such number."""

    name: str
    preferences: int
    new_preferences: int
    """Since the newest refit began."""
    failed: bool
    """The newest refit that ended."""
    version: int | None
    age_seconds: float | None
    accuracy: Mapping[str, float]
    """On held-out comparisons, by model."""
    log_loss: Mapping[str, float]
    calibration_error: float | None
    coverage: float | None
    distance_to_previous: float | None

    @property
    def lift(self) -> float | None:
        if not {"new", "global"} <= self.accuracy.keys():
            return None
        return self.accuracy["new"] - self.accuracy["global"]


MODELS = ("new", "global", "per_user", "current")
"""As a refit names the models that it compares."""

_PUBLISHED = text(
    """
    SELECT count(*) AS environments, count(published_version) AS published,
           count(*) FILTER (WHERE (id, published_version) IN (
               SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:versions AS int[]))
           )) AS unreadable
    FROM environments
    """
)
_QUEUE = text(
    """
    SELECT count(*) FILTER (WHERE state = 'queued') AS queued, count(*) FILTER (WHERE state = 'running') AS running,
           COALESCE(extract(epoch FROM clock_timestamp() - min(created_at) FILTER (WHERE state = 'queued')), 0)::float8
               AS oldest,
           (SELECT extract(epoch FROM clock_timestamp() - max(last_heartbeat))::float8 FROM procrastinate_workers)
               AS heartbeat
    FROM refits WHERE state IN ('queued', 'running')
    """
)
_HEALTH = text(
    """
    SELECT e.name, e.preference_count, e.preference_count - e.refit_preference_count AS new_preferences,
           COALESCE((
               SELECT r.state = 'failed' FROM refits r
               WHERE r.environment_id = e.id AND r.state IN ('succeeded', 'failed') ORDER BY r.created_at DESC LIMIT 1
           ), false) AS failed,
           e.published_version AS version,
           extract(epoch FROM clock_timestamp() - m.published_at)::float8 AS age,
           COALESCE(m.metrics, '{}'::jsonb) AS metrics,
           (m.diagnostics ->> 'coverage')::float8 AS coverage,
           (m.diagnostics ->> 'distance_to_previous')::float8 AS distance
    FROM environments e
    LEFT JOIN models m ON m.environment_id = e.id AND m.version = e.published_version
    WHERE CAST(:names AS text[]) IS NULL OR e.name = ANY(:names)
    ORDER BY e.name
    """
)


@look_up
async def published_models(
    connection: AsyncConnection, unreadable: Collection[tuple[int, int]] = ()
) -> tuple[int, int, int]:
    """How many environments there are, how many of them have a published model, and how many of those one of
    `unreadable` (environment's id and version).
    """
    ids, versions = [one for one, _ in unreadable], [version for _, version in unreadable]
    row = (await connection.execute(_PUBLISHED, {"ids": ids, "versions": versions})).one()
    return row.environments, row.published, row.unreadable


@look_up
async def queue_health(connection: AsyncConnection) -> QueueHealth:
    row = (await connection.execute(_QUEUE)).one()
    return QueueHealth(row.queued, row.running, row.oldest, row.heartbeat)


@look_up
async def environment_health(
    connection: AsyncConnection, names: Collection[str] | None = None
) -> list[EnvironmentHealth]:
    """Of these environments, or of all, by name."""
    rows = await connection.execute(_HEALTH, {"names": None if names is None else sorted(names)})
    return [_health(row) for row in rows]


def _health(row: Any) -> EnvironmentHealth:
    judged = {model: row.metrics[model] for model in MODELS if model in row.metrics}
    return EnvironmentHealth(
        name=row.name,
        preferences=row.preference_count,
        new_preferences=row.new_preferences,
        failed=row.failed,
        version=row.version,
        age_seconds=row.age,
        accuracy={model: found["accuracy"] for model, found in judged.items()},
        log_loss={model: found["log_loss"] for model, found in judged.items()},
        calibration_error=judged["new"]["ece"] if "new" in judged else None,
        coverage=row.coverage,
        distance_to_previous=row.distance,
    )
