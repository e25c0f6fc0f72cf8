"""Importing many preferences at once, a part of an import by one transaction.

Unlike in a request, every preference stands by itself: a bad one is left out. Preferences between items come as columns
and are copied to where they stay, which is nearly as fast as COPY itself; that fails where one of them is stored
already. Then, and for all other preferences, the rows go by COPY into a staging table, and from there by statements
over all of it that look at each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import psycopg
from anyio.to_thread import run_sync
from numpy.typing import NDArray
from psycopg.errors import UniqueViolation
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import DomainError, InvalidInputError, ItemOption, ItemPreferences, Preference
from app.store.binary_rows import NULL, binary_rows
from app.store.database import Database, driver_connection, look_up, transaction
from app.store.environments import EnvironmentRow, lock_environment
from app.store.interning import FIND_ITEMS, FoundItems, context_hash, found_items, intern_contexts, intern_options
from app.store.notices import announce
from app.store.preferences import (
    RECORD_GIVEN,
    check_option_rows,
    check_shape,
    contents_of,
    item_problem,
    option_key,
    steps_of,
    taken,
)

Int = NDArray[np.int64]
Driver = psycopg.AsyncConnection[Any]

PIECE_BYTES = 256 * 1024
# What COPY is given at once, so that the server works while the next piece is on its way.

_POSTGRES_EPOCH = 946_684_800_000_000
# 2000-01-01, in microseconds since 1970.

STAGING = """
    CREATE TEMPORARY TABLE IF NOT EXISTS incoming (
        id bigint NOT NULL,
        user_key bigint NOT NULL,
        chosen_key bigint,
        rejected_key bigint,
        context_key bigint,
        chosen_steps bytea,
        rejected_steps bytea,
        label double precision NOT NULL,
        weight double precision NOT NULL,
        occurred_at timestamptz,
        client_id text COLLATE "C"
    ) ON COMMIT DELETE ROWS
"""
COPY = "COPY incoming FROM STDIN"
_COPY_COLUMNS = """
    COPY incoming (id, user_key, chosen_key, rejected_key, label, weight, occurred_at, client_id)
    FROM STDIN (FORMAT binary)
"""
COPY_TO_STAY = """
    COPY preferences (
        id, environment_id, user_key, chosen_key, rejected_key, label, weight, occurred_at, client_id
    ) FROM STDIN (FORMAT binary)
"""

_DRAW = "SELECT string_agg(int8send(nextval('preferences_id_seq')), ''::bytea) FROM generate_series(1, %(n)s)"
_NOW = "SELECT (EXTRACT(EPOCH FROM now()) * 1000000)::bigint"
_KEYS = """
    SELECT string_agg(int8send(COALESCE(users.id, 0)), ''::bytea ORDER BY given.number)
    FROM json_array_elements_text(%(users)s::json) WITH ORDINALITY AS given (user_id, number)
    LEFT JOIN users ON users.environment_id = %(environment_id)s AND users.user_id = given.user_id
"""
# 0: there is no such user.
_ADD_USERS = """
    INSERT INTO users (environment_id, user_id)
    SELECT %(environment_id)s, user_id
    FROM json_array_elements_text(%(users)s::json) AS given (user_id)
    ORDER BY user_id COLLATE "C"
    ON CONFLICT (environment_id, user_id) DO NOTHING
"""
_LOCK_USERS = """
    SELECT count(*) FROM (
        SELECT FROM users
        WHERE environment_id = %(environment_id)s AND id = ANY(%(keys)s::bigint[])
        ORDER BY user_id
        FOR NO KEY UPDATE OF users
    ) AS locked
"""
# In the order in which everybody locks users.
_COUNT_USERS = """
    WITH said AS MATERIALIZED (
        SELECT * FROM unnest(%(keys)s::bigint[], %(counts)s::bigint[], %(first)s::bigint[], %(last)s::bigint[])
            AS said (id, n, first_at, last_at)
    ), held AS MATERIALIZED (
        SELECT users.id FROM users
        WHERE users.environment_id = %(environment_id)s AND users.id = ANY(%(keys)s::bigint[])
        ORDER BY users.user_id
        FOR NO KEY UPDATE OF users
    )
    UPDATE users SET
        feedback_count = users.feedback_count + said.n,
        first_at = LEAST(users.first_at, 'epoch'::timestamptz + said.first_at * interval '1 microsecond'),
        last_at = GREATEST(users.last_at, 'epoch'::timestamptz + said.last_at * interval '1 microsecond')
    FROM said JOIN held USING (id)
    WHERE users.id = held.id
