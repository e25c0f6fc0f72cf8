"""What is known of one user, and how it is erased or taken away."""

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from app.api.auth import Admin, Reader
from app.api.consistency import TOKEN_RESPONSE_HEADERS, After, acknowledge
from app.api.environments import EnvironmentName, example
from app.api.problems import problems
from app.api.schemas.base import Id
from app.api.schemas.users import (
    AdapterExport,
    AdapterSummary,
    ErasureReceipt,
    EventExport,
    Owed,
    UserAnswer,
    UserExport,
)
from app.api.services import UsedServices
from app.domain import CorruptModelError, StoreUnavailableError
from app.learning import Debt
from app.serving import UserSummary
from app.store import (
    ExportedAdapter,
    ExportedEvent,
    erase_user,
    export_derived,
    export_user,
    request_refit,
    serving_state,
    user_state,
)

router = APIRouter(tags=["users"])

UserId = Annotated[Id, Path(description="The user's id, as the preferences name it.", examples=["ada"])]

_USER: dict[str, Any] = {
    "user": "ada",
    "feedback_count": 36,
    "first_at": "2026-05-01T09:30:00Z",
    "last_at": "2026-05-03T18:02:11Z",
    "model_version": 1,
    "adapter": {"rank": 4, "feedback_seen": 36, "converged": True, "iterations": 5},
}
_PREFERENCE: dict[str, Any] = {
    "user": "ada",
    "chosen": {"item": "a"},
    "rejected": {"item": "b"},
    "label": 1.0,
    "weight": 1.0,
    "occurred_at": "2026-05-01T09:30:00Z",
    "id": "answer-1",
}

_ADAPTER: dict[str, Any] = {
    "model_version": 1,
    "feedback_count": 1,
    "mean": [[0.4], [-1.2]],
    "covariance": [[0.5, 0.0], [0.0, 0.7]],
}
_EVENT: dict[str, Any] = {
    "id": "event-1",
    "chosen": {"item": "a"},
    "others": [{"item": "b"}],
    "context": None,
    "active": True,
    "reward": None,
    "created_at": "2026-05-01T09:30:00Z",
    "expires_at": "2026-05-08T09:30:00Z",
}


@router.get(
    "/v1/environments/{environment}/users/{user}",
    summary="What is known of a user",
    description="How many preferences, since when, and how their adapter was estimated. A user nobody has heard of has "
    "none, and is served the population's answers.",
    responses={200: example(_USER), **problems("not-found")},
)
async def get(
    environment: EnvironmentName, user: UserId, services: UsedServices, _: Reader, after: After
) -> UserAnswer:
    state = await user_state(services.db, environment, user)
    summary = await services.runtime.user_summary(environment, user, after=after)
    return UserAnswer(
        user=user,
        feedback_count=0 if state is None else state.feedback_count,
        first_at=None if state is None else state.first_at,
        last_at=None if state is None else state.last_at,
        model_version=None if summary is None else summary.model_version,
        adapter=None if summary is None else _adapter(summary),
    )


def _adapter(summary: UserSummary) -> AdapterSummary:
    return AdapterSummary(
        rank=summary.rank,
        feedback_seen=summary.feedback_seen,
        converged=summary.converged,
        iterations=summary.iterations,
    )


