"""Answers that a client has already: asked again with their `ETag`, they are not sent again.

The tag is made of the answer itself, so that it is true whatever the answer rests on: the model, the user's feedback,
the catalogue, the seed of what is drawn. It saves the transfer; what an answer is made of is in memory anyway.
"""

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from typing_extensions import override

_CACHING = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}
"""May be kept by who asked, and must be asked for each time."""


class RevalidatedRoute(APIRoute):
    """For `APIRouter(route_class=...)`: of its routes those that answer GET."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        ordinary = super().get_route_handler()
        if not is_revalidated(self):
            return ordinary

        async def answer(request: Request) -> Response:
            response = await ordinary(request)
            body = getattr(response, "body", None)
            if response.status_code != 200 or not isinstance(body, bytes):
                return response
            tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
            headers = {**_CACHING, "ETag": tag}
            if _is_known(request.headers.get("if-none-match"), tag):
                return Response(status_code=304, headers=headers)
            response.headers.update(headers)
            return response

        return answer


def is_revalidated(route: APIRoute) -> bool:
    return isinstance(route, RevalidatedRoute) and "GET" in (route.methods or ())


def document_revalidation(operation: dict[str, Any]) -> None:
    """What OpenAPI says of such a route."""
    tag = {"ETag": {"description": "Of this answer.", "schema": {"type": "string"}}}
    operation.setdefault("parameters", []).append(
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "description": "The `ETag` of an answer that the client has: 304 without a body if it is still the answer.",
            "schema": {"type": "string"},
        }
    )
    operation["responses"]["200"].setdefault("headers", {}).update(tag)
    operation["responses"]["304"] = {"description": "The client's answer is still the answer.", "headers": tag}


def _is_known(given: str | None, tag: str) -> bool:
    """Compared weakly, as RFC 9110 wants it for GET: a proxy that compresses makes a tag weak."""
    if given is None:
        return False
    return given.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in given.split(","))
