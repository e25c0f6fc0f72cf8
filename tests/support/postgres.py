"""The PostgreSQL servers that the tests run against; they start them themselves."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from app.store import EmbeddedPostgres, migrate

OLDEST_SUPPORTED = 15

NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""For the tests that are not about surviving a crash: some four times as fast."""


def installed_programs() -> Path | None:
    """The folder of a PostgreSQL that this machine has installed, the oldest one that is supported."""
    folders = [Path(program).parent for program in (shutil.which("postgres"),) if program]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version)
    for folder in folders:
        programs = (folder / "postgres").resolve().parent
        if (programs / "initdb").exists() and _version(programs) >= OLDEST_SUPPORTED:
            return programs
    return None


def _version(programs: Path) -> int:
    found = re.search(r"(\d+)/bin$", str(programs))
    return int(found[1]) if found else 0


@contextmanager
def second_server(data_dir: Path) -> Iterator[str]:
    """A server that is not the embedded one: PSHARELORA_TEST_DATABASE_URL, or this machine's own PostgreSQL."""
    given = os.environ.get("PSHARELORA_TEST_DATABASE_URL")
    if given:
        yield given
        return
    programs = installed_programs()
    if programs is None:
        pytest.skip(
            f"no second server: set PSHARELORA_TEST_DATABASE_URL, or install PostgreSQL {OLDEST_SUPPORTED} or newer"
        )
    with EmbeddedPostgres(data_dir, settings=NOT_DURABLE, programs=programs) as url:
        yield url


@contextmanager
def migrated_database(server_url: str, name: str) -> Iterator[str]:
    """A fresh database on a server, with the schema; dropped at the end."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    try:
        migrate(url)
        yield url
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
