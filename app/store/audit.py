"""The log of what administrators did: who, what, when, by which request, how it ended. Rows are only ever added.

A deed is noted inside its own transaction, so that there is neither one without its entry nor an entry of what was
rolled back. Refusals and failures, which leave no transaction, are noted by whoever answers them.
"""

from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.database import look_up
from app.store.schema import audit_log

actor: ContextVar[tuple[str, str | None] | None] = ContextVar("actor", default=None)
"""The key (or command) on whose behalf this task works, and its request; None: the service itself, which is not noted.
"""

COMMAND = "command-line"
"""The actor of commands that work straight in the database."""

DONE = "done"
ERASE_USER = "user.erase"
"""Its target is the user's digest."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    id: int
    at: datetime
    key_id: str
    action: str
    environment: str | None
    target: str | None
    outcome: str
    """`done`, or the code of the problem that it ended in."""
    request_id: str | None


async def note(
    connection: AsyncConnection,
    action: str,
    environment: str | None = None,
    target: str | None = None,
    *,
    outcome: str = DONE,
) -> None:
    """Add an entry to this transaction, if somebody asked for what it does."""
    who = actor.get()
    if who is None:
        return
    key_id, request_id = who
    await connection.execute(
        insert(audit_log).values(
            key_id=key_id,
            action=action,
            environment=environment,
            target=target,
            outcome=outcome,
            request_id=request_id,
        )
    )


@look_up
async def note_failure(connection: AsyncConnection, action: str, environment: str | None, outcome: str) -> None:
    """Add an entry of a call that was refused or failed."""
    await note(connection, action, environment, outcome=outcome)


@look_up
async def list_audit(
    connection: AsyncConnection,
    *,
    environments: Collection[str] | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[AuditEntry]:
    """Entries of these environments (None: all there are), newest first, older than the entry `before`."""
    c = audit_log.c
    query = select(audit_log).order_by(c.id.desc()).limit(limit)
    if environments is not None:
        query = query.where(c.environment.in_(environments))
    if before is not None:
        query = query.where(c.id < before)
    return [AuditEntry(**row._mapping) for row in await connection.execute(query)]  # noqa: SLF001 - SQLAlchemy's name
