"""Commands that speak to a running service: import, export, retrain."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import stamina
import typer
from rich.progress import Progress

from app.cli.output import MISUSE, complain, err, print_json
from app.cli.preference_files import REPORTED_RECORDS, Reading, blocks
from app.client import ApiError, Client, ServerUnreachableError

Url = Annotated[str, typer.Option(envvar="PSHARELORA_URL", help="Address of the service.")]
Key = Annotated[str | None, typer.Option(envvar="PSHARELORA_KEY", help="API key.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

FORBIDDEN = 403


class Options(StrEnum):
    AUTO = "auto"
    ITEM = "item"
    TEXT = "text"


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
    file: Annotated[Path, typer.Argument(help="NDJSON, CSV (.csv) or Parquet (.parquet); .gz is unpacked.")],
    options: Annotated[
        Options, typer.Option(help="What strings in chosen and rejected are; auto: text where there is an encoder.")
    ] = Options.AUTO,
    id_prefix: Annotated[
        str | None,
        typer.Option(help="Give records without an id this and their number, so that they can be imported again."),
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Import preferences from a file; records that carry an id can be imported again without counting twice.

    NDJSON takes the service's own preferences, and like CSV and Parquet the columns of preference data sets: user_id or
    user, chosen, rejected, prompt, weight or margin, label, id, occurred_at.
    """
    if not file.is_file():
        complain(f"there is no file {file}", code=MISUSE)
    with connected(url, key) as client, Progress(console=err, transient=True) as progress, file.open("rb") as raw:
        task = progress.add_task("importing", total=file.stat().st_size)
        reading = _reading(client, environment, options, id_prefix)
        lines = reading.lines(file, raw, lambda read: progress.update(task, completed=read))
        counts = client.import_lines(environment, blocks(lines))
    told: dict[str, Any] = {**counts, "rejected": counts["rejected"] + reading.rejected}
    told["errors"] = sorted([*counts["errors"], *reading.errors], key=lambda bad: bad["line"])[:REPORTED_RECORDS]
    if as_json:
        print_json(told)
    else:
        typer.echo(f"accepted {told['accepted']}, duplicates {told['duplicates']}, rejected {told['rejected']}")
        for bad in told["errors"]:
            typer.echo(f"  line {bad['line']}: {bad['detail']}")
    if told["rejected"]:
        raise typer.Exit(1)


def _reading(client: Client, environment: str, options: Options, id_prefix: str | None) -> Reading:
    """How to understand a file, from what the environment is."""
    try:
        answer = client.environment(environment)
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise
        # A key that may only feed: whoever calls knows what strings are.
        text = options is Options.TEXT
        return Reading(options="text" if text else "item", with_context=text, id_prefix=id_prefix)
    definition = answer.get("definition", answer)
    text = definition.get("encoder") is not None if options is Options.AUTO else options is Options.TEXT
    return Reading(
        options="text" if text else "item", with_context=definition.get("context_dim") is not None, id_prefix=id_prefix
    )


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
