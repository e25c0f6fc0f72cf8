"""Refits: asked for, followed, cancelled."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.api.auth import Admin, can_see
from app.api.environments import EnvironmentName, example
from app.api.problems import problems, request_id_of
from app.api.schemas.models import RefitAnswer, RefitList, RetrainAnswer
from app.api.services import Services, UsedServices
from app.domain import ApiKey, NotFoundError, Refit, RefitState, StoreUnavailableError
from app.observability import traceparent
from app.store import Database, cancel_refit, get_refit, list_refits, request_refit

router = APIRouter(tags=["refits"])

log = structlog.get_logger()

LOOK_SECONDS = 0.25
"""How often a refit that is followed is looked at; the worker writes its progress every half second."""

ENDED = frozenset({RefitState.SUCCEEDED, RefitState.FAILED, RefitState.CANCELLED})

RefitId = Annotated[UUID, Path(description="The refit's id.", examples=["0f8fad5b-d9cb-469f-a165-70867728950e"])]

_REFIT: dict[str, Any] = {
    "id": "0f8fad5b-d9cb-469f-a165-70867728950e",
    "environment": "contracts",
    "state": "running",
    "phase": "fitting",
    "progress": 0.6,
    "attempt": 1,
    "cancel_requested": False,
    "reason": "request",
    "metrics": {},
    "error": None,
    "model_version": None,
    "created_at": "2026-05-01T09:30:00Z",
    "started_at": "2026-05-01T09:30:01Z",
    "finished_at": None,
}


@router.post(
    "/v1/admin/environments/{environment}/retrain",
    summary="Ask for a refit",
    description="Answered at once; follow the refit at `Location`. A call while one waits joins it.",
    status_code=202,
    responses={
        202: {
            **example({**_REFIT, "state": "queued", "phase": "waiting", "progress": 0.0, "joined": False}),
            "headers": {"Location": {"description": "Where the refit is.", "schema": {"type": "string"}}},
        },
        **problems("not-found"),
    },
)
async def retrain(
    environment: EnvironmentName, services: UsedServices, _: Admin, request: Request, response: Response
) -> RetrainAnswer:
    origin = {"request_id": request_id_of(request.scope)}
    if (parent := traceparent()) is not None:
        origin["traceparent"] = parent
    refit, joined = await request_refit(services.db, environment, origin=origin)
    log.info("refit_requested", environment=environment, refit=str(refit.id), joined=joined)
    response.headers["Location"] = f"/v1/admin/refits/{refit.id}"
    return RetrainAnswer.of_call(refit, joined=joined)


@router.get(
    "/v1/admin/environments/{environment}/refits",
    summary="List refits",
    description="Newest first.",
    responses={200: example({"refits": [_REFIT]}), **problems("not-found")},
)
async def list_all(
    environment: EnvironmentName,
    services: UsedServices,
    _: Admin,
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 20,
) -> RefitList:
    found = await list_refits(services.db, environment, limit=limit)
    return RefitList(refits=[RefitAnswer.of(refit) for refit in found])


@router.get(
    "/v1/admin/refits/{refit}",
    summary="Follow a refit",
    description="Its state (`queued`, `running`, `succeeded`, `failed`, `cancelled`), phase and progress from 0 to 1; "
    "once it has evaluated, the held-out metrics; in the end the model version that it made, or the error.",
    responses={200: example(_REFIT), **problems("not-found")},
)
async def get(refit: RefitId, services: UsedServices, key: Admin) -> RefitAnswer:
    return RefitAnswer.of(await _visible(refit, services, key))


async def _followed(refit: RefitId, services: UsedServices, key: Admin) -> Refit:
    return await _visible(refit, services, key)


@router.get(
    "/v1/admin/refits/{refit}/events",
    summary="Follow a refit as it goes",
    description="Server-sent events named `refit`, each the whole refit as `GET /v1/admin/refits/{refit}` answers it: "
    "one at once, one a change, and the last one when it has ended, which ends the stream. A refit that is deleted "
    "with its environment ends the stream too.",
    response_class=Response,
    responses={
        200: {
            "description": "The refit, at every change.",
            "content": {
                "text/event-stream": {
                    # No type: some readers of the document take it for that of the stream, others for that of an event.
                    "schema": {"description": "Events `refit`, whose `data` is the refit as JSON."},
                    "example": "event: refit\r\ndata: " + json.dumps(_REFIT) + "\r\n\r\n",
                }
            },
        },
        **problems("not-found"),
    },
)
async def events(services: UsedServices, followed: Annotated[Refit, Depends(_followed)]) -> EventSourceResponse:
    return EventSourceResponse(_changes(services.db, followed))


async def _changes(db: Database, refit: Refit) -> AsyncIterator[ServerSentEvent]:
    yield _event(refit)
    while refit.state not in ENDED:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            now = await get_refit(db, refit.id)
        except StoreUnavailableError:
            continue
        except NotFoundError:
            return
        if now != refit:
            refit = now
            yield _event(refit)


def _event(refit: Refit) -> ServerSentEvent:
    return ServerSentEvent(RefitAnswer.of(refit).model_dump_json(), event="refit")


@router.post(
    "/v1/admin/refits/{refit}/cancel",
    summary="Cancel a refit",
    description="One that waits is cancelled; a running one stops at its next report. The published model stays.",
    responses={200: example({**_REFIT, "cancel_requested": True}), **problems("not-found", "refit-state")},
)
async def cancel(refit: RefitId, services: UsedServices, key: Admin) -> RefitAnswer:
    await _visible(refit, services, key)
    return RefitAnswer.of(await cancel_refit(services.db, refit))


async def _visible(refit_id: UUID, services: Services, key: ApiKey) -> Refit:
    refit = await get_refit(services.db, refit_id)
    if not can_see(key, refit.environment):
        raise NotFoundError(f"There is no refit {refit_id}.")
    return refit
