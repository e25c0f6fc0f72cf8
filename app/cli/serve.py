"""`psharelora serve`, `worker` and `migrate`: the processes of the service."""

import asyncio
import os
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from app.cli.database import database_url
from app.cli.output import complain, print_json
from app.settings import Settings

DRAIN_SECONDS = 30
# How long a process that is told to end waits for the requests that it has; streams that go on for ever end then.

START_SECONDS = 120
# How long a new process may take to be ready, and a busy one to answer its parent.

OTHERS_CONNECTIONS = 20
# Of the database server: workers, migrations, people.

LEAST_POOL_SIZE = 2


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(help="API processes.")] = None,
) -> None:
    """Serve the API; migrates the database first. SIGTERM ends it in good order, SIGHUP renews several processes."""
    import uvicorn
    from uvicorn.config import STARTUP_FAILURE

    from app.cli.draining import DrainingProtocol, Supervisor
    from app.cli.watching import watch_processes
    from app.store import migrate as migrate_database
    from app.store import server_connections

    chosen = {"host": host, "port": port, "workers": workers}
    # API processes read the environment: what they check must be what is served.
    os.environ.update({f"PSHARELORA_{name.upper()}": str(value) for name, value in chosen.items() if value is not None})
    settings = Settings()
    refuse_taken_port(settings.host, settings.port)
    # uvicorn ends in good order and then sends itself the signal again; this process still has its database to leave.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with database_url(settings) as url, ExitStack() as stack, suppress(KeyboardInterrupt):
        migrate_database(url)
        if settings.workers > 1 and settings.metrics_dir is None:
            os.environ["PSHARELORA_METRICS_DIR"] = stack.enter_context(TemporaryDirectory(prefix="psharelora-metrics-"))
        os.environ["PSHARELORA_DATABASE_POOL_SIZE"] = str(pool_size(settings, server_connections(url)))
        config = uvicorn.Config(
            "app.main:create_app_from_environment",
            factory=True,
            host=settings.host,
            port=settings.port,
            http=DrainingProtocol,
            workers=settings.workers,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            timeout_worker_healthcheck=START_SECONDS,
            log_config=None,
            access_log=False,
        )
        if settings.workers > 1:
            watch_processes()
            Supervisor(config, [config.bind_socket()]).run()
        else:
            server = uvicorn.Server(config)
            server.run()
            if not server.started:
                raise typer.Exit(STARTUP_FAILURE)


def worker() -> None:
    """Run the refit worker until it is told to stop; migrates the database first."""
    from app.observability import configure_logging
    from app.store import migrate as migrate_database
    from app.worker import run_worker

    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    with database_url(settings) as url:
        migrate_database(url)
        asyncio.run(run_worker(url, settings))


def migrate(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Bring the database's schema up to this version of the program."""
    from app.store import migrate as migrate_database

    with database_url(Settings()) as url:
        migrate_database(url)
    if as_json:
        print_json({"schema": "up to date"})
    else:
        typer.echo("the schema is up to date")


def pool_size(settings: Settings, server_connections: int) -> int:
    """Connections of each API process: what is wanted, if the server has as many for all of them."""
    each = (server_connections - OTHERS_CONNECTIONS) // settings.workers - 1
    if each < LEAST_POOL_SIZE:
        complain(
            f"{settings.workers} API processes need at least {settings.workers * (LEAST_POOL_SIZE + 1)} database "
            f"connections, and the server allows {server_connections}, of which {OTHERS_CONNECTIONS} are for others: "
            "choose fewer with --workers, or raise max_connections of PostgreSQL."
        )
    return min(settings.database_pool_size, each)


def refuse_taken_port(host: str, port: int) -> None:
    """End with a clear message where something else listens already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            complain(
                f"cannot listen on {host}:{port}: {error.strerror}. Stop what uses it, or choose another port with "
                "--port or PSHARELORA_PORT."
            )


def key_file(settings: Settings) -> Path:
    return settings.data_dir / "demo.key"
