"""Commands that speak to a running service: import, export, retrain."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import stamina
import typer
from rich.progress import Progress

from app.cli.output import MISUSE, complain, err, print_json
from app.client import ApiError, Client, ServerUnreachableError

Url = Annotated[str, typer.Option(envvar="PSHARELORA_URL", help="Address of the service.")]
Key = Annotated[str | None, typer.Option(envvar="PSHARELORA_KEY", help="API key.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULT_URL = "http://127.0.0.1:8000"


@contextmanager
def connected(url: str, key: str | None) -> Iterator[Client]:
    """A client whose refusals end the command with one sentence; it tries again quietly, and not for long."""
    stamina.instrumentation.set_on_retry_hooks([])
    with Client(url, key=key, attempts=3, retry_seconds=5.0) as client:
        try:
            yield client
        except (ApiError, ServerUnreachableError, TimeoutError) as error:
            complain(str(error))


def import_preferences(
    *,
    environment: Annotated[str, typer.Argument(help="Name of the environment.")],
    file: Annotated[Path, typer.Argument(help="NDJSON, one preference a line; .gz is unpacked.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Import preferences from a file; lines that carry an id can be imported again without counting twice."""
    if not file.is_file():
        complain(f"there is no file {file}", code=MISUSE)
    with connected(url, key) as client, Progress(console=err, transient=True) as progress, file.open("rb") as raw:
        task = progress.add_task("importing", total=file.stat().st_size)

        def lines() -> Iterator[bytes]:
            for line in _unpacked(file, raw):
                progress.update(task, completed=raw.tell())
                yield line

        counts = client.import_lines(environment, lines())
    if as_json:
        print_json(counts)
    else:
        typer.echo(f"accepted {counts['accepted']}, duplicates {counts['duplicates']}, rejected {counts['rejected']}")
        for bad in counts["errors"]:
            typer.echo(f"  line {bad['line']}: {bad['detail']}")
    if counts["rejected"]:
        raise typer.Exit(1)


def export(
    environment: Annotated[str, typer.Argument(help="Name of the environment.")],
    user: Annotated[str, typer.Argument(help="Whose data.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Print everything that is stored of one user."""
    with connected(url, key) as client:
        typer.echo(client.export_user(environment, user))


def retrain(
    *,
    environment: Annotated[str, typer.Argument(help="Name of the environment.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    wait: Annotated[bool, typer.Option(help="Wait for the refit to end, with progress.")] = True,
    as_json: AsJson = False,
) -> None:
    """Ask for a refit; a second call while one waits joins it."""
    with connected(url, key) as client:
        refit = client.retrain(environment)
        if wait:
            with Progress(console=err, transient=True) as progress:
                task = progress.add_task("refit", total=1.0)
                refit = client.wait_for_refit(
                    refit["id"],
                    timeout_seconds=24 * 3600,
                    progress=lambda now: progress.update(task, completed=now["progress"], description=now["phase"]),
                )
    if as_json:
        print_json(refit)
    else:
        typer.echo(f"refit {refit['id']}: {refit['state']}" + (f" ({refit['error']})" if refit.get("error") else ""))
    if refit["state"] in {"failed", "cancelled"}:
        raise typer.Exit(1)


def _unpacked(file: Path, raw: BinaryIO) -> Iterator[bytes]:
    if file.suffix == ".gz":
        with gzip.open(raw, "rb") as unpacked:
            yield from unpacked
    else:
        yield from raw
