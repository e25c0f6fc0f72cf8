"""The API as an application: its routers and layers, without what they work with."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI

from app.api import (
    activity,
    audit,
    compat,
    environments,
    explanations,
    items,
    keys,
    models,
    operations,
    policies,
    preferences,
    problems,
    refits,
    rewards,
    users,
)
from app.api.auth import Authentication
from app.api.compiled import ShortWays
from app.api.limits import BodyLimit
from app.api.openapi import install_openapi
from app.api.problems import install_problem_handlers
from app.api.requests import Requests
from app.observability import HttpMetrics

ROUTERS = (
    # Looked through in this order: what is called most comes first.
    rewards.router,
    preferences.router,
    environments.router,
    items.router,
    users.router,
    explanations.router,
    activity.router,
    policies.router,
    refits.router,
    models.router,
    keys.router,
    audit.router,
    operations.router,
    problems.router,
    *compat.ROUTERS,
)


def build_application(
    *,
    version: str,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    metrics: HttpMetrics,
    max_body_bytes: int,
    body_seconds: float,
    pages: APIRouter,
) -> FastAPI:
    """The whole HTTP surface; `lifespan` puts the services that it needs into `app.state.services`."""
    app = FastAPI(
        title="psharelora",
        version=version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    # The last one added is the outermost.
    app.add_middleware(ShortWays, routers=ROUTERS)
    app.add_middleware(Authentication)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes, seconds=body_seconds)
    app.add_middleware(Requests, metrics=metrics)
    install_problem_handlers(app, (*ROUTERS, pages))
    for router in (*ROUTERS, pages):
        app.include_router(router)
    install_openapi(app, ROUTERS)
    return app