"""
_RECORD = text(
    f"""
    WITH given AS MATERIALIZED (
        SELECT CAST(:environment_id AS bigint) AS environment_id, incoming.* FROM incoming
    ), {RECORD_GIVEN}
    """  # noqa: S608 - our own words
)
_COUNT = text("UPDATE environments SET preference_count = preference_count + :accepted WHERE id = :environment_id")
_CONFLICTS = text(
    """
    SELECT incoming.id
    FROM incoming
    JOIN preferences AS stored
        ON stored.environment_id = :environment_id AND stored.client_id = incoming.client_id
    WHERE (stored.user_key, stored.chosen_key, stored.rejected_key, stored.context_key, stored.chosen_steps,
           stored.rejected_steps, stored.label, stored.weight, NULLIF(stored.occurred_at, stored.recorded_at))
        IS DISTINCT FROM
          (incoming.user_key, incoming.chosen_key, incoming.rejected_key, incoming.context_key, incoming.chosen_steps,
           incoming.rejected_steps, incoming.label, incoming.weight, incoming.occurred_at)
    ORDER BY incoming.id
    """
)

_TO_JSON = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Imported:
    accepted: int
    duplicates: int
    refused: Sequence[tuple[int, DomainError]]
    """By index in what was given; the pointer begins at the preference."""
    position: int | None


@look_up
async def draw_numbers(connection: AsyncConnection, n: int) -> Int:
    """Numbers for n preferences, ascending: parts that are stored at the same time keep their order by them."""
    return await _drawn(await driver_connection(connection), n)


async def import_item_preferences(
    db: Database, name: str, batch: ItemPreferences, numbers: Int, *, again: bool = False
) -> Imported:
    """Store those preferences of a batch that can be stored, by one transaction.

    Parameters
    ----------
    numbers
        (n,), as drawn.
    again
        Some of them are probably stored already. (It is found out in any case; later.)

    Raises
    ------
    NotFoundError
        There is no such environment.
    """
    if not again:
        try:
            return await _copy_items(db, name, batch, numbers)
        except UniqueViolation:
            pass
    return await _merge_items(db, name, batch, numbers)


@transaction
async def import_preferences(connection: AsyncConnection, name: str, batch: Sequence[Preference]) -> Imported:
    """Store those preferences of a batch that can be stored, by one transaction.

    Raises
    ------
    NotFoundError
        There is no such environment.
    """
    environment = await lock_environment(connection, name)
    driver = await driver_connection(connection)
    items = await _find_items(driver, name, _items_of(batch))
    good, refused = await run_sync(_sorted_out, environment, items, batch)
    if not good:
        return Imported(0, 0, refused, None)
    options, contexts = contents_of((environment.id, batch[index]) for index in good)
    keys = items, await intern_options(connection, options), await intern_contexts(connection, contexts)
    names = list({batch[index].user for index in good})
    user_keys = await _user_keys(driver, environment, names)
    await _lock_users(driver, environment, user_keys)
    numbers = await _drawn(driver, len(good))
    users = dict(zip(names, user_keys.tolist(), strict=True))
    rows = await run_sync(
        _copied, environment.id, zip(numbers.tolist(), (batch[index] for index in good), strict=True), keys, users
    )
    await driver.execute(STAGING)
    await _copy(driver, COPY, rows)
    accepted, conflicts = await _merged(connection, environment, len(good))
    where = [good[place] for place in np.searchsorted(numbers, conflicts)]
    position = await announce(connection, {environment.id: names})
    refused += [(index, taken(batch[index].id, "")) for index in where]
    return Imported(accepted, len(good) - accepted - len(where), refused, position)


@dataclass(frozen=True, slots=True, eq=False)
class _Keyed:
    """The good ones of a batch of columns, and the rows that they refer to."""

    environment: EnvironmentRow
    index: Int
    """(m,), in the batch."""
    user: Int
    """(m,), keys, as of what was chosen and rejected."""
    chosen: Int
    rejected: Int
    names: Sequence[str]
    """Of the users."""
    refused: list[tuple[int, DomainError]]


@transaction
async def _copy_items(connection: AsyncConnection, name: str, batch: ItemPreferences, numbers: Int) -> Imported:
    """Straight to where they stay.

    Raises
    ------
    psycopg.errors.UniqueViolation
        One of them is stored already, or is there twice; nothing was stored.
    """
    driver = await driver_connection(connection)
    keyed = await _keyed(connection, driver, name, batch)
    if not len(keyed.index):
        return Imported(0, 0, keyed.refused, None)
    now = await (await driver.execute(_NOW)).fetchone()
    assert now is not None
    rows, counts = await run_sync(_to_stay, keyed, batch, numbers, now[0])
    await _copy(driver, COPY_TO_STAY, rows)
    await driver.execute(_COUNT_USERS, counts)
    here = keyed.environment.id
    position = await announce(connection, {here: keyed.names})
    # Last, for whoever writes to the environment waits for it.
    await connection.execute(_COUNT, {"environment_id": here, "accepted": len(keyed.index)})
    return Imported(len(keyed.index), 0, keyed.refused, position)


@transaction
async def _merge_items(connection: AsyncConnection, name: str, batch: ItemPreferences, numbers: Int) -> Imported:
    """By the staging table: what is stored already is found, and compared."""
    driver = await driver_connection(connection)
    keyed = await _keyed(connection, driver, name, batch)
    if not len(keyed.index):
        return Imported(0, 0, keyed.refused, None)
    await _lock_users(driver, keyed.environment, np.unique(keyed.user))
    await driver.execute(STAGING)
    await _copy(driver, _COPY_COLUMNS, await run_sync(_staged, keyed, batch, numbers))
    accepted, conflicts = await _merged(connection, keyed.environment, len(keyed.index))
    where = np.searchsorted(numbers, conflicts).tolist()
    position = await announce(connection, {keyed.environment.id: keyed.names})
    refused = [*keyed.refused, *((index, taken(batch.id(index), "")) for index in where)]
    return Imported(accepted, len(keyed.index) - accepted - len(where), refused, position)


async def _keyed(connection: AsyncConnection, driver: Driver, name: str, batch: ItemPreferences) -> _Keyed:
    """Lock the environment, refuse what has no item here, and make the users that are new."""
    environment = await lock_environment(connection, name)
    if environment.kind == "mdp":
        message = f"Environment {environment.name!r} compares trajectories."
        why = InvalidInputError(message, pointer="/chosen")
        nothing = np.zeros(0, dtype=np.int64)
        refused_all: list[tuple[int, DomainError]] = [(row, why) for row in range(len(batch))]
        return _Keyed(environment, nothing, nothing, nothing, nothing, (), refused_all)
    found = await _find_items(driver, name, batch.items)
    keys = np.array([found.live.get((environment.id, item), 0) for item in batch.items], dtype=np.int64)
    chosen, rejected = keys[batch.chosen], keys[batch.rejected]
    is_good = (chosen > 0) & (rejected > 0)
    refused: list[tuple[int, DomainError]] = []
    for row in np.flatnonzero(~is_good).tolist():
        side = "rejected" if chosen[row] else "chosen"
        item = batch.items[(batch.rejected if chosen[row] else batch.chosen)[row]]
        refused.append((row, item_problem(environment, found, item, f"/{side}/item")))
    index = np.flatnonzero(is_good)
    said, user = np.unique(batch.user[index], return_inverse=True)
    names = [batch.users[code] for code in said.tolist()]
    user_keys = await _user_keys(driver, environment, names)
    return _Keyed(environment, index, user_keys[user], chosen[index], rejected[index], names, refused)


async def _user_keys(driver: Driver, environment: EnvironmentRow, names: Sequence[str]) -> Int:
    """Users' keys, in the order of their names; those that are new are made."""
    wanted = {"environment_id": environment.id, "users": _json(names)}
    keys = await _numbers(driver, _KEYS, wanted)
    if not keys.all():
        new = [names[place] for place in np.flatnonzero(keys == 0).tolist()]
        await driver.execute(_ADD_USERS, {"environment_id": environment.id, "users": _json(new)})
        keys = await _numbers(driver, _KEYS, wanted)
    return keys


