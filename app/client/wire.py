"""The client's core without any I/O: what is asked, what is waited for, and what the service said about both.

A `Call` is one request and how its answer is read. `Steps` are several, as a generator that yields calls and pauses and
is sent the answers: the synchronous and the asynchronous client differ only in who carries them out.
"""

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from app.client.errors import ApiError, ServerUnreachableError

T = TypeVar("T")
Json = dict[str, Any]

TOKEN_HEADER = "Consistency-Token"  # noqa: S105 - the name of a header

_POSITION = re.compile(r"v1\.([0-9a-f]+)")

WORTH_TRYING_AGAIN = frozenset({429, 502, 503, 504})

NEVER_IN_A_MOMENT = frozenset({"model-not-ready", "not-ready"})
"""Codes of 503s that a retry within seconds will not change."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    method: str
    path: str
    read: Callable[[httpx.Response], T]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of httpx's `request`."""
    repeatable: bool = True
    """Whether sending it twice does no more than sending it once."""


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


Steps = Generator[Call[Any] | Pause, Any, T]


class Conversation:
    """What a client carries from one answer to its next request: the newest consistency token."""

    def __init__(self) -> None:
        self._token: str | None = None

    def headers(self) -> dict[str, str]:
        return {} if self._token is None else {TOKEN_HEADER: self._token}

    def note(self, response: httpx.Response) -> None:
        """Answers may arrive in another order than they were given in: the newest token counts."""
        token = response.headers.get(TOKEN_HEADER)
        if token is not None and (self._token is None or _position(token) >= _position(self._token)):
            self._token = token


def answer_of(call: Call[T], response: httpx.Response) -> T:
    if response.is_error:
        raise ApiError(response.status_code, _problem(response))
    return call.read(response)


def retry_worth(call: Call[Any]) -> Callable[[Exception], bool]:
    """Which errors of this call are worth another try."""

    def worth(error: Exception) -> bool:
        if isinstance(error, ServerUnreachableError):
            return call.repeatable
        if not isinstance(error, ApiError) or error.code in NEVER_IN_A_MOMENT:
            return False
        # A refusal says that nothing was done, but a gateway may have lost the answer.
        return error.status in WORTH_TRYING_AGAIN and (call.repeatable or error.status in {429, 503})

    return worth


def as_json(response: httpx.Response) -> Any:
    return response.json()


def as_text(response: httpx.Response) -> str:
    return response.text


def as_bytes(response: httpx.Response) -> bytes:
    return response.content


def as_nothing(_: httpx.Response) -> None:
    return None


def _position(token: str) -> int:
    """Tokens of a later kind are opaque: any of them replaces any other."""
    found = _POSITION.fullmatch(token)
    return int(found[1], 16) if found else 0


def _problem(response: httpx.Response) -> Json:
    try:
        document = response.json()
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"detail": response.text[:500] or response.reason_phrase}
