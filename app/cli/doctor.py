"""`psharelora doctor`: what is wrong with this installation, and how to mend it."""

import asyncio
import importlib.metadata
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from app.cli.output import FAILURE, out, print_json
from app.cli.remote import KEY_FILES
from app.client import ApiError, Client, ServerUnreachableError
from app.domain import DomainError
from app.settings import Settings
from app.store import Database, EmbeddedPostgres, Installation, SchemaState, installation, schema_state

OLDEST_PYTHON = (3, 11)
OLDEST_POSTGRESQL = 150_000
LEAST_FREE_BYTES = 1 << 30
CLOCK_ALLOWANCE = timedelta(seconds=30)
"""A client's preferences may be up to a day ahead; a server's clock should not."""

OLD_MODEL = timedelta(days=7)
"""Of a model with new preferences that it has not learnt from."""


class Health(StrEnum):
    GOOD = "good"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    health: Health
    found: str
    mend: str = ""
    """What to do about it."""


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look for what is wrong with this installation, and say how to mend it.

    Looks at Python, packages, settings, the data directory, the database and its schema, the clock, the port, the key
    of this machine's commands, the worker and the models. Changes nothing but that an embedded database is started for
    the look. Ends with 1 if something is wrong; warnings are no failure.
    """
    checks = list(_checks())
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        _show(checks)
    if any(check.health is Health.WRONG for check in checks):
        raise typer.Exit(FAILURE)


def _checks() -> Iterator[Check]:
    yield _python()
    yield _packages()
    try:
        settings = Settings()
    except ValidationError as error:
        for found in error.errors():
            name = "".join(f"PSHARELORA_{str(part).upper()}" for part in found["loc"]) or "settings"
            yield Check(name, Health.WRONG, found["msg"], "set it to what is expected, or remove it")
        return
    yield _data_directory(settings.data_dir)
    yield from _database(settings)
    yield _port(settings)
    yield _key(settings)


def _python() -> Check:
    found = sys.version.split()[0]
    if sys.version_info >= OLDEST_PYTHON:
        return Check("python", Health.GOOD, found)
    return Check("python", Health.WRONG, found, "install Python 3.11 or newer")


def _packages() -> Check:
    """Every requirement of the server, as this version states it."""
    missing = []
    for line in importlib.metadata.requires("psharelora") or ():
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": "server"}):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{needed.name} is not installed")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            missing.append(f"{needed.name} is {version}, {needed.specifier} is needed")
    if missing:
        return Check("packages", Health.WRONG, "; ".join(missing), "pip install --upgrade 'psharelora[server]'")
    return Check("packages", Health.GOOD, f"psharelora {importlib.metadata.version('psharelora')} and what it needs")


def _data_directory(folder: Path) -> Check:
    name, shown = "data directory", str(folder.absolute())
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Check(name, Health.WRONG, f"{shown} cannot be written to", "change its owner, or PSHARELORA_DATA_DIR")
    free = shutil.disk_usage(nearest).free
    if free < LEAST_FREE_BYTES:
        return Check(name, Health.WARNING, f"{shown} has {free >> 20:,} MiB left", "make room on its disk")
    made = "" if folder.exists() else ", not made yet"
    return Check(name, Health.GOOD, f"{shown}{made}, {free >> 30:,} GiB free")


def _database(settings: Settings) -> Iterator[Check]:
    if settings.database_url is not None:
        yield from _database_at(settings.database_url.get_secret_value(), "PSHARELORA_DATABASE_URL")
        return
    if not settings.data_dir.exists():
        yield Check("database", Health.WARNING, "embedded, not made yet", "psharelora serve, or psharelora demo")
        return
    server = EmbeddedPostgres(settings.data_dir)
    try:
        url = server.acquire()
    except (DomainError, OSError, RuntimeError) as error:
        yield Check("database", Health.WRONG, f"the embedded server does not start: {error}", "see its log there")
        return
    try:
        yield from _database_at(url, "embedded")
    finally:
        server.release()


def _database_at(url: str, where: str) -> Iterator[Check]:
    try:
        schema, state = asyncio.run(_asked(url))
    except DomainError as error:
        mend = "start it, and check PSHARELORA_DATABASE_URL: host, port, name, user and password"
        yield Check("database", Health.WRONG, error.message, mend)
        return
    if not schema.is_current:
        found = f"at {schema.current or 'nothing'}; this version needs {schema.expected}"
        yield Check("database", Health.GOOD, where)
        yield Check("schema", Health.WRONG, found, "psharelora migrate")
        return
    assert state is not None
    version = f"PostgreSQL {state.server_version // 10_000}.{state.server_version % 10_000}, {where}"
    old = state.server_version < OLDEST_POSTGRESQL
    yield Check("database", Health.WRONG if old else Health.GOOD, version, "use 15 or newer" if old else "")
    yield Check("schema", Health.GOOD, schema.expected)
    yield _clock(state)
    yield _worker(state)
    yield from _models(state)


async def _asked(url: str) -> tuple[SchemaState, Installation | None]:
    database = Database(url, pool_size=1, pool_timeout_seconds=5.0)
    try:
        schema = await schema_state(database)
        return schema, await installation(database) if schema.is_current else None
    finally:
        await database.dispose()


def _clock(state: Installation) -> Check:
    apart = abs(datetime.now(UTC) - state.now)
    found = f"{apart.total_seconds():.1f} s from the database's"
    if apart > CLOCK_ALLOWANCE:
        return Check("clock", Health.WRONG, found, "set this machine's or the database's clock, by NTP")
    return Check("clock", Health.GOOD, found)


def _worker(state: Installation, stalled: timedelta = timedelta(seconds=60)) -> Check:
    waiting = f", {state.waiting_jobs} refits wait" if state.waiting_jobs else ""
    if state.heartbeat is None:
        return Check("worker", Health.WARNING, f"none is running{waiting}", "psharelora worker")
    age = state.now - state.heartbeat
    if age > stalled:
        found = f"not heard of for {_period(age)}{waiting}"
        return Check("worker", Health.WARNING, found, "psharelora worker; its log says why the last one ended")
    return Check("worker", Health.GOOD, f"heard of {_period(age)} ago{waiting}")


def _models(state: Installation) -> Iterator[Check]:
    for one in state.environments:
        name = f"model of {one.name}"
        if one.failed:
            mend = f"psharelora retrain {one.name}, once the reason is gone"
            yield Check(name, Health.WARNING, f"the newest refit failed: {one.failed}", mend)
        elif one.published_at is None:
            found = f"none yet, {one.preferences:,} preferences"
            yield Check(name, Health.WARNING, found, f"psharelora retrain {one.name}, with some preferences in it")
        else:
            age = state.now - one.published_at
            found = f"{_period(age)} old, {one.new_preferences:,} preferences since"
            old = age > OLD_MODEL and one.new_preferences > 0
            mend = f"psharelora retrain {one.name}; is the worker running, and does its refit setting ask for it?"
            yield Check(name, Health.WARNING if old else Health.GOOD, found, mend if old else "")


def _port(settings: Settings) -> Check:
    name, where = "port", f"{settings.host}:{settings.port}"
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 - compared, not bound
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(2)
        if probe.connect_ex((host, settings.port)) != 0:
            return Check(name, Health.WARNING, f"nothing serves on {where}", "psharelora serve")
    try:
        with Client(_address(host, settings.port), timeout_seconds=5, attempts=1) as client:
            client.health()
    except ApiError as error:
        if error.code == "not-ready":
            return Check(name, Health.WRONG, f"psharelora on {where} is not ready: {error.detail}", "see the schema")
        mend = "stop it, or choose another port by PSHARELORA_PORT"
        return Check(name, Health.WRONG, f"something else serves on {where}", mend)
    except (ServerUnreachableError, ValueError):
        mend = "stop it, or choose another port by PSHARELORA_PORT"
        return Check(name, Health.WRONG, f"something that is not psharelora serves on {where}", mend)
    return Check(name, Health.GOOD, f"psharelora serves on {where}")


def _key(settings: Settings) -> Check:
    """The file that this machine's commands take their key from."""
    name = "key"
    if os.environ.get("PSHARELORA_KEY"):
        return Check(name, Health.GOOD, "PSHARELORA_KEY is set")
    files = [settings.data_dir / known for known in KEY_FILES]
    file = next((one for one in files if one.exists()), None)
    if file is None:
        if settings.auth == "off":
            return Check(name, Health.GOOD, "none is needed: PSHARELORA_AUTH is off")
        mend = "psharelora keys create me --scope admin --save"
        return Check(name, Health.WARNING, f"{files[0]} is not there, and PSHARELORA_KEY is not set", mend)
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        return Check(name, Health.WRONG, f"{file} can be read by other users of this machine", f"chmod 600 {file}")
    return Check(name, Health.GOOD, str(file))


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _period(age: timedelta) -> str:
    seconds = max(age.total_seconds(), 0.0)
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


_SIGNS: dict[Health, str] = {
    Health.GOOD: "[green]good[/]",
    Health.WARNING: "[yellow]warning[/]",
    Health.WRONG: "[red]wrong[/]",
}


def _show(checks: list[Check]) -> None:
    table = Table("", "what", "found", "to mend it")
    for check in checks:
        table.add_row(_SIGNS[check.health], escape(check.name), escape(check.found), escape(check.mend))
    out.print(table)
    wrong, warnings = (sum(check.health is health for check in checks) for health in (Health.WRONG, Health.WARNING))
    out.print(f"{wrong} wrong, {warnings} to look at")