async def _lock_users(driver: Driver, environment: EnvironmentRow, keys: Int) -> None:
    await driver.execute(_LOCK_USERS, {"environment_id": environment.id, "keys": _array(keys)})


async def _merged(connection: AsyncConnection, environment: EnvironmentRow, n: int) -> tuple[int, Int]:
    """Record what is staged and new; how many rows, and the numbers of those whose ids are taken."""
    here = {"environment_id": environment.id}
    accepted: int = await connection.scalar(_RECORD, here) or 0
    conflicts = (await connection.scalars(_CONFLICTS, here)).all() if accepted < n else ()
    await connection.execute(_COUNT, here | {"accepted": accepted})
    return accepted, np.array(conflicts, dtype=np.int64)


async def _drawn(driver: Driver, n: int) -> Int:
    return await _numbers(driver, _DRAW, {"n": n}) if n else np.zeros(0, dtype=np.int64)


async def _numbers(driver: Driver, query: str, values: dict[str, Any]) -> Int:
    """The bigints that a query strings together."""
    async with driver.cursor(binary=True) as cursor:
        await cursor.execute(query, values)
        row = await cursor.fetchone()
    return np.frombuffer((row and row[0]) or b"", dtype=">i8").astype(np.int64)


def _array(values: NDArray[Any]) -> str:
    """A list as PostgreSQL reads it: long ones are quoted more slowly by the driver."""
    return f"{{{','.join(map(str, values.tolist()))}}}"


