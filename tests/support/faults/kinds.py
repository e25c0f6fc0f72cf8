"""What can go wrong, each as a deed: it is done, lasts a while, and is over when the function returns.

What a supervisor starts again counts as recovery, so a kill is over at once.
"""

import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.support.faults.installation import STALLED_SECONDS, Installation, wait_until
from tests.support.processes import api_processes, children, cpu_seconds, kill_family, signal_to

Deed = Callable[[Installation, random.Random], None]

WHILE_SECONDS = 3.0
"""How long what lasts a while lasts."""

STALL_SECONDS = 12.0
"""Longer than the service waits for a database that says nothing."""

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    words: str
    """As the table has it."""
    deed: Deed
    times: int
    kills_api: bool = False
    """Connections to the API break: clients may go without an answer."""
    hits_workers: bool = False
    """Each trial waits for a refit; of the others every fourth and the last one."""
    needs: str | None = None
    """`clock`, `small disk`: what not every machine has."""


def kill_one_api_process(installation: Installation, rng: random.Random) -> None:
    signal_to(rng.choice(api_processes(installation.api.pid)), signal.SIGKILL)


def kill_all_api_processes(installation: Installation, _rng: random.Random) -> None:
    """And those that take their place, while they start; their parent lives."""
    for _ in range(2):
        for pid in api_processes(installation.api.pid):
            signal_to(pid, signal.SIGKILL)
        time.sleep(1.0)


def kill_the_api(installation: Installation, _rng: random.Random) -> None:
    kill_family(installation.api.pid)


def kill_the_apis_parent(installation: Installation, _rng: random.Random) -> None:
    """Its processes are left behind, with the port that the next one needs."""
    signal_to(installation.api.pid, signal.SIGKILL)


def kill_the_workers(installation: Installation, rng: random.Random) -> None:
    for one in rng.sample(installation.workers, rng.choice([1, 2])):
        signal_to(one.pid, signal.SIGKILL)


def pause_a_worker(installation: Installation, rng: random.Random) -> None:
    """The one that does a refit, where one does, for longer than its lease; both of them try to publish then."""
    busy = _busy_worker(installation, rng)
    signal_to(busy, signal.SIGSTOP)
    time.sleep(STALLED_SECONDS * 2.5)
    signal_to(busy, signal.SIGCONT)


def kill_a_backend(installation: Installation, rng: random.Random) -> None:
    """PostgreSQL then ends all the others and recovers by itself."""
    leader = installation.postgres.leader
    backends = [] if leader is None else [pid for pid in children(leader) if is_backend(pid)]
    if backends:
        signal_to(rng.choice(backends), signal.SIGKILL)


def kill_postgresql(installation: Installation, _rng: random.Random) -> None:
    leader = installation.postgres.leader
    if leader is not None:
        kill_family(leader)


def kill_everything(installation: Installation, _rng: random.Random) -> None:
    with installation.unsupervised():
        kill_postgresql(installation, _rng)
        for one in (installation.api, *installation.workers):
            kill_family(one.pid)


def restart_postgresql(installation: Installation, rng: random.Random) -> None:
    leader = installation.postgres.leader
    if leader is None:
        return
    with installation.unsupervised():
        # A fast shutdown, or an immediate one.
        signal_to(leader, rng.choice([signal.SIGINT, signal.SIGQUIT]))
        wait_until(lambda: installation.postgres.leader is None)
        time.sleep(rng.uniform(0, WHILE_SECONDS))


def take_all_connections(installation: Installation, _rng: random.Random) -> None:
    """Others have all connections that PostgreSQL allows; the service's own are ended."""
    taken: list[psycopg.Connection[object]] = []
    end = time.monotonic() + WHILE_SECONDS
    try:
        while time.monotonic() < end:
            try:
                taken.append(psycopg.connect(installation.postgres.url, autocommit=True, connect_timeout=2))
            except psycopg.OperationalError:
                if taken:
                    _end_others(taken)
                time.sleep(0.02)
    finally:
        for one in taken:
            one.close()


def _end_others(taken: list[psycopg.Connection[object]]) -> None:
    with suppress(psycopg.Error):
        own = [one.info.backend_pid for one in taken]
        taken[0].execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> ALL(%s) LIMIT 5",
            [own],
        )


def make_postgresql_slow(installation: Installation, rng: random.Random) -> None:
    installation.network.slow_down(rng.uniform(0.1, 0.5))
    time.sleep(2 * WHILE_SECONDS)
    installation.network.heal()


