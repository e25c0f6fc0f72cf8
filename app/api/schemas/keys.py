"""API keys on the wire."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from app.api.schemas.base import Answer, Body, Id, Label
from app.domain import ApiKey, Scope


class KeyBody(Body):
    name: Label = Field(description="For people, to recognise it by.")
    scopes: Annotated[list[Annotated[Scope, Field(strict=False)]], Field(min_length=1, max_length=3)] = Field(
        description="`feedback` writes preferences, `read` reads answers, `admin` does everything."
    )
    environments: list[Id] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="The only environments that the key can see and define; all if absent.",
    )


class KeyAnswer(Answer):
    id: str
    name: str
    scopes: list[Scope]
    environments: list[str] | None
    created_at: datetime
    revoked_at: datetime | None

    @classmethod
    def of(cls, key: ApiKey) -> "KeyAnswer":
        return cls.model_validate(described(key))


class NewKeyAnswer(KeyAnswer):
    secret: str = Field(description="Shown this once, and stored only as a hash.")


class KeyList(Answer):
    keys: list[KeyAnswer]


def described(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "environments": None if key.environments is None else sorted(key.environments),
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }
