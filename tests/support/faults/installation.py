"""A whole installation of real processes that can be hurt: PostgreSQL, API processes, workers, a network between them.

A supervisor starts again what has ended, as a container's restart policy or an init system does; nobody else helps.
"""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from app.domain import StoreUnavailableError
from app.store import EmbeddedPostgres
from app.store.embedded import postmaster
from tests.support.api import ADMIN_KEY, is_ready
from tests.support.commands import command_environment, command_line, free_port
from tests.support.faults.clock import Clock
from tests.support.faults.proxy import Network
from tests.support.processes import children, kill_family, signal_to

STALLED_SECONDS = 3.0
"""A worker's lease here."""

START_SECONDS = 600.0

WATCH_SECONDS = 0.1
"""How soon the supervisor notices an end."""

SERVER_SETTINGS = {
    "max_connections": "40",
    "shared_buffers": "32MB",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "wal_recycle": "off",
    "log_checkpoints": "off",
}


@contextmanager
def installed(*, disk_megabytes: int | None = None) -> Iterator["Installation"]:
    """One that runs, in a folder of its own; with a size, PostgreSQL's data has a disk of its own, that can be full.

    Whoever is told to end in between (SIGTERM) leaves no process behind.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="psharelora-faults-") as name, ExitStack() as stack:
        folder = disk = Path(name)
        # Whom PostgreSQL runs as must be able to reach it.
        folder.chmod(0o755)
        if disk_megabytes is not None:
            disk = stack.enter_context(small_disk(folder / "disk", disk_megabytes))
        yield stack.enter_context(Installation(folder, data=disk / "data").running())


class Service:
    """A command of the project that is started again when it ends."""

    def __init__(self, folder: Path, name: str, *arguments: str, **settings: str) -> None:
        self.name = name
        self._folder = folder
        self._arguments = arguments
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it has said, in all its lives."""
        return self._folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                command_line(self._arguments),
                cwd=self._folder,
                env=command_environment(self._settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def keep_up(self) -> None:
        if self._child is None or self._child.poll() is not None:
            self.start()

    def stop(self) -> None:
        """In good order, and if that takes too long, not."""
        if self._child is None or self._child.poll() is not None:
            return
        for one in (self.pid, *children(self.pid)):
            signal_to(one, signal.SIGCONT)
        self._child.terminate()
        try:
            self._child.wait(20)
        except subprocess.TimeoutExpired:
            kill_family(self.pid)
            self._child.wait()


class Postgres:
    """A PostgreSQL server that is started again when it ends."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.cluster = folder.resolve() / "postgres"
        self._clock = clock
        self._server = EmbeddedPostgres(folder, settings=SERVER_SETTINGS)
        self.url = ""

    @property
    def socket(self) -> Path:
        return (self.cluster.parent / "postgres.socket").resolve() / ".s.PGSQL.5432"

    @property
    def leader(self) -> int | None:
        return postmaster(self.cluster)

    def keep_up(self) -> None:
        if self.leader is not None:
            return
        with suppress(StoreUnavailableError), _surroundings(self._clock.settings):
            self.url = self._server.acquire()

    def stop(self) -> None:
        self._server.release()


class Installation:
    """What the service consists of; everything speaks to PostgreSQL through `network`."""

    def __init__(self, folder: Path, *, data: Path, api_processes: int = 2) -> None:
        self.clocks = {name: Clock(folder, name) for name in ("postgres", "api", "worker")}
        self.postgres = Postgres(data, self.clocks["postgres"])
        self.postgres.keep_up()
        assert self.postgres.url, "PostgreSQL does not start"
        self.network = Network(self.postgres.socket)
        self._folder = folder
        self._api_processes = api_processes
        self._supervised = threading.Lock()
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator["Installation"]:
        with ExitStack() as stack:
            stack.callback(self.postgres.stop)
            stack.enter_context(self.network.connecting())
            port = free_port()
            self.api_url = f"http://127.0.0.1:{port}"
            settings = {
                "PSHARELORA_DATABASE_URL": f"postgresql://psharelora@127.0.0.1:{self.network.port}/postgres",
                "PSHARELORA_ADMIN_KEY": ADMIN_KEY,
                "PSHARELORA_LOG_LEVEL": "warning",
                "PSHARELORA_STALLED_SECONDS": str(STALLED_SECONDS),
                "OPENBLAS_NUM_THREADS": "1",
            }
            serve = ("serve", "--port", str(port), "--workers", str(self._api_processes))
            self.api = Service(self._folder, "api", *serve, **settings, **self.clocks["api"].settings)
            self.workers = [
                Service(self._folder, f"worker-{n}", "worker", **settings, **self.clocks["worker"].settings)
                for n in (1, 2)
            ]
            for one in (self.api, *self.workers):
                stack.callback(one.stop)
            watch = threading.Thread(target=self._supervise)
            watch.start()
            stack.callback(watch.join)
            stack.callback(self._ended.set)
            wait_until(lambda: is_ready(self.api_url), every=0.2)
            yield self

    @contextmanager
    def unsupervised(self) -> Iterator[None]:
        """Nothing is started again meanwhile."""
        with self._supervised:
            yield

    def _supervise(self) -> None:
        while not self._ended.wait(WATCH_SECONDS):
            with self._supervised:
                self.postgres.keep_up()
                for one in (self.api, *self.workers):
                    one.keep_up()


def wait_until(condition: Callable[[], bool], *, seconds: float = START_SECONDS, every: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true in {seconds:g} seconds"
        time.sleep(every)


@contextmanager
def _surroundings(settings: dict[str, str]) -> Iterator[None]:
    """Environment variables for what is started meanwhile."""
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own that can be full; who may not mount one gets a PermissionError."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        raise PermissionError(mounted.stderr.decode().strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
