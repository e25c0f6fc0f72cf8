"""Importing many preferences at once: COPY into a staging table, then a few statements over all of it.

A part of an import is one transaction. Unlike in a request, every preference stands by itself: a bad one is left out.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import DomainError, ItemOption, Preference
from app.store.database import driver_connection, transaction
from app.store.environments import EnvironmentRow, lock_environment
from app.store.interning import FIND_ITEMS, FoundItems, context_hash, found_items, intern_contexts, intern_options
from app.store.notices import announce
from app.store.preferences import (
    RECORD_GIVEN,
    check_option_rows,
    check_shape,
    content_hash,
    contents_of,
    option_key,
    steps_of,
    taken,
)

STAGING = """
    CREATE TEMPORARY TABLE IF NOT EXISTS incoming (
        number integer NOT NULL,
        user_id text COLLATE "C" NOT NULL,
        chosen_key bigint,
        rejected_key bigint,
        context_key bigint,
        chosen_steps bytea,
        rejected_steps bytea,
        label double precision NOT NULL,
        weight double precision NOT NULL,
        occurred_at timestamptz,
        client_id text COLLATE "C",
        content_hash bytea NOT NULL
    ) ON COMMIT DELETE ROWS
"""
COPY = "COPY incoming FROM STDIN"

_ADD_USERS = text(
    """
    INSERT INTO users (environment_id, user_id)
    SELECT :environment_id, named.user_id
    FROM (SELECT DISTINCT user_id FROM incoming) AS named
    WHERE NOT EXISTS (
        SELECT FROM users WHERE users.environment_id = :environment_id AND users.user_id = named.user_id
    )
    ORDER BY named.user_id
    ON CONFLICT (environment_id, user_id) DO NOTHING
    """
)
_LOCK_USERS = text(
    """
    SELECT count(*) FROM (
        SELECT FROM users
        WHERE environment_id = :environment_id AND user_id IN (SELECT user_id FROM incoming)
        ORDER BY user_id
        FOR NO KEY UPDATE OF users
    ) AS locked
    """
)
_RECORD = text(
    f"""
    WITH given AS MATERIALIZED (
        SELECT nextval('preferences_id_seq') AS id, named.*
        FROM (
            SELECT incoming.*, users.environment_id, users.id AS user_key
            FROM incoming
            JOIN users ON users.environment_id = :environment_id AND users.user_id = incoming.user_id
            ORDER BY incoming.number
        ) AS named
    ), {RECORD_GIVEN}
    """  # noqa: S608 - our own words
)
_COUNT = text("UPDATE environments SET preference_count = preference_count + :accepted WHERE id = :environment_id")
_CONFLICTS = text(
    """
    SELECT incoming.number
    FROM incoming
    JOIN preferences AS stored
        ON stored.environment_id = :environment_id AND stored.client_id = incoming.client_id
    WHERE stored.content_hash <> incoming.content_hash
    ORDER BY incoming.number
    """
)


@dataclass(frozen=True, slots=True)
class Imported:
    accepted: int
    duplicates: int
    refused: Sequence[tuple[int, DomainError]]
    """By index in what was given; the pointer begins at the preference."""
    position: int | None


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
    items = found_items(await (await driver.execute(FIND_ITEMS, {"named": _items(name, batch)})).fetchall())
    good, refused = await asyncio.to_thread(_sorted_out, environment, items, batch)
    if not good:
        return Imported(0, 0, refused, None)
    options, contexts = contents_of((environment.id, batch[index]) for index in good)
    keys = items, await intern_options(connection, options), await intern_contexts(connection, contexts)
    await _stage(driver, await asyncio.to_thread(_copied, environment.id, batch, good, keys))
    here = {"environment_id": environment.id}
    await connection.execute(_ADD_USERS, here)
    await connection.execute(_LOCK_USERS, here)
    accepted: int = await connection.scalar(_RECORD, here) or 0
    conflicts: list[tuple[int, DomainError]] = []
    if accepted < len(good):
        numbers = (await connection.scalars(_CONFLICTS, here)).all()
        conflicts = [(number, taken(batch[number], "")) for number in numbers]
    await connection.execute(_COUNT, here | {"accepted": accepted})
    position = await announce(connection, {environment.id: {batch[index].user for index in good}})
    return Imported(accepted, len(good) - accepted - len(conflicts), [*refused, *conflicts], position)


def _items(name: str, batch: Sequence[Preference]) -> str:
    named = {
        option.item
        for preference in batch
        for option in (preference.chosen, preference.rejected)
        if isinstance(option, ItemOption)
    }
    return json.dumps([[name, item] for item in named])


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


def _copied(environment_id: int, batch: Sequence[Preference], good: Sequence[int], keys: Any) -> bytes:
    """The rows in COPY's text format."""
    items, options, contexts = keys
    lines: list[str] = []
    for index in good:
        one = batch[index]
        context = one.context
        row = (
            str(index),
            _text(one.user),
            _plain(option_key(environment_id, one.chosen, items, options)),
            _plain(option_key(environment_id, one.rejected, items, options)),
            _NULL if context is None else _plain(contexts[environment_id, context_hash(context)]),
            _bytes(steps_of(one.chosen)),
            _bytes(steps_of(one.rejected)),
            repr(one.label),
            repr(one.weight),
            _NULL if one.occurred_at is None else one.occurred_at.isoformat(),
            _NULL if one.id is None else _text(one.id),
            _bytes(b"" if one.id is None else content_hash(one)),
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


async def _stage(driver: psycopg.AsyncConnection[Any], rows: bytes) -> None:
    await driver.execute(STAGING)
    async with driver.cursor().copy(COPY) as copy:
        await copy.write(rows)
