"""Erasures that a restored backup undoes, done again by the audit log of later."""

from collections.abc import Collection

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.audit import ERASE_USER
from app.store.database import Database, look_up
from app.store.refits import request_refit
from app.store.schema import audit_log
from app.store.users import erase_user

Erasure = tuple[int, str]
"""An audit entry's id, and the digest of who was erased."""

_USERS_OF_DIGESTS = text(
    """
    SELECT e.name, u.user_id
    FROM environments e
    JOIN (
        SELECT environment_id, user_id FROM users UNION SELECT environment_id, user_id FROM ranked_events
    ) u ON u.environment_id = e.id
    WHERE encode(sha256(convert_to(e.name || '/' || u.user_id, 'UTF8')), 'hex') = ANY(CAST(:digests AS text[]))
    ORDER BY e.name, u.user_id
    """
)


async def erase_again(db: Database, log: Collection[Erasure]) -> list[tuple[str, str]]:
    """Erase who is here and was erased in a later log, but not in this database's own; and ask for refits without them.

    Returns
    -------
    list
        (environment, user) of everybody who was erased now.
    """
    news = set(log) - await _own(db)
    found = await _users_of(db, {digest for _, digest in news})
    for environment, user in found:
        await erase_user(db, environment, user)
    for environment in sorted({name for name, _ in found}):
        await request_refit(db, environment)
    return found


@look_up
async def _own(connection: AsyncConnection) -> set[Erasure]:
    c = audit_log.c
    rows = await connection.execute(select(c.id, c.target).where(c.action == ERASE_USER))
    return {(row.id, row.target) for row in rows}


@look_up
async def _users_of(connection: AsyncConnection, digests: Collection[str]) -> list[tuple[str, str]]:
    rows = await connection.execute(_USERS_OF_DIGESTS, {"digests": list(digests)})
    return [(row.name, row.user_id) for row in rows]
