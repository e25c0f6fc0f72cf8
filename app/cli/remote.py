"""Commands that change a running service: import, export, retrain; and how all of them reach it."""

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import stamina
import typer
from rich.progress import Progress

from app.cli.formats import Format, guessed_format, preferences_in
from app.cli.output import FAILURE, MISUSE, NOT_READY, UNREACHABLE, complain, err, print_json
from app.cli.preference_files import REPORTED_RECORDS, Reading, check_columns
from app.cli.tables import UnreadableError
from app.client import DEFAULT_URL, ApiError, Client, ServerUnreachableError
from app.settings import LOOPBACK, Settings

FORBIDDEN = 403


class Options(StrEnum):
    AUTO = "auto"
    ITEM = "item"
    TEXT = "text"


HINTS = {
    "unauthenticated": " Here: set PSHARELORA_KEY or give --key; on the service's own machine, psharelora keys create "
    "me --scope admin --save makes a key that commands find by themselves.",
}
"""What a problem means for somebody at a terminal."""

CLIENT_KEY = "client.key"
"""In the data directory: the key that commands on this machine use."""

KEY_FILES = (CLIENT_KEY, "demo.key")
"""Where commands look for it, in this order."""


def named_environments(incomplete: str) -> list[str]:
    """For the shell's completion: quick, and silent when the service is not there."""
    with suppress(Exception):
        url = os.environ.get("PSHARELORA_URL", DEFAULT_URL)
        with Client(url, key=local_key(url), timeout_seconds=1, attempts=1) as client:
            found = [one["name"] for one in client.environments()["environments"]]
            return [name for name in found if name.startswith(incomplete)]
    return []


