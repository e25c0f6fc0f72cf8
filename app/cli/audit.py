"""`psharelora audit`: what administrators did, straight from the database."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from app.cli.keys import with_database
from app.cli.output import out, print_json


def audit(
    *,
    environment: Annotated[list[str] | None, typer.Option(help="Only of this one; may be given several times.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many entries, the newest first.")] = 100,
    before: Annotated[int | None, typer.Option(min=1, help="Only those before this entry.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what administrators did: who, what, when, by which request, and how it ended."""
    from app.store import AuditEntry, Database, list_audit

    async def read(database: Database) -> list[AuditEntry]:
        return await list_audit(database, environments=environment or None, before=before, limit=limit)

    entries = with_database(read)
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table("id", "when", "who", "what", "environment", "target", "outcome", "request")
    for one in entries:
        when = f"{one.at:%Y-%m-%d %H:%M:%S}"
        rest = (one.key_id, one.action, one.environment or "", one.target or "", one.outcome, one.request_id or "")
        table.add_row(str(one.id), when, *rest)
    out.print(table)
