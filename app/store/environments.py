"""Environments: defined, redefined as far as stored preferences allow, listed, deleted."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import RowMapping, Select, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import (
    CatalogEnvironment,
    ConflictError,
    EncoderSpec,
    Environment,
    MdpEnvironment,
    NotFoundError,
    RefitPolicy,
)
from app.store.audit import note
from app.store.database import look_up, transaction
from app.store.encoding import to_json
from app.store.notices import announce, announce_environment
from app.store.schema import environments, items, models, preferences, users


@dataclass(frozen=True, slots=True)
class EnvironmentSummary:
    environment: Environment
    n_users: int
    n_preferences: int
    n_items: int
    """Live items of the catalogue."""
    model_version: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EnvironmentState:
    """A definition with what tells whether that which is kept in memory is still the newest."""

    id: int
    definition: Environment
    revision: int
    """Rises with every redefinition."""
    catalog_revision: int
    """Rises with every change of the catalogue."""
    published_version: int | None

    @property
    def versions(self) -> tuple[int, int, int, int | None]:
        return self.id, self.revision, self.catalog_revision, self.published_version


@dataclass(frozen=True, slots=True)
class EnvironmentRow:
    """What a transaction needs to know of the environment that it works in."""

    id: int
    name: str
    kind: str
    item_dim: int | None
    context_dim: int | None
    horizon: int | None


_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
_LOCK_SHARED = text("SELECT pg_advisory_xact_lock_shared(hashtextextended(:name, 0))")

LOCK_ENVIRONMENTS = (
    "SELECT pg_advisory_xact_lock_shared(hashtextextended(name, 0)) FROM unnest(%(names)s::text[]) AS name"
)
FIND_ENVIRONMENTS = """
    SELECT id, name, kind, item_dim, context_dim, horizon FROM environments WHERE name = ANY(%(names)s::text[])
