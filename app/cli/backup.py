"""`psharelora backup` and `psharelora restore`: everything in one file, and back."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from app.cli.database import database_url
from app.cli.keys import with_database
from app.cli.output import complain, err, print_json
from app.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.", dir_okay=False)],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write everything that the database holds into one file, of one moment, while the service runs."""
    from app.store import back_up

    if file.exists() and not force:
        complain(f"{file} is there already; --force replaces it.")
    with database_url(Settings()) as url, _progress("backing up", None) as report:
        manifest = back_up(url, file, report=report)
    if as_json:
        print_json({"file": str(file), "bytes": file.stat().st_size, **asdict(manifest)})
    else:
        typer.echo(f"{file}: {file.stat().st_size:,} bytes, {_words(manifest.rows)}")


def restore(
    file: Annotated[Path, typer.Argument(help="What `psharelora backup` wrote.", dir_okay=False)],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace what the database holds.")] = False,
    erased: Annotated[
        Path | None,
        typer.Option(
            help="What `psharelora audit --json` printed later: who was erased since the backup is erased again.",
            dir_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an empty database what a backup says, by one transaction; stop serve and worker first."""
    from app.store import Database, erase_again
    from app.store import restore as restore_backup

    log = [] if erased is None else _erasures(erased)
    total = file.stat().st_size if file.exists() else None
    with database_url(Settings()) as url, _progress("restoring", total) as report:
        manifest = restore_backup(url, file, force=force, report=report)

    async def again(database: Database) -> list[tuple[str, str]]:
        return await erase_again(database, log)

    gone = with_database(again) if log else []
    if as_json:
        print_json({"file": str(file), **asdict(manifest), "erased_again": len(gone)})
        return
    typer.echo(f"restored the backup of {manifest.made_at}: {_words(manifest.rows)}")
    if erased is not None:
        typer.echo(f"erased again: {len(gone):,} users")


def _erasures(file: Path) -> list[tuple[int, str]]:
    """Who was erased, by an audit log in a file."""
    from app.store import ERASE_USER

    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return [(int(one["id"]), str(one["target"])) for one in entries if one["action"] == ERASE_USER]
    except OSError as error:
        complain(f"{file} cannot be read: {error.strerror}.")
    except (ValueError, TypeError, KeyError):
        complain(f"{file} is not what `psharelora audit --json` prints.")


@contextmanager
def _progress(words: str, total: int | None) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task(words, total=total)
        yield lambda n: bars.update(task, advance=n)


def _words(rows: Mapping[str, int]) -> str:
    named = ("environments", "users", "preferences", "models", "api_keys")
    return ", ".join(f"{rows.get(name, 0):,} {name.replace('_', ' ')}" for name in named)
