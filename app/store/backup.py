"""Backups: a file with everything that the database held at one moment, and the way back.

A backup is a zip of `database.dump`, in PostgreSQL's own custom format, and `manifest.json`: which schema and server it
is of, how many rows every table had, and the dump's digest. The rows are counted in the snapshot that is dumped. A
restore is one transaction: what was there before is there still if it fails.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psycopg
from alembic.util import CommandError
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from app.domain import ConflictError, InvalidInputError, StoreUnavailableError
from app.store.database import plain_url
from app.store.embedded import packaged_programs
from app.store.migration import migrate, migrations
from app.store.schema import metadata

FORMAT = 1
DUMP, MANIFEST = "database.dump", "manifest.json"
CHUNK_BYTES = 1 << 20

_OURS = re.compile(r"procrastinate_\w+|alembic_version")
# Tables beside those of the schema.

_NEWER_SETTING = b"SET transaction_timeout = 0;\n"
# What PostgreSQL's programs from 17 on put into every script, and older servers do not know.

Report = Callable[[int], None]
"""Told of every piece by its bytes."""


@dataclass(frozen=True, slots=True)
class Manifest:
    format: int
    made_at: str
    """UTC, ISO 8601."""
    schema_version: str
    server_version: int
    """As PostgreSQL numbers itself: 180001 is 18.1."""
    rows: Mapping[str, int]
    """By table."""
    dump_sha256: str


def back_up(url: str, target: Path, *, report: Report = lambda _bytes: None) -> Manifest:
    """Write a backup; `target` has it whole or is not there.

    Raises
    ------
    StoreUnavailableError
        The database does not answer, has no schema, or PostgreSQL's programs are too old for it.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        with _connected(url) as connection, _private(part) as file, zipfile.ZipFile(file, "w") as archive:
            manifest = _dump(connection, url, archive, report)
            archive.writestr(MANIFEST, json.dumps(asdict(manifest), indent=2))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return manifest


def restore(url: str, source: Path, *, force: bool = False, report: Report = lambda _bytes: None) -> Manifest:
    """Make a database what the backup says, then bring it to this version's schema.

    Parameters
    ----------
    force
        Replace what the database holds; without it only an empty one is restored into.

    Raises
    ------
    InvalidInputError
        The file is no backup, is damaged, or is of a newer version of this program or of PostgreSQL.
    ConflictError
        The database holds data, tables of something else, or is in use.
    """
    with _opened(source) as archive:
        manifest = _manifest(source, archive)
        with _connected(url) as connection:
            _check_target(connection, manifest, force=force)
            server_version = connection.info.server_version
        _load(url, archive, server_version, report)
    with _connected(url) as connection:
        found = _counted(connection)
        connection.rollback()
        connection.autocommit = True
        connection.execute("ANALYZE")
    if found != manifest.rows:
        raise StoreUnavailableError(f"The backup says {dict(manifest.rows)} rows; after restoring there are {found}.")
    migrate(url)
    return manifest


def _dump(connection: psycopg.Connection[Any], url: str, archive: zipfile.ZipFile, report: Report) -> Manifest:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    snapshot = _value(connection, "SELECT pg_export_snapshot()")
    version = _schema_version(connection)
    if version is None:
        raise StoreUnavailableError("The database has no schema yet, so there is nothing to back up.")
    rows = _counted(connection)
    digest = hashlib.sha256()
    server_version = connection.info.server_version
    with (
        archive.open(DUMP, "w", force_zip64=True) as entry,
        _running(
            url, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}",
            "--lock-wait-timeout=60s", server_version=server_version,
        ) as dumping,
    ):  # fmt: skip
        for chunk in _chunks(_pipe(dumping.stdout)):
            digest.update(chunk)
            entry.write(chunk)
            report(len(chunk))
    return Manifest(
        format=FORMAT,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        schema_version=version,
        server_version=server_version,
        rows=rows,
        dump_sha256=digest.hexdigest(),
    )


def _manifest(source: Path, archive: zipfile.ZipFile) -> Manifest:
    """What a backup says of itself, once its dump is known to be what was written."""
    try:
        manifest = Manifest(**json.loads(archive.read(MANIFEST)))
        with archive.open(DUMP) as dump:
            assert isinstance(dump, zipfile.ZipExtFile)
            digest = hashlib.file_digest(dump, "sha256")
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"{source} is not a backup of this program: it lacks {MANIFEST} or {DUMP}.") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise InvalidInputError(f"{source} is damaged: {str(error) or 'it ends too early'}.") from error
    if digest.hexdigest() != manifest.dump_sha256:
        raise InvalidInputError(f"{source} is damaged: the dump in it is not what was written.")
    try:
        migrations().get_revision(manifest.schema_version)
    except CommandError as error:
        raise InvalidInputError(
            f"{source} has the schema {manifest.schema_version}, which this version does not know: restore it with the "
            "version of psharelora that made it, or a newer one."
        ) from error
    return manifest