def _json(value: Any) -> str:
    return _TO_JSON.encode(value).decode()


async def _copy(driver: Driver, statement: str, rows: bytes | memoryview) -> None:
    view = memoryview(rows)
    async with driver.cursor().copy(statement) as copy:
        for start in range(0, len(view), PIECE_BYTES):
            await copy.write(view[start : start + PIECE_BYTES])


async def _find_items(driver: Driver, name: str, wanted: Iterable[str]) -> FoundItems:
    named = _json([[name, item] for item in wanted])
    return found_items(await (await driver.execute(FIND_ITEMS, {"named": named})).fetchall())


def _items_of(batch: Sequence[Preference]) -> set[str]:
    return {
        option.item
        for preference in batch
        for option in (preference.chosen, preference.rejected)
        if isinstance(option, ItemOption)
    }


def _to_stay(keyed: _Keyed, batch: ItemPreferences, numbers: Int, now: int) -> tuple[memoryview, dict[str, Any]]:
    """The rows, a user's together, so that a part touches each page of the users' index once; and users' counts."""
    order = np.argsort(keyed.user, kind="stable")
    index, user = keyed.index[order], keyed.user[order]
    given = batch.moment[index]
    moment = np.where(given < 0, now, given)
    n = len(index)
    fields = np.empty((n, 8), dtype=np.int64)
    fields[:, 0] = numbers[:n]
    fields[:, 1] = keyed.environment.id
    fields[:, 2] = user
    fields[:, 3] = keyed.chosen[order]
    fields[:, 4] = keyed.rejected[order]
    fields[:, 5] = batch.label[index].view(np.int64)
    fields[:, 6] = batch.weight[index].view(np.int64)
    fields[:, 7] = moment - _POSTGRES_EPOCH
    rows = binary_rows(fields, batch.text, batch.id_begin[index], batch.id_end[index])
    begins = np.flatnonzero(np.diff(user, prepend=0))
    return rows, {
        "environment_id": keyed.environment.id,
        "keys": _array(user[begins]),
        "counts": _array(np.diff(begins, append=n)),
        "first": _array(np.minimum.reduceat(moment, begins)),
        "last": _array(np.maximum.reduceat(moment, begins)),
    }


def _staged(keyed: _Keyed, batch: ItemPreferences, numbers: Int) -> memoryview:
    """The rows for the staging table, in their order."""
    index = keyed.index
    moment = batch.moment[index]
    fields = np.empty((len(index), 7), dtype=np.int64)
    fields[:, 0] = numbers[index]
    fields[:, 1] = keyed.user
    fields[:, 2] = keyed.chosen
    fields[:, 3] = keyed.rejected
    fields[:, 4] = batch.label[index].view(np.int64)
    fields[:, 5] = batch.weight[index].view(np.int64)
    fields[:, 6] = np.where(moment < 0, NULL, moment - _POSTGRES_EPOCH)
    return binary_rows(fields, batch.text, batch.id_begin[index], batch.id_end[index])


def _sorted_out(
    environment: EnvironmentRow, items: FoundItems, batch: Sequence[Preference]
) -> tuple[list[int], list[tuple[int, DomainError]]]:
    good: list[int] = []
    refused: list[tuple[int, DomainError]] = []
    for index, preference in enumerate(batch):
        try:
            check_shape(environment, preference, "")
            check_option_rows(environment, items, preference, "")
        except DomainError as error:
            refused.append((index, error))
        else:
            good.append(index)
    return good, refused


def _copied(environment_id: int, numbered: Iterable[tuple[int, Preference]], keys: Any, users: dict[str, int]) -> bytes:
    """The rows in COPY's text format."""
    items, options, contexts = keys
    lines: list[str] = []
    for number, one in numbered:
        context = one.context
        row = (
            str(number),
            str(users[one.user]),
            _plain(option_key(environment_id, one.chosen, items, options)),
            _plain(option_key(environment_id, one.rejected, items, options)),
            _NULL if context is None else _plain(contexts[environment_id, context_hash(context)]),
            _bytes(steps_of(one.chosen)),
            _bytes(steps_of(one.rejected)),
            repr(one.label),
            repr(one.weight),
            _NULL if one.occurred_at is None else one.occurred_at.isoformat(),
            _NULL if one.id is None else _text(one.id),
        )
        lines.append("\t".join(row))
    lines.append("")
    return "\n".join(lines).encode()


_NULL = r"\N"
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def _text(value: str) -> str:
    return value.translate(_ESCAPES) if not value.isalnum() else value


def _plain(value: int | None) -> str:
    return _NULL if value is None else str(value)


def _bytes(value: bytes | None) -> str:
    return _NULL if value is None else rf"\\x{value.hex()}"
