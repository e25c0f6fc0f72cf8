"""How a command reaches the database: the configured one, or the embedded server while the command runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.settings import Settings
from app.store import EmbeddedPostgres


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """Yield the database's address; the embedded server stays up until its last user leaves."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    server = EmbeddedPostgres(settings.data_dir)
    url = server.acquire()
    try:
        yield url
    finally:
        server.release()