def make_postgresql_read_only(installation: Installation, _rng: random.Random) -> None:
    _set(installation, "default_transaction_read_only = on")
    try:
        time.sleep(WHILE_SECONDS)
    finally:
        _set(installation, "default_transaction_read_only = off")


def _set(installation: Installation, setting: str) -> None:
    with psycopg.connect(installation.postgres.url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET {setting}".encode())
        connection.execute("SELECT pg_reload_conf()")


def fill_the_disk(installation: Installation, rng: random.Random) -> None:
    """To the last byte, while more is written; PostgreSQL may end over it."""
    ballast = Path(installation.postgres.cluster.parent, "ballast")
    end = time.monotonic() + rng.uniform(1, 2 * WHILE_SECONDS)
    try:
        with ballast.open("wb", buffering=0) as file:
            while time.monotonic() < end:
                with suppress(OSError):
                    while file.write(bytes(1 << 20)):
                        pass
                time.sleep(0.02)
    finally:
        ballast.unlink()


def cut_the_network(installation: Installation, rng: random.Random) -> None:
    installation.network.cut()
    time.sleep(rng.uniform(0, WHILE_SECONDS))
    installation.network.heal()


def stall_the_network(installation: Installation, _rng: random.Random) -> None:
    installation.network.stall()
    time.sleep(STALL_SECONDS)
    installation.network.heal()


def lose_all_connections(installation: Installation, _rng: random.Random) -> None:
    """As a firewall that forgets them: over at once, and nobody is told."""
    installation.network.lose()


def let_clocks_jump(installation: Installation, rng: random.Random) -> None:
    """Of some of API, worker and PostgreSQL, or of all, by an hour or a day, forwards or backwards, for good."""
    by = rng.choice([HOUR, -HOUR, 24 * HOUR, -24 * HOUR])
    names = sorted(installation.clocks)
    for name in rng.choice([names, [rng.choice(names)]]):
        installation.clocks[name].jump(by)
    time.sleep(WHILE_SECONDS)


FAULTS = (
    Fault("api-process", "`kill -9` of one of two API processes", kill_one_api_process, 20, kills_api=True),
    Fault("api-processes", "`kill -9` of all API processes, twice", kill_all_api_processes, 5, kills_api=True),
    Fault("api", "`kill -9` of the whole API", kill_the_api, 5, kills_api=True),
    Fault("api-parent", "`kill -9` of the API's parent process alone", kill_the_apis_parent, 5, kills_api=True),
    Fault("worker", "`kill -9` of one worker or of both", kill_the_workers, 20),
    Fault("worker-paused", "a worker paused for longer than its lease", pause_a_worker, 6, hits_workers=True),
    Fault("backend", "`kill -9` of one PostgreSQL backend", kill_a_backend, 15),
    Fault("postgresql", "`kill -9` of PostgreSQL", kill_postgresql, 20),
    Fault("everything", "`kill -9` of everything at once", kill_everything, 4, kills_api=True, hits_workers=True),
    Fault("restart", "PostgreSQL restarted", restart_postgresql, 5),
    Fault("connections", "PostgreSQL out of connections", take_all_connections, 5),
    Fault("slow", "PostgreSQL slow: 0.1 to 0.5 s a message", make_postgresql_slow, 5),
    Fault("read-only", "PostgreSQL read-only", make_postgresql_read_only, 5),
    Fault("disk-full", "PostgreSQL's disk full", fill_the_disk, 5, needs="small disk"),
    Fault("network-cut", "the network to PostgreSQL cut", cut_the_network, 5),
    Fault("network-stalled", f"the network to PostgreSQL silent for {STALL_SECONDS:g} s", stall_the_network, 4),
    Fault("network-lost", "all connections to PostgreSQL lost silently", lose_all_connections, 4),
    Fault("clock", "clocks jump by an hour or a day", let_clocks_jump, 10, hits_workers=True, needs="clock"),
)
BY_NAME: Mapping[str, Fault] = {fault.name: fault for fault in FAULTS}


def is_backend(pid: int) -> bool:
    """Of a client: its title says `user database address state`."""
    with suppress(OSError):
        return b"psharelora postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _busy_worker(installation: Installation, rng: random.Random) -> int:
    """Of the two, the one that uses more CPU for a moment."""
    before = {one.pid: _cpu(one.pid) for one in installation.workers}
    time.sleep(rng.uniform(0.05, 0.6))
    return max(before, key=lambda pid: _cpu(pid) - before[pid])


def _cpu(pid: int) -> float:
    """0 once it is gone."""
    with suppress(OSError):
        return cpu_seconds(pid)
    return 0.0
