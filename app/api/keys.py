"""API keys: made, listed, replaced, revoked."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path

from app.api.auth import Admin
from app.api.environments import example
from app.api.problems import problems
from app.api.schemas.base import Id
from app.api.schemas.keys import KeyAnswer, KeyBody, KeyList, NewKeyAnswer, RotationBody
from app.api.services import UsedServices
from app.domain import ApiKey, NotFoundError, PermissionDeniedError
from app.store import create_key, list_keys, revoke_key, rotate_key

router = APIRouter(tags=["keys"])

KeyId = Annotated[Id, Path(description="The key's id, not its secret.", examples=["9f86d081884c7d65"])]

_NEW: dict[str, Any] = {"name": "shop backend", "scopes": ["feedback", "read"], "environments": ["contracts"]}
_KEY: dict[str, Any] = {
    "id": "9f86d081884c7d65",
    **_NEW,
    "created_at": "2026-05-01T09:30:00Z",
    "revoked_at": None,
    "expires_at": "2027-05-01T00:00:00Z",
    "successor": None,
    "requests_per_minute": 6000,
}
_SECRET = {"secret": "psk_9f86d081884c7d65_..."}


@router.post(
    "/v1/admin/keys",
    summary="Make an API key",
    description="The `secret` is shown this once. A key that is restricted to environments may only make keys for "
    "those.",
    status_code=201,
    responses={
        201: example({**_KEY, **_SECRET}, "Made."),
        **problems("malformed-json", "body-too-large", "unsupported-media-type"),
    },
)
async def create(
    body: Annotated[KeyBody, Body(openapi_examples={"restricted": {"value": _NEW}})],
    services: UsedServices,
    key: Admin,
) -> NewKeyAnswer:
    if not _within(None if body.environments is None else frozenset(body.environments), key):
        listed = ", ".join(sorted(key.environments or ()))
        raise PermissionDeniedError(f"this API key may only make keys for these environments: {listed}.")
    made, secret = await create_key(
        services.db,
        body.name,
        set(body.scopes),
        body.environments,
        expires_at=body.expires_at,
        requests_per_minute=body.requests_per_minute,
    )
    return NewKeyAnswer.with_secret(made, secret)


@router.get(
    "/v1/admin/keys",
    summary="List API keys",
    description="Oldest first, revoked ones too; for a restricted key, those within its environments.",
    responses={200: example({"keys": [_KEY]}), **problems()},
)
async def list_all(services: UsedServices, key: Admin) -> KeyList:
    return KeyList(keys=[KeyAnswer.of(one) for one in await _visible(services, key)])


@router.post(
    "/v1/admin/keys/{key_id}/rotate",
    summary="Replace an API key",
    description="Makes a successor that may do the same, whose `secret` is shown this once. The old key goes on being "
    "valid for `grace_seconds`, so that its users can change over one after the other.",
    status_code=201,
    responses={
        201: example({**_KEY, **_SECRET}, "The successor."),
        **problems("malformed-json", "body-too-large", "unsupported-media-type", "not-found", "conflict"),
    },
)
async def rotate(
    key_id: KeyId,
    body: Annotated[RotationBody, Body(openapi_examples={"day": {"value": {"grace_seconds": 86400}}})],
    services: UsedServices,
    key: Admin,
) -> NewKeyAnswer:
    await _check_within_reach(services, key, key_id)
    made, secret = await rotate_key(
        services.db, key_id, grace=timedelta(seconds=body.grace_seconds), expires_at=body.expires_at
    )
    return NewKeyAnswer.with_secret(made, secret)


@router.delete(
    "/v1/admin/keys/{key_id}",
    summary="Revoke an API key",
    description="It is refused from now on. Revoking twice changes nothing.",
    responses={200: example({**_KEY, "revoked_at": "2026-05-02T10:00:00Z"}), **problems("not-found")},
)
async def revoke(key_id: KeyId, services: UsedServices, key: Admin) -> KeyAnswer:
    await _check_within_reach(services, key, key_id)
    return KeyAnswer.of(await revoke_key(services.db, key_id))


async def _check_within_reach(services: UsedServices, key: ApiKey, key_id: str) -> None:
    if key.environments is not None and all(one.id != key_id for one in await _visible(services, key)):
        raise NotFoundError(f"There is no API key {key_id!r}.")


async def _visible(services: UsedServices, key: ApiKey) -> list[ApiKey]:
    return [one for one in await list_keys(services.db) if _within(one.environments, key)]


def _within(environments: frozenset[str] | None, key: ApiKey) -> bool:
    """Whether a key for these environments can do nothing that `key` cannot."""
    return key.environments is None or (environments is not None and environments <= key.environments)
