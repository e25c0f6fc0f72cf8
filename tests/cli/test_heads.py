"""Who does not send the head of a request is not waited for; everybody else is."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from fastapi import FastAPI

from tests.support.api import serving_app

HEAD_SECONDS = 0.4


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("app.cli.heads.HEAD_SECONDS", HEAD_SECONDS)
    app = FastAPI()

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(3 * HEAD_SECONDS)
        return "done"

    @app.get("/quick")
    async def quick() -> str:
        return "done"

    with serving_app(app) as address:
        yield address


def connected(url: str) -> socket.socket:
    return socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 80), timeout=10)


def seconds_to_end(connection: socket.socket) -> float:
    """Until the server ends it; nothing else may come."""
    begun = time.monotonic()
    assert connection.recv(1 << 16) == b""
    return time.monotonic() - begun


@pytest.mark.parametrize("sent", [b"", b"GET /qui", b"GET /quick HTTP/1.1\r\nHost: here\r\nX-Long: "])
def test_half_a_head_is_not_waited_for(url: str, sent: bytes) -> None:
    with connected(url) as connection:
        connection.sendall(sent)
        assert seconds_to_end(connection) > HEAD_SECONDS / 2


def test_a_head_that_trickles_is_not_waited_for(url: str) -> None:
    """However often something comes, and also where a request has been answered on the connection before."""
    with connected(url) as connection:
        connection.sendall(b"GET /quick HTTP/1.1\r\nHost: here\r\n\r\n")
        assert connection.recv(1 << 16).endswith(b'"done"')
        begun = time.monotonic()
        connection.sendall(b"GET /quick HTTP/1.1\r\n")
        with suppress(OSError):
            while time.monotonic() < begun + 10:
                connection.sendall(b"X-More: 1\r\n")
                time.sleep(HEAD_SECONDS / 8)
        assert time.monotonic() - begun < 5


def test_slow_answers_and_connections_that_are_kept_are_left_alone(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/slow").json() == "done"
        time.sleep(1.5 * HEAD_SECONDS)
        assert client.get("/quick").json() == "done"
    with connected(url) as connection:
        # The head of the next request waits half-sent behind an answer that takes long.
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\nGET /quick HTTP/1.1\r\n")
        assert b'"done"' in connection.recv(1 << 16)
        assert seconds_to_end(connection) < 5
