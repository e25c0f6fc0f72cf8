"""`psharelora demo`: the whole service on real input, through the public API."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.cli import demo_data
from app.cli.database import database_url
from app.cli.output import complain, err, out
from app.cli.serve import key_file, refuse_taken_port
from app.client import ApiError, Client, ServerUnreachableError
from app.domain import Scope, UnauthenticatedError
from app.settings import Settings

Json = Mapping[str, Any]

BATCH = 1000
START_SECONDS = 300.0
"""A first start compiles; on a busy machine that takes minutes."""
REFIT_SECONDS = 600.0
HOUSEHOLD = "household-001"
SHOWN = 5
RUNNER = "simulated-runner-00"


def demo(
    *,
    leave: Annotated[bool, typer.Option("--exit", help="End when everything has been shown.")] = False,
    port: Annotated[int | None, typer.Option(help="Port of the API.")] = None,
) -> None:
    """Start database, API and worker, load the demo data, refit, show what the service answers, keep serving."""
    settings = Settings()
    refuse_taken_port("127.0.0.1", port or settings.port)
    # Told to end by whoever started it, it ends what it started, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    url = f"http://127.0.0.1:{port or settings.port}"
    try:
        with ExitStack() as stack:
            err.print("==> starting PostgreSQL")
            database = stack.enter_context(database_url(settings))
            key = _key(settings, database)
            err.print(f"==> starting the API on {url}")
            children = [stack.enter_context(_process("serve", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]))]
            with Client(url, key=key, attempts=1) as client:
                _wait_until_ready(client, children)
                refits = _load(client)
                # Only now: a refit that the worker scheduled by itself would begin with half of the data.
                err.print("==> starting the worker")
                children.append(stack.enter_context(_process("worker")))
                _follow(client, refits)
                _show_household(client)
                _show_runner(client)
            _invite(url, settings)
            if not leave:
                _keep_serving(children)
    except (ApiError, ServerUnreachableError, TimeoutError) as error:
        complain(str(error))
    except KeyboardInterrupt:
        err.print("==> stopping")


def _key(settings: Settings, url: str) -> str:
    """The demo's administrator key, kept readable to its owner only; a new one where the old no longer works."""
    from app.store import Database, authenticate, create_key, migrate

    migrate(url)
    file = key_file(settings)

    async def known_or_new() -> str:
        database = Database(url)
        try:
            if file.is_file():
                secret = file.read_text().strip()
                try:
                    await authenticate(database, secret)
                except UnauthenticatedError:
                    err.print("==> the demo's old key no longer works; making another")
                else:
                    return secret
            _, secret = await create_key(database, "demo", frozenset(Scope), None)
            return secret
        finally:
            await database.dispose()

    secret = asyncio.run(known_or_new())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(secret + "\n")
    return secret


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {"PSHARELORA_LOG_LEVEL": "warning", **os.environ}
    child = subprocess.Popen([sys.executable, "-m", "app.cli", *arguments], env=environment)  # noqa: S603  our own command
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_until_ready(client: Client, children: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        _refuse_dead(children)
        try:
            client.environments()
        except ServerUnreachableError:
            time.sleep(0.1)
        else:
            return
    complain(f"the API did not answer within {START_SECONDS:g} seconds")


def _refuse_dead(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if (status := child.poll()) is not None:
            complain(f"a process of the demo ended by itself with status {status}; its own message is above")


def _load(client: Client) -> Sequence[Json]:
    """Everything recorded; the refits that will learn it."""
    coaching, answers = demo_data.coaching()
    loaded = {
        demo_data.CONTRACTS: demo_data.contracts(),
        demo_data.COACHING: (coaching, [], answers),
        demo_data.REPLIES: demo_data.replies(),
    }
    with _progress() as progress:
        for environment, (definition, items, preferences) in loaded.items():
            client.put_environment(environment, definition)
            if items:
                client.put_items(environment, items)
            task = progress.add_task(f"preferences of {environment}", total=len(preferences))
            for start in range(0, len(preferences), BATCH):
                batch = preferences[start : start + BATCH]
                client.record(environment, batch)
                progress.update(task, advance=len(batch))
    return [client.retrain(environment) for environment in loaded]


def _follow(client: Client, refits: Sequence[Json]) -> None:
    with _progress() as progress:
        for refit in refits:
            _wait_for(client, refit, progress)


def _wait_for(client: Client, refit: Json, progress: Progress) -> None:
    task = progress.add_task(f"refit of {refit['environment']}", total=1.0)
    ended = client.wait_for_refit(
        refit["id"],
        timeout_seconds=REFIT_SECONDS,
        progress=lambda now: progress.update(task, completed=now["progress"]),
    )
    if ended["state"] != "succeeded":
        complain(f"the refit of {refit['environment']} ended as {ended['state']}: {ended['error']}")
    progress.update(task, completed=1.0)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err)


def _show_household(client: Client) -> None:
    titles = {item["id"]: item["title"] for item in demo_data.contracts()[1]}
    before = client.rank(demo_data.CONTRACTS, HOUSEHOLD)["options"]
    population = client.rank(demo_data.CONTRACTS, "nobody-yet")["options"]
    out.print(f"\n[bold]What {HOUSEHOLD} would choose[/] of {len(titles)} electricity contracts, beside the population")
    out.print("(reward: log-odds against the mean contract; +/-: one standard error)")
    out.print(_beside(titles, (HOUSEHOLD, before), ("population", population)))

    out.print(
        f"\n[bold]Three more answers of {HOUSEHOLD}[/], to the questions that tell most, as most people would answer:"
    )
    valued = {_item(option): option["reward"] for option in population}
    for _ in range(3):
        query = client.queries(demo_data.CONTRACTS, HOUSEHOLD, n=1)["queries"][0]
        rejected, chosen = sorted((query["first"]["item"], query["second"]["item"]), key=valued.__getitem__)
        # The id makes the answer count once, however often the demo is run on the same data directory.
        answer = {"id": f"demo-{chosen}-{rejected}", "user": HOUSEHOLD}
        client.record(demo_data.CONTRACTS, [answer | {"chosen": {"item": chosen}, "rejected": {"item": rejected}}])
        out.print(f"  {titles[chosen]}  [dim]rather than[/]  {titles[rejected]}")
    after = client.rank(demo_data.CONTRACTS, HOUSEHOLD)
    out.print("They are in the next answer, before any refit:")
    out.print(_beside(titles, ("before", before), (f"after {after['feedback_seen']} answers in all", after["options"])))
    _show_accuracy(client.models(demo_data.CONTRACTS)["models"][0]["metrics"])


def _beside(titles: dict[str, str], *rankings: tuple[str, Sequence[Json]]) -> Table:
    table = Table("", *(column for name, _ in rankings for column in (name, "reward")))
    for place, options in enumerate(zip(*(options[:SHOWN] for _, options in rankings), strict=True), start=1):
        table.add_row(str(place), *(cell for option in options for cell in (titles[_item(option)], _amount(option))))
    return table


def _show_accuracy(metrics: Json) -> None:
    out.print("\n[bold]On comparisons held out from the refit[/]")
    table = Table("model", "accuracy", "log-loss")
    for name, title in (("global", "the same for everybody"), ("new", "P-ShareLoRA")):
        table.add_row(title, f"{metrics[name]['accuracy']:.3f}", f"{metrics[name]['log_loss']:.3f}")
    out.print(table)


def _show_runner(client: Client) -> None:
    answer = client.actions(demo_data.COACHING, RUNNER, state="tired", step=2)
    plan = client.policy(demo_data.COACHING, RUNNER)
    out.print(f"\n[bold]What to do for {RUNNER}[/] (simulated), who is tired at step 2 of {demo_data.HORIZON}:")
    table = Table("action", "probability")
    for action, probability in answer["distribution"].items():
        table.add_row(action, f"{probability:.3f}")
    out.print(table)
    out.print(
        f"the whole robust policy at {plan['confidence']:.0%} confidence: worth at least {plan['lower']:.4f} more than "
        f"the reference policy,\nand none is sure to be worth more than {plan['upper']:.4f} (gap {plan['gap']:.1e}); "
        f"at the estimated rewards it is worth {plan['nominal']:.4f} more"
    )


def _invite(url: str, settings: Settings) -> None:
    out.print(
        f"\n[bold]Open[/]  {url}/console   {url}/docs\n"
        f"[bold]Key[/]   export PSHARELORA_KEY=$(cat {key_file(settings)})\n"
        f'[bold]Try[/]   curl -H "Authorization: Bearer $PSHARELORA_KEY" {url}/v1/environments'
    )


def _keep_serving(children: list[subprocess.Popen[bytes]]) -> None:
    err.print("\nserving until Ctrl-C")
    while True:
        _refuse_dead(children)
        time.sleep(0.5)


def _item(option: Json) -> str:
    return str(option["option"]["item"])


def _amount(option: Json) -> str:
    return f"{option['reward']:+.2f} +/- {option['stderr']:.2f}"
