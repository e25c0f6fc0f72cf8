"""The clients: the same methods, carried out at once or to be awaited."""

import asyncio
import os
import time
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import stamina
from typing_extensions import override

from app.client.errors import ServerUnreachableError
from app.client.methods import Methods
from app.client.wire import Call, Conversation, Pause, Steps, answer_of, retry_worth

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"


class _Connected(Methods):
    """What both clients are made with, and carry from one request to the next."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        key: str | None = None,
        timeout_seconds: float = 30.0,
        attempts: int = 5,
        retry_seconds: float = 30.0,
    ) -> None:
        key = key or os.environ.get("PSHARELORA_KEY")
        self._base_url = base_url or os.environ.get("PSHARELORA_URL") or DEFAULT_URL
        self._settings: dict[str, Any] = {
            "base_url": self._base_url,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "timeout": timeout_seconds,
        }
        self._retries: dict[str, Any] = {"attempts": attempts, "timeout": retry_seconds}
        self._conversation = Conversation()
        self._open()

    def _open(self) -> None:
        raise NotImplementedError

    def _unreachable(self, error: Exception) -> ServerUnreachableError:
        return ServerUnreachableError(f"no answer from {self._base_url}: {error}")


class Client(_Connected):
    """Talks to one service with one API key; `AsyncClient` is the same to be awaited.

    What it recorded is in what it asks next, whichever process of the service answers: the client keeps the
    acknowledgements' consistency tokens and sends them back.

    Parameters
    ----------
    base_url
        Address of the service; PSHARELORA_URL, or http://127.0.0.1:8000, if absent.
    key
        An API key; PSHARELORA_KEY if absent, none where the service runs without authentication.
    timeout_seconds
        Longest wait for one answer.
    attempts
        How often a request is sent at most, when the service is away or busy.
    retry_seconds
        How long it is tried at most.

    Raises
    ------
    ApiError
        From every method, when the service refuses; carries the problem document.
    ServerUnreachableError
        From every method, when no answer comes.
    """

    @override
    def _open(self) -> None:
        self._http = httpx.Client(**self._settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def carry_out(self, asked: Call[T] | Steps[T]) -> T:
        """Send a call, or take steps until they have come to an end."""
        if isinstance(asked, Call):
            return self._send(asked)
        answer: Any = None
        while True:
            try:
                step = asked.send(answer)
            except StopIteration as end:
                ended: T = end.value
                return ended
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                answer = self._send(step)

    def _send(self, call: Call[T]) -> T:
        for attempt in stamina.retry_context(on=retry_worth(call), **self._retries):
            with attempt:
                return self._once(call)
        raise AssertionError

    def _once(self, call: Call[T]) -> T:
        headers = {**self._conversation.headers(), **call.arguments.get("headers", {})}
        try:
            response = self._http.request(call.method, call.path, **{**call.arguments, "headers": headers})
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        self._conversation.note(response)
        return answer_of(call, response)


class AsyncClient(_Connected):
    """`Client` for asyncio: the same methods, each to be awaited."""

    @override
    def _open(self) -> None:
        self._http = httpx.AsyncClient(**self._settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def carry_out(self, asked: Call[T] | Steps[T]) -> T:
        if isinstance(asked, Call):
            return await self._send(asked)
        answer: Any = None
        while True:
            try:
                step = asked.send(answer)
            except StopIteration as end:
                ended: T = end.value
                return ended
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                answer = await self._send(step)

    async def _send(self, call: Call[T]) -> T:
        async for attempt in stamina.retry_context(on=retry_worth(call), **self._retries):
            with attempt:
                return await self._once(call)
        raise AssertionError

    async def _once(self, call: Call[T]) -> T:
        arguments = dict(call.arguments)
        headers = {**self._conversation.headers(), **arguments.pop("headers", {})}
        content = arguments.get("content")
        if content is not None and not isinstance(content, bytes):
            arguments["content"] = _awaited(content)
        try:
            response = await self._http.request(call.method, call.path, headers=headers, **arguments)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        self._conversation.note(response)
        return answer_of(call, response)


async def _awaited(lines: Any) -> Any:
    for line in lines:
        yield line
