"""Refits and model versions on the wire."""

import math
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from app.api.schemas.base import Answer
from app.domain import ModelStatus, ModelVersion, Refit, RefitPhase, RefitState


class RefitAnswer(Answer):
    id: UUID
    environment: str
    state: RefitState
    phase: RefitPhase
    progress: float = Field(ge=0, le=1)
    attempt: int = Field(description="How often a worker has begun it.")
    cancel_requested: bool
    reason: str = Field(description="Who asked: `schedule` or `request`.")
    metrics: dict[str, Any]
    error: str | None
    model_version: int | None = Field(description="The version that it made.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, refit: Refit) -> "RefitAnswer":
        return cls.model_validate(_described(refit))


class RetrainAnswer(RefitAnswer):
    joined: bool = Field(description="Whether a refit was already waiting, which this call joined.")

    @classmethod
    def of_call(cls, refit: Refit, *, joined: bool) -> "RetrainAnswer":
        return cls.model_validate({**_described(refit), "joined": joined})


class RefitList(Answer):
    refits: list[RefitAnswer]


class ModelAnswer(Answer):
    environment: str
    version: int
    status: ModelStatus
    reason: str = Field(description="Why it was published, or why not.")
    rank: int
    estimator: str
    n_users: int
    n_preferences: int
    diagnostics: dict[str, Any]
    metrics: dict[str, Any]
    created_at: datetime
    published_at: datetime | None

    @classmethod
    def of(cls, version: ModelVersion) -> "ModelAnswer":
        return cls.model_validate(_described(version))


class ModelList(Answer):
    models: list[ModelAnswer] = Field(description="Newest first.")


def _described(value: Refit | ModelVersion) -> dict[str, Any]:
    return {name: jsonable(getattr(value, name)) for name in value.__dataclass_fields__}


def jsonable(value: Any) -> Any:
    """JSON has no NaN and no infinity; a metric that could not be measured is null."""
    if isinstance(value, dict):
        return {name: jsonable(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