EnvironmentName = Annotated[str, typer.Argument(help="Name of the environment.", autocompletion=named_environments)]
Url = Annotated[str, typer.Option(envvar="PSHARELORA_URL", help="Address of the service.")]
Key = Annotated[
    str | None,
    typer.Option(
        envvar="PSHARELORA_KEY",
        help="API key; on this machine, the one that `keys create --save` or the demo left in the data directory.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def connected(url: str, key: str | None) -> Iterator[Client]:
    """A client whose refusals end the command with one sentence; it tries again quietly, and not for long."""
    stamina.instrumentation.set_on_retry_hooks([])
    with Client(url, key=key or local_key(url), attempts=3, retry_seconds=5.0) as client:
        try:
            yield client
        except ApiError as error:
            hint = HINTS.get(error.code, "")
            complain(f"{error}{hint}", code=NOT_READY if error.code == "model-not-ready" else FAILURE)
        except ServerUnreachableError as error:
            complain(
                f"{error}. Is it running there? PSHARELORA_URL or --url says where; try psharelora doctor.",
                code=UNREACHABLE,
            )
        except TimeoutError as error:
            complain(str(error))


def local_key(url: str) -> str | None:
    """What lies in the data directory, for a service on this machine only."""
    if urlsplit(url).hostname not in LOOPBACK:
        return None
    for name in KEY_FILES:
        with suppress(OSError):
            return (Settings().data_dir / name).read_text().strip()
    return None


def import_preferences(
    *,
    environment: EnvironmentName,
    file: Annotated[
        Path,
        typer.Argument(help="NDJSON, or a table (.csv, .tsv, .parquet); with --format also .json; .gz is unpacked."),
    ],
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="The tool that wrote the data set; if absent, rows are the service's own preferences or have columns "
            "user, chosen, rejected, and a .json file is guessed.",
        ),
    ] = None,
    options: Annotated[
        Options, typer.Option(help="What strings in chosen and rejected are; auto: text where there is an encoder.")
    ] = Options.AUTO,
    id_prefix: Annotated[
        str | None,
        typer.Option(
            help="Give records without an id this and their number; else a table's rows get ids of what they say."
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Whose preferences these all are, with --format and data that do not say.")
    ] = None,
    user_column: Annotated[
        str, typer.Option(help="The column that says whose preference it is, with --format.")
    ] = "user",
    contexts: Annotated[
        bool, typer.Option("--contexts", help="With --create: an environment with contexts, which are the prompts.")
    ] = False,
    create: Annotated[
        bool,
        typer.Option(
            "--create",
            help="Define the environment for texts if there is none, and fit it when everything is in, so that it can "
            "be asked at once.",
        ),
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Import preferences from a file; what carries an id, or is a row of a table or data set, counts once.

    From your own comparisons to the first personalised answer: psharelora import replies pairs.csv --create, with
    columns user, chosen, rejected, and then psharelora rank replies ada "First answer." "Second answer."

    Columns of data sets: user_id or user, chosen, rejected, prompt, weight or margin, label, id, occurred_at.
    """
    if not file.is_file():
        complain(f"there is no file {file}", code=MISUSE)
    with _looking_at(file):
        if form is None and file.name.removesuffix(".gz").endswith(".json"):
            form = guessed_format(file)
        if form is None:
            check_columns(file)
    with connected(url, key) as client:
        if create:
            _create(client, environment, contexts=contexts)
        if form is None:
            told = _import_records(client, environment, file, options, id_prefix)
        else:
            told = _import_data_set(client, environment, file, form, user=user, user_column=user_column)
        refit = _refit_after(client, environment, fit=create) if told["accepted"] else None
    if as_json:
        print_json({**told, "refit": refit} if create else told)
    else:
        typer.echo(f"accepted {told['accepted']}, duplicates {told['duplicates']}, rejected {told['rejected']}")
        for bad in told["errors"]:
            typer.echo(f"  line {bad['line']}: {bad['detail']}")
        if refit is not None:
            typer.echo(_told(refit))
    if told["rejected"] or (refit is not None and refit["state"] != "succeeded"):
        raise typer.Exit(FAILURE)


def _refit_after(client: Client, environment: str, *, fit: bool) -> dict[str, Any] | None:
    """Fit now, or say when it will be: on stderr, so that stdout stays the answer."""
    if fit:
        done: dict[str, Any] = _followed(client, client.retrain(environment))
        return done
    # A key that may only feed is not told what there is.
    with suppress(ApiError):
        here = client.environment(environment)
        refit = here["definition"]["refit"]
        typer.echo(
            f"{environment}: {here['n_users']:,} users, {here['n_preferences']:,} comparisons. "
            f"{'There is no model yet. ' if here['model_version'] is None else ''}A worker fits when "
            f"{refit['min_new_preferences']:,} new ones are there, every {refit['every_seconds']:g} seconds at most; "
            f"psharelora retrain {environment} fits now.",
            err=True,
        )
    return None


@contextmanager
def _looking_at(file: Path) -> Iterator[None]:
    """Complain of a file that is not what it should be."""
    try:
        yield
    except UnreadableError as error:
        complain(str(error), code=MISUSE)
    except (ValueError, OSError) as error:
        complain(f"{file}: {error}", code=MISUSE)


def _import_records(
    client: Client, environment: str, file: Path, options: Options, id_prefix: str | None
) -> dict[str, Any]:
    with Progress(console=err, transient=True) as progress, file.open("rb") as raw:
        task = progress.add_task("importing", total=file.stat().st_size)
        reading = _reading(client, environment, options, id_prefix)
        blocks = reading.blocks(file, raw, lambda read: progress.update(task, completed=read))
        try:
            counts = client.import_lines(environment, blocks)
        except UnreadableError as error:
            complain(f"{error} What came before it has been stored.", code=MISUSE)
    errors = sorted([*counts["errors"], *reading.errors], key=lambda bad: bad["line"])[:REPORTED_RECORDS]
    return {**counts, "rejected": counts["rejected"] + reading.rejected, "errors": errors}


def _import_data_set(
    client: Client, environment: str, file: Path, form: Format, *, user: str | None, user_column: str
) -> dict[str, Any]:
    """Ids are of what is said, so that a data set that comes again counts nothing twice."""
    has_contexts = client.environment(environment)["definition"].get("context_dim") is not None
    read = preferences_in(file, form, user=user, user_column=user_column, contexts=has_contexts)
    try:
        with Progress(console=err, transient=True) as progress:
            task = progress.add_task("importing", total=None)
            found = client.import_preferences(
                environment, read, progress=lambda done: progress.update(task, completed=done)
            )
    except UnreadableError as error:
        complain(str(error), code=MISUSE)
    return {**found}


def _reading(client: Client, environment: str, options: Options, id_prefix: str | None) -> Reading:
    """How to understand a file, from what the environment is."""
    try:
        definition = client.environment(environment)["definition"]
    except ApiError as error:
        if error.code == "not-found":
            complain(f"{error} With --create it is made, for texts.")
        if error.status != FORBIDDEN:
            raise
        # A key that may only feed: whoever calls knows what strings are.
        text = options is Options.TEXT
        return Reading(options="text" if text else "item", with_context=text, id_prefix=id_prefix)
    text = definition.get("encoder") is not None if options is Options.AUTO else options is Options.TEXT
    return Reading(
        options="text" if text else "item", with_context=definition.get("context_dim") is not None, id_prefix=id_prefix
    )


def export(
    *,
    environment: EnvironmentName,
    user: Annotated[str, typer.Argument(help="Whose data.")],
    adapter: Annotated[
        Path | None, typer.Option(help="Write the user's adapter into this folder instead, as PEFT reads it.")
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Print everything that is stored of one user, a preference a line; or take their adapter away."""
    with connected(url, key) as client:
        if adapter is None:
            typer.echo(client.export_user(environment, user))
            return
        with zipfile.ZipFile(io.BytesIO(client.adapter(environment, user))) as archive:
            archive.extractall(adapter)
            names = archive.namelist()
    if as_json:
        print_json({"folder": str(adapter), "files": names})
    else:
        typer.echo(f"{adapter}: {', '.join(names)}")


def retrain(
    *,
    environment: EnvironmentName,
    url: Url = DEFAULT_URL,
    key: Key = None,
    wait: Annotated[bool, typer.Option(help="Wait for the refit to end, with progress.")] = True,
    as_json: AsJson = False,
) -> None:
    """Ask for a refit; a second call while one waits joins it."""
    with connected(url, key) as client:
        refit: Any = client.retrain(environment)
        if wait:
            refit = _followed(client, refit)
    if as_json:
        print_json(refit)
    else:
        typer.echo(_told(refit))
    if refit["state"] in {"failed", "cancelled"}:
        raise typer.Exit(FAILURE)


def _create(client: Client, environment: str, *, contexts: bool) -> None:
    if environment in {one["name"] for one in client.environments()["environments"]}:
        return
    definition: dict[str, Any] = {"kind": "catalog", "encoder": "builtin"}
    if contexts:
        definition["context_dim"] = client.put_environment(environment, definition)["definition"]["item_dim"]
    client.put_environment(environment, definition)


def _followed(client: Client, refit: Any) -> Any:
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("refit", total=1.0)
        return client.wait_for_refit(
            refit["id"],
            timeout_seconds=24 * 3600,
            progress=lambda now: progress.update(task, completed=now["progress"], description=now["phase"]),
        )


def _told(refit: Any) -> str:
    return f"refit {refit['id']}: {refit['state']}" + (f" ({refit['error']})" if refit.get("error") else "")
