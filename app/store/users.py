"""What is known of one user: how much, all of it, or nothing any more."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, TextClause, delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import NotFoundError, RankedEvent
from app.store.audit import ERASE_USER, note
from app.store.database import look_up, transaction
from app.store.encoding import bytes_to_floats, bytes_to_steps, unpack_arrays
from app.store.environments import environment_key, lock_environment
from app.store.events import event_of
from app.store.notices import announce_erasure
from app.store.schema import adapters, environments, preferences, ranked_events, users


@dataclass(frozen=True, slots=True)
class UserState:
    user: str
    feedback_count: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class ServingState:
    """What tells a server whether what it keeps in memory is still the newest."""

    environment_id: int
    revision: int
    """Rises with every redefinition of the environment."""
    catalog_revision: int
    """Rises with every change of the catalogue."""
    published_version: int | None
    preference_count: int
    user_key: int | None
    feedback_count: int

    @property
    def versions(self) -> tuple[int, int, int, int | None]:
        return self.environment_id, self.revision, self.catalog_revision, self.published_version


@dataclass(frozen=True, slots=True)
class Erased:
    """How much was stored of somebody."""

    n_preferences: int
    n_events: int
    n_adapters: int
    """In as many model versions."""
    position: int | None
    """Of the transaction, as notices tell it; None where there was nobody to erase."""


@dataclass(frozen=True, slots=True)
class UserCount:
    user_key: int | None
    """Another one after the user was erased and came back."""
    feedback_count: int
    """0 for a user nobody has heard of."""


_SERVING_STATE = text(
    """
    SELECT e.id, e.revision, e.catalog_revision, e.published_version, e.preference_count, u.id, u.feedback_count
    FROM environments e LEFT JOIN users u ON u.environment_id = e.id AND u.user_id = :user
    WHERE e.name = :name
    """
)


@look_up
async def serving_state(connection: AsyncConnection, name: str, user: str) -> ServingState:
    """One look-up by two unique keys."""
    row = (await connection.execute(_SERVING_STATE, {"name": name, "user": user})).one_or_none()
    if row is None:
        raise NotFoundError(f"There is no environment {name!r}.")
    environment_id, revision, catalog_revision, published_version, preference_count, user_key, feedback_count = row
    return ServingState(
        environment_id=environment_id,
        revision=revision,
        catalog_revision=catalog_revision,
        published_version=published_version,
        preference_count=preference_count,
        user_key=user_key,
        feedback_count=feedback_count or 0,
    )


@look_up
async def user_count(connection: AsyncConnection, environment_id: int, user: str) -> UserCount:
    c = users.c
    query = select(c.id, c.feedback_count).where(c.environment_id == environment_id, c.user_id == user)
    row = (await connection.execute(query)).one_or_none()
    return UserCount(None, 0) if row is None else UserCount(row.id, row.feedback_count)


@transaction
async def user_state(connection: AsyncConnection, name: str, user: str) -> UserState | None:
    """None for a user without a preference."""
    key = await environment_key(connection, name)
    c = users.c
    row = (
        await connection.execute(
            select(c.user_id, c.feedback_count, c.first_at, c.last_at).where(
                c.environment_id == key, c.user_id == user, c.feedback_count > 0
            )
        )
    ).one_or_none()
    return None if row is None else UserState(*row)


_EXPORT = text(
    """
    SELECT p.client_id, p.label, p.weight, p.occurred_at, p.recorded_at, p.chosen_steps, p.rejected_steps,
           chosen.item_id AS chosen_item, chosen.text AS chosen_text, chosen.features AS chosen_features,
           rejected.item_id AS rejected_item, rejected.text AS rejected_text, rejected.features AS rejected_features,
           context.text AS context_text, context.features AS context_features
    FROM preferences p
    JOIN users ON users.environment_id = p.environment_id AND users.id = p.user_key
    LEFT JOIN items chosen ON chosen.id = p.chosen_key
    LEFT JOIN items rejected ON rejected.id = p.rejected_key
    LEFT JOIN contexts context ON context.id = p.context_key
    WHERE p.environment_id = :environment_id AND users.user_id = :user
    ORDER BY p.id
    """
)


@transaction
async def export_user(connection: AsyncConnection, name: str, user: str) -> list[dict[str, Any]]:
    """Everything the user said, oldest first, in the form in which clients say it, `occurred_at` as a datetime."""
    key = await environment_key(connection, name)
    rows = await connection.execute(_EXPORT, {"environment_id": key, "user": user})
    return [_exported(user, row) for row in rows]


@dataclass(frozen=True, slots=True, eq=False)
class ExportedAdapter:
    """What a model version keeps of one user alone."""

    model_version: int
    feedback_count: int
    arrays: Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class ExportedEvent:
    """What was shown to the user, and waits for a reward or has had it."""

    event: RankedEvent
    created_at: datetime
    expires_at: datetime


@transaction
async def export_derived(
    connection: AsyncConnection, name: str, user: str
) -> tuple[list[ExportedAdapter], list[ExportedEvent]]:
    """What else is stored under the user's id: adapters by version, and ranked events, oldest first."""
    key = await environment_key(connection, name)
    a, u, e = adapters.c, users.c, ranked_events.c
    kept = await connection.execute(
        select(a.version, a.feedback_count, a.data)
        .join(users, (u.environment_id == a.environment_id) & (u.id == a.user_key))
        .where(a.environment_id == key, u.user_id == user)
        .order_by(a.version)
    )
    shown = await connection.execute(
        select(ranked_events).where(e.environment_id == key, e.user_id == user).order_by(e.created_at, e.event_id)
    )
    return (
        [ExportedAdapter(row.version, row.feedback_count, unpack_arrays(row.data)) for row in kept],
        [ExportedEvent(event_of(row), row.created_at, row.expires_at) for row in shown],
    )


