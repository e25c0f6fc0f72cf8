"""How a command reaches the database: the configured one, or the embedded server while the command runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from app.domain import StoreUnavailableError
from app.settings import Settings
from app.store import EmbeddedPostgres

log = structlog.get_logger()

WATCH_SECONDS = 1.0
# How soon an embedded server that has ended is started again.


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """Yield the database's address; the embedded server is kept up until its last user leaves."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    server = EmbeddedPostgres(settings.data_dir)
    url = server.acquire()
    ended = threading.Event()
    watching = threading.Thread(target=_keep_up, args=(server, ended), name="embedded database", daemon=True)
    watching.start()
    try:
        yield url
    finally:
        ended.set()
        watching.join()
        server.release()


def _keep_up(server: EmbeddedPostgres, ended: threading.Event) -> None:
    while not ended.wait(WATCH_SECONDS):
        if server.is_running:
            continue
        try:
            server.acquire()
        except (StoreUnavailableError, OSError) as error:
            log.warning("embedded_database_down", error=str(error))
        else:
            log.warning("embedded_database_started_again")
