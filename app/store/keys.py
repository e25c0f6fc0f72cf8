"""API keys: a public id, and a secret that is stored hashed and shown once."""

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import ApiKey, NotFoundError, Scope, UnauthenticatedError
from app.store.database import Database, look_up, transaction
from app.store.notices import announce_key
from app.store.schema import api_keys

_PREFIX = "psk"

_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
# OWASP's least setting for argon2id: the secret has 256 random bits, so the hash only has to outlive a leak.

_VERIFIED_ENTRIES = 10_000
# Secrets that are known to fit, kept a process as keyed digests: 32 bytes each.

_DIGEST_KEY = secrets.token_bytes(32)
_verified: OrderedDict[bytes, str] = OrderedDict()


@transaction
async def create_key(
    connection: AsyncConnection, name: str, scopes: Iterable[Scope], environments: Iterable[str] | None = None
) -> tuple[ApiKey, str]:
    """Make a key; the second value is the secret that the client sends, and nobody can show it again."""
    key_id = secrets.token_hex(8)
    secret = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    values = {
        "id": key_id,
        "name": name,
        "secret_hash": await asyncio.to_thread(_HASHER.hash, secret),
        "scopes": sorted(scopes),
        "environments": None if environments is None else sorted(environments),
    }
    row = (await connection.execute(insert(api_keys).values(values).returning(api_keys))).one()
    return _api_key(row), secret


async def authenticate(db: Database, secret: str) -> ApiKey:
    """The key that a secret belongs to.

    A revoked key is refused at once, because its row is read every time; only the slow hash is remembered.

    Raises
    ------
    UnauthenticatedError
        No such key, a wrong secret, or a revoked key: the message doesn't tell which.
    """
    parts = secret.split("_", 2)
    row = await _find_key(db, parts[1]) if len(parts) == 3 and parts[0] == _PREFIX else None
    if row is None or row.revoked_at is not None or not await _fits(secret, row.secret_hash):
        raise UnauthenticatedError("The API key is not valid.")
    return _api_key(row)


@look_up
async def list_keys(connection: AsyncConnection) -> list[ApiKey]:
    """Every key, revoked ones too, oldest first."""
    rows = await connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id))
    return [_api_key(row) for row in rows]


@transaction
async def revoke_key(connection: AsyncConnection, key_id: str) -> ApiKey:
    """Refuse a key from now on; revoking twice changes nothing."""
    revoked_at = func.coalesce(api_keys.c.revoked_at, func.now())
    row = (
        await connection.execute(
            update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=revoked_at).returning(api_keys)
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"There is no API key {key_id!r}.")
    await announce_key(connection, key_id)
    return _api_key(row)


@look_up
async def _find_key(connection: AsyncConnection, key_id: str) -> Row[Any] | None:
    return (await connection.execute(select(api_keys).where(api_keys.c.id == key_id))).one_or_none()


async def _fits(secret: str, secret_hash: str) -> bool:
    digest = hmac.digest(_DIGEST_KEY, secret.encode(), hashlib.sha256)
    if _verified.get(digest) == secret_hash:
        _verified.move_to_end(digest)
        return True
    try:
        await asyncio.to_thread(_HASHER.verify, secret_hash, secret)
    except (VerificationError, InvalidHashError):
        return False
    _verified[digest] = secret_hash
    while len(_verified) > _VERIFIED_ENTRIES:
        _verified.popitem(last=False)
    return True


def _api_key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        environments=None if row.environments is None else frozenset(row.environments),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
