"""API keys on the wire."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from app.api.schemas.base import Answer, Body, Id, Label, Time
from app.domain import ApiKey, Scope


def _ahead(value: datetime) -> datetime:
    if value <= datetime.now(UTC):
        raise ValueError(f"expected a time in the future; found {value.isoformat()}.")
    return value


Expiry = Annotated[Time, AfterValidator(_ahead)]


class KeyBody(Body):
    name: Label = Field(description="For people, to recognise it by.")
    scopes: Annotated[list[Annotated[Scope, Field(strict=False)]], Field(min_length=1, max_length=4)] = Field(
        description="`feedback` writes preferences, `read` reads answers, `act-as-user` names the user in a header, "
        "`admin` does everything."
    )
    environments: list[Id] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="The only environments that the key can see and define; all if absent.",
    )
    expires_at: Expiry | None = Field(default=None, description="It is refused from then on; never if absent.")
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="What it may ask of each API process; the settings' limit if absent.",
    )


class RotationBody(Body):
    grace_seconds: float = Field(
        default=86_400.0, ge=0, le=31_536_000, description="How long the old key goes on being valid."
    )
    expires_at: Expiry | None = Field(
        default=None, description="The new key's end; by default it lives as long as the old one was made to."
    )


class KeyAnswer(Answer):
    id: str
    name: str
    scopes: list[Scope]
    environments: list[str] | None
    created_at: datetime
    revoked_at: datetime | None
    expires_at: datetime | None
    successor: str | None = Field(description="The id of the key that replaces this one, after a rotation.")
    requests_per_minute: int | None

    @classmethod
    def of(cls, key: ApiKey) -> "KeyAnswer":
        return cls.model_validate(_described(key))


class NewKeyAnswer(KeyAnswer):
    secret: str = Field(description="Shown this once, and stored only as a hash.")

    @classmethod
    def with_secret(cls, key: ApiKey, secret: str) -> "NewKeyAnswer":
        return cls.model_validate({**_described(key), "secret": secret})


class KeyList(Answer):
    keys: list[KeyAnswer]


def _described(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "environments": None if key.environments is None else sorted(key.environments),
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
        "expires_at": key.expires_at,
        "successor": key.successor,
        "requests_per_minute": key.requests_per_minute,
    }
