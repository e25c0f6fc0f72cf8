"""The quick way of a group of the most usual preferences: items of a catalogue, without context.

One call of `record_item_preferences_1` (a function in the database, made by a migration) is the whole transaction and
one round trip. It takes the same locks in the same order as `record_group`, and does nothing where anything is out of
the ordinary: an unknown environment, an item that is not there. What is stored already under an id is an error that
undoes it. `record_group` then finds out what is wrong with which request.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg.errors import IntegrityError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import ItemOption, Preference, Recorded, StoreUnavailableError
from app.store.database import Database, Notice, driver_connection
from app.store.notices import CHANNEL, PAYLOAD_BYTES
from app.store.preferences import Submission

_RECORD = "SELECT name, environment_id, position FROM record_item_preferences_1(%s, %s, %s, %s)"

_NOTICE_BYTES = PAYLOAD_BYTES - 100
# Of users' ids, beside the numbers in front of them.

_IDLE_SECONDS = 1.0
# After so long without a call the connection is asked whether it is still there.


class _Said(msgspec.Struct, omit_defaults=True):
    e: str
    u: str
    c: str
    d: str
    l: float = 1.0
    w: float = 1.0
    t: datetime | None = None
    i: str | None = None


_encode = msgspec.json.Encoder().encode


class UsualRecorder:
    """One a writer, with a connection of its own that it takes from the pool when it needs it first, and keeps."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._connection: AsyncConnection | None = None
        self._driver: psycopg.AsyncConnection[Any] | None = None
        self._used = 0.0
        self.is_busy = False

    async def record(self, submissions: Sequence[Submission]) -> list[Recorded] | None:
        """Store a group by one transaction, or nothing of it (None): then `record_group` must be asked.

        Raises
        ------
        StoreUnavailableError
            The database did not answer; whether the group was stored is not known.
        """
        rows = _usual(submissions)
        if rows is None or self.is_busy:
            return None
        self.is_busy = True
        try:
            return await self._record(submissions, rows)
        finally:
            self.is_busy = False

    async def _record(self, submissions: Sequence[Submission], rows: list[_Said]) -> list[Recorded] | None:
        driver = await self._connected()
        if driver is None:
            return None
        names = sorted({submission.environment for submission in submissions})
        try:
            cursor = await driver.execute(_RECORD, (names, _encode(rows).decode(), CHANNEL, _NOTICE_BYTES))
            found = await cursor.fetchall()
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not driver.broken and not driver.closed:
                return None  # undone by the server: a lost race, a lock that was waited for too long
            await self.aclose()
            raise StoreUnavailableError(f"The database did not answer: {str(error).splitlines()[0]}") from error
        except psycopg.Error as error:
            if not isinstance(error, IntegrityError):
                await self.aclose()
            return None
        except BaseException:
            await self.aclose()
            raise
        if not found:
            return None
        return self._told(submissions, found)

    def _told(self, submissions: Sequence[Submission], found: list[tuple[str, int, int]]) -> list[Recorded]:
        """Tell this process of what was committed, before anybody has the acknowledgement."""
        users: dict[str, set[str]] = {}
        for name, batch in submissions:
            users.setdefault(name, set()).update(preference.user for preference in batch)
        for name, environment_id, _ in found:
            self._db.pass_on(Notice(environment_id, tuple(users[name])))
        position = found[0][2]
        return [Recorded(len(submission.batch), 0, position) for submission in submissions]

    async def _connected(self) -> psycopg.AsyncConnection[Any] | None:
        """The connection, which answered a moment ago; None if there is none to be had."""
        now = time.monotonic()
        idle, self._used = now - self._used, now
        try:
            if self._driver is not None and idle > _IDLE_SECONDS:
                await self._driver.execute("SELECT 1")
            if self._driver is None:
                self._connection = await self._db.lasting_connection()
                self._driver = await driver_connection(self._connection)
        except (psycopg.Error, DBAPIError, PoolTimeoutError, OSError):
            await self.aclose()
            return None
        return self._driver

    async def aclose(self) -> None:
        """Give up the connection, whatever state it is in."""
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            await self._db.give_up(connection)


def _usual(submissions: Sequence[Submission]) -> list[_Said] | None:
    rows: list[_Said] = []
    for name, one in _each(submissions):
        chosen, rejected = one.chosen, one.rejected
        if not isinstance(chosen, ItemOption) or not isinstance(rejected, ItemOption) or one.context is not None:
            return None
        if chosen.item == rejected.item:
            return None
        rows.append(_Said(name, one.user, chosen.item, rejected.item, one.label, one.weight, one.occurred_at, one.id))
    return rows or None


def _each(submissions: Sequence[Submission]) -> Iterator[tuple[str, Preference]]:
    return ((name, preference) for name, batch in submissions for preference in batch)
