"""Who says how much: for the operator, and for the console."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query

from app.api.auth import Reader
from app.api.environments import EnvironmentName, example
from app.api.problems import problems
from app.api.schemas.base import ID_PATTERN, Id
from app.api.schemas.users import ActivityAnswer, ActivityBucket, UserList, UserListed
from app.api.services import UsedServices
from app.store import feedback_activity, list_users

router = APIRouter(tags=["users"])


class Span(StrEnum):
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


_BUCKETS = {
    Span.HOUR: (timedelta(minutes=1), 60),
    Span.DAY: (timedelta(minutes=15), 96),
    Span.MONTH: (timedelta(days=1), 30),
}

_LISTED: dict[str, Any] = {
    "user": "ada",
    "feedback_count": 36,
    "first_at": "2026-05-01T09:30:00Z",
    "last_at": "2026-05-03T18:02:11Z",
}


@router.get(
    "/v1/environments/{environment}/activity",
    summary="How much is said",
    description="Preferences recorded, in buckets of one minute (`hour`), a quarter of an hour (`day`) or a day "
    "(`month`), oldest first; the last bucket is still filling.",
    responses={
        200: example(
            {
                "span": "day",
                "bucket_seconds": 900.0,
                "buckets": [
                    {"start": "2026-05-01T09:30:00Z", "n_preferences": 12},
                    {"start": "2026-05-01T09:45:00Z", "n_preferences": 3},
                ],
            }
        ),
        **problems("not-found"),
    },
)
async def activity(
    environment: EnvironmentName,
    services: UsedServices,
    _: Reader,
    span: Annotated[Span, Query(description="How far back.")] = Span.DAY,
) -> ActivityAnswer:
    width, count = _BUCKETS[span]
    buckets = await feedback_activity(services.db, environment, width=width, count=count)
    return ActivityAnswer(
        span=span,
        bucket_seconds=width.total_seconds(),
        buckets=[ActivityBucket(start=one.start, n_preferences=one.n_preferences) for one in buckets],
    )


@router.get(
    "/v1/environments/{environment}/users",
    summary="List users",
    description="Those with preferences, by id; read on with `after`.",
    responses={200: example({"users": [_LISTED], "next": None}), **problems("not-found")},
)
async def users(
    environment: EnvironmentName,
    services: UsedServices,
    _: Reader,
    starting_with: Annotated[
        str, Query(pattern=ID_PATTERN.replace("{1,128}", "{0,128}"), description="What their ids begin with.")
    ] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
    after: Annotated[Id | None, Query(description="The last id of the page before.")] = None,
) -> UserList:
    found = await list_users(services.db, environment, starting_with=starting_with, limit=limit + 1, after=after)
    page = [
        UserListed(user=one.user, feedback_count=one.feedback_count, first_at=one.first_at, last_at=one.last_at)
        for one in found[:limit]
    ]
    return UserList(users=page, next=page[-1].user if len(found) > limit else None)
