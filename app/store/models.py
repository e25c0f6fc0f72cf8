"""Fitted models: published by one transaction, so that no answer mixes two versions."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import (
    CorruptModelError,
    ErasedMeanwhileError,
    ModelStatus,
    ModelVersion,
    NotFoundError,
    RefitStateError,
    StoredModel,
)
from app.store.audit import note
from app.store.database import Database, driver_connection, look_up, transaction
from app.store.encoding import digest, pack_arrays, portable, to_json, unpack_arrays
from app.store.environments import environment_key, lock_environment
from app.store.notices import announce_environment
from app.store.patience import taking_long
from app.store.refits import claim_publication
from app.store.schema import adapters, environments, model_arrays, models, users

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, eq=False)
class StoredAdapter:
    """One user's adapter in one model version."""

    arrays: Arrays
    feedback_count: int
    """How many of the user's own preferences it rests on."""


@dataclass(frozen=True, slots=True, eq=False)
class NewModel:
    """A fitted model on its way into the store."""

    rank: int
    estimator: str
    n_preferences: int
    arrays: Arrays
    """The part that all users share."""
    adapters: Mapping[str, StoredAdapter]
    """By user id."""
    erasures: int = 0
    """Of the environment, before its preferences were loaded: see `erasure_count`."""
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


ADAPTERS_A_PAGE = 20_000
# Some 15 MB at rank 8.

_ADAPTER_PAGE = """
    SELECT string_agg(int8send(user_key), ''::bytea), string_agg(int8send(feedback_count), ''::bytea),
           string_agg(data, ''::bytea)
    FROM (
        SELECT user_key, feedback_count, data FROM adapters
        WHERE environment_id = %s AND version = %s AND user_key > %s ORDER BY user_key LIMIT %s
    ) AS page
"""

_COLUMNS = (
    environments.c.name.label("environment"),
    models.c.version,
    models.c.status,
    models.c.reason,
    models.c.rank,
    models.c.estimator,
    models.c.n_users,
    models.c.n_preferences,
    models.c.diagnostics,
    models.c.metrics,
    models.c.created_at,
    models.c.published_at,
    models.c.erasures,
)


@transaction
async def publish_model(
    connection: AsyncConnection,
    name: str,
    refit_id: UUID,
    attempt: int,
    model: NewModel,
    *,
    publish: bool,
    reason: str,
) -> ModelVersion:
    """Store a model as the next version, and serve it from the commit on if `publish`; else it is a candidate.

    Once a model is served that rests on nobody who was erased, those that do are emptied: they cannot come back.

    Raises
    ------
    ErasedMeanwhileError
        A user was erased since the preferences were loaded.
    RefitStateError
        The attempt is not the newest any more, has ended, or shall stop.
    """
    # Shared with those who record, and not with those who erase.
    environment = await lock_environment(connection, name)
    if await _erasures(connection, environment.id) != model.erasures:
        raise ErasedMeanwhileError(f"A user of environment {name!r} was erased while the refit ran.")
    newest = await connection.scalar(
        select(func.max(models.c.version)).where(models.c.environment_id == environment.id)
    )
    version = (newest or 0) + 1
    preference_count = await claim_publication(connection, refit_id, attempt, version)
    await connection.execute(
        insert(models).values(
            environment_id=environment.id,
            version=version,
            status=ModelStatus.CANDIDATE,
            reason=reason,
            rank=model.rank,
            estimator=model.estimator,
            n_users=len(model.adapters),
            n_preferences=model.n_preferences,
            diagnostics=to_json(model.diagnostics),
            metrics=to_json(model.metrics),
            refit_id=refit_id,
            erasures=model.erasures,
        )
    )
    with taking_long(await driver_connection(connection)):
        await _write_arrays(connection, environment.id, version, model.arrays)
        await _write_adapters(connection, environment.id, version, model.adapters)
    # The environment's row last: recording preferences waits for it.
    await connection.execute(
        update(environments)
        .where(environments.c.id == environment.id)
        .values(refit_preference_count=func.least(preference_count, environments.c.preference_count))
    )
    if publish:
        await _serve(connection, environment.id, version)
    return await _read(connection, environment.name, environment.id, version)


