"""What a client notices of processes that are told to end, renewed or killed: nothing that was acknowledged is lost."""

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import httpx
import psycopg
import pytest
import typer
from typing_extensions import override

from app.cli.serve import pool_size
from app.settings import Settings
from app.store import EmbeddedPostgres
from app.store.embedded import postmaster
from tests.support.api import ADMIN_KEY, Json, client_for, is_ready
from tests.support.commands import Running, free_port, running_command
from tests.support.processes import api_processes, kill_family, signal_to

ENVIRONMENT = "shop"
IMPORT = f"/v1/environments/{ENVIRONMENT}/preferences/import"


class Feeders:
    """Threads that each send one preference after the other, and remember which were acknowledged."""

    def __init__(self, url: str, n: int = 4) -> None:
        self.acknowledged: list[str] = []
        self.failures: list[str] = []
        self.refused: list[str] = []
        """Failures of requests that opened a connection, which is then there for them alone."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._feed, args=(url, index)) for index in range(n)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _feed(self, url: str, index: int) -> None:
        begun = time.monotonic_ns()
        with client_for(url) as client:
            number = 0
            while not self._stop.is_set():
                number += 1
                said = preference(f"{begun}-{index}-{number}")
                steps: list[str] = []
                try:
                    response = client.post(
                        f"/v1/environments/{ENVIRONMENT}/preferences",
                        json=said,
                        extensions={"trace": lambda step, _, steps=steps: steps.append(step)},
                    )
                except httpx.TransportError as error:
                    is_new = "connection.connect_tcp.started" in steps
                    (self.refused if is_new else self.failures).append(repr(error))
                    self._stop.wait(0.05)
                    continue
                if response.status_code == 201:
                    self.acknowledged.append(said["id"])
                else:
                    self.failures.append(response.text)


class Importer(threading.Thread):
    """Sends the lines of an import whose end never comes."""

    def __init__(self, url: str, n_lines: int) -> None:
        super().__init__()
        self.lines = [json.dumps(preference(f"line-{number}")).encode() + b"\n" for number in range(n_lines)]
        self.killed = threading.Event()
        self._url = url

    @override
    def run(self) -> None:
        with client_for(self._url) as client, suppress(httpx.TransportError):
            client.post(IMPORT, content=self._content())

    def _content(self) -> Iterator[bytes]:
        yield b"".join(self.lines)
        self.killed.wait()
        yield b"\n"


def is_stored(url: str, name: str) -> bool:
    with client_for(url) as client:
        known = client.get(f"/v1/environments/{ENVIRONMENT}/users/u{name}").json()
    return bool(known["feedback_count"] == 1)


def preference(name: str) -> Json:
    return {"id": name, "user": f"u{name}", "chosen": {"item": "a"}, "rejected": {"item": "b"}}


def define(client: httpx.Client) -> None:
    client.put(f"/v1/environments/{ENVIRONMENT}", json={"kind": "catalog", "item_dim": 2}).raise_for_status()
    items = [{"id": name, "features": [1.0, value]} for name, value in (("a", 0.0), ("b", 1.0))]
    client.put(f"/v1/environments/{ENVIRONMENT}/items", json={"items": items}).raise_for_status()


def counted(url: str) -> tuple[float, float]:
    """How many API processes there are, and the preferences they have acknowledged, by /metrics."""
    with client_for(url) as client:
        told = client.get("/metrics").text
    stored = 'psharelora_requests_total{method="POST",route="/v1/environments/{environment}/preferences",status="201"}'
    return tuple(float(told.partition(f"\n{name} ")[2].split()[0]) for name in ("psharelora_processes", stored))  # type: ignore[return-value]


def assert_stored(url: str, acknowledged: Sequence[str]) -> None:
    """Sent again, each of them counts as a duplicate."""
    with client_for(url) as client:
        for start in range(0, len(acknowledged), 1000):
            batch = {"preferences": [preference(name) for name in acknowledged[start : start + 1000]]}
            answer = client.post(f"/v1/environments/{ENVIRONMENT}/preferences", json=batch).json()
            assert answer == {"accepted": 0, "duplicates": len(batch["preferences"])}


@contextmanager
def serve(folder: Path, *arguments: str, **settings: str) -> Iterator[tuple[Running, str]]:
    port = free_port()
    settings = {"PSHARELORA_ADMIN_KEY": ADMIN_KEY, "PSHARELORA_LOG_LEVEL": "warning", **settings}
    with running_command(folder, "serve", "--port", str(port), *arguments, **settings) as serving:
        url = f"http://127.0.0.1:{port}"
        serving.wait_until(lambda: is_ready(url))
        yield serving, url


@pytest.mark.slow
def test_processes_are_renewed_and_ended_without_a_failed_request(tmp_path: Path) -> None:
    with serve(tmp_path, "--workers", "2") as (serving, url):
        with client_for(url) as client:
            define(client)
        with Feeders(url) as feeders:
            before = set(api_processes(serving.child.pid))
            assert len(before) == 2
            serving.wait_until(lambda: len(feeders.acknowledged) > 50)
            serving.child.send_signal(signal.SIGHUP)
            serving.wait_until(lambda: len(now := api_processes(serving.child.pid)) == 2 and before.isdisjoint(now))
            then = len(feeders.acknowledged)
            serving.wait_until(lambda: len(feeders.acknowledged) > then + 50)
            assert feeders.failures == feeders.refused == []
        acknowledged = list(feeders.acknowledged)
        # Whichever answers tells for both, and for those before them.
        serving.wait_until(lambda: counted(url) == (2.0, len(acknowledged)))
        with Feeders(url) as feeders:
            serving.wait_until(lambda: len(feeders.acknowledged) > 50)
            assert feeders.failures == feeders.refused == []
            assert serving.end() == 0, serving.said
        # Whoever has a connection is answered on it, and whoever comes after the end finds nobody there. Only who opens
        # a connection in the very moment in which the last process stops to listen may be cut off.
        assert feeders.failures == []
        assert len([one for one in feeders.refused if not one.startswith("ConnectError")]) <= 1, feeders.refused
        acknowledged += feeders.acknowledged
    with EmbeddedPostgres(tmp_path / ".psharelora") as database, psycopg.connect(database) as connection:
        stored = {row[0] for row in connection.execute("SELECT client_id FROM preferences")}
    assert stored == set(acknowledged)


def test_what_was_acknowledged_survives_a_kill_of_the_server_and_of_postgresql(tmp_path: Path) -> None:
    data = tmp_path / ".psharelora"
    with serve(tmp_path) as (serving, url):
        with client_for(url) as client:
            define(client)
        importer = Importer(url, 25_000)
        with Feeders(url, n=8) as feeders:
            importer.start()
            serving.wait_until(lambda: len(feeders.acknowledged) > 300 and is_stored(url, "line-0"))
            leader = postmaster(data / "postgres")
            assert leader is not None
            # The server first, so that nobody acknowledges what it hears of a database that is gone.
            signal_to(serving.child.pid, signal.SIGKILL)
            kill_family(leader)
        importer.killed.set()
        importer.join()
        acknowledged = list(feeders.acknowledged)
    assert len(acknowledged) > 300
    with serve(tmp_path) as (serving, url):
        assert_stored(url, acknowledged)
        with client_for(url) as client:
            again = client.post(IMPORT, content=b"".join(importer.lines)).json()
        # A part is stored whole.
        assert again["duplicates"] > 5_000
        assert again["accepted"] + again["duplicates"] == 25_000
        assert serving.end() == 0, serving.said


def test_pools_are_sized_for_the_processes_and_the_database() -> None:
    one, many = (Settings(workers=workers, database_pool_size=10) for workers in (1, 16))
    assert pool_size(one, 97) == 10
    assert pool_size(many, 97) == 3
    with pytest.raises(typer.Exit):
        pool_size(many, 60)
