"""Read your own feedback, whichever of two API processes answers: real servers, a real worker, one database."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from uuid import uuid4

import httpx
import pytest

from tests.support.api import ADMIN_KEY, Json, client_for
from tests.support.worker import working

START_SECONDS = 60.0


@contextmanager
def process(arguments: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-m", *arguments], env={**os.environ, **environment})
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) in {0, -signal.SIGTERM}


@contextmanager
def api_process(environment: Mapping[str, str]) -> Iterator[httpx.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["uvicorn", "--factory", "app.main:create_app_from_environment", "--port", str(port), "--no-access-log"]
    with process(command, environment) as server, client_for(f"http://127.0.0.1:{port}") as client:
        wait_until_ready(client, server)
        yield client


def wait_until_ready(client: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended by itself"
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("the server was not ready in time")


@pytest.fixture(scope="module")
def servers(database_url: str) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    environment = {
        "PSHARELORA_DATABASE_URL": database_url,
        "PSHARELORA_ADMIN_KEY": ADMIN_KEY,
        "PSHARELORA_LOG_LEVEL": "warning",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with api_process(environment) as first, api_process(environment) as second, working(database_url):
        yield first, second


def define(api: httpx.Client, name: str) -> None:
    api.put(f"/v1/environments/{name}", json={"kind": "catalog", "item_dim": 2, "rank": 1})
    items = [{"id": f"i{x}{y}", "features": [x - 1.0, y - 1.0]} for x in range(3) for y in range(3)]
    api.put(f"/v1/environments/{name}/items", json={"items": items})
    said = [
        {
            "user": f"u{user}",
            "chosen": {"item": f"i{2 if user % 2 else 0}{y}"},
            "rejected": {"item": f"i{0 if user % 2 else 2}{other}"},
        }
        for user in range(8)
        for y in range(3)
        for other in range(3)
    ]
    assert api.post(f"/v1/environments/{name}/preferences", json={"preferences": said}).status_code == 201


def refitted(api: httpx.Client, name: str) -> Json:
    location = api.post(f"/v1/admin/environments/{name}/retrain").headers["location"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        refit: Json = api.get(location).json()
        if refit["state"] not in {"queued", "running"}:
            return refit
        time.sleep(0.1)
    raise AssertionError("the refit did not end in time")


def value(api: httpx.Client, name: str, user: str, token: str | None = None) -> Json:
    body = {"options": [{"item": "i21"}]}
    headers = {} if token is None else {"Consistency-Token": token}
    answer: Json = api.post(f"/v1/environments/{name}/users/{user}/rewards", json=body, headers=headers).json()
    return answer


def soon(look: Callable[[], Json], good: Callable[[Json], bool]) -> Json:
    """What is promised within milliseconds; tests share their machine with others, so they are more patient."""
    deadline = time.monotonic() + 10
    while not good(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.001)
    return seen


def test_feedback_sent_to_one_process_is_in_the_next_answer_of_the_other(
    servers: tuple[httpx.Client, httpx.Client],
) -> None:
    first, second = servers
    name, user = f"two-{uuid4().hex}", "newcomer"
    define(first, name)
    assert refitted(second, name)["state"] == "succeeded"
    before = value(first, name, user)
    assert before == soon(lambda: value(second, name, user), lambda seen: "rewards" in seen)
    assert before["feedback_seen"] == 0
    for count in range(1, 11):
        writer, reader = (first, second) if count % 2 else (second, first)
        pair = {"user": user, "chosen": {"item": "i21"}, "rejected": {"item": "i01"}}
        posted = writer.post(f"/v1/environments/{name}/preferences", json=pair)
        assert posted.json()["accepted"] == 1
        after = value(reader, name, user, posted.headers["consistency-token"])
        assert after["feedback_seen"] == count
        assert after["rewards"][0]["reward"] > before["rewards"][0]["reward"]
        assert after == value(writer, name, user)
        before = after
    assert_an_import_and_an_erasure_are_seen(first, second, name, user)


def assert_an_import_and_an_erasure_are_seen(first: httpx.Client, second: httpx.Client, name: str, user: str) -> None:
    """Told line by line, the token of an import is in its last line."""
    line = json.dumps({"user": user, "chosen": {"item": "i21"}, "rejected": {"item": "i01"}}).encode() + b"\n"
    told = first.post(
        f"/v1/environments/{name}/preferences/import", content=line * 3, headers={"Accept": "application/x-ndjson"}
    )
    last = json.loads(told.text.splitlines()[-1])
    assert value(second, name, user, last["consistency_token"])["feedback_seen"] == 13
    erased = first.delete(f"/v1/environments/{name}/users/{user}")
    assert value(second, name, user, erased.headers["consistency-token"])["feedback_seen"] == 0


def has_seen(count: int, answer: Json) -> bool:
    seen: int = answer["feedback_seen"]
    return seen == count


def test_without_a_token_the_other_process_answers_from_feedback_soon(
    servers: tuple[httpx.Client, httpx.Client],
) -> None:
    first, second = servers
    name = f"two-{uuid4().hex}"
    define(first, name)
    assert refitted(second, name)["state"] == "succeeded"
    for count in range(10, 15):
        assert value(second, name, "u1")["feedback_seen"] == count - 1
        pair = {"user": "u1", "chosen": {"item": "i21"}, "rejected": {"item": "i01"}}
        first.post(f"/v1/environments/{name}/preferences", json=pair)
        assert value(first, name, "u1")["feedback_seen"] == count
        soon(lambda: value(second, name, "u1"), partial(has_seen, count))


def test_a_promotion_through_one_process_is_served_by_the_other(servers: tuple[httpx.Client, httpx.Client]) -> None:
    first, second = servers
    name = f"two-{uuid4().hex}"
    define(first, name)
    for version in (1, 2):
        assert refitted(first, name)["model_version"] == version
    models = f"/v1/admin/environments/{name}/models"
    for version in (1, 2, 1):
        assert first.post(f"{models}/{version}/promote").json()["status"] == "published"
        assert value(first, name, "u1")["model_version"] == version
        soon(lambda: value(second, name, "u1"), lambda seen: seen == value(first, name, "u1"))
