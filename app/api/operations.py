"""For those who run the service: is it alive, is it ready, how is it doing."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client.core import Metric
from pydantic import Field

from app.api.auth import check_scope, key_if_sent
from app.api.environments import example
from app.api.facts import database_away, database_families
from app.api.problems import FieldError, ProblemError, problems
from app.api.schemas.base import Answer
from app.api.services import Services, UsedServices
from app.domain import PermissionDeniedError, Scope, StoreUnavailableError, UnauthenticatedError
from app.store import published_models, schema_state

router = APIRouter(tags=["operations"])


class Health(Answer):
    status: Literal["alive"]


class Readiness(Answer):
    status: Literal["ready"]
    schema_version: str
    environments: int
    published_models: int = Field(description="Environments that have a model to answer from.")
    unreadable_models: int = Field(description="Published models that this process tried to load and could not read.")
    listening: bool = Field(
        description="This process hears what others change; while it does not, it asks the database every time."
    )


@router.get(
    "/healthz",
    summary="Is the process alive",
    description="Asks nothing of the database.",
    responses={200: example({"status": "alive"})},
)
async def health() -> Health:
    return Health(status="alive")


@router.get(
    "/readyz",
    summary="Is the service ready",
    description="The database answers, has the schema that this version needs, and not every published model is "
    "unreadable; else a 503 that says why.",
    responses={
        200: example(
            {
                "status": "ready",
                "schema_version": "20260501_initial",
                "environments": 3,
                "published_models": 2,
                "unreadable_models": 0,
                "listening": True,
            }
        ),
        **problems("not-ready", authenticated=False),
    },
)
async def ready(services: UsedServices) -> Readiness:
    schema_version = await _schema_version(services)
    try:
        environments, published, unreadable = await published_models(services.db, services.runtime.unreadable_models)
    except StoreUnavailableError as error:
        raise _not_ready(error.message) from error
    if published and unreadable >= published:
        raise _not_ready(
            f"none of the {published} published models can be read: promote another version, or retrain; the log says "
            "what is wrong with them."
        )
    return Readiness(
        status="ready",
        schema_version=schema_version,
        environments=environments,
        published_models=published,
        unreadable_models=unreadable,
        listening=services.current.is_listening,
    )


async def _schema_version(services: Services) -> str:
    try:
        state = await schema_state(services.db)
    except StoreUnavailableError as error:
        raise _not_ready(error.message) from error
    if state.is_current:
        return state.expected
    raise _not_ready(
        f"the database's schema is at {state.current or 'nothing'}, and this version needs {state.expected}: run "
        "psharelora migrate."
    )


def _not_ready(reason: str) -> ProblemError:
    return ProblemError("not-ready", reason, errors=[FieldError(detail=reason)])


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    description="Requests by route, method and status, their latencies, preferences acknowledged, transactions and "
    "fold-ins: of all API processes of the host, whichever of them answers. With an API key of the scope `read`, also "
    "the refit queue, and what is known of the environments that the key can see: feedback, and the published model's "
    "age, held-out accuracy, calibration, coverage and distance to the one before.",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems(UnauthenticatedError.code, PermissionDeniedError.code, authenticated=False),
    },
    openapi_extra={"security": [{}, {"ApiKey": []}]},
)
async def metrics(request: Request, services: UsedServices) -> Response:
    more: list[Metric] = []
    try:
        key = await key_if_sent(request)
        if key is not None:
            check_scope(key, Scope.READ)
            more = await database_families(services.db, key.environments)
    except StoreUnavailableError:
        more = database_away()
    return Response(services.metrics.render(more=more), media_type=services.metrics.content_type)