@transaction
async def promote_model(connection: AsyncConnection, name: str, version: int) -> ModelVersion:
    """Serve this version from now on: an older one again, or a candidate after all.

    Raises
    ------
    RefitStateError
        It rests on somebody who was erased, and the served one does not.
    """
    environment = await lock_environment(connection, name)
    wanted = await _read(connection, name, environment.id, version)
    if wanted.erasures < await _served_erasures(connection, environment.id):
        raise RefitStateError(
            f"Version {version} of environment {name!r} rests on users who were erased since, and the served one does "
            "not: it cannot come back. Retrain instead."
        )
    await _serve(connection, environment.id, version)
    await note(connection, "model.promote", name, str(version))
    return await _read(connection, name, environment.id, version)


@transaction
async def list_models(connection: AsyncConnection, name: str) -> list[ModelVersion]:
    """Every version, newest first."""
    key = await environment_key(connection, name)
    query = _versions(key).order_by(models.c.version.desc())
    return [_version(row) for row in await connection.execute(query)]


@transaction
async def served_model(connection: AsyncConnection, name: str) -> ModelVersion | None:
    """The version that is served, if there is one yet: without reading all others and what they say of themselves."""
    query = _versions(await environment_key(connection, name)).where(models.c.status == ModelStatus.PUBLISHED)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _version(row)


@transaction
async def get_model(connection: AsyncConnection, name: str, version: int) -> ModelVersion:
    return await _read(connection, name, await environment_key(connection, name), version)


@transaction
async def load_model(connection: AsyncConnection, name: str, version: int) -> StoredModel:
    """A version with the arrays that all users share.

    Raises
    ------
    CorruptModelError
        Stored bytes are not those that were written.
    RefitStateError
        They were removed, because somebody whom they rested on was erased.
    """
    key = await environment_key(connection, name)
    found = await _read(connection, name, key, version)
    driver = await driver_connection(connection)
    async with driver.cursor(binary=True) as cursor:
        await cursor.execute(
            "SELECT name, dtype, shape, data, digest FROM model_arrays WHERE environment_id = %s AND version = %s",
            [key, version],
        )
        arrays = {row[0]: _array(f"{name} version {version}", *row) for row in await cursor.fetchall()}
    if not arrays and found.erasures < await _served_erasures(connection, key):
        raise RefitStateError(f"Version {version} of environment {name!r} was emptied: it rested on an erased user.")
    return StoredModel(version=found, arrays=arrays)


