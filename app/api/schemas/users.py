"""What is known of one user, on the wire."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from app.api.schemas.base import Answer


class AdapterSummary(Answer):
    """How the user's own part of the model was estimated."""

    rank: int = Field(description="Directions users may differ along.")
    feedback_seen: int = Field(description="The user's own preferences that it rests on.")
    converged: bool
    iterations: int


class UserAnswer(Answer):
    user: str
    feedback_count: int
    first_at: datetime | None
    last_at: datetime | None
    model_version: int | None = Field(description="The published model; null before the first refit.")
    adapter: AdapterSummary | None = Field(description="Null before the first refit.")


class Owed(Answer):
    """How far what all users share would move at most if the user had never been there."""

    model_version: int
    subspace_distance: float = Field(description="The principal angle distance of the shared subspace.")
    standard_errors: float = Field(description="Of any reward of anybody, in standard errors of that reward.")


class ErasureReceipt(Answer):
    user: str
    preferences_erased: int
    events_erased: int
    adapters_erased: int
    refit: UUID | None = Field(description="The refit that was asked for, if one is needed.")
    owed: Owed | None = Field(
        description="What the published model still owes until then; null without one that can be read."
    )
    note: str = Field(description="What is left, and until when.")


class AdapterExport(Answer):
    model_version: int
    feedback_count: int
    mean: list[list[float]]
    covariance: list[list[float]]


class EventExport(Answer):
    id: str
    chosen: dict[str, Any]
    others: list[dict[str, Any]]
    context: dict[str, Any] | None
    active: bool
    reward: float | None
    created_at: datetime
    expires_at: datetime


class UserExport(Answer):
    user: str
    preferences: list[dict[str, Any]]
    adapters: list[AdapterExport] = Field(description="What each kept model version knows of this user alone.")
    events: list[EventExport] = Field(description="What was chosen for the user and waits for its reward.")


class UserListed(Answer):
    user: str
    feedback_count: int
    first_at: datetime
    last_at: datetime


class UserList(Answer):
    users: list[UserListed]
    next: str | None = Field(description="Pass it as `after` for the next page; null on the last one.")


class ActivityBucket(Answer):
    start: datetime
    n_preferences: int = Field(description="Recorded from `start` to the next bucket's.")


class ActivityAnswer(Answer):
    span: str
    bucket_seconds: float
    buckets: list[ActivityBucket] = Field(description="Oldest first.")
