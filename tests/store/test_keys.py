from dataclasses import replace

import pytest
from sqlalchemy import text

from app.domain import ApiKey, NotFoundError, Scope, UnauthenticatedError
from app.store import Database, authenticate, create_key, list_keys, revoke_key

pytestmark = pytest.mark.anyio


async def test_a_secret_opens_its_own_key(db: Database) -> None:
    first, first_secret = await create_key(db, "app", [Scope.FEEDBACK, Scope.READ])
    second, second_secret = await create_key(db, "console", [Scope.ADMIN], ["shop"])
    assert first_secret != second_secret
    for key, secret in ((first, first_secret), (second, second_secret), (first, first_secret)):
        assert await authenticate(db, secret) == key
    assert (first.scopes, first.environments) == (frozenset({Scope.FEEDBACK, Scope.READ}), None)
    assert (second.name, second.environments) == ("console", frozenset({"shop"}))


async def test_keys_are_listed_without_secrets(db: Database) -> None:
    key, _ = await create_key(db, "listed", [Scope.READ], [])
    assert key in await list_keys(db)
    assert key.environments == frozenset()


async def test_what_is_stored_does_not_open_anything(db: Database) -> None:
    key, secret = await create_key(db, "app", [Scope.READ])
    async with db.begin() as connection:
        rows = await connection.execute(text("SELECT * FROM api_keys WHERE id = :id"), {"id": key.id})
        stored = " ".join(str(value) for value in rows.one())
    assert secret.removeprefix(f"psk_{key.id}_") not in stored


@pytest.mark.parametrize(
    "wrong", ["{secret}x", "xxx_{id}_{tail}", "psk_0000000000000000_{tail}", "psk_{id}_x", "psk_", "", "ä_b"]
)
async def test_any_other_secret_is_refused(db: Database, wrong: str) -> None:
    key, secret = await create_key(db, "app", [Scope.READ])
    await authenticate(db, secret)
    tail = secret.removeprefix(f"psk_{key.id}_")
    with pytest.raises(UnauthenticatedError, match="not valid"):
        await authenticate(db, wrong.format(secret=secret, id=key.id, tail=tail))


async def test_a_revoked_key_is_refused_at_once(db: Database) -> None:
    key, secret = await create_key(db, "app", [Scope.READ])
    assert await authenticate(db, secret) == key
    revoked = await revoke_key(db, key.id)
    assert revoked.revoked_at is not None
    assert replace(revoked, revoked_at=None) == key
    with pytest.raises(UnauthenticatedError):
        await authenticate(db, secret)
    again: ApiKey = await revoke_key(db, key.id)
    assert again == revoked


async def test_an_unknown_key_cannot_be_revoked(db: Database) -> None:
    with pytest.raises(NotFoundError, match="no API key 'nothing'"):
        await revoke_key(db, "nothing")
