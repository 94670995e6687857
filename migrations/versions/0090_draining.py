"""Workers that are told to leave: what they hand back is no failed attempt, and when they left."""

from alembic import op

revision = "0090_draining"
down_revision = "0060_sdwebui_options"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.execute("""
        ALTER TABLE jobs ADD COLUMN handed_back integer NOT NULL DEFAULT 0,
            ADD CONSTRAINT ck_jobs_handed_back CHECK (handed_back BETWEEN 0 AND attempt)
    """)
    op.execute("""
        ALTER TABLE workers ADD COLUMN draining_at timestamptz, ADD COLUMN left_at timestamptz
    """)


def downgrade() -> None:
    """Drop them."""
    op.execute("ALTER TABLE workers DROP COLUMN left_at, DROP COLUMN draining_at")
    op.execute("ALTER TABLE jobs DROP COLUMN handed_back")
