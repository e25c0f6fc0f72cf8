"""Connections that do not wait for ever: a server that says nothing for too long is given up.

A network that drops a connection without telling leaves both sides waiting, for hours where the kernel has nothing to
send. What waits here for a statement is told after `patience_seconds` without a byte from the server; the connection is
closed, so that nobody is given it again.
"""

import asyncio
import os
import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from typing_extensions import override

RV = TypeVar("RV")

TICKS = 4
"""Silence is counted in so many parts: an event loop that stood still itself counts one, however long it did."""


LONG_SECONDS = 600.0


class PatientConnection(psycopg.AsyncConnection[Any]):
    """One that gives up; see `patient`."""

    patience_seconds: float

    @override
    async def wait(self, gen: Generator[Any, Any, RV], *args: Any, **kwargs: Any) -> RV:
        watch = _Watch(self)
        try:
            return await super().wait(_watched(gen, watch), *args, **kwargs)
        finally:
            watch.end()


def patient(seconds: float) -> type[PatientConnection]:
    """Connections that wait so long for a sign of life while the server is at work for them."""
    return type("PatientConnection", (PatientConnection,), {"patience_seconds": seconds})


@contextmanager
def taking_long(connection: psycopg.AsyncConnection[Any]) -> Iterator[None]:
    """Statements that move millions of rows are waited for longer."""
    if isinstance(connection, PatientConnection):
        before, connection.patience_seconds = connection.patience_seconds, LONG_SECONDS
        try:
            yield
        finally:
            connection.patience_seconds = before
    else:
        yield


class _Watch:
    def __init__(self, connection: PatientConnection) -> None:
        self._connection = connection
        self._silent = 0
        self._begin()

    def _begin(self) -> None:
        seconds = self._connection.patience_seconds / TICKS
        self._timer = asyncio.get_running_loop().call_later(seconds, self._tick)

    def heard(self) -> None:
        self._silent = 0

    def end(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        pgconn = self._connection.pgconn
        # Who listens for notices has asked for nothing, and may wait.
        self._silent = self._silent + 1 if pgconn.transaction_status == TransactionStatus.ACTIVE else 0
        if self._silent < TICKS:
            self._begin()
            return
        # Whoever waits for the socket finds it at its end.
        with socket.socket(fileno=os.dup(pgconn.socket)) as same:
            same.shutdown(socket.SHUT_RDWR)


def _watched(gen: Generator[Any, Any, RV], watch: _Watch) -> Generator[Any, Any, RV]:
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready:
                watch.heard()
            wanted = gen.send(ready)
    except StopIteration as end:
        value: RV = end.value
        return value
