"""What answering costs beside the framework: rewards, rankings, reading one's own feedback, and a refit meanwhile.

Claims, each against its own limit measured in the same run, with real servers and HTTP on this machine:

- `POST .../rewards` with 100 item ids has at least 70% of the throughput of a route of the same application that reads
  and returns the same bytes without looking at them, and at 70% load at most 3 times its 99th percentile;
- 10,000 times "post, then at once ask another process" with a consistency token, 10,000 answers rest on the post;
- a refit of 100,000 users in a worker on another core costs readers' 99th percentile at most a factor of 1.5;
- `POST .../rank` with `top_n` = 10 over 100,000 items at rank 8 takes at most 3 times one matrix-vector product and one
  partition of that size, in the library and over HTTP; a ranking of all 100,000 leaves the event loop to others;
- a server that finds a model of 1,000,000 users (rank 8, with covariances) is ready in seconds, and a second one of the
  same host maps what the first one copied.

Data: simulated (`tests/support/preference_worlds.py`), seeded. The server has one core, and the load, a process of its
own (`benchmarks/load.py`), the other; while a worker refits, it has the other core and the load shares the server's.
Prints JSON. `--data` keeps the database for another run.

    python benchmarks/serve.py [--data FOLDER] [--only rewards rank feedback refit startup]
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import uvloop
from fastapi import FastAPI, Request, Response

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.domain import CatalogEnvironment, Item, ItemOption, Preference, RefitPolicy
from app.learning import Comparisons, fit, prepare
from app.main import create_app_from_environment
from app.serving import ServingRuntime, reference_to_arrays
from app.store import (
    Current,
    Database,
    EmbeddedPostgres,
    NewModel,
    Notices,
    StoredAdapter,
    begin_refit,
    migrate,
    publish_model,
    put_environment,
    record_preferences,
    request_refit,
    upsert_items,
)
from benchmarks.load import loaded
from tests.support.commands import command_environment, free_port
from tests.support.preference_worlds import draw_world
from tests.support.processes import cpu_seconds, memory

ROOT = Path(__file__).parents[1]
KEY = "benchmark-bootstrap-key-0123456789"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, OTHER_CORE = CORES[0], CORES[-1]

ITEMS, DIM, RANK = 100_000, 64, 8
USERS, SAID = 2_000, 16
OPTIONS = 100
CROWD, CROWD_ITEMS, CROWD_DIM, CROWD_SAID = 100_000, 2_000, 16, 6
MILLION = 1_000_000

NEEDED = {"refit": ("ready", "crowd"), "startup": ("million",)}
"""What a measurement finds in the database, where it is not the usual."""

NEVER = RefitPolicy(every_seconds=1e9, min_new_preferences=10**9)


def application() -> FastAPI:
    """The service, with a route more, which comes first."""
    app = create_app_from_environment()

    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")

    app.add_api_route("/v1/echo", echo, methods=["POST"], include_in_schema=False)
    app.router.routes.insert(0, app.router.routes.pop())
    return app


def main() -> None:
    options = _options()
    needed = {one for part in options.only for one in NEEDED.get(part, ("ready",))}
    folder = Path(options.data or tempfile.mkdtemp(prefix="psharelora-serve-"))
    with EmbeddedPostgres(folder) as url:
        migrate(url)
        for name, fill in (("ready", _fill), ("crowd", _fill_crowd), ("million", _fill_million)):
            if name in needed and not (folder / name).exists():
                asyncio.run(fill(url))
                (folder / name).touch()
        found: dict[str, Any] = {
            "machine": {"processor": platform.processor() or platform.machine(), "cores": len(CORES)},
            "versions": {"python": platform.python_version(), "numpy": np.__version__},
            "size": {"items": ITEMS, "item_dim": DIM, "rank": RANK, "users": USERS, "options": OPTIONS},
        }
        measures = {"rewards": _rewards, "rank": _rank, "feedback": _feedback, "refit": _refit, "startup": _startup}
        for name in options.only:
            found[name] = measures[name](url, folder, options)
            print(f"{name}: {json.dumps(found[name])}", file=sys.stderr)
    print(json.dumps(found, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the database, kept")
    parser.add_argument("--only", nargs="+", default=["rewards", "rank", "feedback", "refit", "startup"])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of throughput, in turn")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--trials", type=int, default=10_000)
    return parser.parse_args()


# Set-up ---------------------------------------------------------------------------------------------------------------


async def _fill(url: str) -> None:
    prepare()
    db = Database(url, pool_size=4)
    rng = np.random.default_rng(0)
    world = draw_world(rng, users=USERS, items=ITEMS, dim=DIM, rank=RANK, appeal=0.3)
    await put_environment(db, CatalogEnvironment("bench", item_dim=DIM, rank=RANK, refit=NEVER))
    for begin in range(0, ITEMS, 5_000):
        rows = range(begin, begin + 5_000)
        await upsert_items(db, "bench", [Item(f"item-{row}", world.X[row].astype(np.float32)) for row in rows])
    score = world.X @ world.theta_0
    pairs = rng.integers(ITEMS, size=(USERS * SAID, 2))
    pairs[pairs[:, 0] == pairs[:, 1], 1] = 0
    user = np.repeat(np.arange(USERS), SAID)
    eta = np.einsum("nd,nd->n", world.X[pairs[:, 0]] - world.X[pairs[:, 1]], (world.B @ world.W[user].T).T)
    eta += score[pairs[:, 0]] - score[pairs[:, 1]]
    swapped = rng.random(len(eta)) > 1 / (1 + np.exp(-eta))
    pairs[swapped] = pairs[swapped][:, ::-1]
    said = [
        Preference(f"user-{who}", ItemOption(f"item-{a}"), ItemOption(f"item-{b}"))
        for who, (a, b) in zip(user.tolist(), pairs.tolist(), strict=True)
    ]
    for begin in range(0, len(said), 1_000):
        await record_preferences(db, "bench", said[begin : begin + 1_000])
    used, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(-1, 2)
    comparisons = Comparisons.from_pairs(
        world.X[used].astype(np.float32).astype(np.float64), places[:, 0], places[:, 1], user=user, n_users=USERS
    )
    model = fit(comparisons, rank=RANK, rng=np.random.default_rng(1), calibrate=False)
    reference = model.mean_item(world.X.astype(np.float32).astype(np.float64))
    refit, _ = await request_refit(db, "bench")
    attempt = await begin_refit(db, refit.id)
    new = NewModel(
        rank=model.rank,
        estimator=model.estimator,
        n_preferences=len(said),
        arrays={**model.to_arrays(), **reference_to_arrays(reference)},
        adapters={f"user-{who}": StoredAdapter(model.adapter(who).to_arrays(), SAID) for who in range(USERS)},
    )
    await publish_model(db, "bench", refit.id, attempt, new, publish=True, reason="benchmark")
    await db.dispose()


async def _fill_crowd(url: str) -> None:
    db, rng = Database(url, pool_size=2), np.random.default_rng(0)
    await put_environment(db, CatalogEnvironment("crowd", item_dim=CROWD_DIM, rank=4, refit=NEVER))
    features = rng.standard_normal((CROWD_ITEMS, CROWD_DIM)).astype(np.float32)
    for begin in range(0, CROWD_ITEMS, 1_000):
        rows = range(begin, begin + 1_000)
        await upsert_items(db, "crowd", [Item(f"item-{row}", features[row]) for row in rows])
    _write_crowd(url, rng, features)
    await db.dispose()


async def _fill_million(url: str) -> None:
    """One fitted model, whose adapter everybody has: written by SQL, as nobody looks at what it says."""
    db, rng = Database(url, pool_size=2), np.random.default_rng(4)
    world = draw_world(rng, users=20, items=1_000, dim=CROWD_DIM, rank=RANK, appeal=0.3)
    await put_environment(db, CatalogEnvironment("million", item_dim=CROWD_DIM, rank=RANK, refit=NEVER))
    await upsert_items(db, "million", [Item(f"item-{row}", world.X[row].astype(np.float32)) for row in range(1_000)])
    pairs = rng.permuted(np.tile(np.arange(1_000), (400, 1)), axis=1)[:, :2]
    comparisons = Comparisons.from_pairs(world.X, *pairs.T, user=np.arange(400) % 20, n_users=20)
    model = fit(comparisons, rank=RANK, rng=rng, calibrate=False)
    said = Preference("user-1", ItemOption("item-1"), ItemOption("item-2"))
    await record_preferences(db, "million", [said])
    refit, _ = await request_refit(db, "million")
    attempt = await begin_refit(db, refit.id)
    new = NewModel(
        rank=model.rank,
        estimator=model.estimator,
        n_preferences=1,
        arrays={**model.to_arrays(), **reference_to_arrays(model.mean_item(world.X))},
        adapters={"user-1": StoredAdapter(model.adapter(1).to_arrays(), 1)},
    )
    await publish_model(db, "million", refit.id, attempt, new, publish=True, reason="benchmark")
    await db.dispose()
    with psycopg.connect(url) as connection:
        (key,) = connection.execute("SELECT id FROM environments WHERE name = 'million'").fetchone() or (0,)
        connection.execute(
            "INSERT INTO users (environment_id, user_id, feedback_count) "
            "SELECT %s, 'user-' || number, 1 FROM generate_series(2, %s) AS number",
            [key, MILLION],
        )
        connection.execute(
            "INSERT INTO adapters (environment_id, user_key, version, feedback_count, data) "
            "SELECT environment_id, users.id, version, 1, data FROM users JOIN adapters USING (environment_id) "
            "WHERE environment_id = %s AND user_id <> 'user-1'",
            [key],
        )
        connection.execute("UPDATE models SET n_users = %s WHERE environment_id = %s", [MILLION, key])


def _write_crowd(url: str, rng: np.random.Generator, features: "np.ndarray[Any, Any]") -> None:
    """Written by SQL: how preferences get into the store is measured elsewhere."""
    n = CROWD * CROWD_SAID
    user = np.repeat(np.arange(CROWD), CROWD_SAID)
    pairs = rng.integers(CROWD_ITEMS, size=(n, 2))
    pairs[pairs[:, 0] == pairs[:, 1]] = [0, 1]
    W = rng.standard_normal((CROWD, 4)) @ rng.standard_normal((4, CROWD_DIM)) / 2
    eta = np.einsum("nd,nd->n", features[pairs[:, 0]] - features[pairs[:, 1]], W[user])
    swapped = rng.random(n) > 1 / (1 + np.exp(-eta))
    pairs[swapped] = pairs[swapped][:, ::-1]
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        key = cursor.execute("SELECT id FROM environments WHERE name = 'crowd'").fetchone()[0]  # type: ignore[index]
        rows = cursor.execute("SELECT item_id, id FROM items WHERE environment_id = %s", [key]).fetchall()
        items = dict(rows)
        place = np.array([items[f"item-{row}"] for row in range(CROWD_ITEMS)])
        with cursor.copy("COPY users (environment_id, user_id, feedback_count) FROM STDIN") as copy:
            for who in range(CROWD):
                copy.write_row((key, f"user-{who}", CROWD_SAID))
        found = cursor.execute("SELECT user_id, id FROM users WHERE environment_id = %s", [key]).fetchall()
        keys = {int(name.removeprefix("user-")): number for name, number in found}
        columns = "environment_id, user_key, chosen_key, rejected_key, label, weight, occurred_at"
        with cursor.copy(f"COPY preferences ({columns}) FROM STDIN") as copy:
            for who, (a, b) in zip(user.tolist(), place[pairs].tolist(), strict=True):
                copy.write_row((key, keys[who], a, b, 1.0, 1.0, "2026-05-01T00:00:00Z"))
        cursor.execute("UPDATE environments SET preference_count = %s WHERE id = %s", [n, key])


# Processes ------------------------------------------------------------------------------------------------------------


@contextmanager
def _process(command: list[str], core: int, url: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    common = {"PSHARELORA_DATABASE_URL": url, "PSHARELORA_ADMIN_KEY": KEY, "PSHARELORA_LOG_LEVEL": "warning"}
    environment = command_environment({**common, **settings})
    child = subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-m", *command], env=environment, cwd=ROOT)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


@contextmanager
def _server(url: str, folder: Path, core: int) -> Iterator[int]:
    with _starting(url, folder, core) as (port, child):
        _wait_until_ready(port, child)
        _first_answer(port, "bench")
        yield port


@contextmanager
def _starting(url: str, folder: Path, core: int, **settings: str) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    port = free_port()
    command = ["uvicorn", "--factory", "benchmarks.serve:application", "--port", str(port), "--no-access-log"]
    with _process(command, core, url, PSHARELORA_DATA_DIR=str(folder), **settings) as child:
        yield port, child


def _wait_until_ready(port: int, child: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert child.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)


def _first_answer(port: int, environment: str, user: str = "user-0") -> None:
    first = httpx.post(
        f"http://127.0.0.1:{port}/v1/environments/{environment}/users/{user}/rank",
        json={"top_n": 1},
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=120,
        trust_env=False,
    )
    assert first.status_code == 200, first.text


def _load(
    port: int, requests: list[bytes], options: argparse.Namespace, *, rate: float | None = None, core: int = OTHER_CORE
) -> dict[str, Any]:
    connections = options.connections if rate is None else 2 * options.connections
    found = loaded(port, requests, connections=connections, seconds=options.seconds, rate=rate, core=core)
    assert not found["failures"], found
    return found


def _warm(port: int, requests: list[bytes]) -> None:
    """Each once: what is measured is a server that has met its users."""

    async def send() -> None:
        connection = await asyncio.open_connection("127.0.0.1", port)
        for request in requests:
            await _exchange(connection, request)

    uvloop.run(send())


def _request(path: str, body: Any, **headers: str) -> bytes:
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def _reward_bodies(n: int) -> list[tuple[str, Any]]:
    rng = np.random.default_rng(2)
    return [
        (
            f"user-{rng.integers(USERS)}",
            {"options": [{"item": f"item-{row}"} for row in rng.integers(ITEMS, size=OPTIONS).tolist()]},
        )
        for _ in range(n)
    ]


# Measurements ---------------------------------------------------------------------------------------------------------


def _rewards(url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    bodies = _reward_bodies(1_000)
    calls = {
        "echo": [_request("/v1/echo", body) for _, body in bodies],
        "rewards": [_request(f"/v1/environments/bench/users/{user}/rewards", body) for user, body in bodies],
    }
    with _starting(url, folder, SERVER_CORE) as (port, child):
        _wait_until_ready(port, child)
        for requests in calls.values():
            _warm(port, requests)

        def load(name: str) -> dict[str, Any]:
            before = cpu_seconds(child.pid)
            found = _load(port, calls[name], options)
            each = (cpu_seconds(child.pid) - before) / found["sent"]
            return {**found, "server_cpu_us_per_request": round(1e6 * each, 1)}

        rounds = [{name: load(name) for name in calls} for _ in range(options.rounds)]
        speed = {name: statistics.median(one[name]["requests_per_second"] for one in rounds) for name in calls}
        cpu = {name: statistics.median(one[name]["server_cpu_us_per_request"] for one in rounds) for name in calls}
        loaded = [
            {name: _load(port, requests, options, rate=0.7 * speed[name]) for name, requests in calls.items()}
            for _ in range(options.rounds)
        ]
    p99 = {name: statistics.median(one[name]["p99_ms"] for one in loaded) for name in calls}
    return {
        "throughput": rounds,
        "at_70_percent_load": loaded,
        "requests_per_second": speed,
        "p99_ms_at_70_percent_load": p99,
        "server_cpu_us_per_request": cpu,
        "throughput_ratio": round(speed["rewards"] / speed["echo"], 3),
        "cpu_ratio": round(cpu["echo"] / cpu["rewards"], 3),
        "p99_ratio": round(p99["rewards"] / p99["echo"], 3),
        "limits": {"throughput_ratio": ">= 0.7", "p99_ratio": "<= 3"},
    }


def _rank(url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    requests = [_request(f"/v1/environments/bench/users/user-{who}/rank", {"top_n": 10}) for who in range(200)]
    alone = argparse.Namespace(**{**vars(options), "connections": 1})
    with _server(url, folder, SERVER_CORE) as port:
        _warm(port, requests)
        found = _load(port, requests, alone)
        delays = uvloop.run(_beside_a_whole_ranking(port))
    bare, library = _bare_ranking(), uvloop.run(_library_ranking(url, folder))
    return {
        "over_http": found,
        "in_the_library_ms": library,
        "bare_product_and_partition_ms": bare,
        "library_ratio": round(library / bare, 3),
        "ratio": round(found["p50_ms"] / bare, 3),
        "healthz_beside_rankings_of_everything": delays,
        "limits": {"library_ratio": "<= 3", "ratio": "<= 3"},
    }


async def _library_ranking(url: str, folder: Path) -> float:
    """Milliseconds, on the server's core; the median."""
    db = Database(url, pool_size=2)
    notices = Notices(url)
    await notices.start()
    runtime = ServingRuntime(db, Current(db, notices), cache_dir=folder / "cache")
    users = [f"user-{who}" for who in range(200)]
    for user in users:
        await runtime.item_ranking("bench", user, top_n=10)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    taken = []
    for user in users:
        begun = time.perf_counter()
        await runtime.item_ranking("bench", user, top_n=10)
        taken.append(time.perf_counter() - begun)
    os.sched_setaffinity(0, before)
    await runtime.aclose()
    await notices.aclose()
    await db.dispose()
    return round(1e3 * statistics.median(taken), 3)


