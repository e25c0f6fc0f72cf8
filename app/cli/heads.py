"""Connections whose next request does not come to the end of its head in time are closed, for they cost memory."""

import asyncio

from typing_extensions import override
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_SECONDS = 20.0
"""From the connection, or from the first bytes of a later request, to the end of its head; the body has a limit of its
own (`app/api/limits.py`), and between requests uvicorn waits for `timeout_keep_alive`."""


class PunctualProtocol(HttpToolsProtocol):
    """Waits for a request's head, and not for ever as uvicorn does."""

    _due: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._begin()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Nearly every head comes in one piece, and costs no timer.
        if self._due is None and self._is_in_a_head():
            self._begin()

    @override
    def on_headers_complete(self) -> None:
        self._end()
        super().on_headers_complete()

    def _begin(self) -> None:
        self._due = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _end(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        if self.is_idle():
            self.transport.close()
        else:
            # Somebody waits for the answer to the request before.
            self._begin()

    def _is_in_a_head(self) -> bool:
        """A scope is made where a request begins, and has its method where its head is complete."""
        scope: HTTPScope | None = self.scope
        return scope is not None and "method" not in scope

    def is_idle(self) -> bool:
        """Nobody waits for an answer."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete
