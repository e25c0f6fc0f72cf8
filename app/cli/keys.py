"""`psharelora keys`: make, list, replace and revoke API keys, straight in the database."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from app.cli.database import database_url
from app.cli.output import complain, out, print_json
from app.cli.remote import CLIENT_KEY
from app.domain import ApiKey, ConflictError, NotFoundError, Scope
from app.settings import Settings

app = typer.Typer(help="Make, list, replace and revoke API keys.", no_args_is_help=True)

Result = TypeVar("Result")

LONGEST_DAYS = 36_500


@app.command()
def create(
    *,
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[Scope], typer.Option(help="May be given several times.")],
    environment: Annotated[
        list[str] | None, typer.Option(help="Restrict the key to this environment; may be given several times.")
    ] = None,
    expires_days: Annotated[
        float | None, typer.Option(min=0, max=LONGEST_DAYS, help="Refuse the key after so many days; never if absent.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="What it may ask of each API process; the settings' limit if absent.")
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Keep it in the data directory, where this machine's commands find it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a key; its secret is printed once and stored only as a hash."""
    from app.store import Database, create_key

    environments = frozenset(environment) if environment else None

    async def make(database: Database) -> tuple[ApiKey, str]:
        return await create_key(
            database,
            name,
            frozenset(scope),
            environments,
            expires_at=None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days),
            requests_per_minute=requests_per_minute,
        )

    key, secret = with_database(make)
    if save:
        _saved(secret)
    _show(key, secret, as_json=as_json)


@app.command()
def rotate(
    *,
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` prints it.")],
    grace_hours: Annotated[
        float, typer.Option(min=0, max=24 * LONGEST_DAYS, help="How long the old key goes on being valid.")
    ] = 24.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a key's successor, which may do the same; the old one expires after the grace."""
    from app.store import Database, rotate_key

    async def replace(database: Database) -> tuple[ApiKey, str]:
        return await rotate_key(database, key_id, grace=timedelta(hours=grace_hours))

    try:
        key, secret = with_database(replace)
    except (NotFoundError, ConflictError) as error:
        complain(error.message)
    _show(key, secret, as_json=as_json)


def _show(key: ApiKey, secret: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": key.id, "name": key.name, "key": secret})
    else:
        typer.echo(secret)


def _saved(secret: str) -> None:
    """Readable by its owner only, from the first moment on."""
    folder = Settings().data_dir
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / CLIENT_KEY
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(secret + "\n")


@app.command("list")
def list_all(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the keys, without their secrets."""
    from app.store import list_keys

    keys = with_database(list_keys)
    rows = [(key.id, key.name, " ".join(sorted(key.scopes)), _reach(key), _state(key)) for key in keys]
    if as_json:
        print_json([dict(zip(("id", "name", "scopes", "environments", "state"), row, strict=True)) for row in rows])
        return
    table = Table("id", "name", "scopes", "environments", "state")
    for row in rows:
        table.add_row(*row)
    out.print(table)


@app.command()
def revoke(
    *,
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` prints it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Revoke a key; it stops working at once."""
    from app.store import Database, revoke_key

    async def end(database: Database) -> None:
        await revoke_key(database, key_id)

    try:
        with_database(end)
    except NotFoundError as error:
        complain(error.message)
    if as_json:
        print_json({"id": key_id, "state": "revoked"})
    else:
        typer.echo(f"revoked {key_id}")


def with_database(work: Callable[..., Awaitable[Result]]) -> Result:
    """Run one store call of a command against the migrated database; the audit log says that a command did it."""
    from app.store import COMMAND, Database, actor, migrate

    async def run(url: str) -> Result:
        database = Database(url)
        actor.set((COMMAND, None))
        try:
            return await work(database)
        finally:
            await database.dispose()

    with database_url(Settings()) as url:
        migrate(url)
        return asyncio.run(run(url))


def _reach(key: ApiKey) -> str:
    return "all" if key.environments is None else " ".join(sorted(key.environments))


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    if key.expires_at is None:
        return "active"
    word = "expires" if key.expires_at > datetime.now(UTC) else "expired"
    return f"{word} {key.expires_at:%Y-%m-%d}"
