"""Alembic's environment: always on a connection that `app.store.migrate` holds, never from an ini file."""

from alembic import context
from sqlalchemy import text

from app.store.schema import metadata

connection = context.config.attributes["connection"]

# A migration waits for nobody long: while it waits for a lock, everybody else waits behind it.
connection.execute(text("SET lock_timeout = '10s'"))
connection.execute(text("SET statement_timeout = '15min'"))
connection.commit()


def ours(name, kind, _parent_names):  # noqa: ANN001, ANN201 - Alembic's hook
    """The queue's tables belong to procrastinate, which brings its own migrations."""
    return not (kind == "table" and name is not None and name.startswith("procrastinate_"))


context.configure(
    connection=connection,
    target_metadata=metadata,
    include_name=ours,
    compare_type=True,
    compare_server_default=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
