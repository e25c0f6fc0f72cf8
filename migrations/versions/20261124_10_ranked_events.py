"""Ranked events, which wait for their rewards.

Runs before the new code.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261124_10_ranked_events"
down_revision = "20261124_9_recorded_at"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ranked_events",
        sa.Column("environment_id", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("chosen", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("others", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("context", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("reward", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("ranked_events_environment_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("environment_id", "event_id", name=op.f("ranked_events_pkey")),
    )
    op.create_index(op.f("ranked_events_environment_id_user_id_idx"), "ranked_events", ["environment_id", "user_id"])
    op.create_index("ranked_events_expires_at_idx", "ranked_events", ["environment_id", "expires_at"])


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only: restore a backup instead.")
