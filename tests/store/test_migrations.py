import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.util import CommandError
from psycopg import sql
from sqlalchemy import create_engine

from app.domain import StoreUnavailableError
from app.store import Database, SchemaBehindError, migrate, require_current_schema, schema_state
from app.store.database import driver_url
from app.store.migration import alembic_config
from tests.support.postgres import migrated_database


@pytest.fixture
def empty_database_url(server_url: str) -> str:
    name = f"psharelora_test_{uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return server_url.replace("/postgres?", f"/{name}?")


def test_the_metadata_is_what_the_migrations_make(database_url: str) -> None:
    engine = create_engine(driver_url(database_url))
    with engine.connect() as connection:
        command.check(alembic_config(connection))
    engine.dispose()


def test_a_missing_migration_would_be_noticed(server_url: str) -> None:
    with migrated_database(server_url, f"psharelora_test_{uuid4().hex}") as url:
        with psycopg.connect(url) as connection:
            connection.execute("ALTER TABLE users DROP COLUMN first_at")
        engine = create_engine(driver_url(url))
        with engine.connect() as connection, pytest.raises(CommandError, match="first_at"):
            command.check(alembic_config(connection))
        engine.dispose()


def test_processes_at_once_migrate_once(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(migrate, [empty_database_url] * 4)) == [None] * 4
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM procrastinate_jobs").fetchone() == (0,)


def test_an_old_schema_is_refused_until_it_is_migrated(empty_database_url: str) -> None:
    async def check() -> None:
        db = Database(empty_database_url)
        state = await schema_state(db)
        assert state.current is None
        assert not state.is_current
        with pytest.raises(SchemaBehindError, match=f"at nothing; this version needs {state.expected}"):
            await require_current_schema(db)
        await asyncio.to_thread(migrate, empty_database_url)
        await require_current_schema(db)
        assert (await schema_state(db)).current == state.expected
        await db.dispose()

    asyncio.run(check())


def test_a_database_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(StoreUnavailableError, match="could not be migrated"):
        migrate("postgresql://nobody@127.0.0.1:1/nothing")


def test_the_migrations_are_found_from_any_directory(empty_database_url: str, tmp_path: Path) -> None:
    checkout = str(Path(__file__).parents[2])
    program = (
        f"import sys; sys.path.insert(0, {checkout!r}); from app.store import migrate; migrate({empty_database_url!r})"
    )
    subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=True)
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM environments").fetchone() == (0,)