async def _beside_a_whole_ranking(port: int) -> dict[str, Any]:
    """How long the simplest call waits while one client has the whole catalogue ranked, without end."""
    whole = _request("/v1/environments/bench/users/user-1/rank", {})
    health = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    ranking, asking = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    begun, taken, rankings = time.perf_counter(), [], 0

    async def rank() -> None:
        nonlocal rankings
        while time.perf_counter() < begun + 5:
            ranking[1].write(whole)
            head = await ranking[0].readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await ranking[0].readexactly(length)
            rankings += 1

    async def ask() -> None:
        while time.perf_counter() < begun + 5:
            sent = time.perf_counter()
            await _exchange(asking, health)
            taken.append(time.perf_counter() - sent)
            await asyncio.sleep(0.005)

    await asyncio.gather(rank(), ask())
    return {"rankings": rankings, **_percentiles(sorted(taken)), "longest_ms": round(1e3 * max(taken), 3)}


def _bare_ranking() -> float:
    """Milliseconds, on the server's core; the median."""
    rng = np.random.default_rng(3)
    table, taste = rng.standard_normal((ITEMS, RANK)), rng.standard_normal((200, RANK))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    taken = []
    for one in taste:
        begun = time.perf_counter()
        np.argpartition(-(table @ one), 10)[:10]
        taken.append(time.perf_counter() - begun)
    os.sched_setaffinity(0, before)
    return round(1e3 * statistics.median(taken), 3)


