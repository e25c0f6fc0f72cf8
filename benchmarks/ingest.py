"""How fast preferences are taken in, each figure beside its own limit measured in the same run.

    python benchmarks/ingest.py [--seconds 8] [--lines 1000000] [--connections 64]

Real servers in processes of their own, load from another process, PostgreSQL as it comes (durable), one machine.

- `posts`: one preference a request, one after the other on each of 64 connections, to three servers that differ in one
  thing: `grouped` is the service, `without_write` acknowledges without the database, `one_row` commits each request by
  itself.
- `import`: an NDJSON file, every line with an id, by `psharelora import` through POST .../preferences/import, beside
  COPY of the same rows, committed: `copy_to_staging` into the staging table of an import, which has no index and is
  not durable, and `copy_to_stay` into a table like the one where preferences stay, with its indexes. And the memory of
  both processes.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import uvicorn
from fastapi import FastAPI

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.domain import Preference, Recorded
from app.main import create_app_from_environment
from app.store import Database, EmbeddedPostgres, migrate, record_preferences
from app.store.importing import COPY, STAGING
from benchmarks.load import loaded

ROOT = Path(__file__).parents[1]
KEY = "benchmark-bootstrap-key-0123456789"
ENVIRONMENT = "shop"
N_ITEMS = 1000
N_USERS = 10_000

LIKE_PREFERENCES = """
    CREATE TABLE bare (LIKE preferences INCLUDING ALL);
    ALTER TABLE bare ALTER environment_id SET DEFAULT 1;
"""

COLUMNS = (
    "id, user_key, chosen_key, rejected_key, context_key, chosen_steps, rejected_steps, label, weight, occurred_at, "
    "client_id"
)

Json = dict[str, Any]


# The servers


class WithoutWrite:
    """Acknowledges at once: what the route costs without its database write."""

    async def record(self, _name: str, batch: Sequence[Preference]) -> Recorded:
        return Recorded(accepted=len(batch), duplicates=0)


class OneRow:
    """A transaction a request, as many at once as there are connections in the pool."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def record(self, name: str, batch: Sequence[Preference]) -> Recorded:
        return await record_preferences(self._db, name, batch)


def application(variant: str) -> FastAPI:
    app = create_app_from_environment()
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with inner(app):
            services = app.state.services
            if variant == "without_write":
                app.state.services = replace(services, recorder=WithoutWrite())
            elif variant == "one_row":
                app.state.services = replace(services, recorder=OneRow(services.db))
            yield

    app.router.lifespan_context = lifespan
    return app


def serve(variant: str, port: int) -> None:
    uvicorn.run(application(variant), host="127.0.0.1", port=port, log_config=None, access_log=False)


@contextmanager
def server(variant: str, database: str, port: int) -> Iterator[httpx.Client]:
    settings = {"DATABASE_URL": database, "ADMIN_KEY": KEY, "LOG_LEVEL": "warning"}
    environment = {**os.environ, **{f"PSHARELORA_{name}": value for name, value in settings.items()}}
    child = subprocess.Popen([sys.executable, __file__, "--serve", variant, "--port", str(port)], env=environment)
    headers = {"Authorization": f"Bearer {KEY}", "X-Server": str(child.pid)}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=600, trust_env=False) as client:
            client.pid = child.pid
            wait_until_ready(client, child)
            yield client
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(30)


