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


class ErasureReceipt(Answer):
    user: str
    preferences_erased: int
    refit: UUID | None = Field(description="The refit that was asked for, if one is needed.")
    note: str = Field(description="What is left, and until when.")


class UserExport(Answer):
    user: str
    preferences: list[dict[str, Any]]


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
