"""The embedded server: shared by processes, and durable whatever is killed."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from app.domain import Preference, StoreUnavailableError
from app.store import (
    Database,
    EmbeddedPostgres,
    export_user,
    list_environments,
    migrate,
    put_environment,
    record_preferences,
)
from app.store.embedded import _private_place, postmaster
from tests.support.builders import mdp, walks

_MEMBER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from app.store import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


class Member:
    """Another process that uses the server of a directory."""

    def __init__(self, data_dir: Path) -> None:
        checkout = str(Path(__file__).parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _MEMBER, str(data_dir), checkout],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate("", timeout=30)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def ask(url: str, question: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return row[0]


def kill_server(url: str, data_dir: Path) -> None:
    """kill -9 of the postmaster and of every child it has, at once."""
    leader = postmaster(data_dir / "postgres")
    assert leader is not None
    with psycopg.connect(url) as connection:
        children = [row[0] for row in connection.execute("SELECT pid FROM pg_stat_activity")]
    for pid in (leader, *children):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until_stopped(data_dir: Path) -> None:
    deadline = time.monotonic() + 20
    while postmaster(data_dir / "postgres") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_default_server_is_durable_and_private(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as url:
        assert [ask(url, f"SHOW {name}") for name in ("data_checksums", "fsync", "synchronous_commit")] == ["on"] * 3
        assert ask(url, "SHOW listen_addresses") == ""
        assert (tmp_path / "postgres").stat().st_mode & 0o077 == 0
    assert postmaster(tmp_path / "postgres") is None


def test_what_was_written_is_there_the_next_time(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    with server as url, psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    with server as url:
        assert ask(url, "SELECT n FROM kept") == 7


def test_a_path_too_long_for_a_socket_works(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 80) / ("e" * 80)
    for _ in range(2):
        with EmbeddedPostgres(long) as url:
            assert ask(url, "SELECT 1") == 1
            assert len(url) < 160


def test_a_path_with_odd_characters_works(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / 'it\'s 100% "böse" + more') as url:
        assert ask(url, "SELECT 1") == 1


def test_the_last_to_leave_stops_the_server(tmp_path: Path) -> None:
    first, second = Member(tmp_path), Member(tmp_path)
    assert first.url == second.url != ""
    first.leave()
    assert postmaster(tmp_path / "postgres") is not None
    with EmbeddedPostgres(tmp_path) as url:
        second.leave()
        assert ask(url, "SELECT 1") == 1
    assert postmaster(tmp_path / "postgres") is None


def test_a_killed_member_disturbs_nobody(tmp_path: Path) -> None:
    """The one that started the server is killed; the other goes on, and stops the server when it leaves."""
    starter = Member(tmp_path)
    assert starter.url
    other = Member(tmp_path)
    url = other.url
    starter.kill()
    assert ask(url, "SELECT 1") == 1
    other.leave()
    assert postmaster(tmp_path / "postgres") is None


def test_a_server_that_outlived_its_members_is_joined(tmp_path: Path) -> None:
    lonely = Member(tmp_path)
    url = lonely.url
    before = ask(url, "SELECT pg_postmaster_start_time()")
    lonely.kill()
    with EmbeddedPostgres(tmp_path) as joined:
        assert ask(joined, "SELECT pg_postmaster_start_time()") == before
    assert postmaster(tmp_path / "postgres") is None


def test_members_that_start_at_once_share_one_server(tmp_path: Path) -> None:
    members = [Member(tmp_path) for _ in range(3)]
    started = {ask(member.url, "SELECT pg_postmaster_start_time()") for member in members}
    assert len(started) == 1
    for member in members:
        member.leave()
    assert postmaster(tmp_path / "postgres") is None


def test_every_acknowledged_preference_survives_kill_9(tmp_path: Path) -> None:
    """The server is killed while eight writers record; all that was acknowledged is served, and nothing by halves."""
    server = EmbeddedPostgres(tmp_path)
    url = server.acquire()
    migrate(url)

    def say(writer: int, index: int) -> Preference:
        return walks(f"user-{writer}", "000", "111", id=f"{writer}-{index}")

    async def write(db: Database, writer: int, acknowledged: set[str], enough: asyncio.Barrier) -> None:
        with suppress(StoreUnavailableError):
            for index in range(0, 10_000, 2):
                batch = [say(writer, index), say(writer, index + 1)]
                await record_preferences(db, "place", batch)
                acknowledged |= {each.id for each in batch if each.id}
                if index == 18:
                    await enough.wait()

    async def scenario() -> None:
        db = Database(url, pool_size=10)
        await put_environment(db, mdp("place"))
        enough = asyncio.Barrier(9)
        acknowledged: list[set[str]] = [set() for _ in range(8)]
        writers = asyncio.gather(*(write(db, writer, acknowledged[writer], enough) for writer in range(8)))
        await enough.wait()
        await asyncio.to_thread(kill_server, url, tmp_path)
        await writers
        assert await asyncio.to_thread(server.acquire) == url
        (summary,) = await list_environments(db)
        total = 0
        for writer in range(8):
            stored = {each["id"] for each in await export_user(db, "place", f"user-{writer}")}
            assert acknowledged[writer] <= stored
            assert len(stored - acknowledged[writer]) in {0, 2}
            total += len(stored)
            again = await record_preferences(db, "place", [say(writer, index) for index in range(20)])
            assert (again.accepted, again.duplicates) == (0, 20)
        assert summary.n_preferences == total
        await db.dispose()

    asyncio.run(scenario())
    server.release()
    assert postmaster(tmp_path / "postgres") is None


def test_a_pid_file_left_over_does_not_matter(tmp_path: Path) -> None:
    """After a crash of the machine, its number may be anybody's: here it is this very process."""
    with EmbeddedPostgres(tmp_path) as url:
        left_over = (tmp_path / "postgres" / "postmaster.pid").read_text()
        kill_server(url, tmp_path)
        wait_until_stopped(tmp_path)
    _, *rest = left_over.splitlines(keepends=True)
    (tmp_path / "postgres" / "postmaster.pid").write_text("".join([f"{os.getpid()}\n", *rest]))
    with EmbeddedPostgres(tmp_path) as url:
        assert ask(url, "SELECT 1") == 1


