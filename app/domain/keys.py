"""API keys, as the service knows them: never the secret itself."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Scope(StrEnum):
    FEEDBACK = "feedback"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    id: str
    name: str
    scopes: frozenset[Scope]
    environments: frozenset[str] | None
    """The environments that the key may see and define; None means all."""
    created_at: datetime
    revoked_at: datetime | None = None
