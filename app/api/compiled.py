"""The short way through a route: what compiled code can read is answered without the framework's own reading.

The route's declaration stays what documents it, and what answers everything out of the ordinary: the short way gives up
(None) whenever it sees something that it does not take, and the framework then reads the same request from its
beginning, and finds the words for what is wrong with it.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from typing_extensions import override

ShortWay = Callable[[Request], Awaitable[Response | None]]

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_ATTRIBUTE = "__short_way__"


def first_try(short_way: ShortWay) -> Callable[[Endpoint], Endpoint]:
    """Decorate an endpoint of a `CompiledRoute`: try this first."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ATTRIBUTE, short_way)
        return endpoint

    return mark


class CompiledRoute(APIRoute):
    """For `APIRouter(route_class=...)`."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        ordinary = super().get_route_handler()
        short_way: ShortWay | None = getattr(self.endpoint, _ATTRIBUTE, None)
        if short_way is None:
            return ordinary

        async def answer(request: Request) -> Response:
            response = await short_way(request)
            return await ordinary(request) if response is None else response

        return answer


def says_json(request: Request) -> bool:
    """The usual way to say so; others are read by the framework."""
    return request.headers.get("content-type") == "application/json"