def wait_until_ready(client: httpx.Client, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert child.poll() is None, "the server ended by itself"
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server was not ready in time")


# The load


def requests() -> list[bytes]:
    rng = random.Random(0)
    return [request(preference(rng)) for _ in range(32_000)]


def preference(rng: random.Random) -> bytes:
    chosen, rejected = rng.sample(range(N_ITEMS), 2)
    said = {
        "user": f"user-{rng.randrange(N_USERS)}",
        "chosen": {"item": f"item-{chosen}"},
        "rejected": {"item": f"item-{rejected}"},
    }
    return json.dumps(said).encode()


def request(body: bytes) -> bytes:
    head = (
        f"POST /v1/environments/{ENVIRONMENT}/preferences HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# The measurements


def measure_import(database: str, n_lines: int, folder: Path) -> Json:
    file, rows = folder / "lines.ndjson", folder / "rows.copy"
    write_files(n_lines, file, rows)
    copied = {
        "copy_to_staging": copy_rate(database, n_lines, rows, STAGING, COPY),
        "copy_to_stay": copy_rate(
            database, n_lines, rows, LIKE_PREFERENCES, COPY.replace("incoming", f"bare ({COLUMNS})")
        ),
    }
    with server("grouped", database, 18_610) as client:
        define(client)
        before = memory(client)
        began = time.perf_counter()
        answer, importing = imported(client, file)
        took = time.perf_counter() - began
        after = memory(client)
    counts = {name: answer[name] for name in ("accepted", "duplicates", "rejected")}
    assert counts == {"accepted": n_lines, "duplicates": 0, "rejected": 0}, answer
    rate = n_lines / took
    return {
        "lines": n_lines,
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "lines_per_second": round(rate),
        **{f"{name}_rows_per_second": round(found) for name, found in copied.items()},
        **{f"ratio_to_{name}": round(rate / found, 3) for name, found in copied.items()},
        "server_megabytes_before": before[0],
        "server_megabytes_after": after[0],
        "server_megabytes_at_most": after[1],
        "client_megabytes_at_most": importing,
    }


def imported(client: httpx.Client, file: Path) -> tuple[Json, float]:
    """What `psharelora import` answers, and how much memory it took."""
    arguments = ["import", ENVIRONMENT, str(file), "--url", str(client.base_url), "--key", KEY, "--json"]
    command = subprocess.Popen([sys.executable, "-m", "app.cli", *arguments], stdout=subprocess.PIPE, cwd=ROOT)
    assert command.stdout is not None
    answer = json.loads(command.stdout.read())
    _, status, used = os.wait4(command.pid, 0)
    assert status == 0, answer
    return answer, round(used.ru_maxrss / 1024, 1)


def write_files(n_lines: int, file: Path, rows: Path) -> None:
    """The lines of an import, and the rows that COPY takes."""
    rng = random.Random(7)
    with file.open("wb") as lines, rows.open("w") as copied:
        for number in range(n_lines):
            user, chosen, rejected = rng.randrange(N_USERS), rng.randrange(N_ITEMS), rng.randrange(N_ITEMS - 1)
            rejected += rejected >= chosen
            lines.write(
                b'{"user":"user-%d","chosen":{"item":"item-%d"},"rejected":{"item":"item-%d"},"id":"line-%d"}\n'
                % (user, chosen, rejected, number)
            )
            copied.write(
                f"{number}\t{user + 1}\t{chosen + 1}\t{rejected + 1}\t\\N\t\\N\t\\N\t1.0\t1.0\t2026-05-01T00:00:00Z"
                f"\tline-{number}\n"
            )


def copy_rate(database: str, n_lines: int, rows: Path, table: str, copy: str) -> float:
    """Rows a second that COPY by itself puts into a new table."""
    with psycopg.connect(database) as connection:
        connection.execute(table)
        connection.commit()
        began = time.perf_counter()
        with rows.open("rb") as prepared, connection.cursor().copy(copy) as copying:
            while piece := prepared.read(1 << 20):
                copying.write(piece)
        connection.commit()
        took = time.perf_counter() - began
        connection.execute(f"DROP TABLE {copy.split()[1]}")
    return n_lines / took


def memory(client: httpx.Client) -> tuple[float, float]:
    """The server's resident megabytes, now and at most."""
    told = Path(f"/proc/{client.headers['X-Server']}/status").read_text()
    found = dict(line.split(":", 1) for line in told.splitlines())
    return tuple(round(int(found[name].split()[0]) / 1024, 1) for name in ("VmRSS", "VmHWM"))


def define(client: httpx.Client) -> None:
    client.put(f"/v1/environments/{ENVIRONMENT}", json={"kind": "catalog", "item_dim": 8}).raise_for_status()
    rng = np.random.default_rng(1)
    items = [{"id": f"item-{index}", "features": rng.normal(size=8).tolist()} for index in range(N_ITEMS)]
    client.put(f"/v1/environments/{ENVIRONMENT}/items", json={"items": items}).raise_for_status()


def measure_posts(database: str, seconds: float, n_connections: int) -> Json:
    found: Json = {}
    sent = requests()
    for number, variant in enumerate(("without_write", "grouped", "one_row")):
        port = 18_600 + number
        with server(variant, database, port) as client:
            define(client)
            loaded(port, sent, connections=n_connections, seconds=min(2.0, seconds))
            found[variant] = loaded(port, sent, connections=n_connections, seconds=seconds)
    rate = {variant: result["requests_per_second"] for variant, result in found.items()}
    return found | {
        "ratio_to_route_without_write": round(rate["grouped"] / rate["without_write"], 3),
        "ratio_to_one_row_a_transaction": round(rate["grouped"] / rate["one_row"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve")
    parser.add_argument("--port", type=int, default=18_600)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--lines", type=int, default=1_000_000)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.port)
    else:
        with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder, "data")) as database:
            migrate(database)
            found: Json = {}
            if given.seconds:
                found["posts"] = measure_posts(database, given.seconds, given.connections)
            if given.lines:
                found["import"] = measure_import(database, given.lines, Path(folder))
            print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
