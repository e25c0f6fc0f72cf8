"""Preferences by the time at which they were recorded, for the rate of feedback.

A BRIN index is a few kilobytes for millions of rows, because rows lie in the order in which they
were recorded; it costs writers next to nothing, where a B-tree would cost them a third index.

Runs before the new code.
"""

from alembic import op

revision = "20261124_9_recorded_at"
down_revision = "20261123_2_queue"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("preferences_recorded_at_idx", "preferences", ["recorded_at"], postgresql_using="brin")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only: restore a backup instead.")
