"""API keys: a public id, and a secret that is stored hashed and shown once."""

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import ApiKey, ConflictError, NotFoundError, Scope, UnauthenticatedError
from app.store.audit import note
from app.store.database import Database, look_up, transaction
from app.store.notices import announce_key
from app.store.schema import api_keys

_PREFIX = "psk"

_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
# OWASP's least setting for argon2id: the secret has 256 random bits, so the hash only has to outlive a leak.

_VERIFIED_ENTRIES = 10_000
# Secrets that are known to fit, kept a process as keyed digests: 32 bytes each.

_hashing = ThreadPoolExecutor(1, thread_name_prefix="hashing")
# Guesses take at most one core and 19 MB of a process; secrets that are known to fit do not come here.

_DIGEST_KEY = secrets.token_bytes(32)
_verified: OrderedDict[bytes, str] = OrderedDict()


@transaction
async def create_key(
    connection: AsyncConnection,
    name: str,
    scopes: Iterable[Scope],
    environments: Iterable[str] | None = None,
    *,
    expires_at: datetime | None = None,
    requests_per_minute: int | None = None,
) -> tuple[ApiKey, str]:
    """Make a key; the second value is the secret that the client sends, and nobody can show it again."""
    values = {
        "name": name,
        "scopes": sorted(scopes),
        "environments": None if environments is None else sorted(environments),
        "expires_at": expires_at,
        "requests_per_minute": requests_per_minute,
    }
    made, secret = await _insert(connection, values)
    await note(connection, "keys.create", _only(made), made.id)
    return made, secret


@transaction
async def rotate_key(
    connection: AsyncConnection, key_id: str, *, grace: timedelta, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """Make a key's successor, which may do the same; the old one expires after the grace, or earlier if it would.

    Parameters
    ----------
    expires_at
        The successor's; by default it lives as long as the old one was made to.

    Raises
    ------
    ConflictError
        The key was rotated before, was revoked or has expired.
    """
    c = api_keys.c
    query = select(api_keys, func.now().label("now")).where(c.id == key_id).with_for_update()
    old = (await connection.execute(query)).one_or_none()
    if old is None:
        raise _unknown(key_id)
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= old.now):
        raise ConflictError(f"The API key {key_id!r} is not valid any more: make a new one.")
    if old.successor is not None:
        raise ConflictError(f"The API key {key_id!r} has a successor already: {old.successor!r}.")
    values = {name: getattr(old, name) for name in ("name", "scopes", "environments", "requests_per_minute")}
    lifetime = None if old.expires_at is None else old.now + (old.expires_at - old.created_at)
    made, secret = await _insert(connection, {**values, "expires_at": expires_at or lifetime})
    until = func.least(c.expires_at, func.now() + grace)
    await connection.execute(update(api_keys).where(c.id == key_id).values(successor=made.id, expires_at=until))
    await announce_key(connection, key_id)
    await note(connection, "keys.rotate", _only(made), key_id)
    return made, secret


async def authenticate(db: Database, secret: str) -> ApiKey:
    """The key that a secret belongs to.

    A key that was revoked or has expired is refused at once, because its row is read every time; only the slow hash is
    remembered.

    Raises
    ------
    UnauthenticatedError
        No such key, a wrong secret, or a key that is not valid any more: the message doesn't tell which.
    """
    parts = secret.split("_", 2)
    row = await _find_key(db, parts[1]) if len(parts) == 3 and parts[0] == _PREFIX else None
    fits = await _fits(secret, _nobodys_hash() if row is None else row.secret_hash)
    if row is None or not row.valid or not fits:
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
        raise _unknown(key_id)
    await announce_key(connection, key_id)
    revoked = _api_key(row)
    await note(connection, "keys.revoke", _only(revoked), key_id)
    return revoked


async def _insert(connection: AsyncConnection, values: dict[str, Any]) -> tuple[ApiKey, str]:
    key_id = secrets.token_hex(8)
    secret = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    secret_hash = await asyncio.to_thread(_HASHER.hash, secret)
    row = await connection.execute(
        insert(api_keys).values(id=key_id, secret_hash=secret_hash, **values).returning(api_keys)
    )
    return _api_key(row.one()), secret


def _only(key: ApiKey) -> str | None:
    """The environment of a key that is for one only: its administrators may see what became of it."""
    return next(iter(key.environments)) if key.environments is not None and len(key.environments) == 1 else None


def _unknown(key_id: str) -> NotFoundError:
    return NotFoundError(f"There is no API key {key_id!r}.")


@look_up
async def _find_key(connection: AsyncConnection, key_id: str) -> Row[Any] | None:
    c = api_keys.c
    valid = c.revoked_at.is_(None) & (c.expires_at.is_(None) | (c.expires_at > func.now()))
    return (await connection.execute(select(api_keys, valid.label("valid")).where(c.id == key_id))).one_or_none()


@cache
def _nobodys_hash() -> str:
    """What a secret without a key is compared with: an unknown key is refused no sooner than a wrong secret."""
    return _HASHER.hash(secrets.token_urlsafe(32))


async def _fits(secret: str, secret_hash: str) -> bool:
    digest = hmac.digest(_DIGEST_KEY, secret.encode(), hashlib.sha256)
    if _verified.get(digest) == secret_hash:
        _verified.move_to_end(digest)
        return True
    try:
        await asyncio.get_running_loop().run_in_executor(_hashing, _HASHER.verify, secret_hash, secret)
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
        expires_at=row.expires_at,
        successor=row.successor,
        requests_per_minute=row.requests_per_minute,
    )