@look_up
async def stored_adapter(connection: AsyncConnection, name: str, version: int, user: str) -> StoredAdapter | None:
    """The user's adapter as the refit estimated it, None where that version has none (any more)."""
    a, u = adapters.c, users.c
    query = (
        select(a.data, a.feedback_count)
        .join(users, (u.environment_id == a.environment_id) & (u.id == a.user_key))
        .join(environments, environments.c.id == a.environment_id)
        .where(environments.c.name == name, u.user_id == user, a.version == version)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else StoredAdapter(unpack_arrays(row.data), row.feedback_count)


@dataclass(frozen=True, slots=True, eq=False)
class AdapterPage:
    """Some users' adapters, by ascending key; `adapter_of` reads a row."""

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    """Of the preferences that each rests on."""
    rows: NDArray[np.uint8]
    """(n, bytes)"""


adapter_of = unpack_arrays
"""The arrays of an adapter, from its bytes."""


@look_up
async def adapter_count(connection: AsyncConnection, environment_id: int, version: int) -> int:
    a = adapters.c
    query = select(func.count()).where(a.environment_id == environment_id, a.version == version)
    return int(await connection.scalar(query) or 0)


async def adapter_pages(db: Database, environment_id: int, version: int) -> AsyncIterator[AdapterPage]:
    """All adapters of a version, page by page, as of one moment each.

    Raises
    ------
    CorruptModelError
        The adapters of a page are not alike.
    """
    last = 0
    while True:
        async with db.begin() as connection:
            driver = await driver_connection(connection)
            async with driver.cursor(binary=True) as cursor:
                await cursor.execute(_ADAPTER_PAGE, [environment_id, version, last, ADAPTERS_A_PAGE])
                row = await cursor.fetchone()
        if row is None or row[0] is None:
            return
        keys = np.frombuffer(row[0], dtype=">i8").astype(np.int64)
        if len(row[2]) % len(keys):
            raise CorruptModelError(f"The adapters of version {version} are not alike.")
        rows = np.frombuffer(row[2], dtype=np.uint8).reshape(len(keys), -1)
        yield AdapterPage(keys, np.frombuffer(row[1], dtype=">i8").astype(np.int64), rows)
        last = int(keys[-1])


@transaction
async def erasure_count(connection: AsyncConnection, name: str) -> int:
    """How many users of an environment were erased so far."""
    return await _erasures(connection, await environment_key(connection, name))


async def _served_erasures(connection: AsyncConnection, environment_id: int) -> int:
    """Of the published version: those that rest on users erased before it are emptied."""
    m = models.c
    query = select(m.erasures).where(m.environment_id == environment_id, m.status == ModelStatus.PUBLISHED)
    return int(await connection.scalar(query) or 0)


async def _erasures(connection: AsyncConnection, environment_id: int) -> int:
    query = select(environments.c.erasures).where(environments.c.id == environment_id)
    return int(await connection.scalar(query) or 0)


async def _serve(connection: AsyncConnection, environment_id: int, version: int) -> None:
    m = models.c
    here = m.environment_id == environment_id
    await connection.execute(
        update(environments).where(environments.c.id == environment_id).values(published_version=version)
    )
    before = await connection.scalar(
        update(models)
        .where(here, m.status == ModelStatus.PUBLISHED, m.version != version)
        .values(status=ModelStatus.RETIRED)
        .returning(m.version)
    )
    await connection.execute(
        update(models).where(here, m.version == version).values(status=ModelStatus.PUBLISHED, published_at=func.now())
    )
    # What an erased user was part of goes with the last version that rested on them.
    erasures = select(m.erasures).where(here, m.version == version).scalar_subquery()
    owing = select(m.version).where(here, m.erasures < erasures)
    await connection.execute(
        delete(model_arrays).where(model_arrays.c.environment_id == environment_id, model_arrays.c.version.in_(owing))
    )
    # Servers that still answer from the version before read its adapters; older ones can be folded in again.
    with taking_long(await driver_connection(connection)):
        await connection.execute(
            delete(adapters).where(
                adapters.c.environment_id == environment_id, adapters.c.version.not_in([version, before or version])
            )
        )
    await announce_environment(connection, environment_id)


async def _write_arrays(connection: AsyncConnection, environment_id: int, version: int, arrays: Arrays) -> None:
    for name, array in arrays.items():
        flat = portable(np.asarray(array))
        data = flat.tobytes()
        await connection.execute(
            insert(model_arrays).values(
                environment_id=environment_id,
                version=version,
                name=name,
                dtype=flat.dtype.str,
                shape=list(flat.shape),
                data=data,
                digest=_digest(flat.dtype.str, flat.shape, data),
            )
        )


async def _write_adapters(
    connection: AsyncConnection, environment_id: int, version: int, given: Mapping[str, StoredAdapter]
) -> None:
    if not given:
        return
    known = await connection.execute(
        text("SELECT user_id, id FROM users WHERE environment_id = :key AND user_id = ANY(CAST(:ids AS text[]))"),
        {"key": environment_id, "ids": list(given)},
    )
    keys = {row.user_id: row.id for row in known}
    driver = await driver_connection(connection)
    statement = "COPY adapters (environment_id, user_key, version, feedback_count, data) FROM STDIN (FORMAT BINARY)"
    async with driver.cursor() as cursor, cursor.copy(statement) as stream:
        stream.set_types(["int8", "int8", "int4", "int8", "bytea"])
        for user, adapter in given.items():
            if user in keys:
                data = pack_arrays(adapter.arrays)
                await stream.write_row((environment_id, keys[user], version, adapter.feedback_count, data))


def _versions(environment_id: int) -> Any:
    return select(*_COLUMNS).join(environments).where(models.c.environment_id == environment_id)


async def _read(connection: AsyncConnection, name: str, environment_id: int, version: int) -> ModelVersion:
    row = (await connection.execute(_versions(environment_id).where(models.c.version == version))).one_or_none()
    if row is None:
        raise NotFoundError(f"Environment {name!r} has no model version {version}.")
    return _version(row)


def _version(row: Any) -> ModelVersion:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return ModelVersion(**values | {"status": ModelStatus(row.status)})


def _array(model: str, name: str, dtype: str, shape: list[int], data: bytes, stored: bytes) -> NDArray[np.generic]:
    if _digest(dtype, tuple(shape), data) != stored:
        raise CorruptModelError(f"The array {name!r} of {model} is not what was stored: its digest differs.")
    return np.frombuffer(data, dtype=np.dtype(dtype)).reshape(shape)


def _digest(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    return digest(dtype.encode(), repr(shape).encode(), data)