def _check_target(connection: psycopg.Connection[Any], manifest: Manifest, *, force: bool) -> None:
    ours, theirs = connection.info.server_version // 10_000, manifest.server_version // 10_000
    if ours < theirs:
        raise InvalidInputError(
            f"The backup is of PostgreSQL {theirs}, and this server is PostgreSQL {ours}: it must be {theirs} or newer."
        )
    strangers = sorted(name for name in _tables(connection) if name not in metadata.tables and not _OURS.match(name))
    if strangers:
        raise ConflictError(
            f"The database holds tables that are not psharelora's ({', '.join(strangers[:3])}): restore into one "
            "of its own."
        )
    others = _value(
        connection,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'",
    )
    if others:
        raise ConflictError(f"{others} other connections use the database: stop serve and worker first.")
    held = {table: n for table, n in _counted(connection).items() if n}
    if held and not force:
        said = ", ".join(f"{n:,} {table}" for table, n in held.items())
        raise ConflictError(f"The database is not empty: it holds {said}. --force replaces all of it.")


def _load(url: str, archive: zipfile.ZipFile, server_version: int, report: Report) -> None:
    """One transaction: away with what is there, and in with the dump."""
    with (
        archive.open(DUMP) as dump,
        _running(
            url, "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction", "--file=-",
            server_version=server_version,
        ) as loading,
        _running(
            url, "pg_restore", "--no-owner", "--no-privileges", "--file=-", server_version=server_version
        ) as reading,
    ):  # fmt: skip
        feeding = threading.Thread(target=_feed, args=(dump, _pipe(reading.stdin), report))
        feeding.start()
        into = _pipe(loading.stdin)
        # Not closed before the dump is read to its good end: psql would commit what it has.
        with suppress(BrokenPipeError):
            into.write(b"DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n")
            is_old = server_version < 170_000
            for line in _pipe(reading.stdout):
                if is_old and line == _NEWER_SETTING:
                    is_old = False
                    continue
                into.write(line)
        feeding.join()


def _feed(dump: IO[bytes], into: IO[bytes], report: Report) -> None:
    with suppress(BrokenPipeError), into:
        for chunk in _chunks(dump):
            into.write(chunk)
            report(len(chunk))


@contextmanager
def _running(url: str, program: str, *arguments: str, server_version: int) -> Iterator["subprocess.Popen[bytes]"]:
    """One of PostgreSQL's programs; it must come to a good end, and is killed if the block does not.

    Raises
    ------
    StoreUnavailableError
        It failed; the message is its own.
    """
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(  # noqa: S603 - PostgreSQL's own program, and our arguments
            [_program(program, server_version // 10_000), *arguments],
            stdin=subprocess.DEVNULL if program == "pg_dump" else subprocess.PIPE,
            stdout=subprocess.DEVNULL if program == "psql" else subprocess.PIPE,
            stderr=said,
            env=_environment(url),
        )
        try:
            yield child
            _close(child)
            status = child.wait()
        except BaseException:
            child.kill()
            _close(child)
            child.wait()
            raise
        if status:
            said.seek(0)
            words = said.read().decode(errors="replace").strip() or f"status {status}"
            raise StoreUnavailableError(f"{program} failed: {words[-1_000:]}")


def _close(child: "subprocess.Popen[bytes]") -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            # It may have ended already, with something still on its way.
            with suppress(BrokenPipeError):
                pipe.close()


def _program(name: str, server_major: int) -> str:
    """Of the package, or one that is installed where the server is newer than the package."""
    with suppress(StoreUnavailableError):
        packaged = packaged_programs() / name
        if packaged.exists() and _major(str(packaged)) >= server_major:
            return str(packaged)
    installed = shutil.which(name)
    if installed is None or _major(installed) < server_major:
        raise StoreUnavailableError(
            f"The server is PostgreSQL {server_major}, and there is no {name} of that version: install its client "
            "programs."
        )
    return installed


def _major(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    found = re.search(r"\(PostgreSQL\) (\d+)", said)
    return int(found[1]) if found else 0


def _environment(url: str) -> dict[str, str]:
    """Libpq's own variables, for a command line is seen by everybody on the machine."""
    known = {one.keyword.decode(): one.envvar for one in psycopg.pq.Conninfo.get_defaults()}
    given = conninfo_to_dict(plain_url(url))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    named = {known[name]: value for name, value in given.items() if value is not None}
    return kept | {name.decode(): str(value) for name, value in named.items() if name is not None}


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        with psycopg.connect(plain_url(url), connect_timeout=5) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise StoreUnavailableError(f"The database did not answer: {str(error).splitlines()[0]}") from error


@contextmanager
def _private(path: Path) -> Iterator[IO[bytes]]:
    """A new file that only we can read; on the disk at the end."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile as error:
        raise InvalidInputError(f"{source} is not a backup of this program: it is no zip file.") from error
    except OSError as error:
        raise InvalidInputError(f"{source} cannot be read: {error.strerror}.") from error
    with archive:
        yield archive


def _tables(connection: psycopg.Connection[Any]) -> list[str]:
    return [row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]


def _counted(connection: psycopg.Connection[Any]) -> dict[str, int]:
    there = set(_tables(connection))
    query = sql.SQL("SELECT count(*) FROM {}")
    return {
        name: _value(connection, query.format(sql.Identifier(name)))
        for name in sorted(metadata.tables)
        if name in there
    }


def _schema_version(connection: psycopg.Connection[Any]) -> str | None:
    if "alembic_version" not in _tables(connection):
        return None
    version: str | None = _value(connection, "SELECT max(version_num) FROM alembic_version")
    return version


def _value(connection: psycopg.Connection[Any], query: Any) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
