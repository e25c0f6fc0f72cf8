"""Preferences without a hash of their content, and without a foreign key to users.

What two preferences under one id say is compared by their columns. The key cost a look-up a row, half of what it takes
to write one; the locks of recording and erasing keep what it kept. And users, whose counts change with every
preference, get room on their pages, so that a change touches no index.

Runs before the new code; processes of the old one that still run refuse what they are to record (503).
"""

from alembic import op

revision = "20261125_2_lean_preferences"
down_revision = "20261125_1_access"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_constraint("preferences_environment_id_user_key_fkey", "preferences", type_="foreignkey")
    op.drop_column("preferences", "content_hash")
    op.execute("ALTER TABLE users SET (fillfactor = 70)")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only: restore a backup instead.")
