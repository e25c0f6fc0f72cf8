"""For those who run the service: is it alive, is it ready, how is it doing."""

from typing import Literal

from fastapi import APIRouter, Response

from app.api.environments import example
from app.api.problems import FieldError, ProblemError, problems
from app.api.schemas.base import Answer
from app.api.services import Services, UsedServices
from app.domain import StoreUnavailableError
from app.store import schema_state

router = APIRouter(tags=["operations"])


class Health(Answer):
    status: Literal["alive"]


class Readiness(Answer):
    status: Literal["ready"]
    schema_version: str


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
    description="The database answers, and has the schema that this version needs; else a 503 that says why.",
    responses={
        200: example({"status": "ready", "schema_version": "20260501_initial"}),
        **problems("not-ready", authenticated=False),
    },
)
async def ready(services: UsedServices) -> Readiness:
    return Readiness(status="ready", schema_version=await _schema_version(services))


async def _schema_version(services: Services) -> str:
    try:
        state = await schema_state(services.db)
    except StoreUnavailableError as error:
        reason = error.message
    else:
        if state.is_current:
            return state.expected
        reason = (
            f"the database's schema is at {state.current or 'nothing'}, and this version needs {state.expected}: run "
            "psharelora migrate."
        )
    raise ProblemError("not-ready", reason, errors=[FieldError(detail=reason)])


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    description="Requests by route, method and status, their latencies, and preferences acknowledged. One process's "
    "own: with several API processes behind one port, scrape each of them by its own.",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
async def metrics(services: UsedServices) -> Response:
    return Response(services.metrics.render(), media_type=services.metrics.content_type)
