"""The connection pool, and what a transaction is: begun, committed, tried again, or reported as unavailable."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import QueuePool

from app.domain import StoreUnavailableError
from app.observability import span
from app.store.patience import patient

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 5
# How often a transaction is tried that PostgreSQL ended only because another one was in its way.

PATIENCE_SECONDS = 10.0
# How long a connection waits for a sign of life from a server that is at work for it.

_LOST_RACES = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
_AWAY = (
    # A standby, or a server whose disk is nearly full and that was made read-only for it.
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
)
# What PostgreSQL calls an error of ours, and is its own state.

# A process that was stopped in the middle of a transaction holds up others for as long as the last of these.
_OPTIONS = "-c TimeZone=UTC -c random_page_cost=1.1 -c lock_timeout=30s -c idle_in_transaction_session_timeout=30s"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something changed: users' feedback (`users` with `environment_id`), an environment, a key; all None: anything."""

    environment_id: int | None = None
    users: tuple[str, ...] | None = None
    """None: the environment itself; empty: all its users."""
    key_id: str | None = None
    erased_key: int | None = None
    """The number that the one user in `users` had before the erasure."""


EVERYTHING = Notice()

_CHANGES = "psharelora_changes"


class Database:
    """A pool of connections to one PostgreSQL database; made once a process, disposed of by who made it."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        pool_timeout_seconds: float = 10.0,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.url = plain_url(url)
        self._told: list[Callable[[Notice], None]] = []
        self._lasting: list[AsyncConnection] = []
        self.engine = create_async_engine(
            driver_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout_seconds,
            pool_pre_ping=True,
            # An error's message would quote what somebody said.
            hide_parameters=True,
            connect_args={
                "connect_timeout": 5,
                "options": _OPTIONS,
                "async_creator_fn": patient(patience_seconds).connect,
            },
        )
        event.listen(self.engine.sync_engine, "connect", self._made)

    @asynccontextmanager
    async def begin(self, *, isolation: str = "READ COMMITTED") -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end, rolled back by an exception."""
        try:
            async with self.engine.execution_options(isolation_level=isolation).begin() as connection:
                changes: list[Notice] = []
                connection.info[_CHANGES] = changes
                yield connection
            for change in changes:
                self.pass_on(change)
        except (OperationalError, InterfaceError, PoolTimeoutError, psycopg.OperationalError, OSError) as error:
            if _is_one_of(error, _LOST_RACES):
                raise
            raise StoreUnavailableError(f"The database did not answer: {_first_line(error)}") from error
        except (DBAPIError, psycopg.Error) as error:
            if getattr(error, "connection_invalidated", False) or _is_one_of(error, _AWAY):
                raise StoreUnavailableError(f"The database did not answer: {_first_line(error)}") from error
            raise

    def _made(self, _: object, record: Any) -> None:
        """A connection that is made after the others were lost is good, also where the clock was put back since.

        The pool compares the two by the wall clock, and would replace the connection whenever it is asked for one.
        """
        record.starttime = max(record.starttime, self.engine.pool._invalidate_time)  # noqa: SLF001 - it has no other name

    async def lasting_connection(self) -> AsyncConnection:
        """A connection of the pool for statements that are whole transactions; kept until it is given up."""
        connection = await self.engine.connect()
        self._lasting.append(connection)
        return await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def give_up(self, connection: AsyncConnection) -> None:
        """Close a lasting connection, whatever state it is in."""
        if connection in self._lasting:
            self._lasting.remove(connection)
            await connection.invalidate()
            await connection.close()

    def tell(self, listener: Callable[[Notice], None]) -> None:
        """Call the listener with every change of this process's own, at its commit and before it is acknowledged."""
        self._told.append(listener)

    def pass_on(self, change: Notice) -> None:
        """Tell this process of a change that was committed on a connection which is not of this pool."""
        for listener in self._told:
            listener(change)

    @property
    def connections_in_use(self) -> int:
        pool = self.engine.pool
        assert isinstance(pool, QueuePool)
        return pool.checkedout()

    async def dispose(self) -> None:
        for connection in list(self._lasting):
            await self.give_up(connection)
        await self.engine.dispose()


def note_change(connection: AsyncConnection, *changes: Notice) -> None:
    """What the process is to be told once this transaction is committed."""
    connection.info[_CHANGES].extend(changes)


Deed = Callable[Concatenate[AsyncConnection, P], Awaitable[T]]
Act = Callable[Concatenate[Database, P], Coroutine[Any, Any, T]]


def transaction(deed: Deed[P, T]) -> Act[P, T]:
    """Make a function of a connection into a whole transaction on a database.

    A deed that lost a race (a deadlock) has left nothing behind, and is done again.
    """
    return _whole(deed, "READ COMMITTED")


def look_up(deed: Deed[P, T]) -> Act[P, T]:
    """The same for a deed of a single query, which is a transaction by itself: two round trips less."""
    return _whole(deed, "AUTOCOMMIT")


def _whole(deed: Deed[P, T], isolation: str) -> Act[P, T]:
    name = f"db {getattr(deed, '__name__', 'transaction')}"

    @functools.wraps(deed)
    async def act(db: Database, /, *args: P.args, **kwargs: P.kwargs) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with span(name):
                    async with db.begin(isolation=isolation) as connection:
                        return await deed(connection, *args, **kwargs)
            except (OperationalError, psycopg.OperationalError) as error:
                if attempt == ATTEMPTS:
                    message = f"The database gave up {ATTEMPTS} times: {_first_line(error)}"
                    raise StoreUnavailableError(message) from error
        raise AssertionError

    return act


def driver_url(url: str) -> URL:
    """A PostgreSQL URL as users write it, for SQLAlchemy's psycopg driver."""
    return _parsed(url).set(drivername="postgresql+psycopg")


def plain_url(url: str) -> str:
    """The same URL for libpq, which knows no driver names."""
    return _parsed(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _parsed(url: str) -> URL:
    """The address, which holds a password and is therefore in no message."""
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise StoreUnavailableError("The database's address cannot be read; is its password URL-encoded?") from error


async def driver_connection(connection: AsyncConnection) -> psycopg.AsyncConnection[Any]:
    """The psycopg connection below, in the same transaction, for COPY and binary results."""
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    return driver


def _is_one_of(error: BaseException, kinds: tuple[type[Exception], ...]) -> bool:
    return isinstance(error, kinds) or isinstance(getattr(error, "orig", None), kinds)


def _first_line(error: BaseException) -> str:
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
