"""How much a request may send, and for how long."""

import asyncio
import re
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_response

UNLIMITED_SUFFIX = "/preferences/import"
"""Imports are streams of any length, whose lines are limited instead."""

DEFINITION = re.compile(r"/v1/environments/[^/]+")
LARGER_DEFINITIONS = 8
"""How many times the limits a definition may have: that of ten thousand states lists a million transitions."""

BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
"""Nobody reads a body of these."""

DRAINED_BYTES = 64 * 1024 * 1024
"""How much of a body that is too large is read and thrown away, so that the client comes to read the answer."""


class BodyLimit:
    """Answers 413 to bodies that are, or turn out to be, larger than the limit, and 408 to those that do not come."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in BODILESS:
            await self._app(scope, receive, send)
            return
        if scope["path"].endswith(UNLIMITED_SUFFIX):
            await self._app(scope, _patient(receive, self._seconds, piecewise=True), send)
            return
        times = self._times(scope)
        limit, receive = self._max_bytes * times, _patient(receive, self._seconds * times)
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if announced.isdigit() and int(announced) > limit:
            with suppress(HTTPException):
                await _drain(receive)
            response = problem_response(scope, "body-too-large", self._sentence(limit, int(announced)))
            await response(scope, receive, send)
            return
        await self._app(scope, self._counting(receive, limit), send)

    def _times(self, scope: Scope) -> int:
        defines = scope["method"] == "PUT" and DEFINITION.fullmatch(scope["path"])
        return LARGER_DEFINITIONS if defines else 1

    def _counting(self, receive: Receive, limit: int) -> Receive:
        received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                await _drain(receive, message)
                # The framework's reading of bodies lets only its own exception through.
                raise HTTPException(413, self._sentence(limit, None))
            return message

        return count

    def _sentence(self, limit: int, found: int | None) -> str:
        told = "" if found is None else f"; found {found:,}"
        return f"the body may have at most {limit:,} bytes{told}. Use /preferences/import for more."


def _patient(receive: Receive, seconds: float, *, piecewise: bool = False) -> Receive:
    """Wait that long for the whole body, or for each piece of it; what comes after the body may take for ever."""
    more, until = True, None

    async def wait() -> Message:
        nonlocal more, until
        if not more:
            return await receive()
        now = asyncio.get_running_loop().time()
        if until is None or piecewise:
            until = now + seconds
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, _slow(seconds, piecewise=piecewise), {"Connection": "close"}) from None
        more = message.get("more_body", False)
        return message

    return wait


def _slow(seconds: float, *, piecewise: bool) -> str:
    if piecewise:
        return f"nothing came of the body for {seconds:g} seconds; the good lines of those that came whole are stored."
    return f"the body was not there after {seconds:g} seconds; nothing of it was used."


async def _drain(receive: Receive, message: Message | None = None) -> None:
    drained = 0
    while (message is None or message.get("more_body", False)) and drained < DRAINED_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        drained += len(message.get("body", b""))
