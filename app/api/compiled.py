"""The short way to an answer: what compiled code can read is answered before the framework looks for a route.

The route's declaration stays what documents it, and what answers everything out of the ordinary: the short way gives up
(None) whenever it sees something that it does not take, and the framework then reads the same request from its
beginning, and finds the words for what is wrong with it. What the framework does between this layer and a route takes
longer than scoring a hundred items.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from app.api.problems import answer_to_error

ShortWay = Callable[[Request], Awaitable[Response | None]]

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_ATTRIBUTE = "__short_way__"


def first_try(short_way: ShortWay) -> Callable[[Endpoint], Endpoint]:
    """Decorate an endpoint: try this first."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ATTRIBUTE, short_way)
        return endpoint

    return mark


class ShortWays:
    """The innermost layer around the framework's own."""

    def __init__(self, app: ASGIApp, *, routers: Iterable[APIRouter]) -> None:
        self._app = app
        self._ways: defaultdict[tuple[str, str], list[_Way]] = defaultdict(list)
        for route in (route for router in routers for route in router.routes if isinstance(route, APIRoute)):
            short_way = getattr(route.endpoint, _ATTRIBUTE, None)
            if short_way is not None:
                for method in route.methods or ():
                    self._ways[method, _last_part(route.path)].append(_Way(route, short_way))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ways = self._ways.get((scope["method"], _last_part(scope["path"])), ()) if scope["type"] == "http" else ()
        for route, short_way in ways:
            found = route.path_regex.match(scope["path"])
            if found is not None:
                request = _Reread({**scope, "route": route, "path_params": found.groupdict()}, receive)
                response = await _tried(short_way, request)
                if response is not None:
                    scope["route"] = route
                    await response(scope, receive, send)
                    return
                receive = request.again
        await self._app(scope, receive, send)


class _Way(NamedTuple):
    route: APIRoute
    short_way: ShortWay


class _Reread(Request):
    """A request whose messages somebody else can read again."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self._past: list[Message] = []

    @override
    async def body(self) -> bytes:
        chunks, more = [], True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self._past.append(message)
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def again(self) -> Message:
        return self._past.pop(0) if self._past else await self._receive()


async def _tried(short_way: ShortWay, request: Request) -> Response | None:
    try:
        return await short_way(request)
    except Exception as error:
        response = await answer_to_error(request, error)
        if response is None:
            raise
        return response


def _last_part(path: str) -> str:
    return path.rpartition("/")[2]


def says_json(request: Request) -> bool:
    """The usual way to say so; others are read by the framework."""
    return request.headers.get("content-type") == "application/json"