def test_a_pid_file_of_nobody_is_no_postmaster(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getpid(), ""):
        (tmp_path / "postmaster.pid").write_text(f"{pid}\n{tmp_path}\n")
        assert postmaster(tmp_path) is None
    (tmp_path / "postmaster.pid").unlink()
    assert postmaster(tmp_path) is None


def test_a_half_made_cluster_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "postgres.new" / "base").mkdir(parents=True)
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path) as url:
        assert ask(url, "SELECT 1") == 1


def test_a_copy_of_a_directory_is_a_database_of_its_own(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    with EmbeddedPostgres(original) as url:
        shutil.copytree(original, copy, symlinks=True, ignore=shutil.ignore_patterns(".s.PGSQL*"))
        _own_like(original, copy)
        with EmbeddedPostgres(copy) as copied:
            assert copied != url
            assert ask(copied, "SHOW data_directory") == str(copy / "postgres")


def _own_like(original: Path, copy: Path) -> None:
    """As `cp -a` does for root."""
    owner = (original / "postgres").stat()
    for path in (copy / "postgres", *(copy / "postgres").rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


def test_data_of_another_version_are_left_alone(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path):
        pass
    (tmp_path / "postgres" / "PG_VERSION").write_text("14\n")
    with pytest.raises(StoreUnavailableError, match="belong to PostgreSQL 14"):
        EmbeddedPostgres(tmp_path).acquire()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="max_connections"):
        EmbeddedPostgres(tmp_path, settings={"max_connections": "many"}).acquire()
    with EmbeddedPostgres(tmp_path) as url:
        assert ask(url, "SELECT 1") == 1


def test_a_socket_lies_where_nobody_else_can_enter(tmp_path: Path) -> None:
    place = _private_place(tmp_path, os.getuid())
    assert place.stat().st_mode & 0o777 == 0o700
    assert _private_place(tmp_path, os.getuid()) == place
    place.chmod(0o755)
    places = [_private_place(tmp_path, os.getuid())]
    place.rmdir()
    place.touch(0o700)
    places.append(_private_place(tmp_path, os.getuid()))
    assert all(other.stat().st_mode & 0o777 == 0o700 for other in places)
    place.unlink()
    assert place not in places
    for other in places:
        other.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by PostgreSQL")
def test_for_root_the_server_runs_as_somebody_else(tmp_path: Path) -> None:
    hidden = tmp_path / "home"
    hidden.mkdir(mode=0o700)
    with EmbeddedPostgres(hidden / "data") as url:
        assert ask(url, "SELECT 1") == 1
        assert (hidden / "data" / "postgres").stat().st_uid != 0
        assert hidden.stat().st_mode & 0o077 == 0o001
