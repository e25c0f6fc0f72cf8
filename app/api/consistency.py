"""Read your own feedback in any process: the token that an acknowledgement gives, and a request sends back."""

import re
from typing import Annotated

from fastapi import Depends, Header, Response

from app.domain import InvalidInputError

TOKEN_HEADER = "Consistency-Token"  # noqa: S105 - the name of a header

_TOKEN = re.compile(r"v1\.([0-9a-f]{1,16})")

TOKEN_RESPONSE_HEADERS = {
    TOKEN_HEADER: {
        "description": "Send it back as a request's header, to any process, and that answer rests on what this "
        "acknowledges. Without it other processes see it within milliseconds.",
        "schema": {"type": "string"},
    }
}
"""For OpenAPI's `responses` of what is acknowledged with a token."""


def token_of(position: int) -> str:
    return f"v1.{position:x}"


def acknowledge(response: Response, position: int | None) -> None:
    """Give a token with an acknowledgement."""
    if position is not None:
        response.headers[TOKEN_HEADER] = token_of(position)


def position_of(token: str) -> int:
    """The position that a token carries.

    Raises
    ------
    InvalidInputError
        It is none of ours.
    """
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise InvalidInputError(f"header {TOKEN_HEADER}: expected a token that an acknowledgement gave; found another.")
    return int(found[1], 16)


def _after(
    consistency_token: Annotated[
        str | None,
        Header(
            description="From the acknowledgement of a preference: the answer rests on it, whichever process answers."
        ),
    ] = None,
) -> int | None:
    return None if consistency_token is None else position_of(consistency_token)


After = Annotated[int | None, Depends(_after)]
"""The position that an answer must be at least as new as."""
