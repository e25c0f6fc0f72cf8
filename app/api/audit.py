"""The log of what administrators did."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from app.api.auth import Admin
from app.api.environments import example
from app.api.problems import problems
from app.api.schemas.base import Answer
from app.api.services import UsedServices
from app.store import AuditEntry, list_audit

router = APIRouter(tags=["audit"])

_ENTRY: dict[str, Any] = {
    "id": 17,
    "at": "2026-05-02T10:00:00Z",
    "key_id": "9f86d081884c7d65",
    "action": "model.promote",
    "environment": "contracts",
    "target": "3",
    "outcome": "done",
    "request_id": "5f0c6d1e8a6b4d0f9a3f5d1c2b7e4a90",
}


class AuditEntryAnswer(Answer):
    id: int
    at: datetime
    key_id: str = Field(description="`bootstrap` is the settings' key, `command-line` whoever works in the database.")
    action: str = Field(description="What was done; of a call that was refused or failed, its method and address.")
    environment: str | None
    target: str | None = Field(description="A key, refit, item or version; of an erased user only a digest of the id.")
    outcome: str = Field(description="`done`, or the status of the answer.")
    request_id: str | None

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditEntryAnswer":
        return cls.model_validate({name: getattr(entry, name) for name in cls.model_fields})


class AuditList(Answer):
    entries: list[AuditEntryAnswer]
    next: int | None = Field(description="Pass it as `before` for the next page; null on the last one.")


@router.get(
    "/v1/admin/audit",
    summary="What administrators did",
    description="Newest first: who (by key), what, when, by which request, and how it ended; also calls that were "
    "refused. Entries are never changed or removed. A key that is restricted to environments sees those of its "
    "environments. Read on with `before`.",
    responses={200: example({"entries": [_ENTRY], "next": None}), **problems()},
)
async def audit(
    services: UsedServices,
    key: Admin,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="The last id of the page before.")] = None,
) -> AuditList:
    found = await list_audit(services.db, environments=key.environments, before=before, limit=limit + 1)
    page = [AuditEntryAnswer.of(entry) for entry in found[:limit]]
    return AuditList(entries=page, next=page[-1].id if len(found) > limit else None)
