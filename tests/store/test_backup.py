"""What a restore refuses, and that it leaves no trace of itself where it does."""

import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from app.domain import ConflictError, InvalidInputError, StoreUnavailableError
from app.store import back_up, restore
from app.store.backup import DUMP, MANIFEST
from tests.support.postgres import migrated_database


@pytest.fixture(scope="module")
def source(server_url: str) -> Iterator[str]:
    with migrated_database(server_url, f"psharelora_test_{uuid4().hex}") as url:
        run(url, "INSERT INTO api_keys (id, name, secret_hash, scopes) VALUES ('k1', 'shop', 'h', '{read}')")
        yield url


@pytest.fixture
def target(server_url: str) -> Iterator[str]:
    with migrated_database(server_url, f"psharelora_test_{uuid4().hex}") as url:
        yield url


@pytest.fixture
def backup(source: str, tmp_path: Path) -> Path:
    file = tmp_path / "all.backup"
    back_up(source, file)
    return file


def run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def keys_of(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM api_keys ORDER BY id")]


def rewritten(backup: Path, *, manifest: bytes | None = None, dump: bytes | None = None) -> Path:
    other = backup.with_name("other.backup")
    with zipfile.ZipFile(backup) as old, zipfile.ZipFile(other, "w") as new:
        new.writestr(MANIFEST, manifest or old.read(MANIFEST))
        new.writestr(DUMP, dump or old.read(DUMP))
    return other


def promising_more(backup: Path) -> Path:
    """Its table of contents says that the dump is larger than the whole file."""
    data = bytearray(rewritten(backup).read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = 2 * (2 * len(data)).to_bytes(4, "little")
    backup.with_name("short.backup").write_bytes(data)
    return backup.with_name("short.backup")


def test_an_empty_database_becomes_what_the_backup_says(backup: Path, target: str) -> None:
    seen: list[int] = []
    manifest = restore(target, backup, report=seen.append)
    assert keys_of(target) == ["k1"]
    assert manifest.rows["api_keys"] == 1
    assert sum(seen) > 1000


def test_data_are_replaced_only_by_force(backup: Path, target: str) -> None:
    run(target, "INSERT INTO api_keys (id, name, secret_hash, scopes) VALUES ('mine', 'm', 'h', '{read}')")
    with pytest.raises(ConflictError, match=r"it holds 1 api_keys\. --force replaces all of it"):
        restore(target, backup)
    assert keys_of(target) == ["mine"]
    restore(target, backup, force=True)
    assert keys_of(target) == ["k1"]


def test_a_database_in_use_or_of_something_else_is_refused(backup: Path, target: str) -> None:
    with psycopg.connect(target), pytest.raises(ConflictError, match="1 other connections use the database"):
        restore(target, backup, force=True)
    run(target, "CREATE TABLE invoices ()")
    with pytest.raises(ConflictError, match=r"not psharelora's \(invoices\)"):
        restore(target, backup, force=True)


def test_what_is_no_backup_or_a_damaged_one_is_refused(backup: Path, target: str, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    with pytest.raises(InvalidInputError, match="cannot be read: No such file"):
        restore(target, nothing)
    nothing.write_bytes(b"not a zip")
    with pytest.raises(InvalidInputError, match="is not a backup of this program"):
        restore(target, nothing)
    with pytest.raises(InvalidInputError, match="the dump in it is not what was written"):
        restore(target, rewritten(backup, dump=b"PGDMP and then something else"))
    with pytest.raises(InvalidInputError, match=r"is damaged: (it ends too early|Overlapped entries.*)\.$"):
        restore(target, promising_more(backup))
    with zipfile.ZipFile(backup) as archive:
        manifest = archive.read(MANIFEST)
    for old, new, words in (
        (b'"schema_version": "2026', b'"schema_version": "2126', "which this version does not know"),
        (b'"server_version": ', b'"server_version": 9', "it must be 9"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            restore(target, rewritten(backup, manifest=manifest.replace(old, new)))
    assert keys_of(target) == []


def test_a_restore_that_breaks_off_leaves_what_was_there(backup: Path, target: str) -> None:
    run(target, "INSERT INTO api_keys (id, name, secret_hash, scopes) VALUES ('mine', 'm', 'h', '{read}')")
    with zipfile.ZipFile(backup) as archive:
        dump, manifest = archive.read(DUMP), archive.read(MANIFEST)
    # pg_restore has said most of it before it finds that the end is missing.
    short = dump[: len(dump) * 4 // 5]
    said = manifest.replace(sha256(dump).hexdigest().encode(), sha256(short).hexdigest().encode())
    with pytest.raises(StoreUnavailableError, match="pg_restore failed"):
        restore(target, rewritten(backup, manifest=said, dump=short), force=True)
    assert keys_of(target) == ["mine"]


def test_nothing_is_left_of_a_backup_that_fails(server_url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="has no schema yet"):
        back_up(server_url, tmp_path / "all.backup")
    assert list(tmp_path.iterdir()) == []
