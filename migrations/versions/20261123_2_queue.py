"""The job queue: procrastinate's tables, types and functions, as the installed version brings them.

A later version's changes to them come as a migration of ours that runs procrastinate's own migration files.

Runs before the new code.
"""

from alembic import op
from procrastinate.schema import SchemaManager

revision = "20261123_2_queue"
down_revision = "20261123_1_tables"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Straight to the driver: SQLAlchemy would take the colons and percent signs of the functions for parameters.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute(SchemaManager.get_schema())


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only: restore a backup instead.")