def _feedback(url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    with _server(url, folder, SERVER_CORE) as first, _server(url, folder, OTHER_CORE) as second:
        with_token = uvloop.run(_trials(first, second, options.trials, with_token=True))
        without = uvloop.run(_trials(first, second, options.trials // 5, with_token=False))
    return {"with_token": with_token, "without_token": without, "limits": {"with_token": "all of them see the post"}}


async def _trials(first: int, second: int, trials: int, *, with_token: bool) -> dict[str, Any]:
    """Each of eight users' sides: post to one process, ask the other at once."""
    sides = 8
    found = await asyncio.gather(
        *(_side(first, second, f"trial-{side}-{time.time_ns()}", trials // sides, with_token) for side in range(sides))
    )
    seen = sum(one[0] for one in found)
    asked = sorted(taken for one in found for taken in one[1])
    posted = sorted(taken for one in found for taken in one[2])
    until = sorted(taken for one in found for taken in one[3])
    return {
        "trials": sides * (trials // sides),
        "saw_the_post": seen,
        "ask": _percentiles(asked),
        "post": _percentiles(posted),
        "from_acknowledgement_to_seen": _percentiles(until),
    }


async def _side(
    first: int,
    second: int,
    name: str,
    trials: int,
    with_token: bool,  # noqa: FBT001
) -> tuple[int, list[float], list[float], list[float]]:
    write, read = (
        await asyncio.open_connection("127.0.0.1", first),
        await asyncio.open_connection("127.0.0.1", second),
    )
    rng = np.random.default_rng(abs(hash(name)) % 2**32)
    seen, asked, posted, until = 0, [], [], []
    counts: dict[str, int] = {}
    for trial in range(trials):
        user = f"{name}-{trial % 50}"
        a, b = rng.choice(ITEMS, size=2, replace=False)
        body = {"user": user, "chosen": {"item": f"item-{a}"}, "rejected": {"item": f"item-{b}"}}
        begun = time.perf_counter()
        headers, _ = await _exchange(write, _request("/v1/environments/bench/preferences", body))
        acknowledged = time.perf_counter()
        posted.append(acknowledged - begun)
        counts[user] = counts.get(user, 0) + 1
        token = {"Consistency_Token": headers["consistency-token"]} if with_token else {}
        ask = _request(f"/v1/environments/bench/users/{user}/rewards", {"options": [{"item": "item-1"}]}, **token)
        _, answer = await _exchange(read, ask)
        asked.append(time.perf_counter() - acknowledged)
        seen += answer["feedback_seen"] == counts[user]
        while answer["feedback_seen"] != counts[user]:
            _, answer = await _exchange(read, ask)
        until.append(time.perf_counter() - acknowledged)
    return seen, asked, posted, until


async def _exchange(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes
) -> tuple[dict[str, str], Any]:
    reader, writer = connection
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
    content = json.loads(await reader.readexactly(int(headers["content-length"])))
    assert head[0].split(" ")[1] in {"200", "201"}, content
    return headers, content


def _percentiles(ordered: list[float]) -> dict[str, float]:
    return {
        "p50_ms": round(1e3 * ordered[len(ordered) // 2], 3),
        "p99_ms": round(1e3 * ordered[int(0.99 * len(ordered))], 3),
    }


def _refit(url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    bodies = _reward_bodies(1_000)
    requests = [_request(f"/v1/environments/bench/users/{user}/rewards", body) for user, body in bodies]
    with _server(url, folder, SERVER_CORE) as port:
        api = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False, timeout=60
        )
        _warm(port, requests)
        rate = 0.3 * _load(port, requests, options, core=SERVER_CORE)["requests_per_second"]
        quiet, busy = [], []
        quiet.append(_load(port, requests, options, rate=rate, core=SERVER_CORE))
        with _process(["app.cli", "worker"], OTHER_CORE, url, PSHARELORA_DATA_DIR=str(folder)):
            location = api.post("/v1/admin/environments/crowd/retrain").headers["location"]
            while api.get(location).json()["phase"] in {"waiting", "loading"}:
                time.sleep(0.2)
            while len(busy) < options.rounds and api.get(location).json()["state"] == "running":
                busy.append(_load(port, requests, options, rate=rate, core=SERVER_CORE))
            state = api.get(location).json()
            api.post(f"{location}/cancel")
            while api.get(location).json()["state"] in {"queued", "running"}:
                time.sleep(0.2)
        quiet += [_load(port, requests, options, rate=rate, core=SERVER_CORE) for _ in range(options.rounds - 1)]
    p99 = {
        name: statistics.median(one["p99_ms"] for one in all_) for name, all_ in (("without", quiet), ("with", busy))
    }
    return {
        "users_of_the_refit": CROWD,
        "phase_at_the_end": state["phase"],
        "progress_at_the_end": state["progress"],
        "rate": round(rate, 1),
        "without_refit": quiet,
        "with_refit": busy,
        "p99_ms": p99,
        "p99_ratio": round(p99["with"] / p99["without"], 3),
        "limits": {"p99_ratio": "<= 1.5"},
    }


def _startup(url: str, _: Path, _options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="psharelora-startup-") as name:
        folder, cache = Path(name), Path(name) / "cache"
        with _starting(url, folder, SERVER_CORE, PSHARELORA_CACHE_DIR=str(cache)) as (port, child):
            first = _observed(port, child, cache)
            with _starting(url, folder, OTHER_CORE, PSHARELORA_CACHE_DIR=str(cache)) as (other_port, other):
                second = _observed(other_port, other, cache)
                first["memory_beside_the_second"] = _memory(child.pid)
    return {"users": MILLION, "nothing_copied_yet": first, "second_process": second}


def _observed(port: int, child: "subprocess.Popen[bytes]", cache: Path) -> dict[str, Any]:
    begun = time.perf_counter()
    _wait_until_ready(port, child)
    ready, used = time.perf_counter(), cpu_seconds(child.pid)
    _first_answer(port, "million", "user-77")
    answered = time.perf_counter()
    while not [path for path in cache.glob("adapters-*") if path.is_dir()]:
        time.sleep(0.1)
    copied = time.perf_counter()
    time.sleep(1)
    for who in range(100):
        _first_answer(port, "million", f"user-{1 + who * 9_973}")
    return {
        "seconds_to_ready": round(ready - begun, 2),
        "cpu_seconds_to_ready": round(used, 2),
        "seconds_to_first_answer": round(answered - begun, 2),
        "seconds_until_mapped": round(copied - begun, 2),
        "memory": _memory(child.pid),
    }


def _memory(pid: int) -> dict[str, int]:
    """Megabytes: what the process touches, and its share of that where it is mapped by several."""
    found = memory(pid)
    return {"rss_mb": int(found["Rss"]), "pss_mb": int(found["Pss"]), "its_own_mb": int(found["Anonymous"])}


if __name__ == "__main__":
    main()