@router.delete(
    "/v1/environments/{environment}/users/{user}",
    summary="Erase a user",
    description="Their preferences, events and adapters, and the texts and contexts that nobody else used, by one "
    "transaction. A refit that runs meanwhile begins again without them. What all users share still rests on them "
    "until the next refit, which this asks for, and which takes nothing over from before; `owed` bounds how much that "
    "is.",
    responses={
        200: {
            **example(
                {
                    "user": "ada",
                    "preferences_erased": 36,
                    "events_erased": 2,
                    "adapters_erased": 1,
                    "refit": "0f8fad5b-d9cb-469f-a165-70867728950e",
                    "owed": {"model_version": 1, "subspace_distance": 0.021, "standard_errors": 0.63},
                    "note": "What all users share in model version 1 still rests on this user's preferences until the "
                    "refit that was asked for has published a new version.",
                }
            ),
            "headers": TOKEN_RESPONSE_HEADERS,
        },
        **problems("not-found"),
    },
)
async def erase(
    environment: EnvironmentName, user: UserId, services: UsedServices, response: Response, _: Admin
) -> ErasureReceipt:
    try:
        owed = await services.runtime.debt(environment, user)
    except (CorruptModelError, StoreUnavailableError):
        # A model that cannot be read is no reason to keep anybody.
        owed = None
    erased = await erase_user(services.db, environment, user)
    acknowledge(response, erased.position)
    receipt: dict[str, Any] = {
        "user": user,
        "preferences_erased": erased.n_preferences,
        "events_erased": erased.n_events,
        "adapters_erased": erased.n_adapters,
    }
    if not erased.n_preferences:
        note = "Nothing was stored of this user." if not erased.n_events else "Only what they were shown was stored."
        return ErasureReceipt(**receipt, refit=None, owed=None, note=note)
    published = (await serving_state(services.db, environment, user)).published_version
    if published is None:
        return ErasureReceipt(
            **receipt, refit=None, owed=None, note="No model has been fitted, so nothing else is left."
        )
    refit, _joined = await request_refit(services.db, environment)
    return ErasureReceipt(
        **receipt,
        refit=refit.id,
        owed=None if owed is None else _owed(*owed),
        note=f"What all users share in model version {published} still rests on this user's preferences until the "
        "refit that was asked for has published a new version.",
    )


def _owed(version: int, left: Debt) -> Owed:
    return Owed(model_version=version, subspace_distance=left.subspace_distance, standard_errors=left.standard_errors)


@router.get(
    "/v1/environments/{environment}/users/{user}/export",
    summary="Take a user's preferences away",
    description="Everything the user said, oldest first, as it can be sent again: NDJSON. Or one JSON document with "
    "all that is stored under the user's id: preferences, adapters by model version, and ranked events. Plans are not "
    "stored.",
    response_class=Response,
    responses={
        200: {
            "description": "The user's preferences.",
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}, "example": json.dumps(_PREFERENCE) + "\n"},
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/UserExport"},
                    "example": {
                        "user": "ada",
                        "preferences": [_PREFERENCE],
                        "adapters": [_ADAPTER],
                        "events": [_EVENT],
                    },
                },
            },
        },
        **problems("not-found"),
    },
)
async def export(
    environment: EnvironmentName,
    user: UserId,
    services: UsedServices,
    _: Reader,
    form: Annotated[
        Literal["ndjson", "json"], Query(alias="format", description="A preference a line, or one document.")
    ] = "ndjson",
) -> Response:
    said = await export_user(services.db, environment, user)
    adapters, events = await export_derived(services.db, environment, user) if form == "json" else ([], [])
    exported = UserExport(
        user=user,
        preferences=said,
        adapters=[_exported_adapter(one) for one in adapters],
        events=[_exported_event(one) for one in events],
    )
    if form == "json":
        return Response(exported.model_dump_json(), media_type="application/json")
    lines = "".join(
        json.dumps(one, ensure_ascii=False) + "\n" for one in exported.model_dump(mode="json")["preferences"]
    )
    return Response(lines, media_type="application/x-ndjson")


def _exported_adapter(one: ExportedAdapter) -> AdapterExport:
    return AdapterExport(
        model_version=one.model_version,
        feedback_count=one.feedback_count,
        mean=one.arrays["mean"].tolist(),
        covariance=one.arrays["covariance"].tolist(),
    )


def _exported_event(one: ExportedEvent) -> EventExport:
    event = one.event
    return EventExport(
        id=event.id,
        chosen=event.chosen,
        others=list(event.others),
        context=event.context,
        active=event.active,
        reward=event.reward,
        created_at=one.created_at,
        expires_at=one.expires_at,
    )
