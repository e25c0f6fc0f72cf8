"""Builds the web application: the only place where its parts are wired together."""

import gc
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import anyio.to_thread
import structlog
from fastapi import FastAPI
from pydantic import SecretStr

from app.api import RateLimiter, Services, build_application
from app.api import prepare as prepare_api
from app.compiling import prepare
from app.console import router as console
from app.encoders import encoder_for, probe_dim
from app.observability import HttpMetrics, configure_logging, configure_tracing, end_tracing
from app.serving import ServingRuntime
from app.settings import Settings
from app.store import Current, Database, EmbeddedPostgres, Notices, Writer, require_current_schema

log = structlog.get_logger()

SWITCH_SECONDS = 0.001
"""How long a thread that computes may keep the interpreter from the event loop; five times as long is Python's own."""


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings; what it needs is opened and closed by its lifespan."""
    metrics = HttpMetrics(settings.metrics_dir)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _services(settings, metrics) as services:
            app.state.services = services
            with _kept_from_collection():
                yield

    return build_application(
        version=_version(),
        lifespan=lifespan,
        metrics=metrics,
        max_body_bytes=settings.max_body_bytes,
        body_seconds=settings.body_seconds,
        pages=console,
    )


def create_app_from_environment() -> FastAPI:
    """What uvicorn starts: `uvicorn --factory app.main:create_app_from_environment`."""
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    _end_with_the_parent()
    return create_app(settings)


def _end_with_the_parent() -> None:
    """Where `serve` runs several processes, they end in good order if their parent is killed.

    They would go on, and keep the port from the one that is started in its place.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


@contextmanager
def _kept_from_collection() -> Iterator[None]:
    """What lives as long as the server is left out of garbage collection.

    Modules and compiled code are half a million objects. To walk them held up every request for a tenth of a second,
    once in some thousand requests.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@asynccontextmanager
async def _services(settings: Settings, metrics: HttpMetrics) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        if settings.tracing == "on":
            configure_tracing("api")
            stack.push_async_callback(anyio.to_thread.run_sync, end_tracing)
        stack.callback(metrics.write)
        url = await _database_url(settings, stack)
        db = Database(url, pool_size=settings.database_pool_size)
        stack.push_async_callback(db.dispose)
        await require_current_schema(db)
        log.info("preparing", what="compiled code; the first start of an installation takes up to a minute")
        await anyio.to_thread.run_sync(prepare, settings.caches, prepare_api)
        api_key = _revealed(settings.embeddings_api_key)
        encode_for = partial(encoder_for, api_key=api_key)
        notices = Notices(db.url)
        current = Current(db, notices)
        stack.push_async_callback(notices.aclose)
        await notices.start()
        runtime = ServingRuntime(
            db,
            current,
            cache_dir=settings.caches,
            compute_threads=settings.compute_threads,
            plan_seconds=settings.plan_seconds,
            plan_tolerance=settings.plan_tolerance,
            folded_in=metrics.count_fold_in,
        )
        stack.push_async_callback(runtime.aclose)
        log.info("started", embedded_database=settings.database_url is None, authentication=settings.auth)
        writer = Writer(db, committed=metrics.count_commit)
        stack.push_async_callback(writer.aclose)
        metrics.watch(
            waiting_preferences=lambda: writer.waiting_rows, database_connections=lambda: db.connections_in_use
        )
        yield Services(
            db=db,
            current=current,
            recorder=writer,
            runtime=runtime,
            encoder_for=encode_for,
            probe_dim=partial(probe_dim, api_key=api_key),
            metrics=metrics,
            rates=RateLimiter(settings.requests_per_minute),
            admin_key=_revealed(settings.admin_key),
            max_items=settings.max_items,
            open_to_all=settings.auth == "off",
        )
    log.info("stopped")


async def _database_url(settings: Settings, stack: AsyncExitStack) -> str:
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    server = EmbeddedPostgres(settings.data_dir)
    url = await anyio.to_thread.run_sync(server.acquire)
    stack.push_async_callback(anyio.to_thread.run_sync, server.release)
    return url


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _version() -> str:
    try:
        return version("psharelora")
    except PackageNotFoundError:
        return "0+unknown"
