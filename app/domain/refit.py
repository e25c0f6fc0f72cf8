"""Refits: one run of the worker over one environment's preferences."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class RefitState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RefitPhase(StrEnum):
    WAITING = "waiting"
    LOADING = "loading"
    EVALUATING = "evaluating"
    FITTING = "fitting"
    PUBLISHING = "publishing"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Refit:
    id: UUID
    environment: str
    state: RefitState
    phase: RefitPhase
    progress: float
    """0..1"""
    attempt: int
    """How often a worker has begun it; only the newest attempt may publish."""
    cancel_requested: bool
    reason: str
    """Who asked: "schedule" or "request"."""
    metrics: dict[str, Any]
    error: str | None
    model_version: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
