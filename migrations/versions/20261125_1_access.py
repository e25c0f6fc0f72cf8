"""Keys that expire, are replaced and have limits; the log of administrators' actions; erasures that models know of.

Runs before the new code.
"""

import sqlalchemy as sa
from alembic import op

revision = "20261125_1_access"
down_revision = "20261124_10_ranked_events"
branch_labels = None
depends_on = None

APPEND_ONLY = """
    CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'audit_log is append-only'; END $$
"""
GUARD = """
    CREATE TRIGGER audit_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only()
"""


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("successor", sa.Text(collation="C"), nullable=True))
    op.add_column("api_keys", sa.Column("requests_per_minute", sa.Integer(), nullable=True))
    for table in ("environments", "models"):
        op.add_column(table, sa.Column("erasures", sa.BigInteger(), server_default="0", nullable=False))
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("key_id", sa.Text(collation="C"), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(collation="C"), nullable=True),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_log_pkey")),
    )
    op.create_index(op.f("audit_log_environment_id_idx"), "audit_log", ["environment", "id"])
    op.execute(APPEND_ONLY)
    op.execute(GUARD)


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only: restore a backup instead.")
