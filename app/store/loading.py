"""Preferences as column arrays: for a refit all of an environment's, for a fold-in one user's.

The server strings a column's binary values together, and NumPy reads them where they lie: a million rows are a few
values, and not a million turns of the event loop. (COPY in binary, row by row, took 2.6 times as long.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
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

MAX_KEYS = 5_000
# With more keys than these, reading a whole table costs less than naming its rows.

PAGE_BYTES = 64 * 1024 * 1024
# Of one column; a value in PostgreSQL can have 1 GB, and the server makes the page in memory.


@dataclass(frozen=True, slots=True)
class _Column:
    """An expression that gives a value's bytes, and what NumPy makes of them."""

    expression: LiteralString
    dtype: str
    width: int = 1

    @property
    def row_bytes(self) -> int:
        return self.width * np.dtype(self.dtype).itemsize


_Columns = dict[str, _Column]

_SAID: _Columns = {
    "id": _Column("int8send(id)", ">i8"),
    "user_key": _Column("int8send(user_key)", ">i8"),
    "label": _Column("float8send(label)", ">f8"),
    "weight": _Column("float8send(weight)", ">f8"),
    "occurred_at": _Column("float8send(EXTRACT(EPOCH FROM occurred_at)::float8)", ">f8"),
}
_COMPARED: _Columns = {
    "chosen_key": _Column("int8send(chosen_key)", ">i8"),
    "rejected_key": _Column("int8send(rejected_key)", ">i8"),
    "context_key": _Column("int8send(COALESCE(context_key, -1))", ">i8"),
}

_PAGE: LiteralString = """
    SELECT {columns} FROM (
        SELECT * FROM {table} WHERE environment_id = {environment} AND {which} AND id > {last}
        ORDER BY id LIMIT {n}
    ) AS page
"""


async def load_preferences(db: Database, name: str) -> PreferenceTable:
    """All preferences of an environment as of one moment, with the users who gave them."""
    async with db.begin(isolation="REPEATABLE READ") as connection:
        environment = await find_environment(connection, name)
        driver = await driver_connection(connection)
        query = "SELECT id, user_id FROM users WHERE environment_id = %s AND feedback_count > 0 ORDER BY id"
        users = await (await driver.execute(query, [environment.id])).fetchall()
        return await _load(driver, environment, dict(users), sql.SQL("TRUE"))


@transaction
async def user_comparisons(
    connection: AsyncConnection, name: str, user: str, *, first: int | None = None
) -> UserPreferences:
    """One user's preferences, or the first of them; an empty table for a user without any."""
    environment = await find_environment(connection, name)
    driver = await driver_connection(connection)
    query = "SELECT id FROM users WHERE environment_id = %s AND user_id = %s"
    row = await (await driver.execute(query, [environment.id, user])).fetchone()
    # Keys begin at 1: no row has this one.
    key = row[0] if row else 0
    whose = sql.SQL("user_key = {}").format(key)
    if first is not None:
        # A user's rows are numbered in the order in which they were acknowledged: see app.store.preferences.
        earliest = "SELECT id FROM preferences WHERE environment_id = {} AND user_key = {} ORDER BY id LIMIT {}"
        whose = sql.SQL("user_key = {} AND id IN (" + earliest + ")").format(key, environment.id, key, first)
    return await _load(driver, environment, {key: user}, whose)


async def _load(
    driver: Driver, environment: EnvironmentRow, users: Mapping[int, str], whose: sql.Composable
) -> PreferenceTable:
    is_mdp = environment.kind == "mdp"
    columns = _SAID | (_steps(environment.horizon or 0) if is_mdp else _COMPARED)
    rows = await _read(driver, "preferences", environment.id, whose, columns)
    compared = _trajectories(rows) if is_mdp else await _options(driver, environment, rows)
    user_keys = np.fromiter(users, dtype=np.int64, count=len(users))
    return PreferenceTable(
        user_ids=tuple(users.values()),
        user=np.searchsorted(user_keys, rows["user_key"]),
        label=rows["label"],
        weight=rows["weight"],
        occurred_at=rows["occurred_at"],
        **compared,
    )


