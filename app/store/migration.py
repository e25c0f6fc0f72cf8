"""Bringing a database to this version's schema, and telling whether it is there."""

from dataclasses import dataclass
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

import app
from app.domain import StoreUnavailableError
from app.store.database import Database, driver_url, plain_url

_FOLDER = Path(app.__file__).resolve().parent.parent / "migrations"
# Beside the package, in a checkout and where it is installed.

_LOCK = 0x70736861
# Any number, the same for every process that migrates.


class SchemaBehindError(StoreUnavailableError):
    """The database has another schema than this version of the program needs."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    current: str | None
    """The newest migration that the database has had; None before the first."""
    expected: str

    @property
    def is_current(self) -> bool:
        return self.current == self.expected


def migrate(url: str) -> None:
    """Run the migrations that are missing. Several processes may do so at once: one works, the others wait."""
    engine = create_engine(driver_url(url), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
            connection.commit()
            command.upgrade(alembic_config(connection), "head")
            connection.commit()
    except OperationalError as error:
        raise StoreUnavailableError(f"The database could not be migrated: {error.orig}") from error
    finally:
        engine.dispose()


def server_connections(url: str) -> int:
    """How many connections the server allows to those who are no superusers."""
    with psycopg.connect(plain_url(url)) as connection:
        row = connection.execute(
            "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        ).fetchone()
    assert row is not None
    return int(row[0])


def alembic_config(connection: Connection) -> Config:
    """Alembic on this connection, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def migrations() -> ScriptDirectory:
    """All that this version knows."""
    return ScriptDirectory(str(_FOLDER))


async def schema_state(db: Database) -> SchemaState:
    expected = migrations().get_current_head()
    assert expected is not None
    async with db.begin() as connection:
        current = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
    return SchemaState(current=current, expected=expected)


async def require_current_schema(db: Database) -> None:
    """Raise SchemaBehindError unless the database is where this program needs it."""
    state = await schema_state(db)
    if not state.is_current:
        raise SchemaBehindError(
            f"The database's schema is at {state.current or 'nothing'}; this version needs {state.expected}. "
            "Run `psharelora migrate` first."
        )