"""
# For the driver: `lock_environment` for several, shared, and then by name those that there are.


@transaction
async def put_environment(connection: AsyncConnection, environment: Environment) -> tuple[Environment, bool]:
    """Define or redefine an environment; the second value says that it is new.

    Raises
    ------
    ConflictError
        The definition would change what stored preferences, items or models mean.
    """
    values = _to_row(environment)
    await _lock_name(connection, environment.name, exclusive=True)
    query = select(environments).where(environments.c.name == environment.name)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        await connection.execute(insert(environments).values(values))
        await note(connection, "environment.create", environment.name)
        return environment, True
    current = _from_row(row)
    changed = [name for name, value in environment.meaning.items() if value != current.meaning.get(name)]
    if changed and (reason := await _why_fixed(connection, row["id"])):
        raise ConflictError(
            f"Environment {environment.name!r} already has {reason}, which a different {changed[0]} would make "
            f"meaningless: delete the environment first, or define another one.",
            pointer=f"/{changed[0]}",
        )
    if any(row[name] != value for name, value in values.items()):
        await connection.execute(
            update(environments)
            .where(environments.c.id == row["id"])
            .values(**values, revision=environments.c.revision + 1)
        )
        await announce_environment(connection, row["id"])
        settings = [name for name, value in values.items() if row[name] != value]
        await note(connection, "environment.change", environment.name, ", ".join(settings))
    return environment, False


@look_up
async def get_environment(connection: AsyncConnection, name: str) -> Environment:
    return await read_environment(connection, name)


@look_up
async def environment_state(connection: AsyncConnection, name: str) -> EnvironmentState:
    row = await _find_row(connection, name)
    return EnvironmentState(
        id=row["id"],
        definition=_from_row(row),
        revision=row["revision"],
        catalog_revision=row["catalog_revision"],
        published_version=row["published_version"],
    )


@look_up
async def list_environments(connection: AsyncConnection) -> list[EnvironmentSummary]:
    """Every environment, by name."""
    rows = await connection.execute(_summaries().order_by(environments.c.name))
    return [_summary(row) for row in rows.mappings()]


@transaction
async def environment_summary(connection: AsyncConnection, name: str) -> EnvironmentSummary:
    """One environment, and how much is stored in it."""
    row = (await connection.execute(_summaries().where(environments.c.name == name))).mappings().one_or_none()
    if row is None:
        raise _unknown(name)
    return _summary(row)


def _summaries() -> Select[Any]:
    n_users = (
        select(func.count()).where(users.c.environment_id == environments.c.id, users.c.feedback_count > 0)
    ).scalar_subquery()
    n_items = (
        select(func.count()).where(
            items.c.environment_id == environments.c.id, items.c.item_id.is_not(None), items.c.retired_at.is_(None)
        )
    ).scalar_subquery()
    return select(environments, n_users.label("n_users"), n_items.label("n_items"))


def _summary(row: RowMapping) -> EnvironmentSummary:
    return EnvironmentSummary(
        environment=_from_row(row),
        n_users=row["n_users"],
        n_preferences=row["preference_count"],
        n_items=row["n_items"],
        model_version=row["published_version"],
        created_at=row["created_at"],
    )


@transaction
async def delete_environment(connection: AsyncConnection, name: str) -> None:
    """Delete an environment with everything in it."""
    held = await lock_environment(connection, name, exclusive=True)
    # In one sweep; the cascade from users would look for them user by user.
    await connection.execute(delete(preferences).where(preferences.c.environment_id == held.id))
    await connection.execute(delete(models).where(models.c.environment_id == held.id))
    await connection.execute(delete(environments).where(environments.c.id == held.id))
    await announce(connection, {held.id: ()})
    await announce_environment(connection, held.id)
    await note(connection, "environment.delete", name)


async def read_environment(connection: AsyncConnection, name: str) -> Environment:
    return _from_row(await _find_row(connection, name))


async def _find_row(connection: AsyncConnection, name: str) -> RowMapping:
    row = (await connection.execute(select(environments).where(environments.c.name == name))).mappings().one_or_none()
    if row is None:
        raise _unknown(name)
    return row


async def lock_environment(connection: AsyncConnection, name: str, *, exclusive: bool = False) -> EnvironmentRow:
    """Find an environment and hold it to the end of the transaction: always the first lock that is taken.

    Those who add to an environment share it; those who take something away, or change what it means, have it alone.
    So nobody records a preference about an option while it is being erased. It is an advisory lock because those
    queue: locks on the environment's row would let newcomers pass, and under steady writes an erasure never began.
    """
    await _lock_name(connection, name, exclusive=exclusive)
    return await find_environment(connection, name)


async def find_environment(connection: AsyncConnection, name: str) -> EnvironmentRow:
    c = environments.c
    query = select(c.id, c.name, c.kind, c.item_dim, c.context_dim, c.horizon).where(c.name == name)
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        raise _unknown(name)
    return EnvironmentRow(*found)


async def environment_key(connection: AsyncConnection, name: str) -> int:
    key: int | None = await connection.scalar(select(environments.c.id).where(environments.c.name == name))
    if key is None:
        raise _unknown(name)
    return key


async def _lock_name(connection: AsyncConnection, name: str, *, exclusive: bool) -> None:
    await connection.execute(_LOCK if exclusive else _LOCK_SHARED, {"name": name})


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"There is no environment {name!r}.")


async def _why_fixed(connection: AsyncConnection, environment_id: int) -> str | None:
    for table, word in ((preferences, "preferences"), (items, "items"), (models, "models")):
        query = select(table.c.environment_id).where(table.c.environment_id == environment_id).limit(1)
        if await connection.scalar(query) is not None:
            return word
    return None


def _to_row(environment: Environment) -> dict[str, Any]:
    shared = {
        "name": environment.name,
        "kind": environment.kind,
        "refit_every_seconds": environment.refit.every_seconds,
        "refit_min_new_preferences": environment.refit.min_new_preferences,
    }
    settings: dict[str, Any] = {"rank": environment.rank, "confidence": environment.confidence}
    match environment:
        case MdpEnvironment():
            reference = environment.reference_policy
            definition = settings | {
                "states": environment.states,
                "actions": environment.actions,
                "initial": environment.initial,
                "transitions": environment.transitions,
                "reference_policy": reference,
                "terminal": environment.terminal,
                "unavailable": environment.unavailable,
                "state_features": environment.state_features,
                "action_features": environment.action_features,
                "rewards": environment.rewards,
            }
            return shared | {"horizon": environment.horizon, "definition": to_json(definition)}
        case CatalogEnvironment():
            encoder = environment.encoder
            definition = settings | {
                "encoder": encoder
                and {"kind": encoder.kind, "dim": encoder.dim, "url": encoder.url, "model": encoder.model}
            }
            return shared | {
                "item_dim": environment.item_dim,
                "context_dim": environment.context_dim,
                "definition": to_json(definition),
            }
        case _:
            assert_never(environment)


def _from_row(row: Any) -> Environment:
    definition = row["definition"]
    refit = RefitPolicy(row["refit_every_seconds"], row["refit_min_new_preferences"])
    if row["kind"] == "mdp":
        reference = definition["reference_policy"]
        return MdpEnvironment(
            name=row["name"],
            states=tuple(definition["states"]),
            actions=tuple(definition["actions"]),
            horizon=row["horizon"],
            initial=_array(definition["initial"]),
            transitions=tuple(_array(step).reshape(-1, 4) for step in definition["transitions"]),
            reference_policy=_array(reference) if isinstance(reference, list) else reference,
            # Definitions of before there were these have none of them.
            terminal=tuple(definition.get("terminal", ())),
            unavailable=tuple((state, action) for state, action in definition.get("unavailable", ())),
            state_features=_optional_array(definition.get("state_features")),
            action_features=_optional_array(definition.get("action_features")),
            rewards=definition.get("rewards", "stationary"),
            rank=definition["rank"],
            confidence=definition["confidence"],
            refit=refit,
        )
    encoder = definition["encoder"]
    return CatalogEnvironment(
        name=row["name"],
        item_dim=row["item_dim"],
        context_dim=row["context_dim"],
        encoder=EncoderSpec(**encoder) if encoder else None,
        rank=definition["rank"],
        confidence=definition["confidence"],
        refit=refit,
    )


def _optional_array(values: Any) -> NDArray[np.float64] | None:
    return None if values is None else _array(values)


def _array(values: Any) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    array.flags.writeable = False
    return array
