"""`psharelora serve`, `worker` and `migrate`: the processes of the service."""

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from app.cli.database import database_url
from app.cli.output import complain
from app.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(help="API processes.")] = None,
) -> None:
    """Serve the API; migrates the database first."""
    import uvicorn

    from app.store import migrate as migrate_database

    chosen = {"host": host, "port": port, "workers": workers}
    # API processes read the environment: what they check must be what is served.
    os.environ.update({f"PSHARELORA_{name.upper()}": str(value) for name, value in chosen.items() if value is not None})
    settings = Settings()
    refuse_taken_port(settings.host, settings.port)
    # uvicorn ends in good order and then sends itself the signal again; this process still has its database to leave.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with database_url(settings) as url, suppress(KeyboardInterrupt):
        migrate_database(url)
        uvicorn.run(
            "app.main:create_app_from_environment",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            log_config=None,
            access_log=False,
        )


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


def migrate() -> None:
    """Bring the database's schema up to this version of the program."""
    from app.store import migrate as migrate_database

    with database_url(Settings()) as url:
        migrate_database(url)
    typer.echo("the schema is up to date")


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
