"""Recording preferences: a batch is one transaction, whole or not at all, and safe to send again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import (
    ConflictError,
    Context,
    FeaturesOption,
    InvalidInputError,
    ItemOption,
    Option,
    Preference,
    Recorded,
    TextOption,
    TrajectoryOption,
)
from app.store.database import transaction
from app.store.encoding import digest, steps_to_bytes
from app.store.environments import EnvironmentRow, lock_environment
from app.store.interning import Interned, context_hash, intern_contents, option_hash
from app.store.notices import announce
from app.store.schema import environments

# Everybody locks users in the order of their ids, so that two batches never wait for each other in a ring.
_ADD_USERS = text(
    """
    INSERT INTO users (environment_id, user_id)
    SELECT :environment_id, given.user_id
    FROM unnest(CAST(:user_ids AS text[])) AS given (user_id)
    ORDER BY given.user_id COLLATE "C"
    ON CONFLICT (environment_id, user_id) DO NOTHING
    """
)
_LOCK_USERS = text(
    """
    SELECT user_id, id FROM users
    WHERE environment_id = :environment_id AND user_id = ANY(CAST(:user_ids AS text[]))
    ORDER BY user_id
    FOR NO KEY UPDATE
    """
)

# Numbers are drawn in the order of the batch and rows written in the order of the clients' ids: the first keeps the
# order in which things were said, the second is the same for everybody who writes the same ids.
_RECORD = text(
    """
    WITH given AS MATERIALIZED (
        SELECT nextval(pg_get_serial_sequence('preferences', 'id')) AS id, rows.*
        FROM unnest(
            CAST(:user_keys AS bigint[]), CAST(:chosen_keys AS bigint[]), CAST(:rejected_keys AS bigint[]),
            CAST(:context_keys AS bigint[]), CAST(:chosen_steps AS bytea[]), CAST(:rejected_steps AS bytea[]),
            CAST(:labels AS float8[]), CAST(:weights AS float8[]), CAST(:occurred_at AS timestamptz[]),
            CAST(:client_ids AS text[]), CAST(:hashes AS bytea[])
        ) AS rows (
            user_key, chosen_key, rejected_key, context_key, chosen_steps, rejected_steps,
            label, weight, occurred_at, client_id, content_hash
        )
    ), inserted AS (
        INSERT INTO preferences (
            id, environment_id, user_key, chosen_key, rejected_key, context_key, chosen_steps, rejected_steps,
            label, weight, occurred_at, client_id, content_hash
        )
        SELECT id, :environment_id, user_key, chosen_key, rejected_key, context_key, chosen_steps, rejected_steps,
               label, weight, COALESCE(occurred_at, now()), client_id, content_hash
        FROM given
        ORDER BY client_id COLLATE "C", id
        ON CONFLICT (environment_id, client_id) DO NOTHING
        RETURNING user_key, occurred_at
    ), counted AS (
        UPDATE users SET
            feedback_count = users.feedback_count + said.n,
            first_at = LEAST(users.first_at, said.first_at),
            last_at = GREATEST(users.last_at, said.last_at)
        FROM (
            SELECT user_key, count(*) AS n, min(occurred_at) AS first_at, max(occurred_at) AS last_at
            FROM inserted GROUP BY user_key
        ) AS said
        WHERE users.id = said.user_key
    )
    SELECT count(*) FROM inserted
    """
)

_STORED_HASHES = text(
    """
    SELECT client_id, content_hash FROM preferences
    WHERE environment_id = :environment_id AND client_id = ANY(CAST(:client_ids AS text[]))
    """
)


@transaction
async def record_preferences(connection: AsyncConnection, name: str, batch: Sequence[Preference]) -> Recorded:
    """Store a batch, in its order; what was stored before under the same id is counted as a duplicate.

    Raises
    ------
    InvalidInputError
        An option cannot be compared here; `pointer` names the first.
    ConflictError
        An id was used before for another content.
    """
    environment = await lock_environment(connection, name)
    if not batch:
        return Recorded(accepted=0, duplicates=0)
    for index, preference in enumerate(batch):
        _check_shape(environment, index, preference)
    interned = await intern_contents(connection, environment, batch)
    sides = [_Sides.of(preference, interned) for preference in batch]
    for index, side in enumerate(sides):
        if side.equal:
            raise InvalidInputError(
                "The chosen and the rejected option are the same.", pointer=f"/preferences/{index}/rejected"
            )
    hashes = [content_hash(preference) for preference in batch]
    keys = await _lock_users(connection, environment.id, sorted({preference.user for preference in batch}))
    accepted = await _insert(connection, environment.id, batch, sides, hashes, keys)
    if accepted < len(batch):
        await _check_duplicates(connection, environment.id, batch, hashes)
    if accepted:
        await connection.execute(
            update(environments)
            .where(environments.c.id == environment.id)
            .values(preference_count=environments.c.preference_count + accepted)
        )
    # Duplicates too: who sends again may not have had the first acknowledgement.
    position = await announce(connection, {environment.id: list(keys)})
    return Recorded(accepted=accepted, duplicates=len(batch) - accepted, position=position)


@dataclass(frozen=True, slots=True)
class _Sides:
    """The columns of a preference that say what was compared."""

    chosen_key: int | None
    rejected_key: int | None
    chosen_steps: bytes | None
    rejected_steps: bytes | None
    context_key: int | None

    @classmethod
    def of(cls, preference: Preference, interned: Interned) -> "_Sides":
        context = preference.context
        return cls(
            chosen_key=_key(preference.chosen, interned),
            rejected_key=_key(preference.rejected, interned),
            chosen_steps=_steps(preference.chosen),
            rejected_steps=_steps(preference.rejected),
            context_key=None if context is None else interned.context[context_hash(context)],
        )

    @property
    def equal(self) -> bool:
        return self.chosen_key == self.rejected_key and self.chosen_steps == self.rejected_steps


def content_hash(preference: Preference) -> bytes:
    """What makes two preferences under one id the same."""
    occurred_at = preference.occurred_at
    return digest(
        preference.user.encode(),
        _option_content(preference.chosen),
        _option_content(preference.rejected),
        b"" if preference.context is None else context_hash(preference.context),
        np.array([preference.label, preference.weight], dtype="<f8").tobytes(),
        b"" if occurred_at is None else repr(occurred_at.timestamp()).encode(),
    )


def _option_content(option: Option) -> bytes:
    match option:
        case ItemOption():
            return b"item" + option.item.encode()
        case FeaturesOption() | TextOption():
            return b"inline" + option_hash(option)
        case TrajectoryOption():
            return b"steps" + steps_to_bytes(option.states, option.actions)


def _key(option: Option, interned: Interned) -> int | None:
    match option:
        case ItemOption():
            return interned.item[option.item]
        case FeaturesOption() | TextOption():
            return interned.inline[option_hash(option)]
        case TrajectoryOption():
            return None


def _steps(option: Option) -> bytes | None:
    return steps_to_bytes(option.states, option.actions) if isinstance(option, TrajectoryOption) else None


def _check_shape(environment: EnvironmentRow, index: int, preference: Preference) -> None:
    """The edge has checked this against the definition that it knew; the definition may have changed since."""
    for side, option in (("chosen", preference.chosen), ("rejected", preference.rejected)):
        pointer = f"/preferences/{index}/{side}"
        match option:
            case TrajectoryOption() if environment.kind != "mdp":
                raise InvalidInputError(f"Environment {environment.name!r} compares items.", pointer=pointer)
            case TrajectoryOption() if {len(option.states), len(option.actions)} != {environment.horizon}:
                raise InvalidInputError(f"A trajectory here has {environment.horizon} steps.", pointer=pointer)
            case TrajectoryOption():
                pass
            case _ if environment.kind == "mdp":
                raise InvalidInputError(f"Environment {environment.name!r} compares trajectories.", pointer=pointer)
            case FeaturesOption() | TextOption():
                _check_dim(option, environment.item_dim, pointer)
            case ItemOption():
                pass
    if preference.context is not None:
        _check_dim(preference.context, environment.context_dim, f"/preferences/{index}/context")


def _check_dim(given: FeaturesOption | TextOption | Context, dim: int | None, pointer: str) -> None:
    if dim is None:
        raise InvalidInputError("This environment has no contexts.", pointer=pointer)
    if np.shape(given.features) != (dim,):
        raise InvalidInputError(f"Expected {dim} features; found {np.size(given.features)}.", pointer=pointer)


async def _lock_users(connection: AsyncConnection, environment_id: int, user_ids: list[str]) -> dict[str, int]:
    wanted = {"environment_id": environment_id, "user_ids": user_ids}
    keys = {row.user_id: row.id for row in await connection.execute(_LOCK_USERS, wanted)}
    if len(keys) < len(user_ids):
        await connection.execute(_ADD_USERS, wanted)
        keys = {row.user_id: row.id for row in await connection.execute(_LOCK_USERS, wanted)}
    return keys


async def _insert(
    connection: AsyncConnection,
    environment_id: int,
    batch: Sequence[Preference],
    sides: Sequence[_Sides],
    hashes: Sequence[bytes],
    user_keys: dict[str, int],
) -> int:
    accepted = await connection.scalar(
        _RECORD,
        {
            "environment_id": environment_id,
            "user_keys": [user_keys[preference.user] for preference in batch],
            "chosen_keys": [side.chosen_key for side in sides],
            "rejected_keys": [side.rejected_key for side in sides],
            "context_keys": [side.context_key for side in sides],
            "chosen_steps": [side.chosen_steps for side in sides],
            "rejected_steps": [side.rejected_steps for side in sides],
            "labels": [preference.label for preference in batch],
            "weights": [preference.weight for preference in batch],
            "occurred_at": [preference.occurred_at for preference in batch],
            "client_ids": [preference.id for preference in batch],
            "hashes": list(hashes),
        },
    )
    assert isinstance(accepted, int)
    return accepted


async def _check_duplicates(
    connection: AsyncConnection, environment_id: int, batch: Sequence[Preference], hashes: Sequence[bytes]
) -> None:
    client_ids = sorted({preference.id for preference in batch if preference.id is not None})
    rows = await connection.execute(_STORED_HASHES, {"environment_id": environment_id, "client_ids": client_ids})
    stored = {row.client_id: bytes(row.content_hash) for row in rows}
    for index, (preference, found) in enumerate(zip(batch, hashes, strict=True)):
        if preference.id is not None and stored[preference.id] != found:
            raise ConflictError(
                f"Preference id {preference.id!r} is taken by a preference with other content.",
                pointer=f"/preferences/{index}/id",
            )