_DELETE_ORPHAN_ITEMS = text(
    """
    DELETE FROM items
    WHERE id = ANY(CAST(:keys AS bigint[])) AND content_hash IS NOT NULL
      AND NOT EXISTS (
          SELECT FROM preferences p WHERE p.environment_id = :environment_id AND p.chosen_key = items.id
      )
      AND NOT EXISTS (
          SELECT FROM preferences p WHERE p.environment_id = :environment_id AND p.rejected_key = items.id
      )
    """
)
_DELETE_ORPHAN_CONTEXTS = text(
    """
    DELETE FROM contexts
    WHERE id = ANY(CAST(:keys AS bigint[]))
      AND NOT EXISTS (
          SELECT FROM preferences p WHERE p.environment_id = :environment_id AND p.context_key = contexts.id
      )
    """
)


@transaction
async def erase_user(connection: AsyncConnection, name: str, user: str) -> Erased:
    """Delete what a user said and was shown, with the texts and contexts that nobody else used; how much that was.

    Published models keep what they learnt of all users together until the next refit, and nothing of this one alone.
    """
    environment = await lock_environment(connection, name, exclusive=True)
    events = ranked_events.c
    shown = await connection.execute(
        delete(ranked_events).where(events.environment_id == environment.id, events.user_id == user)
    )
    user_key = await connection.scalar(
        select(users.c.id).where(users.c.environment_id == environment.id, users.c.user_id == user)
    )
    if user_key is None:
        if shown.rowcount:
            await note(connection, ERASE_USER, name, user_digest(name, user))
        return Erased(0, shown.rowcount, 0, None)
    a = adapters.c
    kept = await connection.execute(delete(adapters).where(a.environment_id == environment.id, a.user_key == user_key))
    p = preferences.c
    gone = (
        await connection.execute(
            delete(preferences)
            .where(p.environment_id == environment.id, p.user_key == user_key)
            .returning(p.chosen_key, p.rejected_key, p.context_key)
        )
    ).all()
    await connection.execute(delete(users).where(users.c.environment_id == environment.id, users.c.id == user_key))
    options = {key for row in gone for key in (row.chosen_key, row.rejected_key)}
    await _delete_orphans(connection, environment.id, _DELETE_ORPHAN_ITEMS, options)
    await _delete_orphans(connection, environment.id, _DELETE_ORPHAN_CONTEXTS, {row.context_key for row in gone})
    e = environments.c
    await connection.execute(
        update(environments)
        .where(e.id == environment.id)
        .values(
            preference_count=e.preference_count - len(gone),
            # A refit that has loaded them already publishes nothing, and one model more rests on somebody erased.
            erasures=e.erasures + 1,
            refit_preference_count=text("LEAST(refit_preference_count, preference_count - :gone)").bindparams(
                gone=len(gone)
            ),
        )
    )
    position = await announce_erasure(connection, environment.id, user, user_key)
    await note(connection, ERASE_USER, name, user_digest(name, user))
    return Erased(len(gone), shown.rowcount, kept.rowcount, position)


def user_digest(name: str, user: str) -> str:
    """What the audit log has instead of an erased user's id: enough to tell that it was theirs, from the id alone."""
    return hashlib.sha256(f"{name}/{user}".encode()).hexdigest()


async def _delete_orphans(
    connection: AsyncConnection, environment_id: int, statement: TextClause, keys: set[int | None]
) -> None:
    known = [key for key in keys if key is not None]
    if known:
        await connection.execute(statement, {"environment_id": environment_id, "keys": known})


def _exported(user: str, row: Row[Any]) -> dict[str, Any]:
    preference: dict[str, Any] = {
        "user": user,
        "chosen": _option(row.chosen_steps, row.chosen_item, row.chosen_text, row.chosen_features),
        "rejected": _option(row.rejected_steps, row.rejected_item, row.rejected_text, row.rejected_features),
        "label": row.label,
        "weight": row.weight,
        "occurred_at": row.occurred_at,
    }
    if row.context_features is not None:
        preference["context"] = _content(row.context_text, row.context_features)
    if row.client_id is not None:
        preference["id"] = row.client_id
    return preference


def _option(steps: bytes | None, item_id: str | None, words: str | None, features: bytes | None) -> dict[str, Any]:
    if steps is not None:
        return {"trajectory": bytes_to_steps(steps)}
    if item_id is not None:
        return {"item": item_id}
    assert features is not None
    return _content(words, features)


def _content(words: str | None, features: bytes) -> dict[str, Any]:
    return {"features": bytes_to_floats(features).tolist()} if words is None else {"text": words}