def _steps(horizon: int) -> _Columns:
    return {name: _Column(name, "<i4", 2 * horizon) for name in ("chosen_steps", "rejected_steps")}


def _trajectories(rows: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    nothing = np.zeros(len(rows["id"]), dtype=np.int64)
    return {
        "items": np.zeros((0, 0), dtype=np.float32),
        "item_keys": nothing[:0],
        "chosen": nothing,
        "rejected": nothing,
        "contexts": np.zeros((0, 0), dtype=np.float32),
        "context": nothing - 1,
        "chosen_steps": rows["chosen_steps"],
        "rejected_steps": rows["rejected_steps"],
    }


async def _options(driver: Driver, environment: EnvironmentRow, rows: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    chosen, rejected, context = (rows[name] for name in _COMPARED)
    wanted = np.union1d(chosen, rejected)
    items = await _features(driver, "items", environment.id, environment.item_dim, wanted)
    wanted_contexts = np.unique(context[context >= 0])
    contexts = await _features(driver, "contexts", environment.id, environment.context_dim, wanted_contexts)
    no_steps = np.zeros((len(chosen), 0), dtype=np.int32)
    return {
        "items": items,
        "item_keys": wanted,
        "chosen": np.searchsorted(wanted, chosen),
        "rejected": np.searchsorted(wanted, rejected),
        "contexts": contexts,
        "context": np.where(context >= 0, np.searchsorted(wanted_contexts, context), -1),
        "chosen_steps": no_steps,
        "rejected_steps": no_steps,
    }


async def _features(
    driver: Driver, table: str, environment_id: int, dim: int | None, wanted: Int
) -> NDArray[np.float32]:
    """The features (m, dim) of the rows with the m wanted keys, which are ascending."""
    width = dim or 0
    if not len(wanted):
        return np.zeros((0, width), dtype=np.float32)
    some = len(wanted) <= MAX_KEYS
    which = sql.SQL("id = ANY({}::bigint[])").format(wanted.tolist()) if some else sql.SQL("TRUE")
    columns = {"id": _SAID["id"], "features": _Column("features", "<f4", width)}
    rows = await _read(driver, table, environment_id, which, columns)
    kept = np.isin(rows["id"], wanted)
    if np.count_nonzero(kept) != len(wanted):
        missing = len(wanted) - np.count_nonzero(kept)
        raise CorruptModelError(f"{missing} rows of {table} are missing under stored preferences.")
    features: NDArray[np.float32] = rows["features"][kept]
    return features


async def _read(
    driver: Driver, table: str, environment_id: int, which: sql.Composable, columns: _Columns
) -> dict[str, NDArray[Any]]:
    """Columns of an environment's rows by their id, (n,) or (n, width), page by page."""
    n = max(1, PAGE_BYTES // max(column.row_bytes for column in columns.values()))
    expressions = sql.SQL(", ").join(
        sql.SQL("string_agg({}, ''::bytea)").format(sql.SQL(column.expression)) for column in columns.values()
    )
    pages: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}
    last, is_full = 0, True
    async with driver.cursor(binary=True) as cursor:
        while is_full:
            query = sql.SQL(_PAGE).format(
                columns=expressions,
                table=sql.Identifier(table),
                environment=environment_id,
                which=which,
                last=last,
                n=n,
            )
            await cursor.execute(query)
            row = await cursor.fetchone()
            assert row is not None
            for (name, column), data in zip(columns.items(), row, strict=True):
                pages[name].append(_values(column, data or b""))
            ids = pages["id"][-1]
            is_full = len(ids) == n
            last = int(ids[-1]) if is_full else last
    read = {name: np.concatenate(arrays) for name, arrays in pages.items()}
    if len({len(values) for values in read.values()}) != 1:
        raise CorruptModelError(f"Rows of {table} have features or steps of a wrong length.")
    return read


def _values(column: _Column, data: bytes) -> NDArray[Any]:
    if len(data) % column.row_bytes:
        raise CorruptModelError(f"A stored value of {column.expression} has a wrong length.")
    values = np.frombuffer(data, dtype=column.dtype)
    native = values.astype(values.dtype.newbyteorder("="))
    return native if column.width == 1 else native.reshape(-1, column.width)
