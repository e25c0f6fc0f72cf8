"""The real application behind a real server, in a thread of this process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from app.cli.heads import PunctualProtocol
from app.main import create_app
from app.settings import Settings

ADMIN_KEY = "tests-bootstrap-key-0123456789"

START_SECONDS = 20.0

Json = dict[str, Any]


def settings_for(database_url: str, **values: Any) -> Settings:
    given: Json = {"database_url": database_url, "admin_key": ADMIN_KEY, **values}
    # pydantic-settings' own argument, which only its mypy plugin knows.
    return Settings(_env_file=None, **given)  # type: ignore[call-arg]


@contextmanager
def serving(database_url: str, **values: Any) -> Iterator[str]:
    """The address of the application with these settings."""
    with serving_app(create_app(settings_for(database_url, **values))) as url:
        yield url


@contextmanager
def serving_app(app: FastAPI) -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=PunctualProtocol, log_config=None, access_log=False, ws="none", lifespan="on")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            deadline = time.monotonic() + START_SECONDS
            while not server.started:
                assert thread.is_alive(), "the application did not start"
                assert time.monotonic() < deadline, "the application did not start in time"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def client_for(url: str, key: str | None = ADMIN_KEY) -> httpx.Client:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)


def is_ready(url: str) -> bool:
    """Whether the service at an address says that it can answer."""
    with client_for(url) as client, suppress(httpx.TransportError):
        return client.get("/readyz", timeout=5).status_code == 200
    return False


def problem(code: str, status: int, detail: str, **more: Any) -> Json:
    """What a problem document must be, but for its title and the request's id."""
    return {"type": f"/problems/{code}", "status": status, "detail": detail, "code": code, **more}


def found_problem(response: httpx.Response) -> Json:
    """A problem document without its title, its request id and its list of all offenders."""
    assert response.headers["content-type"] == "application/problem+json"
    document: Json = response.json()
    assert document.pop("request_id") == response.headers["x-request-id"]
    assert document.pop("title")
    assert document["status"] == response.status_code
    document.pop("errors", None)
    return document
