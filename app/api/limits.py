"""How much a request may send."""

import re

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_response

UNLIMITED_SUFFIX = "/preferences/import"
"""Imports are streams of any length, whose lines are limited instead."""

DEFINITION = re.compile(r"/v1/environments/[^/]+")
LARGER_DEFINITIONS = 8
"""How many times the limit a definition may have: that of ten thousand states lists a million transitions."""

DRAINED_BYTES = 64 * 1024 * 1024
"""How much of a body that is too large is read and thrown away, so that the client comes to read the answer."""


class BodyLimit:
    """Answers 413 to bodies that are, or turn out to be, larger than the limit."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].endswith(UNLIMITED_SUFFIX):
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope)
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if announced.isdigit() and int(announced) > limit:
            await _drain(receive)
            response = problem_response(scope, "body-too-large", self._sentence(limit, int(announced)))
            await response(scope, receive, send)
            return
        await self._app(scope, self._counting(receive, limit), send)

    def _limit(self, scope: Scope) -> int:
        defines = scope["method"] == "PUT" and DEFINITION.fullmatch(scope["path"])
        return self._max_bytes * (LARGER_DEFINITIONS if defines else 1)

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


async def _drain(receive: Receive, message: Message | None = None) -> None:
    drained = 0
    while (message is None or message.get("more_body", False)) and drained < DRAINED_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        drained += len(message.get("body", b""))
