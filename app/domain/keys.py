"""API keys, as the service knows them: never the secret itself."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Scope(StrEnum):
    FEEDBACK = "feedback"
    READ = "read"
    ACT_AS_USER = "act-as-user"
    """Name the user in a header: for the one backend that knows who is asking."""
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
    expires_at: datetime | None = None
    successor: str | None = None
    """The key that replaced this one."""
    requests_per_minute: int | None = None
    """None: the settings' limit."""
