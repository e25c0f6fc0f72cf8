"""The tables of the service.

Runs before the new code.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261123_1_tables"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("environments", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("api_keys_pkey")),
    )
    op.create_table(
        "environments",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("definition", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("item_dim", sa.Integer(), nullable=True),
        sa.Column("context_dim", sa.Integer(), nullable=True),
        sa.Column("horizon", sa.Integer(), nullable=True),
        sa.Column("revision", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("preference_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("refit_every_seconds", sa.Double(), nullable=False),
        sa.Column("refit_min_new_preferences", sa.BigInteger(), nullable=False),
        sa.Column("refit_begun_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refit_preference_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("published_version", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("environments_pkey")),
        sa.UniqueConstraint("name", name=op.f("environments_name_key")),
    )
    op.create_table(
        "contexts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("environment_id", sa.BigInteger(), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("features", sa.LargeBinary(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("contexts_environment_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("contexts_pkey")),
        sa.UniqueConstraint("environment_id", "content_hash", name=op.f("contexts_environment_id_content_hash_key")),
    )
    op.create_table(
        "items",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("environment_id", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.Text(collation="C"), nullable=True),
        sa.Column("content_hash", sa.LargeBinary(), nullable=True),
        sa.Column("features", sa.LargeBinary(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("items_environment_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("items_pkey")),
        sa.UniqueConstraint("environment_id", "content_hash", name=op.f("items_environment_id_content_hash_key")),
        sa.UniqueConstraint("environment_id", "item_id", name=op.f("items_environment_id_item_id_key")),
    )
    op.create_table(
        "models",
        sa.Column("environment_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("estimator", sa.Text(), nullable=False),
        sa.Column("n_users", sa.BigInteger(), nullable=False),
        sa.Column("n_preferences", sa.BigInteger(), nullable=False),
        sa.Column("diagnostics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("refit_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("models_environment_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("environment_id", "version", name=op.f("models_pkey")),
    )
    op.create_index(
        "models_one_published_idx",
        "models",
        ["environment_id"],
        unique=True,
        postgresql_where=sa.text("status = 'published'"),
    )
    op.create_table(
        "refits",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("environment_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("progress", sa.Double(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "metrics", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("model_version", sa.Integer(), nullable=True),
        sa.Column("preference_count", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("refits_environment_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("refits_pkey")),
    )
    op.create_index(
        op.f("refits_environment_id_created_at_idx"), "refits", ["environment_id", "created_at"], unique=False
    )
    op.create_index(
        "refits_one_queued_idx", "refits", ["environment_id"], unique=True, postgresql_where=sa.text("state = 'queued'")
    )
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("environment_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.Text(collation="C"), nullable=False),
        sa.Column("feedback_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("users_environment_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("users_pkey")),
        sa.UniqueConstraint("environment_id", "id", name=op.f("users_environment_id_id_key")),
        sa.UniqueConstraint("environment_id", "user_id", name=op.f("users_environment_id_user_id_key")),
    )
    op.create_table(
        "adapters",
        sa.Column("environment_id", sa.BigInteger(), nullable=False),
        sa.Column("user_key", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("feedback_count", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id", "user_key"],
            ["users.environment_id", "users.id"],
            name=op.f("adapters_environment_id_user_key_fkey"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["environment_id", "version"],
            ["models.environment_id", "models.version"],
            name=op.f("adapters_environment_id_version_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("environment_id", "user_key", "version", name=op.f("adapters_pkey")),
    )
    op.create_index(
        op.f("adapters_environment_id_version_idx"), "adapters", ["environment_id", "version"], unique=False
    )
    op.create_table(
        "model_arrays",
        sa.Column("environment_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("shape", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id", "version"],
            ["models.environment_id", "models.version"],
            name=op.f("model_arrays_environment_id_version_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("environment_id", "version", "name", name=op.f("model_arrays_pkey")),
    )
    op.create_table(
        "preferences",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("environment_id", sa.BigInteger(), nullable=False),
        sa.Column("user_key", sa.BigInteger(), nullable=False),
        sa.Column("chosen_key", sa.BigInteger(), nullable=True),
        sa.Column("rejected_key", sa.BigInteger(), nullable=True),
        sa.Column("context_key", sa.BigInteger(), nullable=True),
        sa.Column("chosen_steps", sa.LargeBinary(), nullable=True),
        sa.Column("rejected_steps", sa.LargeBinary(), nullable=True),
        sa.Column("label", sa.Double(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("client_id", sa.Text(collation="C"), nullable=True),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["environment_id", "user_key"],
            ["users.environment_id", "users.id"],
            name=op.f("preferences_environment_id_user_key_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("preferences_pkey")),
        sa.UniqueConstraint("environment_id", "client_id", name=op.f("preferences_environment_id_client_id_key")),
    )
    op.create_index(
        op.f("preferences_environment_id_user_key_idx"), "preferences", ["environment_id", "user_key"], unique=False
    )


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only: restore a backup instead.")
