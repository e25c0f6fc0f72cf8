"""Preferences as column arrays: for a refit all of an environment's, for a fold-in one user's.

Rows of fixed width come by binary COPY, whose bytes NumPy reads where they lie: each row is its number of columns
(two bytes), then for each column its length (four bytes) and its value, big-endian.
"""

from collections.abc import Mapping
from typing import Any, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import CorruptModelError
from app.domain.arrays import Int, PreferenceTable, UserPreferences
from app.store.database import Database, driver_connection, transaction
from app.store.environments import EnvironmentRow, find_environment

Driver = psycopg.AsyncConnection[Any]

_SIGNATURE_BYTES = 19
# "PGCOPY\\n\\377\\r\\n\\0", flags, and the length of an extension that is always empty.
_TRAILER_BYTES = 2

_MAX_KEYS = 5_000
# With more keys than these, reading a whole table costs less than naming its rows.

_SAID = {"user_key": ">i8", "label": ">f8", "weight": ">f8", "occurred_at": ">f8"}
_COMPARED = {"chosen_key": ">i8", "rejected_key": ">i8", "context_key": ">i8"}

_CATALOG: LiteralString = """
    SELECT user_key, label, weight, EXTRACT(EPOCH FROM occurred_at)::float8,
           chosen_key, rejected_key, COALESCE(context_key, -1)
    FROM preferences WHERE environment_id = {environment} AND {whose} ORDER BY id
"""
_MDP: LiteralString = """
    SELECT user_key, label, weight, EXTRACT(EPOCH FROM occurred_at)::float8, chosen_steps, rejected_steps
    FROM preferences WHERE environment_id = {environment} AND {whose} ORDER BY id
"""
_FEATURES: LiteralString = (
    "SELECT id, features FROM {table} WHERE environment_id = {environment} AND {which} ORDER BY id"
)


async def load_preferences(db: Database, name: str) -> PreferenceTable:
    """All preferences of an environment as of one moment, with the users who gave them."""
    async with db.begin(isolation="REPEATABLE READ") as connection:
        environment = await find_environment(connection, name)
        driver = await driver_connection(connection)
        query = "SELECT id, user_id FROM users WHERE environment_id = %s AND feedback_count > 0 ORDER BY id"
        users = await (await driver.execute(query, [environment.id])).fetchall()
        return await _load(driver, environment, dict(users), sql.SQL("TRUE"))


@transaction
async def user_comparisons(connection: AsyncConnection, name: str, user: str) -> UserPreferences:
    """One user's preferences; an empty table for a user without any."""
    environment = await find_environment(connection, name)
    driver = await driver_connection(connection)
    query = "SELECT id FROM users WHERE environment_id = %s AND user_id = %s"
    row = await (await driver.execute(query, [environment.id, user])).fetchone()
    # Keys begin at 1: no row has this one.
    key = row[0] if row else 0
    return await _load(driver, environment, {key: user}, sql.SQL("user_key = {}").format(key))


async def _load(
    driver: Driver, environment: EnvironmentRow, users: Mapping[int, str], whose: sql.Composable
) -> PreferenceTable:
    query = sql.SQL(_MDP if environment.kind == "mdp" else _CATALOG)
    rows = await _copy(driver, query.format(environment=environment.id, whose=whose), _columns(environment))
    compared = await (_trajectories(rows) if environment.kind == "mdp" else _options(driver, environment, rows))
    user_keys = np.fromiter(users, dtype=np.int64, count=len(users))
    return PreferenceTable(
        user_ids=tuple(users.values()),
        user=np.searchsorted(user_keys, rows["user_key"]),
        label=rows["label"].astype(np.float64),
        weight=rows["weight"].astype(np.float64),
        occurred_at=rows["occurred_at"].astype(np.float64),
        **compared,
    )


def _columns(environment: EnvironmentRow) -> dict[str, str]:
    if environment.kind != "mdp":
        return _SAID | _COMPARED
    steps = f"({2 * (environment.horizon or 0)},)<i4"
    return _SAID | {"chosen_steps": steps, "rejected_steps": steps}


async def _trajectories(rows: NDArray[np.void]) -> dict[str, Any]:
    n = len(rows)
    nothing = np.zeros(n, dtype=np.int64)
    return {
        "items": np.zeros((0, 0), dtype=np.float32),
        "item_keys": nothing[:0],
        "chosen": nothing,
        "rejected": nothing,
        "contexts": np.zeros((0, 0), dtype=np.float32),
        "context": nothing - 1,
        "chosen_steps": rows["chosen_steps"].astype(np.int32),
        "rejected_steps": rows["rejected_steps"].astype(np.int32),
    }


async def _options(driver: Driver, environment: EnvironmentRow, rows: NDArray[np.void]) -> dict[str, Any]:
    chosen, rejected, context = (rows[name].astype(np.int64) for name in _COMPARED)
    item_keys, items = await _features(
        driver, "items", environment.id, environment.item_dim, np.union1d(chosen, rejected)
    )
    context_keys, contexts = await _features(
        driver, "contexts", environment.id, environment.context_dim, np.unique(context[context >= 0])
    )
    no_steps = np.zeros((len(rows), 0), dtype=np.int32)
    return {
        "items": items,
        "item_keys": item_keys,
        "chosen": np.searchsorted(item_keys, chosen),
        "rejected": np.searchsorted(item_keys, rejected),
        "contexts": contexts,
        "context": np.where(context >= 0, np.searchsorted(context_keys, context), -1),
        "chosen_steps": no_steps,
        "rejected_steps": no_steps,
    }


async def _features(
    driver: Driver, table: str, environment_id: int, dim: int | None, wanted: Int
) -> tuple[Int, NDArray[np.float32]]:
    """The rows (m, dim) that have the wanted keys, which are ascending."""
    if not len(wanted):
        return wanted, np.zeros((0, dim or 0), dtype=np.float32)
    which = sql.SQL("id = ANY({}::bigint[])").format(wanted.tolist()) if len(wanted) <= _MAX_KEYS else sql.SQL("TRUE")
    query = sql.SQL(_FEATURES).format(table=sql.Identifier(table), environment=environment_id, which=which)
    rows = await _copy(driver, query, {"id": ">i8", "features": f"({dim},)<f4"})
    kept = rows[np.isin(rows["id"], wanted)]
    if len(kept) != len(wanted):
        raise CorruptModelError(f"{len(wanted) - len(kept)} rows of {table} are missing under stored preferences.")
    return wanted, kept["features"].astype(np.float32)


async def _copy(driver: Driver, query: sql.Composed, columns: Mapping[str, str]) -> NDArray[np.void]:
    """The rows of a query without nulls as a structured array with these columns."""
    layout = np.dtype(
        [("", ">i2"), *(field for name, kind in columns.items() for field in ((f"{name} length", ">i4"), (name, kind)))]
    )
    async with driver.cursor() as cursor:
        statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)
        async with cursor.copy(statement) as stream:
            data = b"".join([bytes(chunk) async for chunk in stream])
    body = memoryview(data)[_SIGNATURE_BYTES:-_TRAILER_BYTES]
    if len(body) % layout.itemsize:
        raise CorruptModelError("Rows of one environment have different widths.")
    return np.frombuffer(body, dtype=layout)
